// XDP with real sockets: traffic from outside to another node's pods is sent on in the driver, which the counters prove; an
// open connection survives XDP coming and going; the agent's death; somebody else's program; auto and required.
import assert from "node:assert/strict";
import { before, describe, test } from "node:test";
import { readCounters } from "../../src/dataplane/bpf/inspect.ts";
import { openPinnedMaps } from "../../src/dataplane/bpf/pinned.ts";
import { pinDirectory } from "../../src/dataplane/bpf/pins.ts";
import type { Agent } from "../lib/agent.ts";
import { eventually } from "../lib/eventually.ts";
import type { Host } from "../lib/host/host.ts";
import { Manifests } from "../lib/objects.ts";
import { addressesIn, openLab, seeing, serveAt, serviceOf } from "../lib/served-lab.ts";
import { assertReaches } from "../lib/traffic.ts";
import { compilePassing } from "../lib/xdp-lab.ts";

const lab = await openLab();
const { v4, v6, own } = addressesIn(lab);
const manifests = new Manifests(lab);

const DIRECT = { forwarding: "direct", minSyncPeriod: "0.1s" };
const start = (node: string, xdp: "auto" | "off" | "required", wait = true): Promise<Agent> =>
  lab.startAgent(node, { manifests: manifests.path, bpf: { ...DIRECT, xdp }, wait });

let agent: Agent;
let client: Host;

before(async () => {
  manifests.service(serviceOf("far", 10), ["pod2a"]);
  manifests.service(serviceOf("near", 11), ["pod1a"]);
  await serveAt(lab);
  [agent] = await Promise.all([start("node1", "required"), start("node2", "off")]);
  client = await lab.host("client");
});

interface Counts {
  readonly established: number;
  readonly reply: number;
}

/** What XDP has sent on at node1. */
const sent = (): Counts => {
  const store = openPinnedMaps(pinDirectory(lab.bpffs("node1")));
  try {
    const counters = readCounters(store).filter(({ hook }) => hook === "xdp");
    const of = (reason: string): number => counters.find((one) => one.reason === reason)?.count ?? 0;
    return { established: of("established"), reply: of("reply") };
  } finally {
    store.close();
  }
};

/** Meanwhile XDP sent on so many packets at least, of each direction. */
const assertCarried = async (least: number, traffic: () => Promise<unknown>): Promise<void> => {
  const before = sent();
  await traffic();
  const now = sent();
  const words = `${now.established - before.established} requests, ${now.reply - before.reply} replies`;
  assert.ok(now.established - before.established >= least && now.reply - before.reply >= least, words);
};

const nothing: Counts = { established: 0, reply: 0 };

interface Held {
  readonly id: number;
  readonly to: string;
}

const hold = async (address: string, port: number): Promise<Held> => {
  const { ok, id } = await client.hold(address, port, 10);
  assert.ok(ok, `${address} port ${port}`);
  return { id, to: `${address} port ${port}` };
};

/** The connection is alive, and so many messages more have gone there and back. */
const assertGoesOn = async ({ id, to }: Held, messages = 20): Promise<void> => {
  const before = await client.beats(id);
  assert.equal(before.ended, null, to);
  await eventually(async () => {
    const now = await client.beats(id);
    assert.equal(now.ended, null, to);
    assert.ok(now.echoed >= before.echoed + messages, `${to}: ${now.echoed - before.echoed} of ${messages}`);
  }, 10_000);
};

const ways = [
  ["a NodePort", v4("node1"), 30010],
  ["a NodePort", v6("node1"), 30010],
  ["a load balancer's address", "198.51.100.10", 80],
  ["a load balancer's address", "fd00:198::10", 80],
  ["an external IP", "198.51.100.110", 80],
  ["an external IP", "fd00:198::110", 80],
] as const;

