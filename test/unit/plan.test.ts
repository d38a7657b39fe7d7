import assert from "node:assert/strict";
import { test } from "node:test";
import type { Config } from "../../src/dataplane/bpf/abi.gen.ts";
import { isCapacityError } from "../../src/dataplane/bpf/capacity.ts";
import { encode } from "../../src/dataplane/bpf/codec.ts";
import type { MapName, MapStore } from "../../src/dataplane/bpf/mapstore.ts";
import { TableProgrammer } from "../../src/dataplane/bpf/programmer.ts";
import { tablesToDesired } from "../../src/dataplane/bpf/readback.ts";
import { formatTables, readConfig, readTables } from "../../src/dataplane/bpf/tables.ts";
import { FakeStore, WatchedStore } from "../../src/dataplane/fake/fakestore.ts";
import type { Desired } from "../../src/model/desired.ts";
import {
  clusterIP,
  desiredOf,
  desiredOn,
  externalIP,
  loadBalancer,
  nodeAddress,
  nodePort,
  serviceOf,
} from "../lib/services.ts";

const PRUNE = { prune: true };

/** A store, its programmer, and the entries written since they were last asked for. */
const programmed = (maxEntries: Readonly<Partial<Record<MapName, number>>> = {}) => {
  const store = new FakeStore(maxEntries);
  let writes: string[] = [];
  const watched: MapStore = new WatchedStore(store, {
    written: (map, _key, value) => void writes.push(value === null ? `-${map}` : `+${map}`),
    waited: () => {},
  });
  const programmer = new TableProgrammer(watched, { now_ns: () => 0n });
  const apply = (desired: Desired, options = PRUNE): string[] => {
    writes = [];
    programmer.apply(desired, options);
    return writes;
  };
  const dump = (): string => formatTables(readTables(store));
  const readBack = (): Desired => tablesToDesired(readTables(store));
  return { store, watched, programmer, apply, dump, readBack };
};

const web = (...addresses: string[]) => serviceOf("web", addresses, [clusterIP("10.96.0.1")]);

test("A service as tables: its name, two scopes for each frontend, one run for equal lists, numbered backends", () => {
  const { apply, dump } = programmed();
  const parts = {
    external: "Local",
    local: ["10.244.0.1"],
    sourceRanges: ["10.0.0.0/8", "fd00::/8"],
    port: "http",
  } as const;
  const entrances = [clusterIP("10.96.0.1"), loadBalancer("198.51.100.1"), nodePort(30080)];
  const service = serviceOf("web", ["10.244.0.1", "10.244.1.1"], entrances, { ...parts, affinity_timeout_s: 600 });
  const nodes = [
    nodeAddress("127.0.0.1", { loopback: true }),
    nodeAddress("192.168.0.1", { primary: true }),
    nodeAddress("fd00::1", { primary: true, nodePorts: false }),
  ];
  apply(desiredOn(nodes, service));
  assert.equal(
    dump(),
    `services
  1 shop/web:http/TCP affinity=600s flags=EXTERNAL_LOCAL
frontends
  10.96.0.1:80/TCP external → service 1 slots 0+2 affinity=600s flags=CLUSTER_IP
  10.96.0.1:80/TCP internal → service 1 slots 0+2 affinity=600s flags=CLUSTER_IP
  198.51.100.1:80/TCP external → service 1 slots 2+1 affinity=600s flags=LOAD_BALANCER,LOCAL,SOURCE_RANGES
  198.51.100.1:80/TCP internal → service 1 slots 0+2 affinity=600s flags=LOAD_BALANCER,SOURCE_RANGES
nodeports
  IPv4:30080/TCP external → service 1 slots 2+1 affinity=600s flags=NODE_PORT,LOCAL
  IPv4:30080/TCP internal → service 1 slots 0+2 affinity=600s flags=NODE_PORT
frontend_addresses
  10.96.0.1 VIP,CLUSTER_IP
  198.51.100.1 VIP
slots
  0+2 → 1 2
  2+1 → 1
backends
  1 10.244.0.1:8080/TCP ACTIVE service 1 generation=1 flags=LOCAL,IN_CLUSTER,IN_LOCAL
  2 10.244.1.1:8080/TCP ACTIVE service 1 generation=1 flags=IN_CLUSTER
source_ranges
  service 1 10.0.0.0/8
  service 1 fd00::/8
node_addresses
  127.0.0.1 LOOPBACK
  192.168.0.1
  fd00::1 NO_NODEPORTS
config
  snat_addr_v4=192.168.0.1
  snat_addr_v6=fd00::1
`,
  );
});

