// What a write says and leaves out: changed Services only, no comments in a large cluster, the same text for the same
// objects; and what is read of a table before it is written or taken away.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { compile, createMemory } from "../../src/compile/compile.ts";
import { answerers, staleFlows } from "../../src/dataplane/iptables/flows.ts";
import {
  createRuleMemory,
  DEFAULT_RULE_OPTIONS,
  type RuleOptions,
  rulesOf,
} from "../../src/dataplane/iptables/rules.ts";
import { chainsIn, removal, strangersJumps } from "../../src/dataplane/iptables/saved.ts";
import { restoreInput } from "../../src/dataplane/iptables/text.ts";
import type { Desired } from "../../src/model/desired.ts";
import { inputOf, jumpText } from "../lib/rule-text.ts";
import { address, arbitrarySnapshot, endpoint, options, service, slice, snapshot } from "../lib/snapshots.ts";

const two = [
  service(),
  service({
    name: "dns",
    clusterIPs: [address("10.96.0.10")],
    ports: [{ name: "", protocol: "UDP", port: 53, nodePort: 30053 }],
  }),
];
const dnsSlice = (addresses: readonly string[]) =>
  slice(
    addresses.map((one) => endpoint(one)),
    {
      name: "dns-1",
      serviceName: "dns",
      ports: [{ name: "", protocol: "UDP", port: 5353 }],
    },
  );
const desiredOf = (dns: readonly string[]): Desired =>
  compile(snapshot(two, [slice([endpoint("10.244.1.2")]), dnsSlice(dns)]), options).desired;

test("a write of what changed has everything that all share, and the chains of changed Services only", () => {
  const desired = desiredOf(["10.244.1.3"]);
  const rules = rulesOf(desired, "IPv4", DEFAULT_RULE_OPTIONS);
  const [web] = [...desired.services.values()].filter(({ name }) => name.name === "web");
  const whole = restoreInput(rules).split("\n");
  const part = restoreInput(rules, { writes: ({ owner }) => owner !== web }).split("\n");
  const left = whole.filter((line) => !part.includes(line));
  assert.deepEqual(
    left.map((line) => line.replace(/-[A-Z2-7]{16}\b/g, "-#")),
    [
      ":KUBE-SVC-# - [0:0]",
      ":KUBE-SEP-# - [0:0]",
      '-A KUBE-SVC-# -m comment --comment "default/web -> 10.244.1.2:8080" -j KUBE-SEP-#',
      "-A KUBE-SEP-# -m comment --comment default/web -s 10.244.1.2 -j KUBE-MARK-MASQ",
      "-A KUBE-SEP-# -m comment --comment default/web -m tcp -p tcp -j DNAT --to-destination 10.244.1.2:8080",
    ],
  );
  assert.deepEqual(
    part,
    whole.filter((line) => !left.includes(line)),
  );
});

test("chains that nothing uses are emptied and removed, those of strangers' rules are emptied", () => {
  const rules = rulesOf(desiredOf([]), "IPv4", DEFAULT_RULE_OPTIONS);
  const stale = { removed: ["KUBE-SEP-A"], emptied: ["KUBE-SVC-B"] };
  const lines = restoreInput(rules, { stale }).split("\n");
  assert.deepEqual(
    lines.filter((line) => /-[AB]\b/.test(line) && line.includes("KUBE-S") && !line.startsWith("-A")),
    [":KUBE-SEP-A - [0:0]", ":KUBE-SVC-B - [0:0]", "-X KUBE-SEP-A"],
  );
  assert.deepEqual(lines.slice(-3), ["-X KUBE-SEP-A", "COMMIT", ""]);
});

test("more than 1000 endpoints: their rules lose their comments, and nothing else changes", () => {
  const many = (count: number): string => {
    const endpoints = Array.from({ length: count }, (_, i) => endpoint(`10.244.${i >> 8}.${i & 255}`));
    return inputOf(compile(snapshot([service()], [slice(endpoints)]), options).desired, "IPv4", DEFAULT_RULE_OPTIONS);
  };
  const [small, large] = [many(1000), many(1001)];
  assert.equal(small.match(/-A KUBE-S(VC|EP)-\S+ -m comment/g)?.length, 3000);
  assert.equal(large.match(/-A KUBE-S(VC|EP)-\S+ -m comment/g), null);
  assert.match(large, /-A KUBE-SERVICES -m comment --comment "default\/web cluster IP"/);
  assert.match(large, /-A KUBE-SVC-\S+ -m statistic --mode random --probability 0\.0009990010 -j KUBE-SEP-/);
});

test("the order in which objects arrive does not show", () => {
  fc.assert(
    fc.property(arbitrarySnapshot, (one) => {
      const other = {
        ...one,
        services: new Map([...one.services].reverse()),
        slices: new Map([...one.slices].reverse()),
      };
      const [a, b] = [one, other].map((s) => inputOf(compile(s, options).desired, "IPv4", DEFAULT_RULE_OPTIONS));
      assert.equal(a, b);
    }),
    { numRuns: 50 },
  );
});

test("what is remembered does not show: not of other Services, options or node addresses", () => {
  const memory = createRuleMemory();
  const variants = [
    DEFAULT_RULE_OPTIONS,
    { ...DEFAULT_RULE_OPTIONS, localDetector: { kind: "bridge", name: "cbr0" } },
    { ...DEFAULT_RULE_OPTIONS, masqueradeAll: true },
  ] as const;
  const compiled = createMemory();
  fc.assert(
    fc.property(arbitrarySnapshot, fc.constantFrom(...variants), fc.boolean(), (one, ruleOptions, moved) => {
      const localAddresses = moved ? [address("203.0.113.1")] : options.localAddresses;
      const { desired } = compile(one, { ...options, localAddresses }, compiled);
      assert.deepEqual(rulesOf(desired, "IPv4", ruleOptions, memory), rulesOf(desired, "IPv4", ruleOptions));
    }),
  );
});

