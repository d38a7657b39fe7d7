// `beeline diff` on files, screen by screen, through the command line. No kernel, no root.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { runCommand } from "../lib/command.ts";

const folder = mkdtempSync(join(tmpdir(), "beeline-diff-"));
after(() => rmSync(folder, { recursive: true }));

const CLUSTER = `
apiVersion: v1
kind: Node
metadata: {name: node-a}
status: {addresses: [{type: InternalIP, address: 192.0.2.11}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: web}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1]
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 600}}
  loadBalancerSourceRanges: [203.0.113.0/24]
  ports: [{name: http, port: 80, nodePort: 30080, protocol: TCP}]
status: {loadBalancer: {ingress: [{ip: 198.51.100.1}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints:
- {addresses: [10.244.1.2], nodeName: node-a, conditions: {ready: true}}
- {addresses: [10.244.2.2], nodeName: node-b, conditions: {ready: true}}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: empty}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.2
  clusterIPs: [10.96.0.2]
  loadBalancerSourceRanges: [203.0.113.0/24]
  ports: [{port: 80, nodePort: 30081, protocol: TCP}]
status: {loadBalancer: {ingress: [{ip: 198.51.100.2}]}}
---
apiVersion: v1
kind: Service
metadata: {namespace: kube-system, name: dns}
spec:
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10]
  ports: [{port: 53, protocol: UDP}]
`;

const file = (name: string, text: string): string => {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
};
const cluster = file("cluster.yaml", CLUSTER);

const run = async (...words: readonly string[]) => {
  const { code, out, err } = await runCommand(...words);
  return { code, out: out.replaceAll(`${folder}/`, ""), err: err.replaceAll(`${folder}/`, "") };
};

const NODE = ["-f", cluster, "--node", "node-a"];
const compiled = async (...more: readonly string[]): Promise<string> => (await run("compile", ...NODE, ...more)).out;

const config = file(
  "config.yaml",
  "apiVersion: beeline.dev/v1alpha1\nkind: BeelineConfiguration\nclusterCIDR: 10.244.0.0/16\n",
);
const rules = await compiled("--to", "iptables", "--config", config);
const save = file("save.txt", rules);

test("rules that mean what they should: nothing but what is meant to differ", async () => {
  const { code, out, err } = await run("diff", save, ...NODE);
  assert.deepEqual([code, err], [0, ""]);
  assert.equal(
    out,
    `
iptables   save.txt       3 service ports   7 frontends
desired    cluster.yaml   3 service ports   7 frontends

BY DESIGN    FRONTEND              CLIENTS   WHAT        IPTABLES            DESIRED                              NO
shop/empty   198.51.100.2:80/TCP   all       may enter   everybody refused   others than 203.0.113.0/24 dropped   7
  7. Who is in no source range is dropped, endpoints or not.

Not compared, since one side cannot say it: which backends are local, backends that drain, where NodePorts answer
By design, and in no rule to be seen (docs/semantics.md): 1, 2, 3, 5, 6, 9, 12, 14, 15, 16, 17, 18, 19, 20, 21, 22

No difference; by design 1 more
`.slice(1),
  );
});