test("No endpoint: an empty run that refuses; policy Local and endpoints elsewhere: one that drops", () => {
  const { apply, dump } = programmed();
  const none = serviceOf("none", [], [clusterIP("10.96.0.1")]);
  const away = serviceOf("away", ["10.244.1.1"], [externalIP("198.51.100.1")], { external: "Local" });
  apply(desiredOf(none, away));
  assert.match(dump(), /10\.96\.0\.1:80\/TCP external → service 2 slots 0\+0 flags=CLUSTER_IP\n/);
  assert.match(dump(), /198\.51\.100\.1:80\/TCP external → service 1 slots 0\+0 flags=EXTERNAL_IP,LOCAL,DROP\n/);
});

test("The same again writes nothing, also after a restart", () => {
  const { apply, watched } = programmed();
  const desired = desiredOf(
    web("10.244.0.1"),
    serviceOf("dns", ["10.244.0.2"], [nodePort(30053)], { protocol: "UDP" }),
  );
  assert.ok(apply(desired).length > 0);
  assert.deepEqual(apply(desired), []);
  assert.deepEqual(apply(structuredClone(desired)), []);
  const applied = new TableProgrammer(watched, { now_ns: () => 0n }).apply(desired, PRUNE);
  assert.deepEqual(applied, { written: {}, removed: {} });
});

test("What others wrote into config since stays: a next_hop_generation that comes back would bring back old next hops", () => {
  const { apply, store } = programmed();
  const key = encode("u32", 0);
  const change = (some: Partial<Config>): void =>
    store.update("config", [[key, encode("config", { ...readConfig(store), ...some })]]);
  change({ next_hop_generation: 7 });
  apply(desiredOn([nodeAddress("192.168.0.1", { primary: true })]));
  change({ next_hop_generation: 8, has_tunnels: 1 });
  apply(desiredOn([nodeAddress("192.168.0.2", { primary: true })]));
  const { next_hop_generation, has_tunnels, snat_addr_v4 } = readConfig(store);
  assert.deepEqual({ next_hop_generation, has_tunnels }, { next_hop_generation: 8, has_tunnels: 1 });
  assert.equal(snat_addr_v4, "192.168.0.2");
});

test("A change writes the changed service and no other", () => {
  const { apply } = programmed();
  const others = Array.from({ length: 50 }, (_, i) =>
    serviceOf(`s${i}`, [`10.245.0.${i + 1}`], [clusterIP(`10.97.0.${i + 1}`)]),
  );
  apply(desiredOf(web("10.244.0.1"), ...others));
  const writes = apply(desiredOf(web("10.244.0.1", "10.244.0.2"), ...others));
  // One new backend, two new slots, two scopes.
  assert.deepEqual(writes, ["+backends", "+slots", "+slots", "+frontends", "+frontends"]);
});

test("A service that is unchanged (===) is not looked at", () => {
  const { apply } = programmed();
  const service = web("10.244.0.1");
  apply(desiredOf(service));
  const trap = { ...service };
  Object.defineProperty(trap, "frontends", {
    get: () => {
      throw new Error("looked at");
    },
  });
  const desired = (one: typeof service): Desired => ({
    ...desiredOf(service),
    services: new Map([["shop/web/TCP", one]] as never),
  });
  assert.throws(() => apply(desired(trap)), /looked at/);
  apply(desired(service)); // read again after the failure
  Object.defineProperty(service, "frontends", {
    get: () => {
      throw new Error("looked at");
    },
  });
  assert.deepEqual(apply(desired(service)), []);
});

test("Ids stay over changes and restarts, and an id that is used again has a new generation", () => {
  const { store, apply, dump } = programmed();
  apply(desiredOf(web("10.244.0.1", "10.244.0.2")));
  apply(desiredOf(web("10.244.0.2", "10.244.0.3")));
  assert.match(dump(), /1 NONE generation=1\n {2}2 10\.244\.0\.2.*generation=1.*\n {2}3 10\.244\.0\.3.*generation=1/);
  const restarted = new TableProgrammer(store, { now_ns: () => 0n });
  restarted.apply(desiredOf(web("10.244.0.2", "10.244.0.3", "10.244.0.4"), serviceOf("api", [], [])), PRUNE);
  assert.match(dump(), /1 10\.244\.0\.4:8080\/TCP ACTIVE service 1 generation=2/);
  assert.match(dump(), /2 10\.244\.0\.2:8080\/TCP ACTIVE service 1 generation=1/);
  assert.match(dump(), /services\n {2}1 shop\/web\/TCP .*\n {2}2 shop\/api\/TCP/);
});

test("Ids do not depend on the order in which services are named", () => {
  const services = ["c", "a", "b"].map((name, i) => serviceOf(name, ["10.244.0.1"], [clusterIP(`10.96.0.${i}`)]));
  const [one, other] = [programmed(), programmed()];
  one.apply(desiredOf(...services));
  other.apply(desiredOf(...services.reverse()));
  assert.equal(one.dump(), other.dump());
});

