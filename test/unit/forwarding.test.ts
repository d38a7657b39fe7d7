// By which way packets go on: what the agent decides, what it writes for the programs, and which news of the kernel makes
// flows find their next hops anew. No kernel.
import assert from "node:assert/strict";
import { test } from "node:test";
import { startForwarding } from "../../src/agent/forwarding.ts";
import { device_flag } from "../../src/dataplane/bpf/abi.gen.ts";
import { decode } from "../../src/dataplane/bpf/codec.ts";
import { createForwarding } from "../../src/dataplane/bpf/forwarding.ts";
import { eventsIn, Neighbours } from "../../src/dataplane/bpf/route-events.ts";
import { mtuIn } from "../../src/dataplane/bpf/route-mtu.ts";
import { bootTime_ns } from "../../src/dataplane/bpf/system/clock.ts";
import { attributesIn, type Message, messagesIn } from "../../src/dataplane/bpf/system/netlink.ts";
import { changeConfig, readConfig } from "../../src/dataplane/bpf/tables.ts";
import { FakeStore } from "../../src/dataplane/fake/fakestore.ts";
import type { Obstacle } from "../../src/dataplane/obstacle.ts";
import { eventually } from "../lib/eventually.ts";

const generationIn = (store: FakeStore): number => readConfig(store).next_hop_generation;
const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

// ---- the generation --------------------------------------------------------------------------------------------------

test("the generation: by the kernel it is 0, and a change of routes leaves it so", async () => {
  const store = new FakeStore();
  const forwarding = createForwarding(store);
  forwarding.forgetNextHops();
  assert.equal(generationIn(store), 0);
  assert.deepEqual(forwarding.facts(), { mode: "kernel", generation: 0, bumps: 0 });
});

test("the generation: another one with each change, and never one that flows knew before the kernel's turn", async () => {
  const store = new FakeStore();
  const forwarding = createForwarding(store);
  const seen = new Set<number>();
  for (let i = 0; i < 3; i++) {
    forwarding.set("direct");
    assert.ok(!seen.has(generationIn(store)), "on again");
    seen.add(generationIn(store));
    await pause(15);
    forwarding.forgetNextHops();
    assert.ok(!seen.has(generationIn(store)), "a change");
    seen.add(generationIn(store));
    forwarding.set("kernel");
    assert.equal(generationIn(store), 0);
  }
});

test("the generation: a burst of changes is two, the last of them after all of the burst", async () => {
  const store = new FakeStore();
  const forwarding = createForwarding(store);
  forwarding.set("direct");
  await pause(15);
  const before = forwarding.facts().bumps;
  for (let i = 0; i < 1000; i++) forwarding.forgetNextHops();
  assert.equal(forwarding.facts().bumps, before + 1);
  await eventually(() => assert.equal(forwarding.facts().bumps, before + 2));
  await pause(30);
  assert.equal(forwarding.facts().bumps, before + 2);
});

test("the generation: after a restart it goes on, over 65535 to 1, and 0 is none", () => {
  const store = new FakeStore();
  changeConfig(store, { next_hop_generation: 65_534 });
  createForwarding(store);
  assert.equal(generationIn(store), 65_535);
  createForwarding(store);
  assert.equal(generationIn(store), 1);
});

test("the generation: other fields of config stay, and what is written from Desired leaves it", () => {
  const store = new FakeStore();
  changeConfig(store, { snat_port_min: 61_000, has_tunnels: 1 });
  const forwarding = createForwarding(store);
  forwarding.set("direct");
  const { snat_port_min, has_tunnels } = readConfig(store);
  assert.deepEqual({ snat_port_min, has_tunnels }, { snat_port_min: 61_000, has_tunnels: 1 });
});

test("sharing: written when it changes, and no other field with it", () => {
  const store = new FakeStore();
  changeConfig(store, { has_tunnels: 1 });
  const forwarding = createForwarding(store);
  assert.equal(readConfig(store).shares_ways, 0, "nobody has looked");
  for (const shares of [true, true, false]) {
    forwarding.setSharing(shares);
    const { shares_ways, has_tunnels } = readConfig(store);
    assert.deepEqual({ shares_ways, has_tunnels }, { shares_ways: Number(shares), has_tunnels: 1 });
  }
});

