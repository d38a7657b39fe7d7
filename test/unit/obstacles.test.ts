// What of other people's rules may refuse, change or mark packets that a node forwards. Texts as the programs print them.
import assert from "node:assert/strict";
import { test } from "node:test";
import { isDefaultRule, ruleText } from "../../src/dataplane/bpf/rules.ts";
import { obstaclesInSaved } from "../../src/dataplane/iptables/obstacles.ts";
import { obstaclesInRuleset } from "../../src/dataplane/nftables/obstacles.ts";
import { obstacleText } from "../../src/dataplane/obstacle.ts";

const saved = (text: string): readonly string[] => obstaclesInSaved(text, "iptables-legacy").map(obstacleText);

/** iptables-save's frame around the rules of a table. */
const table = (name: string, chains: readonly string[], rules: readonly string[]): string =>
  [`*${name}`, ...chains.map((c) => (c.includes(" ") ? `:${c} [0:0]` : `:${c} - [0:0]`)), ...rules, "COMMIT"].join(
    "\n",
  );

const FILTER = ["INPUT ACCEPT", "FORWARD ACCEPT", "OUTPUT ACCEPT"];
const MANGLE = ["PREROUTING ACCEPT", "INPUT ACCEPT", "FORWARD ACCEPT", "OUTPUT ACCEPT", "POSTROUTING ACCEPT"];

test("iptables: nothing there, or chains that nobody jumps to: no obstacle", () => {
  assert.deepEqual(saved(""), []);
  assert.deepEqual(saved(table("filter", [...FILTER, "UNUSED"], ["-A UNUSED -j DROP"])), []);
});

test("iptables: kube-proxy and kubelet, who drop INVALID and refuse Services without endpoints: no obstacle", () => {
  const rules = [
    `-A INPUT -m comment --comment "kubernetes health check service ports" -j KUBE-NODEPORTS`,
    "-A INPUT -j KUBE-FIREWALL",
    `-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL`,
    `-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD`,
    `-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES`,
    "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP",
    `-A KUBE-SERVICES -d 10.96.0.7/32 -p tcp -m comment --comment "a/b has no endpoints" -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable`,
    "-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -j DROP",
  ];
  const chains = ["KUBE-FIREWALL", "KUBE-FORWARD", "KUBE-NODEPORTS", "KUBE-PROXY-FIREWALL", "KUBE-SERVICES"];
  assert.deepEqual(saved(table("filter", [...FILTER, ...chains], rules)), []);
});

test("iptables: flannel accepts its own network, and masquerades what leaves it: no obstacle", () => {
  const accepts = [
    `-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD`,
    `-A FLANNEL-FWD -s 10.244.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT`,
    `-A FLANNEL-FWD -d 10.244.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT`,
  ];
  const nat = [
    `-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG`,
    "-A FLANNEL-POSTRTG -s 10.244.1.0/24 -d 10.244.0.0/16 -j RETURN",
    "-A FLANNEL-POSTRTG -s 10.244.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully",
  ];
  const text = `${table("filter", [...FILTER, "FLANNEL-FWD"], accepts)}\n${table("nat", ["POSTROUTING ACCEPT", "FLANNEL-POSTRTG"], nat)}`;
  assert.deepEqual(saved(text), []);
});

test("iptables: NodeLocal DNSCache takes its packets out of connection tracking: no obstacle", () => {
  const rules = ["-A PREROUTING -d 169.254.20.10/32 -p udp -m udp --dport 53 -j CT --notrack"];
  assert.deepEqual(saved(table("raw", ["PREROUTING ACCEPT", "OUTPUT ACCEPT"], rules)), []);
});

test("iptables: Calico's policies are found behind any number of jumps, each rule with its chain", () => {
  const rules = [
    `-A FORWARD -m comment --comment "cali:wUHhoiAYhphO9Mso" -j cali-FORWARD`,
    `-A cali-FORWARD -m comment --comment "cali:vjrMJCRpqwy5oRoX" -j MARK --set-xmark 0x0/0xe0000`,
    `-A cali-FORWARD -i cali+ -m comment --comment "cali:8ZoYfO5HKXWbB3pk" -j cali-from-wl-dispatch`,
    `-A cali-from-wl-dispatch -m comment --comment "cali:x -j ACCEPT" -m comment --comment "Unknown interface" -j DROP`,
  ];
  assert.deepEqual(saved(table("filter", [...FILTER, "cali-FORWARD", "cali-from-wl-dispatch"], rules)), [
    `iptables-legacy filter, chain cali-FORWARD: -m comment --comment "cali:vjrMJCRpqwy5oRoX" -j MARK --set-xmark 0x0/0xe0000`,
    `iptables-legacy filter, chain cali-from-wl-dispatch: -m comment --comment "cali:x -j ACCEPT" -m comment --comment "Unknown interface" -j DROP`,
  ]);
});

