// What the agent does for direct forwarding on a real node: it hears of every change of routes and devices, knows which
// devices are fit, and looks for what may refuse packets, as long as it runs. Packets themselves: the other tests here, in
// every way of forwarding.
import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { after, before, beforeEach, describe, test } from "node:test";
import type { Status } from "../../src/commands/status.ts";
import { linkPins } from "../../src/dataplane/bpf/attach.ts";
import { type ForwardingRecord, readForwarding } from "../../src/dataplane/bpf/inspect.ts";
import { openPinnedMaps } from "../../src/dataplane/bpf/pinned.ts";
import { linksDirectory, pinDirectory } from "../../src/dataplane/bpf/pins.ts";
import { eventually } from "../lib/eventually.ts";
import { type Running, Sandbox } from "../lib/sandbox.ts";

/** A node with eth0, whose other end is here as well, and an agent. */
class Node {
  readonly sandbox: Sandbox;
  readonly agent: Running;

  private constructor(sandbox: Sandbox, agent: Running) {
    this.sandbox = sandbox;
    this.agent = agent;
  }

  static async start(forwarding: "auto" | "direct" | "kernel"): Promise<Node> {
    const sandbox = await Sandbox.create();
    mkdirSync(`${sandbox.folder}/manifests`);
    const agent = sandbox.start(
      "run",
      ...`--device eth0 --forwarding ${forwarding}`.split(" "),
      "--manifests",
      `${sandbox.folder}/manifests`,
    );
    await eventually(() => assert.match(agent.stderr, /"Applied"/), 20_000);
    return new Node(sandbox, agent);
  }

  run(script: string): void {
    const { code, stderr } = this.sandbox.exec("sh", "-ec", script);
    assert.equal(code, 0, stderr);
  }

  /** As the programs have it. */
  forwarding(): ForwardingRecord {
    const store = openPinnedMaps(pinDirectory(this.sandbox.bpffs));
    try {
      return readForwarding(store);
    } finally {
      store.close();
    }
  }

  /** As people are told. */
  status(): Status {
    const { code, stdout, stderr } = this.sandbox.beeline("status", "-o", "json");
    assert.equal(code, 0, stderr);
    return JSON.parse(stdout) as Status;
  }

  /** Devices with a program of ours, and what for. */
  programs(): readonly string[] {
    return linkPins(linksDirectory(pinDirectory(this.sandbox.bpffs))).flatMap((pin) =>
      pin.kind === "cgroup" ? [] : [`${pin.device} ${pin.role}`],
    );
  }

  links(): readonly { readonly ifindex: number; readonly ifname: string }[] {
    return JSON.parse(this.sandbox.exec("ip", "-j", "link").stdout);
  }

  /** `eth0 wire`. */
  devices(): readonly string[] {
    const links = this.links();
    const nameOf = (index: number) => links.find(({ ifindex }) => ifindex === index)?.ifname ?? index;
    return this.forwarding().devices.map(({ index, flags }) => `${nameOf(index)} ${flags.join(" ")}`);
  }

  /** Of this check of doctor's what is not ok. */
  findings(check: string): readonly string[] {
    const { stdout, stderr } = this.sandbox.beeline("doctor", "-o", "json");
    assert.equal(stderr, "");
    const { items } = JSON.parse(stdout) as {
      readonly items: readonly Record<"check" | "result" | "detail", string>[];
    };
    return items.flatMap((item) =>
      item.check === check && item.result !== "ok" ? [`${item.result}: ${item.detail}`] : [],
    );
  }

  metrics(): string {
    return this.sandbox.get("http://127.0.0.1:10249/metrics");
  }

  said(text: string): number {
    return this.agent.stderr.split(`"${text}`).length - 1;
  }
}

/** A pod's device: its other end is in a namespace that lives as long as its process. */
const podDevice = (name: string): string => `
  unshare -n sleep 300 >/dev/null 2>&1 & pod=$!
  until [ "$(readlink /proc/$pod/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
  ip link add ${name} type veth peer name x
  ip link set x netns $pod
  ip link set ${name} up`;