test("a change of the way: flows can tell that they are from before, however shortly; none, and they are as old as ever", () => {
  const store = new FakeStore();
  const forwarding = createForwarding(store);
  const since = (): bigint => readConfig(store).forwarding_since_ns;
  forwarding.set("kernel");
  assert.equal(since(), 0n, "it always was");
  let last = 0n;
  for (const mode of ["direct", "kernel"] as const) {
    forwarding.set(mode);
    assert.ok(since() > bootTime_ns() && since() > last, mode);
    last = since();
    forwarding.set(mode);
    forwarding.forgetNextHops();
    assert.equal(since(), last, "no change of the way");
  }
});

// ---- devices ---------------------------------------------------------------------------------------------------------

const devicesIn = (store: FakeStore): Record<number, number> =>
  Object.fromEntries([...store.entries("devices")].map(([k, v]) => [decode("u32", k), decode("device", v).flags]));
const { DEVICE_PEER, DEVICE_WIRE, DEVICE_XDP } = device_flag;

test("devices: what an agent before us allowed is taken away, each change is another generation, none is none", () => {
  const store = new FakeStore();
  const forwarding = createForwarding(store);
  forwarding.set("direct");
  forwarding.setDevices(
    new Map([
      [2, DEVICE_WIRE],
      [7, DEVICE_PEER],
      [8, 0],
    ]),
  );
  assert.deepEqual(devicesIn(store), { 2: DEVICE_WIRE, 7: DEVICE_PEER });
  const first = generationIn(store);
  forwarding.setDevices(
    new Map([
      [2, DEVICE_WIRE],
      [7, DEVICE_PEER],
    ]),
  );
  assert.equal(generationIn(store), first);
  forwarding.setDevices(
    new Map([
      [2, DEVICE_WIRE | DEVICE_XDP],
      [9, DEVICE_PEER],
    ]),
  );
  assert.deepEqual(devicesIn(store), { 2: DEVICE_WIRE | DEVICE_XDP, 9: DEVICE_PEER });
  assert.notEqual(generationIn(store), first);
});

test("devices: restricting takes away and never gives", () => {
  const store = new FakeStore();
  const forwarding = createForwarding(store);
  forwarding.setDevices(
    new Map([
      [2, DEVICE_WIRE | DEVICE_XDP],
      [7, DEVICE_PEER],
    ]),
  );
  forwarding.restrictDevices(
    new Map([
      [2, DEVICE_WIRE],
      [7, DEVICE_PEER],
      [9, DEVICE_PEER],
    ]),
  );
  assert.deepEqual(devicesIn(store), { 2: DEVICE_WIRE, 7: DEVICE_PEER });
});

// ---- auto ------------------------------------------------------------------------------------------------------------

const POLICY: Obstacle = { where: "iptables-legacy filter, chain cali-FORWARD", what: "-j DROP" };

/** A node whose rules are what `node.obstacles` says; `node.mark` is what is cheap to ask. */
const watched = (wanted: "auto" | "direct" | "kernel") => {
  const node = { obstacles: [] as Obstacle[], mark: "1", looks: 0 };
  const modes: string[] = [];
  const lines: string[] = [];
  const watch = startForwarding({
    wanted,
    set: (mode) => modes.push(mode),
    find: async () => {
      node.looks++;
      return node.obstacles;
    },
    mark: () => node.mark,
    log: (_level, message) => lines.push(message),
    periods_ms: { mark: 10, find: 100_000 },
  });
  return { node, modes, lines, watch };
};

test("auto: direct where nothing is in the way; a policy engine that comes later is noticed, and when it goes", async (t) => {
  const { node, modes, lines, watch } = watched("auto");
  t.after(() => watch.close());
  await eventually(() => assert.deepEqual(modes, ["direct"]));
  node.obstacles = [POLICY];
  node.mark = "2";
  await eventually(() => assert.deepEqual(modes, ["direct", "kernel"]));
  assert.deepEqual(watch.obstacles(), [POLICY]);
  node.obstacles = [];
  node.mark = "3";
  await eventually(() => assert.deepEqual(modes, ["direct", "kernel", "direct"]));
  assert.equal(lines.length, 3);
});

test("auto: while the mark stays nothing is read, and what is read again and is the same is not said again", async (t) => {
  const { node, modes, lines, watch } = watched("auto");
  t.after(() => watch.close());
  await eventually(() => assert.equal(node.looks, 1));
  await pause(60);
  assert.equal(node.looks, 1);
  node.mark = "2";
  await eventually(() => assert.equal(node.looks, 2));
  await watch.look();
  assert.deepEqual([modes, lines.length], [["direct"], 1]);
});