test("A ClusterIP and a NodePort move from one service to another without ever being removed", () => {
  const { apply, dump } = programmed();
  const holds = (name: string, address: string) =>
    serviceOf(name, [address], [clusterIP("10.96.0.1"), nodePort(30080)]);
  apply(desiredOf(holds("a", "10.244.0.1")));
  const writes = apply(desiredOf(holds("b", "10.244.0.2")));
  assert.ok(!writes.includes("-frontends") && !writes.includes("-nodeports"), writes.join());
  assert.match(dump(), /10\.96\.0\.1:80\/TCP internal → service 2/);
});

test("Two services that exchange their addresses both keep answering", () => {
  const { apply, readBack } = programmed();
  const at = (name: string, address: string) => serviceOf(name, ["10.244.0.1"], [clusterIP(address)]);
  apply(desiredOf(at("a", "10.96.0.1"), at("b", "10.96.0.2")));
  const swapped = desiredOf(at("a", "10.96.0.2"), at("b", "10.96.0.1"));
  assert.ok(!apply(swapped).includes("-frontends"));
  assert.deepEqual(readBack(), swapped);
});

test("A backend that starts to drain loses its place only after the frontends have moved on", () => {
  const { apply } = programmed();
  apply(desiredOf(web("10.244.0.1", "10.244.0.2")));
  const drains = serviceOf("web", ["10.244.0.2"], [clusterIP("10.96.0.1")], { draining: ["10.244.0.1"] });
  assert.deepEqual(apply(desiredOf(drains)), ["+slots", "+frontends", "+frontends", "+backends"]);
});

test("What the maps hold and nobody named is pruned: a half-written service, a foreign row, a second name", () => {
  const { store, apply, dump } = programmed();
  apply(desiredOf(web("10.244.0.1")));
  const clean = dump();
  const other = programmed();
  other.apply(
    desiredOf(
      serviceOf("x", ["10.9.9.9"], [clusterIP("10.96.9.9"), nodePort(31000)], { sourceRanges: ["10.0.0.0/8"] }),
    ),
  );
  for (const map of ["frontends", "nodeports", "source_ranges"] as const)
    store.update(map, [...other.store.entries(map)]);
  const [name] = [...store.entries("services")];
  assert.ok(name !== undefined);
  store.update("services", [[new Uint8Array([9, 0, 0, 0]), name[1]]]);
  assert.notEqual(dump(), clean);
  new TableProgrammer(store, { now_ns: () => 0n }).apply(desiredOf(web("10.244.0.1")), PRUNE);
  assert.match(dump(), /10\.96\.0\.1:80\/TCP external → service 1 /);
  assert.doesNotMatch(dump(), /10\.96\.9\.9|31000|10\.0\.0\.0\/8|^ {2}9 /m);
});

test("A slot that somebody overwrote is repaired by a new run, once the maps are read again", () => {
  const { store, programmer, apply, readBack } = programmed();
  const desired = desiredOf(web("10.244.0.1", "10.244.0.2"));
  apply(desired);
  store.update("slots", [[new Uint8Array([1, 0, 0, 0]), new Uint8Array([77, 0, 0, 0])]]);
  programmer.forget();
  assert.ok(apply(desired).includes("+frontends"));
  assert.deepEqual(readBack(), desired);
});

// ---- before the sources have synced ------------------------------------------------------------------------------

test("Without prune nothing goes: services, frontends, backends, ranges and addresses that are not named stay", () => {
  const { apply, dump } = programmed();
  const ranged = serviceOf("lb", ["10.244.0.9"], [loadBalancer("198.51.100.1")], { sourceRanges: ["10.0.0.0/8"] });
  apply(desiredOn([nodeAddress("192.168.0.1", { primary: true })], web("10.244.0.1", "10.244.0.2"), ranged));
  const before = dump();
  apply(desiredOf(), { prune: false });
  apply(desiredOf(web()), { prune: false });
  apply(desiredOf(web("10.244.0.2")), { prune: false });
  assert.equal(dump(), before);
  apply(desiredOf(web("10.244.0.1", "10.244.0.2", "10.244.0.3"), serviceOf("new", [], [clusterIP("10.96.0.9")])), {
    prune: false,
  });
  assert.match(dump(), /10\.96\.0\.9:80/);
  assert.match(dump(), /10\.96\.0\.1:80\/TCP internal → service 2 slots \d+\+3/, "more backends are used at once");
  assert.match(dump(), /198\.51\.100\.1:80/);
});

test("The first prune after that does all that was held back", () => {
  const { apply, readBack } = programmed();
  apply(desiredOf(web("10.244.0.1", "10.244.0.2"), serviceOf("gone", ["10.244.0.9"], [clusterIP("10.96.0.9")])));
  const desired = desiredOf(web("10.244.0.2"));
  apply(desired, { prune: false });
  apply(desired);
  assert.deepEqual(readBack(), desired);
});