describe("forwarding direct: the agent", () => {
  let node: Node;
  before(async () => {
    node = await Node.start("direct");
  });
  after(() => node.sandbox.close());
  beforeEach(async () => {
    await eventually(() => assert.ok(node.devices().includes("eth0 wire")));
  });

  test("knows the node's device, and allows nothing on others", () => {
    const { mode, wanted, generation } = node.forwarding();
    assert.deepEqual({ mode, wanted }, { mode: "direct", wanted: "direct" });
    assert.deepEqual(
      node.status().forwarding.devices.map(({ name, flags }) => [name, flags]),
      [["eth0", ["wire"]]],
    );
    assert.notEqual(generation, 0);
    assert.deepEqual(node.devices(), ["eth0 wire"]);
  });

  for (const [what, change] of [
    ["a route", "ip route add 203.0.113.0/24 via 192.0.2.1"],
    ["a route of IPv6", "ip -6 route add fd01::/64 via fd00::1"],
    ["an IP rule", "ip rule add fwmark 7 table 7"],
    ["another MAC of a neighbour", "ip neigh replace 192.0.2.1 lladdr 02:00:00:00:00:01 dev eth0 nud permanent"],
    ["a neighbour that is gone", "ip neigh del 192.0.2.1 dev eth0"],
    ["a link", "ip link add d0 type bridge"],
    ["an address", "ip addr add 192.0.2.12/24 dev eth0"],
    ["a next hop object", "ip nexthop add id 7 via 192.0.2.1 dev eth0"],
    ["forwarding switched on", "echo 1 >/proc/sys/net/ipv4/conf/eth0/forwarding"],
  ] as const) {
    test(`flows find their next hops anew after a change: ${what}`, async () => {
      await quiet();
      const { generation } = node.forwarding();
      node.run(change);
      await eventually(() => assert.notEqual(node.forwarding().generation, generation), 1_000);
    });
  }

  test("a neighbour that is asked again and has the same MAC makes no flow look", async () => {
    node.run("ip neigh replace 192.0.2.9 lladdr 02:00:00:00:00:09 dev eth0 nud stale");
    await quiet();
    const { generation } = node.forwarding();
    node.run(`for state in reachable probe delay stale reachable stale; do
      ip neigh replace 192.0.2.9 lladdr 02:00:00:00:00:09 dev eth0 nud $state; done`);
    await quiet();
    assert.equal(node.forwarding().generation, generation);
  });

  test("a pod's device is fit as soon as it is there, and forgotten when it is gone", async () => {
    node.run(podDevice("veth1"));
    await eventually(() => assert.deepEqual(node.devices(), ["eth0 wire", "veth1 peer"]));
    node.run("ip link del veth1");
    await eventually(() => assert.deepEqual(node.devices(), ["eth0 wire"]));
  });

  test("an index that another device has now means that device, and not what had it before", async () => {
    node.run(podDevice("veth2"));
    await eventually(() => assert.ok(node.devices().includes("veth2 peer")));
    const { ifindex } = node.links().find(({ ifname }) => ifname === "veth2") ?? assert.fail("no veth2");
    node.run(`ip link del veth2; ip link add d1 index ${ifindex} type bridge`);
    await eventually(() => assert.deepEqual(node.devices(), ["eth0 wire"]));
  });

  for (const [what, why, put, take] of [
    [
      "a qdisc that shapes",
      "qdisc tbf is on it",
      "tc qdisc add dev veth3 root tbf rate 1mbit burst 32kbit latency 400ms",
      "tc qdisc del dev veth3 root",
    ],
    [
      "a filter of somebody else's",
      "filter bpf (preference 7) is at its tc ingress",
      "tc qdisc add dev veth3 clsact; tc filter add dev veth3 ingress prio 7 bpf bytecode '1,6 0 0 0,'",
      "tc qdisc del dev veth3 clsact",
    ],
    [
      "a bridge",
      "it is part of a bridge, or another device",
      "ip link add br0 type bridge; ip link set veth3 master br0",
      "ip link del br0",
    ],
  ] as const) {
    test(`a pod's device is not fit while it has ${what}; doctor says why, and its replies are still looked at`, async () => {
      node.run(podDevice("veth3"));
      await eventually(() => assert.ok(node.devices().includes("veth3 peer")));
      node.run(put);
      await eventually(() => assert.ok(!node.devices().includes("veth3 peer")));
      assert.deepEqual(node.findings("devices"), [`note: veth3: ${why}: what goes by it is left to the kernel`]);
      assert.ok(node.programs().includes("veth3 reply"), "connections that were sent on directly are made known by it");
      node.run(take);
      await eventually(() => assert.ok(node.devices().includes("veth3 peer")));
      node.run("ip link del veth3");
    });
  }

  test("rules that may refuse packets are passed by, as the operator wants it, and doctor says that this is bad", async () => {
    node.run("nft 'add table inet p; add chain inet p f {type filter hook forward priority 0; policy drop;}'");
    const [finding = ""] = node.findings("policies").filter((text) => text.includes("nftables"));
    assert.equal(
      finding,
      "bad: nftables inet p, chain f: policy drop (and packets of Services pass it by: bpf.forwarding is direct)",
    );
    assert.equal(node.forwarding().mode, "direct");
  });
});

