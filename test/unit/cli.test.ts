// The reading commands, screen by screen: what they print of maps that hold a known cluster. No kernel, no root.
import assert from "node:assert/strict";
import { test } from "node:test";
import { affinityReport } from "../../src/commands/affinity.ts";
import { backendReport } from "../../src/commands/backends.ts";
import type { Args, Io } from "../../src/commands/command.ts";
import { COMMANDS } from "../../src/commands/commands.ts";
import { flowReport } from "../../src/commands/flows.ts";
import { frontendReport } from "../../src/commands/frontends.ts";
import { readHeld } from "../../src/commands/held.ts";
import { mapListReport, mapReport } from "../../src/commands/maps.ts";
import { type Report, render } from "../../src/commands/report.ts";
import { serviceReport } from "../../src/commands/services.ts";
import { statusReport } from "../../src/commands/status.ts";
import { compile } from "../../src/compile/compile.ts";
import { encode } from "../../src/dataplane/bpf/codec.ts";
import type { MapStore } from "../../src/dataplane/bpf/mapstore.ts";
import { TableProgrammer } from "../../src/dataplane/bpf/programmer.ts";
import { FakeStore } from "../../src/dataplane/fake/fakestore.ts";
import { readManifestText } from "../../src/k8s/manifests.ts";
import { readAddress as address } from "../lib/addresses.ts";
import { createIo, runCommand } from "../lib/command.ts";
import { flowOf, NOWHERE } from "../lib/flow.ts";

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
  clusterIPs: [10.96.0.1]
  clusterIP: 10.96.0.1
  externalTrafficPolicy: Local
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
metadata: {namespace: kube-system, name: dns}
spec:
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10]
  ports: [{port: 53, protocol: UDP}]
`;

/** Maps of node-a. */
const createStore = (): MapStore => {
  const { snapshot, problems } = readManifestText(CLUSTER, "cluster.yaml", "node-a");
  assert.deepEqual(problems, []);
  const localAddresses = [address("127.0.0.1"), address("192.0.2.11")];
  const { desired } = compile(snapshot, { nodeName: "node-a", localAddresses, nodePortAddresses: [] });
  const store = new FakeStore();
  new TableProgrammer(store, { now_ns: () => 0n }).apply(desired, { prune: true });
  const first = new Uint8Array(new Uint32Array([1]).buffer);
  store.update("backend_stats", [[first, encode("backend_stats", { new_flows: 12n, open_sockets: 3n })]]);
  return store;
};

const screen = (report: Report, args: Args = {}, over: Partial<Io> = {}): Promise<string> =>
  render(report, args, createIo(over).io);

const assertScreen = async (report: Report, expected: string, args: Args = {}): Promise<void> =>
  assert.equal(await screen(report, args), expected.replace(/^\n/, ""));

test("services: one row for each service port", async () => {
  await assertScreen(
    serviceReport(readHeld(createStore()), undefined),
    `
SERVICE           PROTO   TYPE                              ADDRESS                                BACKENDS   LOCAL   POLICY           AFFINITY
kube-system/dns   UDP     ClusterIP                         10.96.0.10:53                          0          0       -                -
shop/web:http     TCP     ClusterIP,LoadBalancer,NodePort   10.96.0.1:80,198.51.100.1:80,*:30080   2          1       external=Local   600s
`,
  );
});

test("services -o wide adds what draining, flows and ids there are", async () => {
  await assertScreen(
    serviceReport(readHeld(createStore()), "shop/"),
    `
shop/web:http   TCP   ClusterIP,LoadBalancer,NodePort   10.96.0.1:80,198.51.100.1:80,*:30080   2   1   external=Local   600s   0   12   3   2
`,
    { output: "wide", noHeaders: true },
  );
});

test("services NAME: one service in full", async () => {
  await assertScreen(
    serviceReport(readHeld(createStore()), "shop/web"),
    `