// ---- room --------------------------------------------------------------------------------------------------------

const refusal = (apply: () => void): { readonly message: string; readonly needed: object } => {
  try {
    apply();
  } catch (error) {
    if (isCapacityError(error)) return error;
    throw error;
  }
  return assert.fail("everything fits");
};

test("What does not fit is refused by name, map and setting; all the rest is programmed, what was there works on", () => {
  const { apply, readBack } = programmed({ slots: 8 });
  const big = (n: number) =>
    serviceOf(
      "big",
      Array.from({ length: n }, (_, i) => `10.245.0.${i + 1}`),
      [clusterIP("10.96.0.9")],
    );
  apply(desiredOf(big(2)));
  const error = refusal(() => apply(desiredOf(web("10.244.0.1", "10.244.0.2"), big(20))));
  assert.equal(
    error.message,
    "Cannot program shop/big/TCP: map slots needs 24 entries and has 8: raise bpf.mapSizes.slots",
  );
  assert.deepEqual(error.needed, { slots: 24 });
  assert.deepEqual(readBack(), desiredOf(big(2), web("10.244.0.1", "10.244.0.2")));
  apply(desiredOf(big(3), web("10.244.0.1", "10.244.0.2")));
  assert.deepEqual(readBack(), desiredOf(big(3), web("10.244.0.1", "10.244.0.2")));
});

for (const [map, size] of [
  ["services", 2],
  ["frontends", 4],
  ["nodeports", 4],
  ["backends", 3],
  ["slots", 2],
  ["source_ranges", 2],
] as const) {
  test(`A full ${map} refuses the third of three services, and takes it once another is gone`, () => {
    const { apply, readBack } = programmed({ [map]: size });
    const service = (i: number) =>
      serviceOf(`s${i}`, [`10.244.0.${i}`], [loadBalancer(`198.51.100.${i}`), nodePort(30_000 + i)], {
        sourceRanges: ["10.0.0.0/8"],
      });
    const error = refusal(() => apply(desiredOf(service(1), service(2), service(3))));
    assert.match(error.message, new RegExp(`^Cannot program shop/s3/TCP: map ${map} needs`));
    assert.deepEqual(readBack(), desiredOf(service(1), service(2)));
    apply(desiredOf(service(2), service(3)));
    assert.deepEqual(readBack(), desiredOf(service(2), service(3)));
  });
}

test("Node addresses that do not fit are said, the first ones are served", () => {
  const { apply, readBack } = programmed({ node_addresses: 2 });
  const nodes = [1, 2, 3].map((i) => nodeAddress(`192.168.0.${i}`));
  assert.match(refusal(() => apply(desiredOn(nodes))).message, /a node address: map node_addresses needs 3 entries/);
  assert.deepEqual(readBack().nodeAddresses, nodes.slice(0, 2));
});

test("A name that the maps cannot hold is refused, and the others are programmed", () => {
  const { apply, readBack } = programmed();
  const long = serviceOf("x".repeat(64), ["10.244.0.1"], [clusterIP("10.96.0.9")]);
  assert.match(refusal(() => apply(desiredOf(long, web("10.244.0.1")))).message, /64 bytes, room for 63/);
  assert.deepEqual(readBack(), desiredOf(web("10.244.0.1")));
});

test("How much is in use is known without walking maps", () => {
  const { apply, programmer } = programmed({ slots: 100, backends: 50 });
  apply(desiredOf(web("10.244.0.1", "10.244.0.2")));
  assert.deepEqual(programmer.used(), {
    services: 1,
    frontends: 2,
    nodeports: 0,
    source_ranges: 0,
    node_addresses: 0,
    slots: 2,
    backends: 2,
  });
});

// ---- source ranges -----------------------------------------------------------------------------------------------

test("An IPv6 range that covers the IPv4 addresses lets no IPv4 client in that no IPv4 range names", () => {
  const { store, apply, readBack, dump } = programmed();
  const desired = desiredOf(
    serviceOf("lb", ["10.244.0.1"], [loadBalancer("198.51.100.1")], { sourceRanges: ["10.0.0.0/8", "::/0"] }),
  );
  apply(desired);
  assert.match(dump(), /service 1 not 0\.0\.0\.0\/0/);
  assert.deepEqual(readBack(), desired);
  const allows = (mapped: string): number | undefined =>
    store.lookup("source_ranges", Buffer.from(`a0000000${"01000000"}${mapped}`, "hex"))?.[0];
  assert.equal(allows("00000000000000000000ffff0a000001"), 1, "10.0.0.1");
  assert.equal(allows("00000000000000000000ffff0b000001"), 0, "11.0.0.1");
  assert.equal(allows("fd000000000000000000000000000001"), 1, "fd00::1");
});