test("auto: after the end nothing is decided any more", async () => {
  const { modes, watch } = watched("auto");
  watch.close();
  await pause(20);
  assert.deepEqual(modes, []);
});

for (const wanted of ["direct", "kernel"] as const) {
  test(`${wanted}: nobody looks`, async () => {
    const { node, modes, watch } = watched(wanted);
    await watch.look();
    await pause(30);
    assert.deepEqual([node.looks, modes], [0, []]);
  });
}

// ---- what the kernel announces ---------------------------------------------------------------------------------------

const [NEWLINK, NEWADDR, NEWROUTE, NEWNEIGH, DELNEIGH, NEWRULE, NEWTFILTER] = [16, 20, 24, 28, 29, 32, 44];
const [REACHABLE, STALE, FAILED, PROBE, INCOMPLETE] = [2, 4, 0x20, 0x10, 1];

const neighbour = (type: number, state: number, mac: number | null, family = 2): Message => ({
  type,
  body: Uint8Array.from([
    ...[family, 0, 0, 0, 7, 0, 0, 0, state, 0, 0, 1],
    ...[8, 0, 1, 0, 10, 0, 0, 1],
    ...(mac === null ? [] : [10, 0, 2, 0, 2, 0, 0, 0, 0, mac, 0, 0]),
  ]),
});

test("neighbours: only another MAC, or none, is news; what goes round between STALE and REACHABLE is none", () => {
  const neighbours = new Neighbours();
  const isNews = (...message: Parameters<typeof neighbour>): boolean => neighbours.take(neighbour(...message));
  assert.equal(isNews(NEWNEIGH, INCOMPLETE, null), false, "asked for");
  assert.equal(isNews(NEWNEIGH, REACHABLE, 1), true, "answered");
  for (const state of [STALE, PROBE, REACHABLE]) assert.equal(isNews(NEWNEIGH, state, 1), false);
  assert.equal(isNews(NEWNEIGH, REACHABLE, 2), true, "another one");
  assert.equal(isNews(NEWNEIGH, FAILED, null), true, "gone");
  assert.equal(isNews(NEWNEIGH, FAILED, null), false, "still gone");
  assert.equal(isNews(NEWNEIGH, STALE, 2), true);
  assert.equal(isNews(DELNEIGH, STALE, 2), true);
  assert.equal(isNews(DELNEIGH, STALE, 2), false);
  assert.equal(isNews(NEWNEIGH, REACHABLE, 3, 7), false, "a bridge's");
});

test("events: what may send a packet another way, what concerns devices, and what is both", () => {
  const of = (type: number) => eventsIn([{ type, body: new Uint8Array(16) }], new Neighbours());
  assert.deepEqual(of(NEWROUTE), { ways: true, devices: false, rules: false, mtus: false });
  assert.deepEqual(of(NEWRULE), { ways: true, devices: false, rules: true, mtus: false });
  for (const type of [NEWLINK, NEWADDR])
    assert.deepEqual(of(type), { ways: true, devices: true, rules: false, mtus: false });
  assert.deepEqual(of(NEWTFILTER), { ways: false, devices: true, rules: false, mtus: false });
  const metrics = [12, 0, 8, 0, 8, 0, 2, 0, 0x14, 0x05, 0, 0];
  const route = { type: NEWROUTE, body: Uint8Array.from([...new Uint8Array(12), ...metrics]) };
  assert.equal(mtuIn(route.body), 1300);
  assert.deepEqual(eventsIn([route], new Neighbours()), { ways: true, devices: false, rules: false, mtus: true });
  assert.deepEqual(of(4711), { ways: false, devices: false, rules: false, mtus: false });
});

test("messages and attributes that are cut short end the reading, at any byte", () => {
  const bytes = Uint8Array.from([24, 0, 0, 0, 24, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 3, 0, 1, 2, 3, 4]);
  for (let length = 0; length < bytes.length; length++)
    assert.deepEqual([...messagesIn(bytes.subarray(0, length))], []);
  const [message] = messagesIn(bytes);
  assert.equal(message?.type, 24);
  assert.deepEqual([...attributesIn(message?.body ?? new Uint8Array())], [[3, Uint8Array.from([1, 2, 3, 4])]]);
  assert.deepEqual([...attributesIn(Uint8Array.from([3, 0, 1, 0]))], []);
});