Service:    shop/web:http/TCP
Affinity:   600s by client address
Policy:     internal Cluster, external Local
Sources:    203.0.113.0/24
Frontends:
  TYPE           ADDRESS           FROM       POLICY    BACKENDS
  ClusterIP      10.96.0.1:80      anywhere   Cluster   10.244.1.2:8080 10.244.2.2:8080
  LoadBalancer   198.51.100.1:80   inside     Cluster   10.244.1.2:8080 10.244.2.2:8080
  LoadBalancer   198.51.100.1:80   outside    Local     10.244.1.2:8080
  NodePort       0.0.0.0:30080     inside     Cluster   10.244.1.2:8080 10.244.2.2:8080
  NodePort       0.0.0.0:30080     outside    Local     10.244.1.2:8080
Backends:
  ADDRESS           STATE    LOCAL   NEW-FLOWS   OPEN-SOCKETS
  10.244.1.2:8080   active   yes     12          3
  10.244.2.2:8080   active   no      0           0
`,
  );
});

test("services NAME that is not there: said, and exit 1", async () => {
  const report = serviceReport(readHeld(createStore()), "we\u001bb");
  assert.equal(await screen(report), "no service we\\x1bb here\n");
  assert.equal(report.failed, true);
  assert.equal(serviceReport(readHeld(createStore()), "web").failed, false);
});

test("services -o json: the documented shape", async () => {
  const document = JSON.parse(await screen(serviceReport(readHeld(createStore()), "web"), { output: "json" }));
  assert.deepEqual(document, {
    apiVersion: "beeline.dev/v1alpha1",
    kind: "ServiceList",
    items: [
      {
        namespace: "shop",
        name: "web",
        port: "http",
        protocol: "TCP",
        id: 2,
        affinity_timeout_s: 600,
        internalTrafficPolicy: "Cluster",
        externalTrafficPolicy: "Local",
        healthCheckNodePort: null,
        sourceRanges: ["203.0.113.0/24"],
        frontends: [
          {
            kind: "ClusterIP",
            family: "IPv4",
            address: "10.96.0.1",
            port: 80,
            restricted: false,
            internal: { kind: "backends", policy: "Cluster", backends: ["10.244.1.2:8080", "10.244.2.2:8080"] },
            external: { kind: "backends", policy: "Cluster", backends: ["10.244.1.2:8080", "10.244.2.2:8080"] },
          },
          {
            kind: "LoadBalancer",
            family: "IPv4",
            address: "198.51.100.1",
            port: 80,
            restricted: true,
            internal: { kind: "backends", policy: "Cluster", backends: ["10.244.1.2:8080", "10.244.2.2:8080"] },
            external: { kind: "backends", policy: "Local", backends: ["10.244.1.2:8080"] },
          },
          {
            kind: "NodePort",
            family: "IPv4",
            address: null,
            port: 30080,
            restricted: false,
            internal: { kind: "backends", policy: "Cluster", backends: ["10.244.1.2:8080", "10.244.2.2:8080"] },
            external: { kind: "backends", policy: "Local", backends: ["10.244.1.2:8080"] },
          },
        ],
        backends: [
          { address: "10.244.1.2", port: 8080, local: true, state: "active", id: 1, new_flows: 12, open_sockets: 3 },
          { address: "10.244.2.2", port: 8080, local: false, state: "active", id: 2, new_flows: 0, open_sockets: 0 },
        ],
      },
    ],
  });
});

test("-o yaml is the same document as -o json", async () => {
  const report = serviceReport(readHeld(createStore()), undefined);
  const { parse } = await import("yaml");
  assert.deepEqual(
    parse(await screen(report, { output: "yaml" })),
    JSON.parse(await screen(report, { output: "json" })),
  );
});

test("frontends: each address with who may come, and what comes of it", async () => {
  await assertScreen(
    frontendReport(readHeld(createStore())),
    `
ADDRESS           PROTO   TYPE           FROM       BACKENDS   SERVICE           POLICY    SOURCES
10.96.0.10:53     UDP     ClusterIP      anywhere   refused    kube-system/dns   Cluster   everybody
10.96.0.1:80      TCP     ClusterIP      anywhere   2          shop/web:http     Cluster   everybody
198.51.100.1:80   TCP     LoadBalancer   inside     2          shop/web:http     Cluster   203.0.113.0/24
198.51.100.1:80   TCP     LoadBalancer   outside    1          shop/web:http     Local     203.0.113.0/24
0.0.0.0:30080     TCP     NodePort       inside     2          shop/web:http     Cluster   everybody
0.0.0.0:30080     TCP     NodePort       outside    1          shop/web:http     Local     everybody
`,
    { output: "wide" },
  );
});

test("backends: where traffic goes, and how much went", async () => {
  await assertScreen(
    backendReport(readHeld(createStore())),
    `