test("iptables: kube-router's chains begin with KUBE-, and are no kube-proxy's", () => {
  const rules = [
    `-A FORWARD -m comment --comment "kube-router netpol - TEMCG2JMHZYE7H7T" -j KUBE-ROUTER-FORWARD`,
    "-A KUBE-ROUTER-FORWARD -d 10.1.0.5/32 -j KUBE-POD-FW-4JPMHYTPBYSW5KJE",
    "-A KUBE-POD-FW-4JPMHYTPBYSW5KJE -m mark ! --mark 0x10000/0x10000 -j REJECT --reject-with icmp-port-unreachable",
  ];
  assert.deepEqual(saved(table("filter", [...FILTER, "KUBE-ROUTER-FORWARD", "KUBE-POD-FW-4JPMHYTPBYSW5KJE"], rules)), [
    "iptables-legacy filter, chain KUBE-POD-FW-4JPMHYTPBYSW5KJE: -m mark ! --mark 0x10000/0x10000 -j REJECT --reject-with icmp-port-unreachable",
  ]);
});

test("iptables: Docker closes FORWARD and keeps its networks apart", () => {
  const rules = [
    "-A FORWARD -j DOCKER-USER",
    "-A FORWARD -j DOCKER-ISOLATION-STAGE-1",
    "-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -g DOCKER-ISOLATION-STAGE-2",
    "-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP",
    "-A DOCKER-USER -j RETURN",
  ];
  const chains = [
    "INPUT ACCEPT",
    "FORWARD DROP",
    "OUTPUT ACCEPT",
    "DOCKER-USER",
    "DOCKER-ISOLATION-STAGE-1",
    "DOCKER-ISOLATION-STAGE-2",
  ];
  assert.deepEqual(saved(table("filter", chains, rules)), [
    "iptables-legacy filter, chain FORWARD: policy DROP",
    "iptables-legacy filter, chain DOCKER-ISOLATION-STAGE-2: -o docker0 -j DROP",
  ]);
});

test("iptables: what marks or changes packets, in whichever hook of forwarding; what INPUT and OUTPUT do is another's", () => {
  const rules = [
    "-A PREROUTING -i eth0 -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80",
    "-A INPUT -j DROP",
    "-A OUTPUT -j DROP",
    "-A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu",
    "[12:345] -A POSTROUTING -j DSCP --set-dscp 0x0a",
  ];
  assert.deepEqual(
    saved(table("mangle", MANGLE, rules)).map((text) => text.replace(/^.*-j /, "")),
    ["CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80", "TCPMSS --clamp-mss-to-pmtu", "DSCP --set-dscp 0x0a"],
  );
});

test("iptables: chains that jump in a circle end the walk", () => {
  const rules = ["-A FORWARD -j A", "-A A -j B", "-A B -j A", "-A B -j NFQUEUE --queue-num 0"];
  assert.deepEqual(saved(table("filter", [...FILTER, "A", "B"], rules)), [
    "iptables-legacy filter, chain B: -j NFQUEUE --queue-num 0",
  ]);
});

// ---- nftables --------------------------------------------------------------------------------------------------------

type Item = Readonly<Record<string, unknown>>;
const base = (family: string, name: string, hook: string, more: Item = {}): Item => ({
  chain: { family, table: "t", name, handle: 1, type: "filter", hook, prio: 0, policy: "accept", ...more },
});
const chain = (family: string, name: string): Item => ({ chain: { family, table: "t", name, handle: 1 } });
const rule = (family: string, of: string, ...expr: readonly Item[]): Item => ({
  rule: { family, table: "t", chain: of, handle: 1, expr },
});
const ruleset = (...items: readonly Item[]): readonly string[] =>
  obstaclesInRuleset([JSON.stringify({ nftables: [{ metainfo: {} }, ...items] })], "a listing").map(obstacleText);

