// explain and compile on manifests, screen by screen, through the command line.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { runCommand } from "../lib/command.ts";

const folder = mkdtempSync(join(tmpdir(), "beeline-explain-"));
after(() => rmSync(folder, { recursive: true }));

const CLUSTER = `
apiVersion: v1
kind: Node
metadata: {name: node-a}
spec: {podCIDRs: [10.244.1.0/24]}
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
metadata: {namespace: shop, name: local}
spec:
  type: NodePort
  clusterIP: 10.96.0.2
  clusterIPs: [10.96.0.2]
  externalTrafficPolicy: Local
  ports: [{port: 80, nodePort: 30081, protocol: TCP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: local-1, labels: {kubernetes.io/service-name: local}}
addressType: IPv4
ports: [{port: 8080, protocol: TCP}]
endpoints:
- {addresses: [10.244.2.3], nodeName: node-b, conditions: {ready: true}}
---
apiVersion: v1
kind: Service
metadata: {namespace: kube-system, name: dns}
spec:
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10]
  ports: [{port: 53, protocol: UDP}]
`;
const cluster = join(folder, "cluster.yaml");
writeFileSync(cluster, CLUSTER);

const explained = async (line: string, ...more: readonly string[]): Promise<string> => {
  const { code, out, err } = await runCommand(
    "explain",
    ...line.split(" "),
    "-f",
    cluster,
    "--node",
    "node-a",
    ...more,
  );
  assert.deepEqual([code, err], [0, ""]);
  return out;
};

const screens: readonly (readonly [name: string, line: string, screen: string])[] = [
  [
    "a pod of this node to a ClusterIP, with affinity",
    "10.244.1.9 10.96.0.1:80/TCP",
    `
packet     10.244.1.9 → 10.96.0.1:80/TCP
from       pod (in this node's pod range 10.244.1.0/24)
frontend   ClusterIP 10.96.0.1:80 of shop/web:http/TCP
scope      internal: the client is a pod
sources    everybody may enter
policy     Cluster: backends of every node
affinity   the same backend again within 600 s
backends   10.244.1.2:8080 on this node, sees the client, 10.244.1.9
           10.244.2.2:8080 on another node, sees the client, 10.244.1.9
verdict    forward to one of 2 backends
`,
  ],
  [
    "a client outside to a NodePort: another node's pod sees this node",
    "203.0.113.9 192.0.2.11:30080",
    `
packet     203.0.113.9 → 192.0.2.11:30080/TCP
from       outside (no address of this node or its pods; --from says otherwise)
frontend   NodePort IPv4 30080 of shop/web:http/TCP
scope      external: the client is outside
sources    everybody may enter
policy     Cluster: backends of every node
affinity   the same backend again within 600 s
backends   10.244.1.2:8080 on this node, sees the client, 203.0.113.9
           10.244.2.2:8080 on another node, sees this node, 192.0.2.11
verdict    forward to one of 2 backends
`,
  ],
  [
    "a client outside the source ranges of a load balancer",
    "198.18.0.1 198.51.100.1:80/tcp",
    `
packet     198.18.0.1 → 198.51.100.1:80/TCP
from       outside (no address of this node or its pods; --from says otherwise)
frontend   LoadBalancer 198.51.100.1:80 of shop/web:http/TCP
scope      external: the client is outside
sources    only 203.0.113.0/24
verdict    drop: 198.18.0.1 is not in the source ranges
`,
  ],
  [
    "policy Local without a local endpoint",
    "203.0.113.9 192.0.2.11:30081/TCP",
    `
packet     203.0.113.9 → 192.0.2.11:30081/TCP
from       outside (no address of this node or its pods; --from says otherwise)
frontend   NodePort IPv4 30081 of shop/local/TCP
scope      external: the client is outside
sources    everybody may enter
policy     Local: only backends of this node
verdict    drop: policy Local, and every endpoint is on another node
`,
  ],
  [
    "the node to a service without endpoints",
    "192.0.2.11 10.96.0.10:53/UDP",
    `
packet     192.0.2.11 → 10.96.0.10:53/UDP
from       node (an address of this node)
frontend   ClusterIP 10.96.0.10:53 of kube-system/dns/UDP
scope      internal: the client is a node
sources    everybody may enter
policy     Cluster: backends of every node
verdict    reject: the service has no endpoints (ECONNREFUSED, ICMP port unreachable)
`,
  ],
  [
    "the right address at the wrong port",
    "10.244.1.9 10.96.0.10:53/TCP",
    `
packet     10.244.1.9 → 10.96.0.10:53/TCP
from       pod (in this node's pod range 10.244.1.0/24)
frontend   none
but        10.96.0.10 serves 53/UDP of kube-system/dns/UDP
verdict    reject: 10.96.0.10 is a Service's alone, and none has port 53/TCP (ECONNREFUSED, ICMP port unreachable)
`,
  ],
];

