// Direct forwarding on a real node, while its agent looks after it: connections of a client outside, to a pod of the node and
// to one of another node, go on whatever happens to what a next hop was found by, and by the right way each time.
import assert from "node:assert/strict";
import { before, describe, test } from "node:test";
import { eventually } from "../lib/eventually.ts";
import { type Forwards, readForwards } from "../lib/forwards.ts";
import { Manifests, serviceObject, sliceObjects } from "../lib/objects.ts";
import { openLab, serveAt, serviceOf } from "../lib/served-lab.ts";

const lab = await openLab();
const manifests = new Manifests(lab);
const NODE = "node1";

const ip = (place: string, line: string): void => {
  const { status, stderr } = lab.run(place, ["ip", ...line.split(" ")]);
  assert.equal(status, 0, `${place}: ip ${line}: ${stderr}`);
};

const kinds = [
  { family: "IPv4", at: "v4", near: "198.51.100.1", far: "198.51.100.2", prefix: 32 },
  { family: "IPv6", at: "v6", near: "fd00:198::1", far: "fd00:198::2", prefix: 128 },
] as const;

/** Connections that beat, and by what they are called. */
const held: { readonly id: number; readonly what: string }[] = [];

before(async () => {
  manifests.service(serviceOf("near", 1), ["pod1a"]);
  manifests.service(serviceOf("far", 2), ["pod2a"]);
  await serveAt(lab, ["pod1a", "pod1b", "pod2a"]);
  await lab.startAgent(NODE, { manifests: manifests.path, bpf: { forwarding: "auto", minSyncPeriod: "0.1s" } });
  await eventually(() => assert.equal(generation() > 0, true, "auto is direct where nothing is in the way"));
  const client = await lab.host("client");
  for (const { family, near, far } of kinds) {
    for (const address of [near, far]) {
      const answer = await client.hold(address, 80, 10);
      assert.ok(answer.ok, `${address}: ${JSON.stringify(answer)}`);
      held.push({ id: answer.id, what: `${family}, ${answer.name}` });
    }
  }
});

const config = (): { readonly next_hop_generation: number; readonly shares_ways: number } => {
  const { stdout } = lab.beeline(NODE, ["maps", "config", "-o", "json"]);
  return JSON.parse(stdout).items[0].value;
};
const generation = (): number => config().next_hop_generation;

const forwards = (): Forwards => readForwards([lab.bpffs(NODE)]);

/** What is sent on, and what is left to the kernel, while every connection beats some times more. */
const whileAllBeat = async (those = held): Promise<Forwards> => {
  const client = await lab.host("client");
  const start = await Promise.all(those.map(({ id }) => client.beats(id)));
  const before = forwards();
  await eventually(async () => {
    for (const [i, { id, what }] of those.entries()) {
      const now = await client.beats(id);
      assert.equal(now.ended, null, what);
      assert.ok(now.echoed > (start[i]?.echoed ?? 0) + 5, `${what}: ${now.echoed} after ${start[i]?.echoed}`);
    }
  }, 10_000);
  const after = forwards();
  return { direct: after.direct - before.direct, doubted: after.doubted - before.doubted, xdp: after.xdp - before.xdp };
};

const assertDirect = async (): Promise<void> => {
  await eventually(() => assert.notEqual(generation(), 0, "by the kernel"));
  const { direct, doubted } = await whileAllBeat();
  assert.ok(direct >= 4 * held.length, `${direct} packets sent on`);
  assert.equal(doubted, 0, "left to the kernel");
};

