// `beeline diff` and `run --observe` on a node of its own: what should be, the maps, and the rules that the reference mode
// wrote are the same; then somebody changes an endpoint in the maps, and takes a rule away.
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { eventually } from "../lib/eventually.ts";
import { type Ended, Sandbox } from "../lib/sandbox.ts";

const service = (name: string, number: number, more: string, pods: readonly string[]): string => `
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: ${name}}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.${number}
  clusterIPs: [10.96.0.${number}, "fd00:96::${number}"]
  ports: [{name: http, port: 80, nodePort: ${30080 + number}, protocol: TCP}]
  ${more}
status: {loadBalancer: {ingress: [{ip: 198.51.100.${number}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: ${name}-1, labels: {kubernetes.io/service-name: ${name}}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints:
${pods.map((pod) => `- {addresses: [${pod}], nodeName: ${pod.startsWith("10.244.1.") ? "node-a" : "node-b"}}`).join("\n")}
---
`;

const CLUSTER = [
  "apiVersion: v1\nkind: Node\nmetadata: {name: node-a}\nstatus: {addresses: [{type: InternalIP, address: 192.0.2.11}]}\n---",
  service("web", 1, "sessionAffinity: ClientIP", ["10.244.1.2", "10.244.2.2"]),
  service("local", 2, "externalTrafficPolicy: Local", ["10.244.1.3", "10.244.2.3"]),
  service("remote", 3, "externalTrafficPolicy: Local", ["10.244.2.4"]),
  service("guarded", 4, "loadBalancerSourceRanges: [203.0.113.0/24, 192.0.2.0/24]", ["10.244.1.5"]),
].join("\n");

const CONFIG = `
apiVersion: beeline.dev/v1alpha1
kind: BeelineConfiguration
clusterCIDR: 10.244.0.0/16,fd00:244::/32
iptables: {syncPeriod: 1s, minSyncPeriod: 50ms}
bpf: {syncPeriod: 1s, minSyncPeriod: 50ms, mapSizes: {backends: 64}}
`;

const node = await Sandbox.create();
after(() => node.close());
const manifests = `${node.folder}/manifests`;
const config = `${node.folder}/config.yaml`;

const ok = ({ code, stdout, stderr }: Ended): string => {
  assert.equal(code, 0, stderr + stdout);
  return stdout;
};
const diff = (...args: readonly string[]): Ended => node.beeline("diff", "-f", manifests, "--config", config, ...args);
const shell = (script: string): string => ok(node.exec("sh", "-ec", script));

before(() => {
  mkdirSync(manifests);
  writeFileSync(`${manifests}/cluster.yaml`, CLUSTER);
  writeFileSync(config, CONFIG);
  ok(node.beeline("apply", "-f", manifests, "--config", config));
});

/** Rows of the table of differences, without their padding. */
const rows = (stdout: string): readonly string[] => {
  const lines = stdout.split("\n");
  const first = lines.findIndex((line) => line.startsWith("SERVICE "));
  return first < 0
    ? []
    : lines.slice(first + 1, lines.indexOf("", first)).map((line) => line.replaceAll(/ {3,}/g, " | ").trimEnd());
};

test("without rules of kube-proxy there is nothing to compare with, which is no difference but an error", () => {
  const { code, stdout, stderr } = diff("desired", "--against", "kube-proxy");
  assert.deepEqual([code, stdout], [3, ""]);
  assert.match(stderr, /^beeline: kube-proxy has left nothing on this node: no Service in iptables, nftables or IPVS/);
  assert.equal(shell("nft list tables; cat /proc/net/ip_tables_names 2>/dev/null || true"), "");
});

test("the maps hold what they should", () => {
  const stdout = ok(diff());
  assert.match(stdout, /^bpf {7}maps under \S+\/bpf\/beeline {3}4 service ports {3}20 frontends$/m);
  assert.match(stdout, /^No difference$/m);
});