ADDRESS           PROTO   STATE    LOCAL   NEW-FLOWS   OPEN-SOCKETS   SERVICE         ID   GENERATION
10.244.1.2:8080   TCP     active   yes     12          3              shop/web:http   1    1
10.244.2.2:8080   TCP     active   no      0           0              shop/web:http   2    1
`,
    { output: "wide" },
  );
});

test("maps event_budgets: what became of events, of all CPUs together", async () => {
  const store = createStore();
  const one = { spent_until_ns: 9n, written: 3n, limited: 40n, lost: 5n };
  store.update("event_budgets", [[encode("u32", 71), encode("event_budget", one)]]);
  await assertScreen(mapReport(store, "event_budgets"), "\nKEY   VALUE\n71    written=3 limited=40 lost=5\n");
});

test("maps: how full each is", async () => {
  await assertScreen(
    mapListReport(createStore()),
    `
MAP                  USED   CAPACITY   FULL
affinity             0      65536      0.0%
backend_stats        -      262144     -
backends             2      262144     0.0%
config               -      1          -
counters             -      256        -
devices              0      4096       0.0%
event_budgets        -      256        -
expendable_cursor    -      1          -
expendables          -      32768      -
flows                0      524288     0.0%
forwards             -      64         -
fragments            0      16384      0.0%
frontend_addresses   3      131072     0.0%
frontends            6      131072     0.0%
listener             -      1          -
node_addresses       2      1024       0.2%
nodeports            2      16384      0.0%
parked_fragments     0      1024       0.0%
services             2      65536      0.0%
slots                3      1048576    0.0%
sockets              -      -          -
source_ranges        1      65536      0.0%
tcp_peers            0      65536      0.0%
tunnels              -      256        -
unhooked_netns       0      4096       0.0%
`,
  );
});

test("maps NAME: its entries by their C names", async () => {
  await assertScreen(
    mapReport(createStore(), "backends"),
    `
KEY   VALUE
1     addr=10.244.1.2 port=8080 proto=6 state=1 generation=1 service_id=2 flags=7
2     addr=10.244.2.2 port=8080 proto=6 state=1 generation=1 service_id=2 flags=2
`,
  );
  await assertScreen(
    mapReport(createStore(), "slots"),
    `
KEY   VALUE
0     1
1     2
2     1
`,
  );
});

const SECOND_NS = 1_000_000_000n;

const addFlow = (store: MapStore): void => {
  const key = encode("flow_key", {
    src_addr: address("203.0.113.9"),
    dst_addr: address("192.0.2.11"),
    src_port: 40000,
    dst_port: 30080,
    proto: 6,
    outward: 0,
  });
  const flow = flowOf({
    addr: address("10.244.2.2"),
    port: 8080,
    kind: 1,
    flags: 1,
    service_id: 2,
    backend_id: 2,
    generation: 1,
    far_addr: address("192.0.2.11"),
    far_port: 61000,
    client_port: 1024,
    next_hop: { ...NOWHERE, ifindex: 1, dmac: [2, 0, 0, 0, 10, 1], mtu: 1500, way: 2, generation: 9 },
    created_ns: 5n * SECOND_NS,
    last_seen_ns: 60n * SECOND_NS,
  });
  store.update("flows", [[key, encode("flow", flow)]]);
};

test("flows: each direction, with what is written over it", async () => {
  const store = createStore();
  addFlow(store);
  await assertScreen(
    flowReport(store, 65n * SECOND_NS),
    `