/** What it is, how it comes and goes, and where it is found. */
const OBSTACLES = [
  [
    "a policy in nftables",
    "nft 'add table inet p; add chain inet p f {type filter hook forward priority 0;}; add rule inet p f ip daddr 10.1.0.5 drop'",
    "nft delete table inet p",
    "nftables inet p, chain f",
  ],
  [
    "a policy in iptables-legacy",
    "iptables-legacy -A FORWARD -d 10.1.0.5 -j REJECT",
    "iptables-legacy -F FORWARD",
    "iptables-legacy filter, chain FORWARD",
  ],
  [
    "a policy in ip6tables-nft",
    "ip6tables-nft -A FORWARD -d fd01::5 -j DROP",
    "ip6tables-nft -F FORWARD",
    "nftables ip6 filter, chain FORWARD",
  ],
  [
    "an IP rule",
    "ip rule add fwmark 9 table 9 priority 99",
    "ip rule del fwmark 9 table 9 priority 99",
    "IP rules (IPv4)",
  ],
  [
    "an IPsec policy",
    "ip xfrm policy add src 10.0.0.0/8 dst 10.1.0.0/16 dir fwd tmpl src 192.0.2.1 dst 192.0.2.2 proto esp mode tunnel",
    "ip xfrm policy flush",
    "IPsec (xfrm)",
  ],
  [
    "a program of somebody else's on the node's device",
    "tc qdisc add dev eth0 clsact; tc filter add dev eth0 ingress prio 7 bpf bytecode '1,6 0 0 0,'",
    "tc qdisc del dev eth0 clsact",
    "device eth0",
  ],
] as const;

/** How long the agent may take to notice, and somewhat more. */
const PERIOD_MS = 5_000;

describe("forwarding auto: the agent", () => {
  let node: Node;
  before(async () => {
    node = await Node.start("auto");
  });
  after(() => node.sandbox.close());
  const becomes = async (mode: "direct" | "kernel"): Promise<void> => {
    await eventually(() => assert.equal(node.forwarding().mode, mode), PERIOD_MS);
  };

  test("forwards directly where nothing is in the way, and only looks at what was ever written", async () => {
    await becomes("direct");
    await eventually(() => assert.equal(node.said("Packets are forwarded directly"), 1));
    assert.equal(node.sandbox.exec("cat", "/proc/net/ip_tables_names").stdout, "");
  });

  const obstacles: string[] = [];
  for (const [what, put, , where] of OBSTACLES) {
    obstacles.push(where);
    const found = [...obstacles];
    test(`leaves packets to the kernel once there is ${what}`, async () => {
      node.run(put);
      await eventually(
        () => assert.match(node.metrics(), new RegExp(`^beeline_forwarding_obstacles ${found.length}$`, "m")),
        PERIOD_MS,
      );
      assert.equal(node.forwarding().generation, 0);
      const told = node.status().forwarding.obstacles.map((one) => one.where);
      assert.deepEqual(told.sort(), found.sort());
      assert.equal(node.findings("policies").length, found.length);
      await eventually(() => assert.equal(node.said("Packets are forwarded by the kernel"), 1));
    });
  }

  test("forwards directly again when the last of them is gone", async () => {
    for (const [, , take] of OBSTACLES) node.run(take);
    await becomes("direct");
    await eventually(() => assert.equal(node.said("Packets are forwarded directly"), 2));
  });

  test("what others accept, count and masquerade is in nobody's way", async () => {
    node.run(
      "iptables-legacy -P FORWARD ACCEPT; iptables-legacy -A FORWARD -s 10.244.0.0/16 -j ACCEPT; iptables-legacy -t nat -A POSTROUTING -s 10.244.0.0/16 ! -d 10.244.0.0/16 -j MASQUERADE",
    );
    await quiet(3_000);
    assert.equal(node.forwarding().mode, "direct");
  });

  test("metrics: the way, and how often it was found anew", () => {
    const page = node.metrics();
    assert.match(page, /^beeline_forwarding_mode\{mode="direct"\} 1$/m);
    assert.match(page, /^beeline_forwarding_mode\{mode="kernel"\} 0$/m);
    assert.match(page, /^beeline_forwarding_changes_total [1-9]/m);
    assert.match(page, /^beeline_forwarding_obstacles 0$/m);
  });
});

const quiet = (ms = 300): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