describe("bpf.xdp: required", () => {
  for (const [what, address, port] of ways) {
    test(`TCP by ${what} of node1, ${address}, to a pod of node2: both directions by XDP`, async () => {
      await assertReaches(client, { address, port }, seeing(own("node1", address), ["pod2a"]));
      const held = await hold(address, port);
      await assertCarried(50, () => assertGoesOn(held, 55));
      await client.drop(held.id);
    });
  }

  for (const [what, address, port] of ways) {
    test(`UDP by ${what}, ${address}`, async () => {
      const to = { address, port: port === 80 ? 53 : 30110 };
      const { id } = await client.openUdp(address.includes(":") ? 6 : 4);
      await assertCarried(30, async () => {
        for (let i = 0; i < 40; i++) {
          const answer = await client.askUdp(id, to, 2000);
          assert.ok(answer.ok, JSON.stringify(answer));
          assert.equal(answer.name, "pod2a");
        }
      });
      await client.drop(id);
    });
  }

  test("much data at once, there and back", async () => {
    await assertCarried(200, async () => {
      const answer = await client.transfer(v4("node1"), 30010, 1 << 20);
      assert.ok(answer.ok, JSON.stringify(answer));
    });
  });

  test("pods of the node itself are tc's, by the same devices", async () => {
    // What connections before this one still had to say has been said.
    const before = await eventually(async () => {
      const sentSoFar = sent();
      await new Promise((resolve) => setTimeout(resolve, 500));
      assert.deepEqual(sent(), sentSoFar);
      return sentSoFar;
    });
    const held = await hold(v4("node1"), 30011);
    await assertGoesOn(held, 20);
    await client.drop(held.id);
    assert.deepEqual(sent(), before);
  });

  test("status names the device, and the metrics say which have it", async () => {
    const { stdout } = lab.beeline("node1", ["status"]);
    assert.match(stdout, /^Devices: +eth0 \(.*\bxdp\b.*\)$/m);
    assert.match(stdout, /^XDP: +on eth0$/m);
    const metrics = await agent.httpGet(10249, "/metrics");
    assert.match(metrics.body, /^beeline_forwarding_xdp\{device="eth0",why_not=""\} 1$/m);
    assert.match(metrics.body, /^beeline_packets_total\{hook="xdp",reason="established"\} [1-9]/m);
    const doctor = lab.beeline("node1", ["doctor"]);
    assert.match(doctor.stdout, /^XDP +note +on eth0, a veth: what XDP sends is lost unless/m);
  });

  test("killed with SIGKILL, it goes on; the next agent takes it over, and no connection ends", async () => {
    const held = await hold(v4("node1"), 30010);
    await assertGoesOn(held);
    await agent.kill9();
    await assertCarried(30, () => assertGoesOn(held, 60));
    agent = await start("node1", "required");
    await assertCarried(30, () => assertGoesOn(held, 60));
    await client.drop(held.id);
  });
});

test("a connection survives XDP being switched off and on again, and is carried by it when it is on", async () => {
  const held = await Promise.all([hold(v4("node1"), 30010), hold("fd00:198::10", 80)]);
  const all = async (messages: number): Promise<void> => {
    await Promise.all(held.map((one) => assertGoesOn(one, messages)));
  };
  await assertCarried(50, () => all(60));
  await agent.stop();
  agent = await start("node1", "off");
  const before = sent();
  await all(40);
  assert.deepEqual(sent(), before, "off");
  await agent.stop();
  agent = await start("node1", "required");
  await all(20);
  await assertCarried(50, () => all(60));
  for (const { id } of held) await client.drop(id);
});

test("auto: on a veth there is none, tc serves, and log and status say why", async () => {
  const held = await hold(v4("node1"), 30010);
  await agent.stop();
  agent = await start("node1", "auto");
  const before = sent();
  await assertGoesOn(held, 40);
  assert.deepEqual(sent(), before);
  assert.match(agent.log, /No XDP on eth0: it is a veth/);
  assert.match(lab.beeline("node1", ["status"]).stdout, /^XDP: +not on eth0: it is a veth/m);
  assert.match(lab.beeline("node1", ["doctor"]).stdout, /^XDP +note +not on eth0: it is a veth/m);
  const { body } = await agent.httpGet(10249, "/metrics");
  assert.match(body, /^beeline_forwarding_xdp\{device="eth0",why_not="it is a veth.*"\} 0$/m);
  await client.drop(held.id);
});

test("another's program on the device: required refuses to start with 3 and names it; auto serves without", async () => {
  await agent.stop();
  const path = compilePassing(lab.directory);
  const run = (argv: readonly string[]): void => {
    const { status, stderr } = lab.run("node1", argv);
    assert.equal(status, 0, stderr);
  };
  assert.equal(lab.beeline("node1", ["reset"]).status, 0);
  run(["ip", "link", "set", "eth0", "xdpdrv", "obj", path, "sec", "xdp"]);
  const refused = await start("node1", "required", false);
  assert.equal(await refused.ended(), 3);
  assert.match(refused.log, /native XDP cannot be had: eth0: another's program \d+ is on it/);
  agent = await start("node1", "auto");
  await assertReaches(client, { address: v4("node1"), port: 30010 }, seeing(v4("node1"), ["pod2a"]));
  assert.deepEqual(sent(), nothing);
  run(["ip", "link", "set", "eth0", "xdpdrv", "off"]);
});