test("the bit of the mark, in eight digits", () => {
  const marked = (masqueradeBit: number) =>
    inputOf(desiredOf([]), "IPv4", { ...DEFAULT_RULE_OPTIONS, masqueradeBit }).match(/--or-mark (\S+)/)?.[1];
  assert.deepEqual([0, 14, 31].map(marked), ["0x00000001", "0x00004000", "0x80000000"]);
});

test("counters: INVALID packets in both families, NodePorts at 127.0.0.1 where they answer there", () => {
  const counting = (family: "IPv4" | "IPv6", over: Partial<RuleOptions> = {}): readonly string[] =>
    inputOf(desiredOf(["10.244.1.3"]), family, { ...DEFAULT_RULE_OPTIONS, countPackets: true, ...over })
      .split("\n")
      .flatMap((line) => (line.includes("nfacct") ? [line.replace(/-[A-Z2-7]{16}\b/g, "-#")] : []));
  const invalid =
    "-A KUBE-FORWARD -m conntrack --ctstate INVALID -m nfacct --nfacct-name ct_state_invalid_dropped_pkts -j DROP";
  const localhost =
    "-A KUBE-NODEPORTS -m comment --comment default/dns -m udp -p udp -d 127.0.0.0/8 --dport 30053 -m nfacct --nfacct-name localhost_nps_accepted_pkts -j KUBE-EXT-#";
  assert.deepEqual(counting("IPv4"), [invalid, localhost]);
  assert.deepEqual(counting("IPv6"), [invalid]);
  assert.deepEqual(counting("IPv4", { nodePortAddresses: "primary" }), [invalid]);
  assert.deepEqual(counting("IPv4", { localhostNodePorts: false, dropInvalid: false }), []);
  assert.deepEqual(counting("IPv4", { countPackets: false }), []);
});

const SAVED = `# Generated
*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-SVC-A - [0:0]
:CNI - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -m comment --comment "say -j KUBE-SVC-A twice" -j CNI
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A KUBE-SERVICES -d 10.96.0.1/32 -j KUBE-SVC-A
-A CNI -j KUBE-MARK-MASQ
COMMIT
`;

test("what strangers jump to is seen, and what only a comment says is not", () => {
  assert.deepEqual(chainsIn(SAVED), ["PREROUTING", "OUTPUT", "KUBE-SERVICES", "KUBE-MARK-MASQ", "KUBE-SVC-A", "CNI"]);
  assert.deepEqual(
    [...strangersJumps(SAVED)],
    [
      ["KUBE-SERVICES", "OUTPUT"],
      ["KUBE-MARK-MASQ", "CNI"],
    ],
  );
});

test("kube-proxy's rules are taken away; what a stranger still uses stays, empty", () => {
  assert.deepEqual(removal("nat", SAVED), {
    input: `*nat
:KUBE-SERVICES - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-SVC-A - [0:0]
-D PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-D OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-X KUBE-SERVICES
-X KUBE-SVC-A
COMMIT
`,
    removed: ["KUBE-SERVICES", "KUBE-SVC-A"],
    kept: ["KUBE-MARK-MASQ"],
  });
  assert.equal(removal("nat", "*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n"), null);
  assert.equal(
    removal(
      "filter",
      jumpText()
        .split("*nat")[0]
        ?.replace(/^.*KUBE-(?!FIREWALL).*\n/gm, "") ?? "",
    ),
    null,
  );
});

const flow = (to: string, toPort: number, from: string, fromPort: number): string =>
  `udp      17 29 src=10.244.1.9 dst=${to} sport=4000 dport=${toPort} [UNREPLIED] src=${from} dst=10.244.1.9 sport=${fromPort} dport=4000 mark=0 use=1\n`;

test("UDP flows: stale are those to a frontend that somebody answers who is none of its backends", () => {
  const { services, nodeAddresses } = desiredOf(["10.244.1.3"]);
  const valid = answerers(services.values(), [], nodeAddresses, "IPv4");
  const listing = [
    flow("10.96.0.10", 53, "10.244.1.3", 5353), // right
    flow("10.96.0.10", 53, "10.244.1.4", 5353), // a pod that is gone
    flow("10.96.0.10", 53, "10.96.0.10", 53), // nobody: it came before the rules
    flow("192.0.2.11", 30053, "10.244.1.4", 5353), // by NodePort
    flow("192.0.2.99", 30053, "192.0.2.99", 30053), // another machine's port of that number
    flow("10.96.0.1", 80, "10.244.1.4", 80), // a TCP service's address
    "conntrack v1.4.7 (conntrack-tools): 6 flow entries have been shown.\n",
  ].join("");
  assert.deepEqual(staleFlows(listing, valid), [
    { to: "10.96.0.10", toPort: 53, from: "10.244.1.4", fromPort: 5353 },
    { to: "10.96.0.10", toPort: 53, from: "10.96.0.10", fromPort: 53 },
    { to: "192.0.2.11", toPort: 30053, from: "10.244.1.4", fromPort: 5353 },
  ]);
});

test("UDP flows to a service without endpoints, or to one that is gone, are all stale", () => {
  const before = desiredOf(["10.244.1.3"]);
  const listing = flow("10.96.0.10", 53, "10.244.1.3", 5353);
  const none = desiredOf([]);
  assert.equal(staleFlows(listing, answerers(none.services.values(), [], [], "IPv4")).length, 1);
  assert.equal(staleFlows(listing, answerers([], before.services.values(), [], "IPv4")).length, 1);
  assert.equal(staleFlows(listing, answerers([], [], [], "IPv4")).length, 0);
});