test("a deleted rule, another's rule, a Service that is gone: one row each", async () => {
  const lines = rules.split("\n");
  const broken = lines
    .filter((line) => !/KUBE-SVC-\S+ .*10\.244\.2\.2/.test(line) && !line.includes("kube-system/dns"))
    .map((line) => line.replace("--seconds 600", "--seconds 900").replace("-s 203.0.113.0/24", "-s 203.0.113.0/25"))
    .flatMap((line) => (line.startsWith("-A KUBE-MARK-MASQ") ? [line, "-A KUBE-SERVICES -m time -j DROP"] : [line]));
  const { code, out, err } = await run("diff", file("broken.txt", broken.join("\n")), ...NODE);
  assert.deepEqual([code, err], [1, ""]);
  assert.equal(
    out,
    `
iptables   broken.txt     2 service ports   6 frontends
desired    cluster.yaml   3 service ports   7 frontends

SERVICE           FRONTEND                      CLIENTS   WHAT           IPTABLES         DESIRED
kube-system/dns   10.96.0.10:53/UDP             all       only desired   -                ClusterIP: refused
shop/web:http     all                           all       affinity       900s             600s
shop/web:http     10.96.0.1:80/TCP and 2 more   all       backends       -                10.244.2.2:8080
shop/web:http     198.51.100.1:80/TCP           all       may enter      203.0.113.0/25   203.0.113.0/24

BY DESIGN    FRONTEND              CLIENTS   WHAT        IPTABLES            DESIRED                              NO
shop/empty   198.51.100.2:80/TCP   all       may enter   everybody refused   others than 203.0.113.0/24 dropped   7
  7. Who is in no source range is dropped, endpoints or not.

To be looked at:
  broken.txt line 32: KUBE-SERVICES has a rule of somebody else's: it leads to no Service port
  broken.txt: KUBE-SVC-67NZLRHBNDSAWJRO ends with a rule of probability 0.5: some flows find no endpoint
  broken.txt line 69: KUBE-SERVICES has a rule of somebody else's: it leads to no Service port

Not compared, since one side cannot say it: which backends are local, backends that drain, where NodePorts answer
By design, and in no rule to be seen (docs/semantics.md): 1, 2, 3, 5, 6, 9, 12, 14, 15, 16, 17, 18, 19, 20, 21, 22

6 differences in 2 services; by design 1 more
`.slice(1),
  );
});

test("wide: every frontend, every backend, every doubt", async () => {
  const other = file("other.json", await compiled("-o", "json"));
  const { code, out } = await run("diff", other, "--against", save, "-o", "wide", "--no-headers");
  assert.equal(code, 0);
  assert.equal(
    out,
    `
shop/empty   198.51.100.2:80/TCP   all   may enter   others than 203.0.113.0/24 dropped   everybody refused   7
  7. Who is in no source range is dropped, endpoints or not.

Not compared, since one side cannot say it: which backends are local, backends that drain, where NodePorts answer
By design, and in no rule to be seen (docs/semantics.md): 1, 2, 3, 5, 6, 9, 12, 14, 15, 16, 17, 18, 19, 20, 21, 22

No difference; by design 1 more
`.slice(1),
  );
});

test("json: the shape of docs/operations.md", async () => {
  const gone = rules.split("\n").filter((line) => !line.includes("kube-system/dns"));
  const { code, out } = await run(
    "diff",
    "desired",
    ...NODE,
    "--against",
    file("gone.txt", gone.join("\n")),
    "-o",
    "json",
  );
  assert.equal(code, 1);
  assert.deepEqual(JSON.parse(out), {
    apiVersion: "beeline.dev/v1alpha1",
    kind: "Comparison",
    left: { source: "desired", from: "cluster.yaml", servicePorts: 3, frontends: 7 },
    right: { source: "iptables", from: "gone.txt", servicePorts: 2, frontends: 6 },
    same: false,
    items: [
      {
        kind: "only_left",
        service: "kube-system/dns",
        frontend: "10.96.0.10:53/UDP",
        clients: null,
        left: ["ClusterIP: refused"],
        right: [],
      },
    ],
    intended: [
      {
        kind: "source_ranges",
        service: "shop/empty",
        frontend: "198.51.100.2:80/TCP",
        clients: null,
        left: ["others than 203.0.113.0/24 dropped"],
        right: ["everybody refused"],
        intended: 7,
        reason: "Who is in no source range is dropped, endpoints or not.",
      },
    ],
    notCompared: ["which backends are local", "backends that drain", "where NodePorts answer"],
    problems: [],
  });
});

test("beeline's own JSON of compile reads back as the same, whatever is in it", async () => {
  const own = file("own.json", await compiled("-o", "json"));
  const { code, out } = await run("diff", own, ...NODE);
  assert.equal(code, 0);
  assert.match(out, /^left {4}own\.json {7}3 service ports {3}7 frontends\n/);
  assert.match(out, /^No difference\n$/m);
});

