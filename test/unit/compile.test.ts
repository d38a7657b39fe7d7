import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { compile, createMemory } from "../../src/compile/compile.ts";
import { makePrefix } from "../../src/model/address.ts";
import type { Desired, DesiredService } from "../../src/model/desired.ts";
import { servicePortKey } from "../../src/model/desired.ts";
import type { EndpointSlice, Node, Service } from "../../src/model/snapshot.ts";
import { address, endpoint, options, service, slice, snapshot } from "../lib/snapshots.ts";

const find = (desired: Desired, name: string): DesiredService | undefined =>
  desired.services.get(servicePortKey({ namespace: "default", name, port: "", protocol: "TCP" }));

describe("what compile() remembers", () => {
  const many = Array.from({ length: 200 }, (_, i) => service({ name: `s${i}`, clusterIPs: [address(`10.96.1.${i}`)] }));
  const sliceOf = (i: number, pods: readonly string[]): EndpointSlice =>
    slice(
      pods.map((pod) => endpoint(pod)),
      { name: `s${i}-1`, serviceName: `s${i}` },
    );
  const slices = many.map((_, i) => sliceOf(i, [`10.244.1.${i}`]));

  test("the same snapshot gives the identical answer", () => {
    const memory = createMemory();
    const once = snapshot(many, slices);
    assert.equal(compile(once, options, memory), compile(once, options, memory));
  });

  test("a snapshot of the same objects in new maps, and equal options, give the identical answer", () => {
    const memory = createMemory();
    const first = compile(snapshot(many, slices), options, memory);
    assert.equal(compile(snapshot(many, slices), structuredClone(options), memory), first);
  });

  test("a changed slice changes its service and leaves every other value as it was", () => {
    const memory = createMemory();
    const before = compile(snapshot(many, slices), options, memory).desired;
    const changed = slices.with(7, sliceOf(7, ["10.244.1.7", "10.244.1.250"]));
    const after = compile(snapshot(many, changed), options, memory).desired;
    const differing = [...after.services].filter(([key, value]) => before.services.get(key) !== value);
    assert.deepEqual(
      differing.map(([key]) => key),
      ["default/s7/TCP"],
    );
    assert.equal(after.nodeAddresses, before.nodeAddresses);
  });

  test("a changed object that means the same keeps the whole answer", () => {
    const memory = createMemory();
    const before = compile(snapshot(many, slices), options, memory);
    const touched = slices.map((one) => ({ ...one, triggered_ms: 5 }));
    assert.equal(compile(snapshot(many, touched), options, memory), before);
  });

  test("only what changed is looked into: the objects of one service of two hundred", () => {
    const memory = createMemory();
    const looks = new Map<string, number>();
    const watch = <T extends Service | EndpointSlice>(value: T): T =>
      new Proxy(value, {
        get: (target, field) => {
          if (field === "ports" || field === "endpoints") looks.set(value.name, (looks.get(value.name) ?? 0) + 1);
          return Reflect.get(target, field);
        },
      });
    const services = many.map(watch);
    const watched = slices.map(watch);
    compile(snapshot(services, watched), options, memory);
    assert.equal(looks.size, 400);
    looks.clear();
    compile(snapshot(services, watched.with(7, watch(sliceOf(7, ["10.244.1.250"])))), options, memory);
    assert.deepEqual([...looks.keys()].sort(), ["s7", "s7-1"]);
    looks.clear();
    compile(snapshot(services, watched.with(7, watch(sliceOf(7, ["10.244.1.250"])))), options, memory);
    assert.deepEqual([...looks.keys()].sort(), ["s7", "s7-1"], "an equal slice is looked into, but changes nothing");
  });

  test("a rival that comes or goes is compiled with the service it contends with, and nobody else", () => {
    const memory = createMemory();
    const vip = [address("198.51.100.8")];
    const holder = service({ name: "holder", externalIPs: vip, created_ms: 2000 });
    const rival = service({ name: "rival", clusterIPs: [address("10.96.0.2")], externalIPs: vip, created_ms: 1000 });
    const alone = compile(snapshot([holder, ...many], slices), options, memory);
    const both = compile(snapshot([holder, ...many, rival], slices), options, memory);
    assert.deepEqual(
      find(both.desired, "holder")?.frontends.map(({ kind }) => kind),
      ["ClusterIP"],
    );
    assert.equal(find(both.desired, "s7"), find(alone.desired, "s7"));
    assert.equal(both.problems.length, 1);
    const again = compile(snapshot([holder, ...many], slices), options, memory);
    assert.deepEqual(find(again.desired, "holder"), find(alone.desired, "holder"));
    assert.deepEqual(again.problems, []);
  });

  test("a zone that the node gains compiles again what has hints, and keeps the others' values", () => {
    const memory = createMemory();
    const hinted = slice(
      [endpoint("10.244.1.2", { hintZones: ["east"] }), endpoint("10.244.2.2", { hintZones: ["west"] })],
      { name: "web-1" },
    );
    const node: Node = { name: "node-a", addresses: [], zone: null, podCIDRs: [], deleting: false, taints: [] };
    const at = (zone: string | null): Desired =>
      compile(snapshot([service(), ...many], [hinted, ...slices], { ...node, zone }), options, memory).desired;
    const [nowhere, east] = [at(null), at("east")];
    assert.equal(find(nowhere, "web")?.backends.filter(({ state }) => state === "active").length, 2);
    assert.equal(find(east, "web")?.backends.filter(({ state }) => state === "active").length, 1);
    assert.equal(find(east, "s7"), find(nowhere, "s7"));
  });
});

