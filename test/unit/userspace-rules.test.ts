import assert from "node:assert/strict";
import { test } from "node:test";
import {
  linesOf,
  type Place,
  type Portal,
  removalInput,
  restoreInput,
  rulesOf,
} from "../../src/dataplane/userspace/rules.ts";
import type { Address } from "../../src/model/address.ts";

const address = (text: string): Address => text as Address;

const place: Place = {
  family: "IPv4",
  listens: address("192.168.0.1"),
  nodePorts: [
    { address: address("127.0.0.1"), loopback: true },
    { address: address("192.168.0.1"), loopback: false },
  ],
  backends: new Set(),
};

const portal = (parts: Partial<Portal> = {}): Portal => ({
  name: "shop/web:http",
  protocol: "tcp",
  family: "IPv4",
  address: address("10.96.0.1"),
  port: 80,
  to: { kind: "listener", port: 40001 },
  ...parts,
});

const rules = (portals: readonly Portal[], at: Place = place) =>
  Object.fromEntries(rulesOf(portals, at).map(({ table, rules }) => [table, rules]));

const HTTP = "-m comment --comment shop/web:http";

test("An address leads to the listener, for what comes in and for the node's own", () => {
  const match = `${HTTP} -d 10.96.0.1/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 192.168.0.1:40001`;
  assert.deepEqual(rules([portal()]), {
    filter: [],
    nat: [`-A KUBE-PORTALS-CONTAINER ${match}`, `-A KUBE-PORTALS-HOST ${match}`],
  });
});

test("A NodePort leads to the listener at every address, 127.0.0.1 for the node alone, and may be reached from outside", () => {
  const nodePort = portal({ address: null, port: 30080 });
  const at = (to: string) =>
    `${HTTP} -d ${to}/32 -p tcp -m tcp --dport 30080 -j DNAT --to-destination 192.168.0.1:40001`;
  assert.deepEqual(rules([nodePort]), {
    filter: [`-A KUBE-NODEPORT-NON-LOCAL ${HTTP} -p tcp -m tcp --dport 40001 -m conntrack --ctstate NEW -j ACCEPT`],
    nat: [
      `-A KUBE-NODEPORT-HOST ${at("127.0.0.1")}`,
      `-A KUBE-NODEPORT-CONTAINER ${at("192.168.0.1")}`,
      `-A KUBE-NODEPORT-HOST ${at("192.168.0.1")}`,
    ],
  });
});

test("What nobody would answer is refused or dropped, and leads nowhere", () => {
  const match = (port: string) => `${HTTP} -d 10.96.0.1/32 -p ${port} -j`;
  const refused = portal({ protocol: "udp", port: 53, to: { kind: "REJECT" } });
  assert.deepEqual(rules([refused, portal({ to: { kind: "DROP" } })]), {
    filter: [
      `-A KUBE-PORTALS-CONTAINER ${match("udp -m udp --dport 53")} REJECT`,
      `-A KUBE-PORTALS-HOST ${match("udp -m udp --dport 53")} REJECT`,
      `-A KUBE-PORTALS-CONTAINER ${match("tcp -m tcp --dport 80")} DROP`,
      `-A KUBE-PORTALS-HOST ${match("tcp -m tcp --dport 80")} DROP`,
    ],
    nat: [],
  });
});

test("What is refused at an address of the node does not go on to a NodePort there", () => {
  const closed = portal({ address: address("192.168.0.1"), to: { kind: "REJECT" } });
  const match = `${HTTP} -d 192.168.0.1/32 -p tcp -m tcp --dport 80 -j`;
  assert.deepEqual(rules([closed]), {
    filter: [`-A KUBE-PORTALS-CONTAINER ${match} REJECT`, `-A KUBE-PORTALS-HOST ${match} REJECT`],
    nat: [`-A KUBE-PORTALS-CONTAINER ${match} ACCEPT`, `-A KUBE-PORTALS-HOST ${match} ACCEPT`],
  });
});

test("An IPv6 portal is no rule of IPv4's, and the other way round", () => {
  const v6 = portal({ family: "IPv6", address: address("fd00::1") });
  assert.deepEqual(rules([v6]), { filter: [], nat: [] });
  const there = { ...place, family: "IPv6" as const, listens: address("fd00:192::1"), nodePorts: [] };
  const match = `${HTTP} -d fd00::1/128 -p tcp -m tcp --dport 80 -j DNAT --to-destination [fd00:192::1]:40001`;
  assert.deepEqual(rules([v6, portal()], there).nat, [
    `-A KUBE-PORTALS-CONTAINER ${match}`,
    `-A KUBE-PORTALS-HOST ${match}`,
  ]);
});