PROTO   FROM                TO                 DOES   WITH              IDLE   STATE         SERVICE             AGE   SERVICE-ID   BACKEND-ID   GENERATION   FAR-SIDE           CLIENT-PORT   NEXT-HOP
TCP     203.0.113.9:40000   192.0.2.11:30080   DNAT   10.244.2.2:8080   5s     established   shop/web:http/TCP   60s   2            2            1            192.0.2.11:61000   1024          wire lo 02:00:00:00:0a:01 (old)
`,
    { output: "wide" },
  );
});

/** One of a backend that is there, one of a backend that is gone. */
const addAffinity = (store: MapStore): void => {
  const entry = (client: string, backend_id: number, generation: number) =>
    [
      encode("affinity_key", { client: address(client), service_id: 2 }),
      encode("affinity", { backend_id, generation, last_used_ns: 100n * SECOND_NS }),
    ] as const;
  store.update("affinity", [entry("203.0.113.9", 1, 1), entry("203.0.113.8", 1, 7)]);
};

test("affinity: until when, and a backend that is gone", async () => {
  const store = createStore();
  addAffinity(store);
  await assertScreen(
    affinityReport(store, 200n * SECOND_NS),
    `
CLIENT        SERVICE             BACKEND           EXPIRES
203.0.113.8   shop/web:http/TCP   gone              -
203.0.113.9   shop/web:http/TCP   10.244.1.2:8080   in 8m
`,
  );
  await assertScreen(
    affinityReport(store, 700n * SECOND_NS),
    `
203.0.113.8   shop/web:http/TCP   gone              -
203.0.113.9   shop/web:http/TCP   10.244.1.2:8080   expired
`,
    { noHeaders: true },
  );
});

const FLOW: readonly string[] = [
  ...["kind", "protocol", "from", "to", "rewrite", "service_id", "backend_id", "generation", "far"],
  ...["client_port", "next_hop", "state"],
  ...["created_ns", "last_seen_ns", "service"],
];

test("-o json: every list has its documented kind and fields", async () => {
  const store = createStore();
  addFlow(store);
  addAffinity(store);
  const held = readHeld(store);
  const shapes: readonly (readonly [report: Report, kind: string, fields: readonly string[]])[] = [
    [
      frontendReport(held),
      "FrontendList",
      [
        ...["kind", "family", "address", "port", "protocol", "service", "from", "policy", "verdict", "backends"],
        "restricted",
      ],
    ],
    [
      backendReport(held),
      "BackendList",
      [
        ...["address", "port", "local", "state", "protocol", "service", "id", "generation", "new_flows"],
        "open_sockets",
      ],
    ],
    [flowReport(store, 0n), "FlowList", FLOW],
    [
      affinityReport(store, 0n),
      "AffinityList",
      ["client", "service_id", "backend_id", "generation", "last_used_ns", "service", "backend", "expires_ms"],
    ],
    [mapListReport(store), "MapList", ["map", "type", "used", "capacity"]],
    [mapReport(store, "slots"), "MapEntryList", ["key", "value"]],
  ];
  for (const [report, kind, fields] of shapes) {
    const document = JSON.parse(await screen(report, { output: "json" }));
    assert.equal(document.apiVersion, "beeline.dev/v1alpha1");
    assert.equal(document.kind, kind);
    assert.deepEqual(Object.keys(document.items[0]).sort(), [...fields].sort(), kind);
  }
});

test("status: on one screen, with what is not as it should be", async () => {
  const report = statusReport({
    pins: "/sys/fs/bpf/beeline/0123456789ab",
    agent: null,
    hooks: [
      { hook: "connect4", target: "cgroup", role: null, attached: true },
      { hook: "connect6", target: "cgroup", role: null, attached: false },
      { hook: "tcx egress", target: "eth0", role: "node", attached: false },
      { hook: "tcx ingress", target: "eth0", role: "node", attached: true },
      { hook: "tcx ingress", target: "veth1", role: "pod", attached: true },
      { hook: "tcx ingress", target: "veth2", role: "pod", attached: true },
      ...Array.from({ length: 9 }, (_, i) => ({
        hook: "clsact ingress",
        target: `lxc${i}`,
        role: "pod" as const,
        attached: true,
      })),
    ],
    unhookedNetns: 2,
    forwarding: {
      ...{ mode: "kernel", wanted: "auto", generation: 0, devices: [] },
      packets: [
        { hook: "tc_ingress", isDirect: true, how: "wire", count: 7 },
        { hook: "tc_ingress", isDirect: false, how: "hop_limit", count: 1 },
      ],
      obstacles: [
        { where: "iptables-legacy filter, chain cali-FORWARD", what: "-j DROP" },
        { where: "IP rules (IPv4)", what: "priority 100, fwmark 0x1, table 100" },
      ],
      xdp: {
        wanted: "auto",
        devices: [
          { device: "eth0", why_not: null },
          { device: "eth1", why_not: "another's program 7 is on it" },
          { device: "eth2", why_not: "another's program 7 is on it" },
        ],
      },
    },
    counts: { servicePorts: 2, frontends: 1, backends: 3, draining: 1 },
    nodeAddresses: [
      { address: address("127.0.0.1"), loopback: true, primary: false, nodePorts: true },
      { address: address("192.0.2.11"), loopback: false, primary: true, nodePorts: false },
    ],
    snat: {
      ...{ min: 61000, max: 61009, ports: 10 },
      destinations: [
        { address: address("fd00:2::6"), port: 8080, protocol: "TCP", taken: 9, nearLimit: true },
        { address: address("10.2.0.6"), port: 53, protocol: "UDP", taken: 7, nearLimit: false },
      ],
    },
    maps: [
      { map: "config", type: "array", used: null, capacity: 1 },
      { map: "flows", type: "LRU hash", used: 5, capacity: 50 },
    ],
    packets: [
      { hook: "sock", verdict: "translated", direction: "to_backend", reason: "new_flow", count: 4 },
      { hook: "tc_ingress", verdict: "dropped", direction: null, reason: "loopback", count: 1 },
      { hook: "tc_ingress", verdict: null, direction: null, reason: "63", count: 2 },
    ],
  });
  await assertScreen(
    report,
    `