test("IPVS knows addresses only, and each NodePort once for each address of the node", async () => {
  const ipvs = file(
    "ipvs.txt",
    `-A -t 10.96.0.1:80 -s rr -p 600
-a -t 10.96.0.1:80 -r 10.244.1.2:8080 -m -w 1
-a -t 10.96.0.1:80 -r 10.244.2.2:8080 -m -w 1
-A -t 198.51.100.1:80 -s rr -p 600
-a -t 198.51.100.1:80 -r 10.244.1.2:8080 -m -w 1
-a -t 198.51.100.1:80 -r 10.244.2.2:8080 -m -w 1
-A -t 192.0.2.11:30080 -s rr -p 600
-a -t 192.0.2.11:30080 -r 10.244.1.2:8080 -m -w 1
-A -t 192.0.2.11:30081 -s rr
-A -t 10.96.0.2:80 -s rr
-A -t 198.51.100.2:80 -s rr
-A -u 10.96.0.10:53 -s rr
`,
  );
  const { code, out } = await run("diff", "desired", ...NODE, "--against", ipvs);
  assert.equal(code, 1);
  assert.equal(
    out,
    `
desired   cluster.yaml   3 service ports   7 frontends
ipvs      ipvs.txt       7 service ports   7 frontends

SERVICE         FRONTEND               CLIENTS   WHAT       DESIRED           IPVS
shop/web:http   192.0.2.11:30080/TCP   all       backends   10.244.2.2:8080   -

Not compared, since one side cannot say it: names of services, kinds of frontends, clients inside and outside apart, refused and dropped apart, traffic policies, source ranges, which backends are local, backends that drain, health check ports, where NodePorts answer
By design, and in no rule to be seen (docs/semantics.md): 1, 2, 3, 5, 6, 9, 12, 14, 15, 16, 17, 18, 19, 20, 21, 22

1 difference in 1 service
`.slice(1),
  );
});

test("without maps the way to compare all the same is said", async () => {
  const { code, out, err } = await run("diff", "--against", save, "--bpffs", join(folder, "nothing"));
  assert.deepEqual([code, out], [3, ""]);
  assert.match(err, /^beeline: .*Without maps, compare what should be: beeline diff desired --against …\n$/s);
});

test("what cannot be compared is an error that says what to do", async () => {
  const cases: readonly (readonly [words: readonly string[], error: RegExp])[] = [
    [[cluster], /Cannot use cluster\.yaml: it holds manifests, which are given with -f and compared as "desired"/],
    [[file("empty.txt", "")], /Cannot use empty\.txt: expected what iptables-save, nft -j list ruleset/],
    [[file("binary", "\u0000\u0001\u0002".repeat(1000))], /Cannot use binary: expected/],
    [[file("cut.json", '{"nftables": [')], /Cannot read cut\.json as JSON/],
    [[file("list.json", '{"kind": "List"}')], /expected .*, got JSON of kind "List"/],
    [["nowhere.txt"], /Cannot read nowhere\.txt: ENOENT/],
    [["bpf", save], /bpf save\.txt: expected bpf or files, not both \(a file of that name is \.\/bpf\)/],
    [[save, file("x.json", '{"nftables": []}')], /Cannot read save\.txt, x\.json as one/],
    [
      [file("odd.json", '{"kind": "Desired", "services": [{"frontends": 7}]}')],
      /Cannot use odd\.json\.services\[0\]\./,
    ],
    [["--agains", "bpf"], /Unknown flag --agains \(did you mean --against\?\)/],
  ];
  for (const [words, expected] of cases) {
    const { code, out, err } = await run("diff", ...words, ...NODE);
    assert.deepEqual([code, out], [2, ""], `${words}`);
    assert.match(err.replaceAll(`${folder}/`, ""), expected);
  }
});