test("What is a backend as well is not redirected on its way out, where the agent itself connects", () => {
  const own = { ...place, backends: new Set(["10.96.0.1:80/tcp", "192.168.0.1:30080/tcp"]) };
  const chains = (portals: readonly Portal[]) => rules(portals, own).nat?.map((line) => line.split(" ")[1]);
  assert.deepEqual(chains([portal()]), ["KUBE-PORTALS-CONTAINER"]);
  assert.deepEqual(chains([portal({ port: 81 })]), ["KUBE-PORTALS-CONTAINER", "KUBE-PORTALS-HOST"]);
  assert.deepEqual(chains([portal({ address: null, port: 30080 })]), ["KUBE-NODEPORT-HOST", "KUBE-NODEPORT-CONTAINER"]);
});

const EMPTY = "*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n";

test("The kernel's chains enter portals first and NodePorts last", () => {
  const input = restoreInput({ table: "nat", rules: ["-A KUBE-PORTALS-HOST -j X"] }, EMPTY);
  const lines = input.split("\n");
  assert.deepEqual(lines.slice(0, 5), [
    "*nat",
    ":KUBE-PORTALS-CONTAINER - [0:0]",
    ":KUBE-PORTALS-HOST - [0:0]",
    ":KUBE-NODEPORT-CONTAINER - [0:0]",
    ":KUBE-NODEPORT-HOST - [0:0]",
  ]);
  assert.deepEqual(
    lines.slice(5, 9).map((line) => [line.slice(0, 13).trim(), line.split(" ").at(-1)]),
    [
      ["-I PREROUTING", "KUBE-PORTALS-CONTAINER"],
      ["-I OUTPUT -m", "KUBE-PORTALS-HOST"],
      ["-A PREROUTING", "KUBE-NODEPORT-CONTAINER"],
      ["-A OUTPUT -m", "KUBE-NODEPORT-HOST"],
    ],
  );
  assert.deepEqual(lines.slice(9), ["-A KUBE-PORTALS-HOST -j X", "COMMIT", ""]);
});

const SAVED = `*nat
:PREROUTING ACCEPT [0:0]
:KUBE-PORTALS-CONTAINER - [0:0]
:KUBE-PORTALS-HOST - [0:0]
:OTHER - [0:0]
-A PREROUTING -m comment --comment "handle ClusterIPs; NOTE: this must be before the NodePort rules" -j KUBE-PORTALS-CONTAINER
-A PREROUTING -j OTHER
-A KUBE-PORTALS-CONTAINER -d 10.96.0.1/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 192.168.0.1:40001
COMMIT
`;

test("A jump that is there is not made again", () => {
  const jumps = restoreInput({ table: "nat", rules: [] }, SAVED)
    .split("\n")
    .filter((line) => / (PREROUTING|OUTPUT) /.test(line));
  assert.deepEqual(
    jumps.map((line) => line.split(" ").at(-1)),
    ["KUBE-PORTALS-HOST", "KUBE-NODEPORT-CONTAINER", "KUBE-NODEPORT-HOST"],
  );
});

test("Removal takes our chains, and what leads to them, and nothing else; there may be nothing to take", () => {
  assert.equal(
    removalInput("nat", SAVED),
    `*nat
:KUBE-PORTALS-CONTAINER - [0:0]
:KUBE-PORTALS-HOST - [0:0]
-D PREROUTING -m comment --comment "handle ClusterIPs; NOTE: this must be before the NodePort rules" -j KUBE-PORTALS-CONTAINER
-X KUBE-PORTALS-CONTAINER
-X KUBE-PORTALS-HOST
COMMIT
`,
  );
  assert.equal(removalInput("nat", EMPTY), null);
});

test("What a table holds of ours are chains, rules and jumps", () => {
  assert.deepEqual(
    linesOf("nat", SAVED).map((line) => line.split(" ").slice(0, 2).join(" ")),
    [":KUBE-PORTALS-CONTAINER -", ":KUBE-PORTALS-HOST -", "-A PREROUTING", "-A KUBE-PORTALS-CONTAINER"],
  );
});
