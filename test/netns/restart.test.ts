// The agent is killed, stopped, started twice, taken off: what is pinned works on, and is taken over as it is.
import assert from "node:assert/strict";
import { existsSync, readdirSync, statSync } from "node:fs";
import { before, test } from "node:test";
import { linksDirectory, pinDirectory } from "../../src/dataplane/bpf/pins.ts";
import type { Agent } from "../lib/agent.ts";
import { attachedPrograms } from "../lib/attached.ts";
import { eventually } from "../lib/eventually.ts";
import type { Host } from "../lib/host/host.ts";
import { Manifests } from "../lib/objects.ts";
import { addressesIn, nodePortServiceOf, openLab, serveAt } from "../lib/served-lab.ts";
import { assertFails, assertReaches } from "../lib/traffic.ts";

const lab = await openLab({ podsPerNode: 3 });
const manifests = new Manifests(lab);
const { v4, v6 } = addressesIn(lab);
const start = (node: string): Promise<Agent> => lab.startAgent(node, { manifests: manifests.path });

let agent1: Agent;
let agent2: Agent;

before(async () => {
  manifests.service(nodePortServiceOf("web", 40), ["pod1a", "pod2a"]);
  manifests.service(nodePortServiceOf("other", 41), ["pod1b"]);
  await serveAt(lab);
  [agent1, agent2] = await Promise.all([start("node1"), start("node2")]);
});

/** What the kernel of node1 holds, as the command prints it; without the counters of traffic. */
const held = (noun: "services" | "frontends" | "backends"): unknown => {
  const { status, stdout, stderr } = lab.beeline("node1", [noun, "-o", "json"]);
  assert.equal(status, 0, stderr);
  return JSON.parse(stdout, (key, value) => (["new_flows", "open_sockets"].includes(key) ? undefined : value));
};
const everything = (): unknown => [held("services"), held("frontends"), held("backends")];

/** Connections inside and outside, each held with a message every 20 ms. */
const holdSome = async (): Promise<readonly { readonly host: Host; readonly id: number; readonly to: string }[]> => {
  const held = [];
  for (const [from, address, port] of [
    ["pod1c", "172.30.0.40", 80],
    ["pod1c", "fd00:172:30::40", 80],
    ["node1", "172.30.0.40", 80],
    ["client", v4("node1"), 30040],
    ["client", v6("node1"), 30040],
  ] as const) {
    const host = await lab.host(from);
    for (let i = 0; i < 4; i++) {
      const { ok, id } = await host.hold(address, port, 20);
      assert.ok(ok, `${from} to ${address}`);
      held.push({ host, id, to: `${from} to ${address} port ${port}` });
    }
  }
  return held;
};

const startLoops = async (): Promise<readonly { readonly host: Host; readonly id: number; readonly to: string }[]> => {
  const loops = [];
  for (const [from, address, port, transport] of [
    ["pod1c", "172.30.0.40", 80, "TCP"],
    ["pod1c", "fd00:172:30::40", 53, "UDP"],
    ["client", v4("node1"), 30040, "TCP"],
    ["client", v6("node1"), 30140, "UDP"],
  ] as const) {
    const host = await lab.host(from);
    const { id } = await host.startLoop(address, port, { transport, pause_ms: 4 });
    loops.push({ host, id, to: `${from} to ${address} port ${port}/${transport}` });
  }
  return loops;
};

test("killed with SIGKILL and started again: no connection ends, none fails, every id and entry stays", async () => {
  const before = everything();
  const connections = await holdSome();
  const loops = await startLoops();
  /** However long a busy machine takes for them. */
  const more = async (connections: number): Promise<void> => {
    for (const { host, id, to } of loops) {
      const { ok } = await host.loopCounts(id);
      await eventually(async () => {
        const now = await host.loopCounts(id);
        assert.equal(now.failed, 0, `${to}: ${JSON.stringify(now)}`);
        assert.ok(now.ok >= ok + connections, `${to}: ${now.ok - ok} connections`);
      }, 20_000);
    }
  };
  await agent1.kill9();
  await more(30);
  assert.deepEqual(everything(), before, "the command reads with the agent dead");
  agent1 = await start("node1");
  await more(30);
  assert.deepEqual(everything(), before);
  for (const { host, id, to } of loops) {
    const { ok, failed, codes, names } = await host.loopCounts(id, true);
    assert.equal(failed, 0, `${to}: ${failed} of ${ok} failed ${JSON.stringify(codes)}`);
    assert.deepEqual(Object.keys(names).sort(), ["pod1a", "pod2a"]);
  }
  for (const { host, id, to } of connections) {
    const { echoed, ended } = await host.beats(id);
    assert.equal(ended, null, to);
    await eventually(async () => assert.ok((await host.beats(id)).echoed > echoed, to));
    await host.drop(id);
  }
});