describe("health checks of load balancers", () => {
  const checked = service({ type: "LoadBalancer", externalTrafficPolicy: "Local", healthCheckNodePort: 32000 });
  const countOf = (slices: readonly EndpointSlice[], of: Service = checked): number | undefined =>
    compile(snapshot([of], slices), options).healthChecks[0]?.localEndpoints;

  test("ready endpoints of this node count once each, whatever their ports and slices", () => {
    const ports = [
      { name: "", protocol: "TCP", port: 8080 },
      { name: "more", protocol: "TCP", port: 8081 },
    ] as const;
    const first = slice([endpoint("10.244.1.2"), endpoint("10.244.2.2", { nodeName: "node-b" })], { ports });
    assert.equal(countOf([first, slice([endpoint("10.244.1.2"), endpoint("10.244.1.3")], { name: "web-2" })]), 2);
  });

  test("terminating endpoints do not count though they still serve", () => {
    assert.equal(countOf([slice([endpoint("10.244.1.2", { ready: false, terminating: true })])]), 0);
  });

  test("a pod of two families counts once", () => {
    const dual = { ...checked, clusterIPs: [address("10.96.0.1"), address("fd00:96::1")] };
    const v6 = slice([endpoint("fd00:1::2")], { name: "web-2", family: "IPv6" });
    assert.equal(countOf([slice([endpoint("10.244.1.2")]), v6], dual), 1);
  });

  test("a Service without a health check port has none", () => {
    assert.deepEqual(compile(snapshot([service()]), options).healthChecks, []);
  });
});

test("Service ports that drop for want of a local endpoint are counted by direction and family", () => {
  const remote = slice([endpoint("10.244.2.2", { nodeName: "node-b" })]);
  const remote6 = slice([endpoint("fd00:2::2", { nodeName: "node-b" })], { name: "web-2", family: "IPv6" });
  const ports = [{ name: "", protocol: "TCP", port: 80, nodePort: 30080 }] as const;
  const count = (fields: Partial<Service>, slices: readonly EndpointSlice[]): object =>
    compile(snapshot([service({ ports, ...fields })], slices), options).noLocalEndpoints;
  const both = [address("10.96.0.1"), address("fd00:96::1")];
  const none = { IPv4: 0, IPv6: 0 };
  const one = { IPv4: 1, IPv6: 0 };
  assert.deepEqual(count({ externalTrafficPolicy: "Local" }, [remote]), { internal: none, external: one });
  assert.deepEqual(count({ internalTrafficPolicy: "Local" }, [remote]), { internal: one, external: none });
  assert.deepEqual(count({ externalTrafficPolicy: "Local" }, []), { internal: none, external: none }, "nobody has any");
  const dual = count({ externalTrafficPolicy: "Local", clusterIPs: both }, [remote, remote6]);
  assert.deepEqual(dual, { internal: none, external: { IPv4: 1, IPv6: 1 } });
});

describe("node addresses", () => {
  const local = ["127.0.0.1", "::1", "10.244.1.1", "192.0.2.11", "fe80::1", "2001:db8::11"].map(address);
  const node: Node = {
    name: "node-a",
    addresses: ["203.0.113.1", "192.0.2.11", "10.244.1.1"].map(address),
    zone: null,
    podCIDRs: [],
    deleting: false,
    taints: [],
  };
  const answers = (nodePortAddresses: typeof options.nodePortAddresses, of: Node | null): readonly string[] =>
    compile(snapshot([], [], of), { ...options, localAddresses: local, nodePortAddresses }).desired.nodeAddresses.map(
      (a) => `${a.address}${a.primary ? " primary" : ""}${a.loopback ? " loopback" : ""}${a.nodePorts ? "" : " mute"}`,
    );

  test("all local ones, but ::1 and link-local IPv6; the primary is the Node's first that is local", () => {
    assert.deepEqual(answers([], node), [
      "10.244.1.1",
      "127.0.0.1 loopback",
      "192.0.2.11 primary",
      "2001:db8::11 primary",
    ]);
  });

  test("until the Node has been seen the first local address is the primary one", () => {
    assert.deepEqual(answers([], null), [
      "10.244.1.1 primary",
      "127.0.0.1 loopback",
      "192.0.2.11",
      "2001:db8::11 primary",
    ]);
  });

  test("inside the ranges only; a family without a range of its own is not narrowed; a primary outside stays as source", () => {
    const range = [makePrefix(address("10.244.0.0"), 16)];
    assert.deepEqual(answers(range, node), [
      "10.244.1.1",
      "127.0.0.1 loopback mute",
      "192.0.2.11 primary mute",
      "2001:db8::11 primary",
    ]);
  });

  test("primary: one address of each family, no loopback", () => {
    assert.deepEqual(answers("primary", node), [
      "10.244.1.1 mute",
      "127.0.0.1 loopback mute",
      "192.0.2.11 primary",
      "2001:db8::11 primary",
    ]);
  });
});