const MATCH = { match: { op: "==", left: { meta: { key: "iifname" } }, right: "eth0" } };
const DROP = { drop: null };

test("nftables: nothing there, what only counts and accepts, and chains of other hooks: no obstacle", () => {
  assert.deepEqual(ruleset(), []);
  const harmless = rule(
    "inet",
    "f",
    MATCH,
    { counter: { packets: 0, bytes: 0 } },
    { log: { prefix: "x" } },
    { accept: null },
  );
  assert.deepEqual(ruleset(base("inet", "f", "forward"), harmless), []);
  assert.deepEqual(ruleset(base("inet", "i", "input"), rule("inet", "i", DROP)), []);
  assert.deepEqual(ruleset(base("bridge", "f", "forward"), rule("bridge", "f", DROP)), []);
});

for (const [family, hook] of [
  ...[
    ["ip", "forward"],
    ["ip6", "prerouting"],
    ["inet", "postrouting"],
  ],
  ...[
    ["inet", "ingress"],
    ["netdev", "ingress"],
    ["netdev", "egress"],
  ],
] as const) {
  test(`nftables: a rule that drops at ${hook} of family ${family}`, () => {
    assert.deepEqual(ruleset(base(`${family}`, "c", `${hook}`), rule(`${family}`, "c", MATCH, DROP)), [
      `nftables ${family} t, chain c: drop`,
    ]);
  });
}

for (const [what, statement] of [
  ["reject", { reject: { type: "icmpx", expr: "admin-prohibited" } }],
  ["queue", { queue: { num: 0 } }],
  ["sets meta", { mangle: { key: { meta: { key: "mark" } }, value: 1 } }],
  ["flow", { flow: { op: "add", flowtable: "@ft" } }],
  ["tproxy", { tproxy: { port: 15001 } }],
  ["a statement nobody knows", { "a statement nobody knows": {} }],
] as const) {
  test(`nftables: more than accepting and counting: ${what}`, () => {
    assert.deepEqual(ruleset(base("ip", "f", "forward"), rule("ip", "f", statement)), [
      `nftables ip t, chain f: ${what}`,
    ]);
  });
}

test("nftables: firewalld, which closes what its zones do not open", () => {
  const items = [
    base("inet", "filter_FORWARD", "forward"),
    rule("inet", "filter_FORWARD", { match: {} }, { accept: null }),
    rule("inet", "filter_FORWARD", { jump: { target: "filter_FORWARD_ZONES" } }),
    chain("inet", "filter_FORWARD_ZONES"),
    rule("inet", "filter_FORWARD_ZONES", { goto: { target: "filter_FWD_public" } }),
    chain("inet", "filter_FWD_public"),
    rule("inet", "filter_FWD_public", { reject: { type: "icmpx", expr: "admin-prohibited" } }),
  ];
  assert.deepEqual(ruleset(...items), ["nftables inet t, chain filter_FWD_public: reject"]);
});

test("nftables: a policy of drop, and a verdict map, its own or a named one", () => {
  assert.deepEqual(ruleset(base("ip", "f", "forward", { policy: "drop" })), ["nftables ip t, chain f: policy drop"]);
  const vmap = (data: unknown): Item => ({ vmap: { key: { meta: { key: "iifname" } }, data } });
  const own = vmap({
    set: [
      ["eth0", { accept: null }],
      ["eth1", { goto: { target: "closed" } }],
    ],
  });
  const named: Item = {
    map: { family: "ip", table: "t", name: "m", type: "ifname", map: "verdict", elem: [["eth0", DROP]] },
  };
  const closed = [chain("ip", "closed"), rule("ip", "closed", DROP)];
  assert.deepEqual(ruleset(base("ip", "f", "forward"), rule("ip", "f", own), ...closed), [
    "nftables ip t, chain closed: drop",
  ]);
  assert.deepEqual(ruleset(base("ip", "f", "forward"), rule("ip", "f", vmap("@m")), named), [
    "nftables ip t, chain f: vmap",
  ]);
  assert.deepEqual(ruleset(base("ip", "f", "forward"), rule("ip", "f", vmap("@gone"))), [
    "nftables ip t, chain f: vmap",
  ]);
});