for (const [name, line, screen] of screens) {
  test(`explain: ${name}`, async () => assert.equal(await explained(line), screen.slice(1)));
}

test("--from decides where the client is", async () => {
  const screen = await explained("10.9.9.9 192.0.2.11:30081", "--from", "pod");
  assert.match(screen, /^from {7}pod \(as --from says\)$/m);
  assert.match(screen, /^verdict {4}forward to the backend$/m);
});

test("explain -o json: the packet, the verdict with who sees whom, and the steps", async () => {
  const { steps, ...rest } = JSON.parse(await explained("203.0.113.9 192.0.2.11:30080", "-o", "json"));
  assert.deepEqual(rest, {
    apiVersion: "beeline.dev/v1alpha1",
    kind: "Explanation",
    packet: {
      from: { place: "outside", address: "203.0.113.9" },
      to: { address: "192.0.2.11", port: 30080, protocol: "TCP" },
    },
    verdict: {
      kind: "forward",
      scope: "external",
      affinity_timeout_s: 600,
      service: { namespace: "shop", name: "web", port: "http", protocol: "TCP" },
      frontend: { kind: "NodePort", family: "IPv4", address: null, port: 30080 },
      backends: [
        {
          ...{ address: "10.244.1.2", port: 8080, local: true, state: "active" },
          ...{ source: "client", sourceAddress: "203.0.113.9" },
        },
        {
          ...{ address: "10.244.2.2", port: 8080, local: false, state: "active" },
          ...{ source: "node", sourceAddress: "192.0.2.11" },
        },
      ],
    },
  });
  assert.deepEqual(steps[0], { decision: "frontend", answer: "NodePort IPv4 30080 of shop/web:http/TCP" });
});

test("compile prints what the node would do, and the tables with --to bpf", async () => {
  const desired = await runCommand("compile", "-f", cluster, "--node", "node-a");
  assert.deepEqual([desired.code, desired.err], [0, ""]);
  assert.match(desired.out, /^node 127\.0\.0\.1 \(loopback\) 192\.0\.2\.11 \(primary\)\n\nkube-system\/dns\/UDP\n/);
  const tables = await runCommand("compile", "-f", cluster, "--node", "node-a", "--to", "bpf");
  assert.match(tables.out, /^ {2}10\.96\.0\.10:53\/UDP internal → service 1 slots 0\+0 flags=CLUSTER_IP$/m);
});

test("compile -o json: the documented shapes", async () => {
  const desired = JSON.parse((await runCommand("compile", "-f", cluster, "--node", "node-a", "-o", "json")).out);
  assert.deepEqual(Object.keys(desired), ["apiVersion", "kind", "nodeAddresses", "services"]);
  assert.equal(desired.kind, "Desired");
  assert.deepEqual(desired.services[0].name, "dns");
  const tables = JSON.parse(
    (await runCommand("compile", "-f", cluster, "--node", "node-a", "--to", "bpf", "-o", "json")).out,
  );
  assert.deepEqual(Object.keys(tables), [
    ...["apiVersion", "kind", "services", "frontends", "nodeports", "frontend_addresses", "slots", "backends"],
    ...["source_ranges", "node_addresses"],
  ]);
  assert.equal(tables.services[0].service_id, 1);
});

test("what cannot be used goes to stderr, and is exit 1 with --strict only", async () => {
  const bad = join(folder, "bad.yaml");
  writeFileSync(
    bad,
    `${CLUSTER}---\napiVersion: v1\nkind: Service\nmetadata: {namespace: x, name: "y"}\nspec: {clusterIP: 10.96.0.9, ports: [{port: 70000}]}\n`,
  );
  const args = ["compile", "-f", bad, "--node", "node-a"] as const;
  const answer = await runCommand(...args);
  assert.equal(answer.code, 0);
  assert.match(answer.err, /^beeline: Service x\/y \(\S+bad\.yaml:\d+\) spec\.ports\[0\]\.port: .*70000.*\n$/);
  assert.match(answer.out, /^shop\/web:http\/TCP/m);
  assert.equal((await runCommand(...args, "--strict")).code, 1);
  assert.equal((await runCommand("compile", "-f", cluster, "--node", "node-a", "--strict")).code, 0);
});

test("a Node that is not in the manifests is said: nothing would be local", async () => {
  const { err } = await runCommand("compile", "-f", cluster, "--node", "nobody");
  assert.equal(err, "beeline: Node nobody: is not in the manifests (see --node)\n");
});

test("a manifest that is no YAML is exit 2, with file and line", async () => {
  const broken = join(folder, "broken.yaml");
  writeFileSync(broken, "kind: Service\nspec: [\n");
  const { code, out, err } = await runCommand("compile", "-f", broken, "--node", "node-a");
  assert.deepEqual([code, out], [2, ""]);
  assert.match(err, /^beeline: Cannot read \S+broken\.yaml:\d+/);
});