for (const flavour of ["nft", "legacy"] as const) {
  const reference = ["--dataplane", "iptables", "--iptables", flavour, "--config", config] as const;
  const iptables = `iptables-${flavour}`;

  test(`iptables-${flavour}: the rules of the reference mode mean what the maps mean`, () => {
    ok(node.beeline("apply", "-f", manifests, ...reference));
    for (const left of ["bpf", "desired"]) {
      const stdout = ok(diff(left, "--against", "kube-proxy"));
      assert.match(
        stdout,
        new RegExp(`^iptables {3}${iptables} of this node {2,}4 service ports {3}20 frontends$`, "m"),
      );
      assert.match(stdout, /^No difference$/m);
      assert.doesNotMatch(stdout, /To be looked at/);
    }
    shell(`${iptables}-save > ${node.folder}/v4.txt; ip6tables-${flavour}-save > ${node.folder}/v6.txt`);
    ok(diff(`${node.folder}/v4.txt`, `${node.folder}/v6.txt`, "--against", "bpf"));
  });

  test(`iptables-${flavour}: an endpoint changed by hand in the maps is a row for its frontends`, () => {
    changeBackend("10.244.2.2", "10.244.9.9");
    const { code, stdout, stderr } = diff("--against", "kube-proxy");
    assert.deepEqual([code, stderr], [1, ""]);
    assert.deepEqual(rows(stdout), [
      "shop/web:http | 10.96.0.1:80/TCP and 2 more | all | backends | 10.244.9.9:8080 | 10.244.2.2:8080",
    ]);
    assert.match(stdout, /^3 differences in 1 service$/m);
    assert.deepEqual(rows(diff("--against", "desired").stdout), rows(stdout));
    changeBackend("10.244.9.9", "10.244.2.2");
    ok(diff("--against", "kube-proxy"));
  });

  test(`iptables-${flavour}: a rule deleted by hand is a row, and what it leaves is named`, () => {
    shell(`chain=$(${iptables} -t nat -S KUBE-SERVICES | grep "shop/web:http cluster IP" | sed 's/.*-j //')
      ${iptables} -t nat -S $chain | grep "10.244.2.2:8080" | grep -v rcheck | sed 's/^-A/-D/' > ${node.folder}/rule
      xargs ${iptables} -t nat < ${node.folder}/rule`);
    const { code, stdout } = diff("--against", "kube-proxy");
    assert.equal(code, 1);
    assert.deepEqual(rows(stdout), [
      "shop/web:http | 10.96.0.1:80/TCP and 2 more | all | backends | 10.244.2.2:8080 | -",
    ]);
    assert.match(stdout, /KUBE-SVC-\S+ ends with a rule of probability 0\.5: some flows find no endpoint/);
    shell(`${iptables} -t nat -D OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES`);
    assert.match(
      rows(diff("--against", "iptables").stdout)[0] ?? "",
      /^the node \| all \| all \| out of reach \| - \| IPv4: OUTPUT of nat/,
    );
  });

  test(`iptables-${flavour}: --observe counts what lasts, and writes nothing`, async () => {
    const before = shell(`${iptables}-save | grep -v '^#' | sed 's/\\[[0-9:]*\\]//'`);
    const pins = shell(`find ${node.folder}/bpf | sort`);
    const started = ["run", "--observe", "--manifests", manifests, "--config", config];
    const servers = ["--metrics-bind-address", "127.0.0.1:10349", "--healthz-bind-address", "127.0.0.1:10356"];
    const observer = node.start(...started, ...servers);
    const metric = (kind: string): string => {
      const metrics = node.get("http://127.0.0.1:10349/metrics");
      return new RegExp(`^beeline_differences\\{kind="${kind}"\\} (.*)$`, "m").exec(metrics)?.[1] ?? "";
    };
    await eventually(() => assert.deepEqual([metric("backends"), metric("unreached")], ["3", "1"]), 20_000);
    await eventually(() => assert.match(observer.stderr, /The rules of this node are not what they should be/));
    assert.match(observer.stderr, /shop\/web:http 10\.96\.0\.1:80\/TCP backends: wanted 10\.244\.2\.2:8080/);
    assert.equal(node.get("http://127.0.0.1:10356/readyz"), "200 ok\n");
    assert.equal(shell(`${iptables}-save | grep -v '^#' | sed 's/\\[[0-9:]*\\]//'`), before);

    ok(node.beeline("apply", "-f", manifests, ...reference));
    await eventually(() => assert.deepEqual([metric("backends"), metric("unreached")], ["0", "0"]), 20_000);
    await eventually(() => assert.match(observer.stderr, /No difference any more/));
    observer.signal("SIGTERM");
    assert.equal((await observer.ended()).code, 0);
    assert.equal(shell(`find ${node.folder}/bpf | sort`), pins);
    ok(node.beeline("reset", ...reference));
  });
}

test("kube-proxy in nftables mode is found, and what else is here is named", () => {
  const rules = readFileSync(new URL("../rules/kube-proxy-1.36.nft", import.meta.url), "utf8");
  writeFileSync(`${node.folder}/rules.nft`, rules);
  shell(`nft -f ${node.folder}/rules.nft`);
  const alone = diff("desired", "--against", "kube-proxy", "-o", "json");
  assert.equal(alone.code, 1);
  assert.deepEqual(JSON.parse(alone.stdout).right, {
    source: "nftables",
    from: "nftables of this node",
    servicePorts: 5,
    frontends: 10,
  });
  ok(node.beeline("apply", "-f", manifests, "--dataplane", "iptables", "--iptables", "legacy", "--config", config));
  const stdout = ok(diff("desired", "--against", "kube-proxy"));
  assert.match(stdout, /nftables of this node: 10 frontends here, too, which are not compared/);
  assert.equal(JSON.parse(diff("desired", "--against", "nftables", "-o", "json").stdout).right.source, "nftables");
});

/** In the map of backends, as `bpftool map update` would. */
const changeBackend = (from: string, to: string): void => {
  const map = shell(`find ${node.folder}/bpf -name backends`).trim();
  const bytes = (text: string): string =>
    text
      .split(".")
      .map((part) => Number(part).toString(16).padStart(2, "0"))
      .join(" ");
  const dump = JSON.parse(shell(`bpftool -j map dump pinned ${map}`)) as readonly {
    readonly key: readonly string[];
    readonly value: readonly string[];
  }[];
  const hex = (list: readonly string[]): string => list.map((byte) => byte.replace("0x", "")).join(" ");
  const entry = dump.find(({ value }) => hex(value).includes(`ff ff ${bytes(from)}`));
  assert.ok(entry, `${from} is no backend`);
  const changed = hex(entry.value).replace(`ff ff ${bytes(from)}`, `ff ff ${bytes(to)}`);
  shell(`bpftool map update pinned ${map} key hex ${hex(entry.key)} value hex ${changed}`);
};