test("what changed while no agent ran is done when one starts, and what stayed keeps its ids", async () => {
  const ids = (): Record<string, unknown> => {
    const { items } = held("backends") as { items: readonly { address: string; service: string; id: number }[] };
    return Object.fromEntries(items.map(({ address, service, id }) => [`${service} ${address}`, id]));
  };
  const before = ids();
  const loop = await (await lab.host("pod1c")).startLoop("172.30.0.41", 80);
  await agent1.stop();
  manifests.service(nodePortServiceOf("web", 40), ["pod2a", "pod2b"]);
  agent1 = await start("node1");
  const pod = await lab.host("pod1c");
  const expected = { pod2a: v4("pod1c"), pod2b: v4("pod1c") };
  await eventually(() => assertReaches(pod, { address: "172.30.0.40", port: 80 }, expected));
  for (const [key, id] of Object.entries(ids())) {
    if (key in before) assert.equal(id, before[key], key);
    else assert.ok(!Object.values(before).includes(id), `${key} has ${id}, which belonged to another`);
  }
  const { ok, failed } = await pod.loopCounts(loop.id, true);
  assert.ok(ok > 10 && failed === 0, `${ok} ok, ${failed} failed`);
  manifests.service(nodePortServiceOf("web", 40), ["pod1a", "pod2a"]);
  await eventually(() =>
    assertReaches(pod, { address: "172.30.0.40", port: 80 }, { pod1a: v4("pod1c"), pod2a: v4("pod1c") }),
  );
});

test("a restart takes no program off its hook, not for a moment: links are changed, not made anew", async () => {
  const folder = linksDirectory(pinDirectory(lab.bpffs("node1")));
  const links = (): readonly string[] =>
    readdirSync(folder)
      .map((name) => `${name} ${statSync(`${folder}/${name}`).ino}`)
      .sort();
  const reply = ["pod1a", "pod1b", "pod1c"].map((pod) => `tcx_ingress@${pod}@reply`);
  // The agent may only now have found that nothing is in the way of direct forwarding.
  const before = await eventually(() => {
    const names = links().map((link) => link.split(" ")[0]);
    assert.deepEqual(
      names.filter((name) => name?.endsWith("@reply")),
      reply,
    );
    return links();
  });
  await agent1.stop();
  agent1 = await start("node1");
  assert.deepEqual(links(), before);
});

test("SIGTERM ends the agent with exit status 0 and leaves everything working", async () => {
  const connections = await holdSome();
  assert.equal(await agent1.stop(), 0);
  const pod = await lab.host("pod1c");
  await assertReaches(pod, { address: "172.30.0.40", port: 80 }, { pod1a: v4("pod1c"), pod2a: v4("pod1c") });
  const client = await lab.host("client");
  await assertReaches(client, { address: v4("node1"), port: 30040 }, { pod1a: v4("client"), pod2a: v4("node1") });
  agent1 = await start("node1");
  for (const { host, id, to } of connections) {
    assert.equal((await host.beats(id)).ended, null, to);
    await host.drop(id);
  }
});

test("a second agent on the same pin directory is refused, and disturbs nobody", async () => {
  const loop = await (await lab.host("pod1c")).startLoop("172.30.0.40", 80);
  const { status, stderr } = lab.beeline("node1", ["run", "--node", "node1", "--manifests", manifests.path]);
  assert.equal(status, 3, stderr);
  assert.ok(stderr.includes(lab.bpffs("node1")), stderr);
  const { ok, failed } = await (await lab.host("pod1c")).loopCounts(loop.id, true);
  assert.ok(ok > 0 && failed === 0, `${ok} ok, ${failed} failed`);
  const reset = lab.beeline("node1", ["reset"]);
  assert.equal(reset.status, 3, "nor does reset take the pins from under a running agent");
});

test("reset leaves nothing of beeline's on the node", async () => {
  assert.equal(await agent2.stop(), 0);
  assert.deepEqual(attachedPrograms(lab, "node2"), [
    "cgroup_inet4_connect sock_connect4",
    "cgroup_inet4_getpeername sock_getpeername4",
    "cgroup_inet6_connect sock_connect6",
    "cgroup_inet6_getpeername sock_getpeername6",
    "cgroup_inet_sock_release sock_release",
    "cgroup_udp4_recvmsg sock_recvmsg4",
    "cgroup_udp4_sendmsg sock_sendmsg4",
    "cgroup_udp6_recvmsg sock_recvmsg6",
    "cgroup_udp6_sendmsg sock_sendmsg6",
    "tcx_egress tc_egress",
    "tcx_ingress tc_ingress",
  ]);
  const { status, stderr } = lab.beeline("node2", ["reset"]);
  assert.equal(status, 0, stderr);
  assert.deepEqual(attachedPrograms(lab, "node2"), []);
  const pins = existsSync(lab.bpffs("node2")) ? readdirSync(lab.bpffs("node2"), { recursive: true }) : [];
  assert.deepEqual(pins, []);
  await assertFails(await lab.host("pod2c"), { address: "172.30.0.40", port: 80, timeout_ms: 300 }, "TIMEOUT");
  const again = lab.beeline("node2", ["reset"]);
  assert.equal(again.status, 0, `a second reset has nothing to do: ${again.stderr}`);
  agent2 = await start("node2");
  const expected = { pod1a: v4("pod2c"), pod2a: v4("pod2c") };
  await assertReaches(await lab.host("pod2c"), { address: "172.30.0.40", port: 80 }, expected);
});