Pins:             /sys/fs/bpf/beeline/0123456789ab
Agent:            not running (what is attached works on)
Sockets:          1 hook, not for 2 network namespaces, detached: connect6
Devices:          eth0 (tcx egress detached, tcx ingress)
Pod devices:      veth1, veth2 (tcx ingress); 9 devices (clsact ingress)
Forwarding:       kernel (auto: iptables-legacy filter, chain cali-FORWARD: -j DROP; 1 more: \`beeline doctor\`)
XDP:              on eth0; not on eth1, eth2: another's program 7 is on it
Services:         2 service ports, 1 frontend
Backends:         2 active, 1 draining
Node addresses:   127.0.0.1 (loopback), 192.0.2.11 (primary, no NodePorts)
SNAT ports:       61000-61009, 10 towards each backend, NEAR ITS LIMIT: [fd00:2::6]:8080/TCP with 9 taken

MAP     USED   CAPACITY   FULL
flows   5      50         10.0%

HOOK         VERDICT      DIRECTION    REASON     COUNT
sock         translated   to_backend   new_flow   4
tc_ingress   dropped      -            loopback   1
tc_ingress   -            -            63         2

HOOK         WAY      HOW         COUNT
tc_ingress   direct   wire        7
tc_ingress   kernel   hop_limit   1
`,
  );
  const coloured = await screen(report, {}, { terminal: true });
  assert.match(coloured, /\u001b\[33mAgent: +not running.*\u001b\[0m\n/);
  assert.equal(/\u001b/.test(await screen(report, {}, { terminal: true, env: { NO_COLOR: "1" } })), false);
  assert.equal(/\u001b/.test(await screen(report, { noColor: true }, { terminal: true })), false);
});