test("nftables: a chain of type nat translates with a connection's first packet: no obstacle, unless it refuses", () => {
  const nat = base("ip", "p", "postrouting", { type: "nat", prio: 100 });
  const marks = { mangle: { key: { meta: { key: "mark" } }, value: 1 } };
  assert.deepEqual(ruleset(nat, rule("ip", "p", MATCH, { masquerade: null }), rule("ip", "p", marks)), []);
  assert.deepEqual(ruleset(nat, rule("ip", "p", DROP)), ["nftables ip t, chain p: drop"]);
});

test("nftables: iptables-nft's extensions by their names; one without a name may be anything", () => {
  const xt = (type: string, name: string): Item => ({ xt: { type, name } });
  const forward = base("ip", "FORWARD", "forward");
  assert.deepEqual(ruleset(forward, rule("ip", "FORWARD", xt("match", "comment"), xt("target", "LOG"))), []);
  assert.deepEqual(ruleset(forward, rule("ip", "FORWARD", xt("target", "MARK"))), [
    "nftables ip t, chain FORWARD: MARK",
  ]);
  assert.deepEqual(ruleset(forward, rule("ip", "FORWARD", { xt: null })), [
    "nftables ip t, chain FORWARD: an extension of iptables",
  ]);
});

test("nftables: kube-proxy's own table, and its chains by iptables-nft: no obstacle", () => {
  const own = { chain: { ...(base("ip", "filter-forward", "forward").chain as Item), table: "kube-proxy" } };
  const drops = { rule: { family: "ip", table: "kube-proxy", chain: "filter-forward", expr: [DROP] } };
  assert.deepEqual(ruleset(own, drops), []);
  const items = [
    base("ip", "FORWARD", "forward"),
    rule("ip", "FORWARD", { jump: { target: "KUBE-FORWARD" } }),
    chain("ip", "KUBE-FORWARD"),
    rule("ip", "KUBE-FORWARD", DROP),
  ];
  assert.deepEqual(ruleset(...items), []);
});

// ---- IP rules --------------------------------------------------------------------------------------------------------

const AF_INET = 2;
const attribute = (name: number, value: number): number[] => [
  8,
  0,
  name,
  0,
  value & 255,
  (value >> 8) & 255,
  (value >> 16) & 255,
  value >>> 24,
];
const ipRule = (header: readonly number[], ...attributes: readonly (readonly [number, number])[]) => ({
  type: 32,
  body: Uint8Array.from([...header, ...attributes.flatMap(([name, value]) => attribute(name, value))]),
});
const lookup = (table: number): number[] => [AF_INET, 0, 0, 0, table, 0, 0, 1, 0, 0, 0, 0];
const [PRIORITY, FWMARK, SUPPRESS, TABLE] = [6, 10, 14, 15];

test("IP rules: the three that every kernel has, and no others", () => {
  const none = [SUPPRESS, 0xffffffff] as const;
  assert.ok(isDefaultRule(ipRule(lookup(255), [TABLE, 255], none)));
  assert.ok(isDefaultRule(ipRule(lookup(254), [PRIORITY, 32766], [TABLE, 254], none)));
  assert.ok(isDefaultRule(ipRule(lookup(253), [PRIORITY, 32767], [TABLE, 253])));
  const others = [
    ipRule(lookup(100), [PRIORITY, 32766], [TABLE, 100]), // main's place, another table
    ipRule(lookup(254), [PRIORITY, 1000], [TABLE, 254]),
    ipRule(lookup(254), [PRIORITY, 32766], [TABLE, 254], [FWMARK, 1]),
    ipRule(lookup(254), [PRIORITY, 32766], [TABLE, 254], [SUPPRESS, 0]),
    ipRule([AF_INET, 16, 0, 0, 254, 0, 0, 1, 0, 0, 0, 0], [PRIORITY, 32766], [TABLE, 254]),
    ipRule([AF_INET, 0, 0, 0, 254, 0, 0, 6 /* blackhole */, 0, 0, 0, 0], [PRIORITY, 32766], [TABLE, 254]),
    ipRule([AF_INET, 0, 0, 0, 254, 0, 0, 1, 2 /* not */, 0, 0, 0], [PRIORITY, 32766], [TABLE, 254]),
  ];
  assert.deepEqual(
    others.map(isDefaultRule),
    others.map(() => false),
  );
  assert.equal(
    ruleText(ipRule(lookup(100), [PRIORITY, 9], [TABLE, 100], [FWMARK, 255])),
    "priority 9, fwmark 0xff, table 100",
  );
});