describe("connections to a pod of the node, and to one of another node", () => {
  test("go directly, both ways: nothing of them is left to the kernel", assertDirect);

  test("go on while routes come and go, and each time their next hops are found anew", async () => {
    const first = generation();
    for (let i = 0; i < 40; i++) {
      ip(NODE, "route add 192.0.2.0/24 via 192.168.0.254");
      ip(NODE, "route del 192.0.2.0/24");
    }
    await eventually(() => assert.notEqual(generation(), first));
    await assertDirect();
  });

  test("share their ways with others of the same two addresses, but not while ports have a part in routing", async () => {
    const hashPolicy = (family: string, value: number): void => {
      const setting = `/proc/sys/net/${family}/fib_multipath_hash_policy`;
      assert.equal(lab.run(NODE, ["sh", "-c", `echo ${value} >${setting}`]).status, 0, setting);
    };
    const shares = (expected: number, why: string) =>
      eventually(() => assert.equal(config().shares_ways, expected, why), 10_000);
    await shares(1, "only addresses do");
    for (const family of ["ipv4", "ipv6"]) {
      hashPolicy(family, 1);
      await shares(0, `${family}: the hash of ports chooses among next hops`);
      await assertDirect();
      hashPolicy(family, 0);
      await shares(1, `${family}: it does not any more`);
    }
    ip(NODE, "rule add dport 80 lookup main");
    await shares(0, "a rule asks for a port");
    ip(NODE, "rule del dport 80 lookup main");
    await shares(1, "there is no such rule");
    await assertDirect();
  });

  test("follow their route to another pod's device at once, where nobody knows them, and back", async () => {
    const client = await lab.host("client");
    for (const { at, prefix, family } of kinds) {
      const route = `route replace ${lab.place("pod1a")[at]}/${prefix} dev`;
      const { id } = held.find(({ what }) => what === `${family}, pod1a`) ?? assert.fail();
      try {
        ip(NODE, `${route} pod1b src ${lab.place(NODE)[at]}`);
        await eventually(async () => {
          const { echoed } = await client.beats(id);
          await new Promise((resolve) => setTimeout(resolve, 150));
          assert.equal((await client.beats(id)).echoed, echoed, "still by the old way");
        }, 1000);
      } finally {
        ip(NODE, `${route} pod1a src ${lab.place(NODE)[at]}`);
      }
      await whileAllBeat();
    }
    await assertDirect();
  });

  test("go on by a pod's new device, which has the old one's interface index", async () => {
    const pod = lab.place("pod1a");
    const index: number = JSON.parse(lab.run(NODE, ["ip", "-json", "link", "show", "pod1a"]).stdout)[0].ifindex;
    ip(NODE, "link del pod1a");
    await new Promise((resolve) => setTimeout(resolve, 100));
    ip(NODE, `link add pod1a index ${index} type veth peer name eth0 netns ${lab.name}-pod1a`);
    for (const line of [
      "link set eth0 up",
      `addr add ${pod.v4}/32 dev eth0`,
      `addr add ${pod.v6}/128 dev eth0 nodad`,
      `route add ${lab.place(NODE).v4} dev eth0`,
      `route add default via ${lab.place(NODE).v4}`,
      "route add default via fe80::1 dev eth0",
    ])
      ip("pod1a", line);
    for (const line of [
      "link set pod1a up",
      "addr add fe80::1/64 dev pod1a nodad",
      `route add ${pod.v4}/32 dev pod1a src ${lab.place(NODE).v4}`,
      `route add ${pod.v6}/128 dev pod1a src ${lab.place(NODE).v6}`,
    ])
      ip(NODE, line);
    await whileAllBeat();
    // The agent may only now have found the device fit.
    await eventually(assertDirect);
  });

  test("go on by the kernel when a rule that may refuse packets turns up, and directly again without it", async () => {
    const rule = ["FORWARD", "-s", "192.0.2.99", "-j", "DROP"];
    assert.equal(lab.run(NODE, ["iptables", "-A", ...rule]).status, 0);
    try {
      await eventually(() => assert.equal(generation(), 0), 10_000);
      const { direct } = await whileAllBeat();
      assert.equal(direct, 0, "sent on");
    } finally {
      assert.equal(lab.run(NODE, ["iptables", "-D", ...rule]).status, 0);
    }
    await eventually(() => assert.notEqual(generation(), 0), 10_000);
    await assertDirect();
  });
});

test("a pod here whose endpoint does not say so is reached, its neighbour known or not, and sees the client", async () => {
  const words = serviceOf("unsaid", 3);
  manifests.write("unsaid", [serviceObject(words), ...sliceObjects(words, [{ ...lab.place("pod1b"), node: null }])]);
  const client = await lab.host("client");
  for (const { at, near } of kinds) {
    const address = near.replace(/1$/, "3");
    const ask = async (): Promise<void> => {
      const [[answer] = []] = await client.tryAll([[{ transport: "TCP", address, port: 80, timeout_ms: 900 }]]);
      assert.ok(answer?.ok, `${address}: ${JSON.stringify(answer)}`);
      assert.deepEqual([answer.name, answer.client], ["pod1b", lab.place("client")[at]]);
    };
    await eventually(ask);
    ip(NODE, `neigh flush to ${lab.place("pod1b")[at]}`);
    await ask();
    const answer = await client.hold(address, 80, 10);
    assert.ok(answer.ok, JSON.stringify(answer));
    const { doubted } = await whileAllBeat([{ id: answer.id, what: address }]);
    assert.ok(doubted > 10, `${doubted} packets left to the kernel`);
  }
});