test("a name with control characters never reaches the terminal as such", async () => {
  const store = createStore();
  const id = new Uint8Array(new Uint32Array([2]).buffer);
  const name = { namespace: "a\u001b[2J", name: "b\u202e", port_name: "", proto: 6, health_check_port: 0, flags: 0 };
  store.update("services", [[id, encode("service", { ...name, affinity_timeout_s: 0 })]]);
  for (const report of [
    serviceReport(readHeld(store), undefined),
    serviceReport(readHeld(store), "b\u202e"),
    frontendReport(readHeld(store)),
    backendReport(readHeld(store)),
    mapReport(store, "services"),
  ]) {
    const text = await screen(report);
    assert.equal(/[\u001b\u202e]/.test(text), false, text);
    assert.match(text, /a\\x1b\[2J/);
  }
});

// ---- the command line -------------------------------------------------------------------------------------------------

const mistakes: readonly (readonly [line: string, message: string])[] = [
  ["", "No command given; see beeline --help"],
  ["servces", "Unknown command servces (did you mean services?). See beeline --help"],
  ["services --wach", "Unknown flag --wach (did you mean --watch?). See beeline services --help"],
  ["services --no-header", "Unknown flag --no-header (did you mean --no-headers?). See beeline services --help"],
  ["services a b", "Unknown argument b. See beeline services --help"],
  ["services -o xml", '--output "xml": expected one of "table", "wide", "json", "yaml"'],
  ["services -o json -o yaml", "--output is given 2 times, and means one thing"],
  ["explain 10.0.0.1", "Usage: beeline explain <source> <destination>. See beeline explain --help"],
  ["explain 10.0.0 10.0.0.1:1", "10.0.0: expected an address of a client, like 10.244.1.7"],
  [
    "explain 10.0.0.1 10.0.0.1:70000",
    "10.0.0.1:70000: expected address:port/TCP, like 10.96.0.10:53/UDP or [fd00::10]:53/UDP",
  ],
  ["explain 10.0.0.1 [fd00::1]:1", "10.0.0.1 cannot talk to fd00::1: one is IPv4, the other IPv6"],
  ["compile", "compile needs manifests: -f FILE or folder"],
  [
    "maps slotz",
    "Unknown map slotz (did you mean slots?); there are affinity, backend_stats, backends, config, counters, devices, event_budgets, expendable_cursor, expendables, flows, forwards, fragments, frontend_addresses, frontends, listener, node_addresses, nodeports, parked_fragments, services, slots, sockets, source_ranges, tcp_peers, tunnels, unhooked_netns",
  ],
  ["trace", "beeline trace shows what is refused or dropped, and nothing else: beeline trace --drops"],
  ["trace --drop", "Unknown flag --drop (did you mean --drops?). See beeline trace --help"],
  ["trace --drops --count 0", "--count 0: expected a positive integer"],
  ["trace --drops --rate x", "-rate: expected a number"],
  ["trace --drops --source 10.0.0", "--source 10.0.0: expected an address or a prefix, like 10.244.0.0/16"],
  [
    "trace --drops --reason source_rang",
    "--reason source_rang: unknown (did you mean source_range?); there are no_endpoints, no_local_endpoints, source_range, no_slot, no_backend, snat_exhausted, no_snat_address, flow_clash, flows_full, rewrite_failed, reply_failed, loopback, reply_rewrite_failed, unlisted_port, protocol, early_fragment, unreadable, stray_icmp, from_itself",
  ],
  ["maps sockets", "Map sockets lives in the sockets themselves; it cannot be listed"],
];

for (const [line, message] of mistakes) {
  test(`wrong usage, exit 2 and nothing on stdout: beeline ${line}`, async () => {
    const answer = await runCommand(...line.split(" ").filter((word) => word !== ""));
    assert.deepEqual(answer, { code: 2, out: "", err: `beeline: ${message}\n` });
  });
}

test("every command has help with an example", async () => {
  for (const { usage } of COMMANDS) {
    const name = usage.split(" ")[0] ?? "";
    const answer = await runCommand(name, "--help");
    assert.equal(answer.code, 0);
    assert.match(answer.out, new RegExp(`^beeline ${name}.*Examples:\\n  beeline ${name}`, "s"));
  }
});

test("--help names every command, --version the version", async () => {
  const { out } = await runCommand("--help");
  for (const { usage, summary } of COMMANDS) {
    assert.ok(out.includes(`beeline ${usage}`), usage);
    assert.ok(out.replaceAll(/\s+/g, " ").includes(summary), summary);
  }
  assert.equal((await runCommand("--version")).out, "1.2.3\n");
});
