// The kernel's own maps: they behave as the fake ones do, batches and failures included, and the write order holds on them.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { encode, sizeOf } from "../../src/dataplane/bpf/codec.ts";
import { MapError, type MapName, type MapStore } from "../../src/dataplane/bpf/mapstore.ts";
import { createKernelStore } from "../../src/dataplane/bpf/pinned.ts";
import { TableProgrammer } from "../../src/dataplane/bpf/programmer.ts";
import { tablesToDesired } from "../../src/dataplane/bpf/readback.ts";
import { possibleCpus } from "../../src/dataplane/bpf/system/map.ts";
import { loadObject } from "../../src/dataplane/bpf/system/object.ts";
import { readTables } from "../../src/dataplane/bpf/tables.ts";
import { FakeStore } from "../../src/dataplane/fake/fakestore.ts";
import type { Address } from "../../src/model/address.ts";
import { checkConsistency } from "../lib/consistency.ts";
import { desiredLists } from "../lib/desireds.ts";
import { flowOf } from "../lib/flow.ts";
import { clusterIP, desiredOf, serviceOf } from "../lib/services.ts";
import { noRealMaps } from "../lib/stores.ts";

const skip = noRealMaps;
const OBJECT = new URL("../../build/bpf/abi.bpf.o", import.meta.url).pathname;

type Sizes = Readonly<Partial<Record<MapName, number>>>;

/** Unpinned maps, which end with the call. */
const withMaps = <T>(maxEntries: Sizes, use: (store: MapStore) => T): T => {
  const object = loadObject(OBJECT, { maxEntries, options: new Uint8Array(sizeOf("options")) });
  try {
    return use(createKernelStore((map) => object.map(map)));
  } finally {
    object.close();
  }
};

const SMALL: Sizes = { slots: 1024, backends: 256, backend_stats: 256, flows: 256, affinity: 256 };

// ---- the same as the fake ----------------------------------------------------------------------------------------

const KEYS: Readonly<Partial<Record<MapName, (i: number) => Uint8Array>>> = {
  frontends: (i) => encode("frontend_key", { addr: `10.96.0.${i}` as Address, port: 80, proto: 6, scope: 0 }),
  backends: (i) => encode("u32", i),
  source_ranges: (i) =>
    encode("source_range_key", { prefixlen: 128 + 8 * (i % 4), service_id: 1, addr: PREFIXES[i % 4] as Address }),
};
const PREFIXES = ["0.0.0.0", "10.0.0.0", "10.1.0.0", "10.1.2.0"];
const VALUES: Readonly<Partial<Record<MapName, (fill: number) => Uint8Array>>> = {
  frontends: (fill) => new Uint8Array(20).fill(fill),
  backends: (fill) => new Uint8Array(32).fill(fill),
  source_ranges: (fill) => encode("source_range", { allow: fill }),
};

const steps = fc.array(
  fc.record({
    map: fc.constantFrom("frontends", "backends", "source_ranges") as fc.Arbitrary<MapName>,
    does: fc.constantFrom("update", "delete", "lookup"),
    keys: fc.array(fc.nat({ max: 7 }), { maxLength: 6 }),
    fill: fc.nat({ max: 3 }),
  }),
  { maxLength: 25 },
);

const outcome = (call: () => unknown): unknown => {
  try {
    return call() ?? "done";
  } catch (error) {
    if (error instanceof MapError) return { map: error.map, errno: error.errno, done: error.done };
    throw error;
  }
};

const listed = (store: MapStore, map: MapName): string[] =>
  Array.from(store.entries(map), ([key, value]) => Buffer.concat([key, value]).toString("hex")).sort();

test("Whatever is written, deleted and asked, the kernel's maps and the fake ones answer alike", { skip }, () => {
  const sizes: Sizes = { ...SMALL, frontends: 4, backends: 5, source_ranges: 3 };
  fc.assert(
    fc.property(steps, (list) =>
      withMaps(sizes, (real) => {
        const fake = new FakeStore(sizes);
        for (const { map, does, keys, fill } of list) {
          const [key, value] = [KEYS[map], VALUES[map]];
          assert.ok(key !== undefined && value !== undefined);
          const call = (store: MapStore): unknown => {
            if (does === "update")
              return store.update(
                map,
                keys.map((i) => [key(i), value(fill)]),
              );
            if (does === "lookup") return keys.map((i) => store.lookup(map, key(i)));
            return map === "backends" ? null : store.delete(map, keys.map(key));
          };
          assert.deepEqual(
            outcome(() => call(real)),
            outcome(() => call(fake)),
            `${does} ${map} ${keys}`,
          );
          assert.deepEqual(listed(real, map), listed(fake, map));
        }
      }),
    ),
    { numRuns: 40 },
  );
});

test("A batch that meets a full map says how many it wrote, and what was there is intact", { skip }, () => {
  withMaps({ ...SMALL, services: 100 }, (store) => {
    const entries = Array.from({ length: 150 }, (_, i) => [encode("u32", i), new Uint8Array(204).fill(1)] as const);
    store.update("services", entries.slice(0, 90));
    assert.deepEqual(
      outcome(() => store.update("services", entries.slice(50))),
      { map: "services", errno: 7, done: 50 },
    );
    assert.equal([...store.entries("services")].length, 100);
  });
});

test("A map larger than one batch is read whole, and deleted whole although some keys are gone already", {
  skip,
}, () => {
  withMaps({ ...SMALL, frontends: 20_000, slots: 20_000 }, (store) => {
    const keys = Array.from({ length: 10_000 }, (_, i) =>
      encode("frontend_key", { addr: `10.1.${i >> 8}.${i & 255}` as Address, port: 80, proto: 6, scope: 0 }),
    );
    store.update(
      "frontends",
      keys.map((key) => [key, new Uint8Array(20).fill(1)]),
    );
    assert.equal(new Set(listed(store, "frontends")).size, 10_000);
    store.delete("frontends", keys.slice(4_000, 6_000));
    store.delete("frontends", keys);
    assert.deepEqual(listed(store, "frontends"), []);
    store.update("slots", [
      [encode("u32", 19_999), encode("u32", 5)],
      [encode("u32", 5_000), encode("u32", 6)],
    ]);
    assert.deepEqual(
      [...store.entries("slots")].map(([key]) => Buffer.from(key).readUInt32LE()),
      [5_000, 19_999],
    );
    assert.equal([...store.entries("slots", 5_000)].length, 0);
    assert.equal([...store.entries("slots", 5_001)].length, 1);
  });
});

test("A per-CPU value holds every possible CPU's", { skip }, () => {
  withMaps(SMALL, (store) => {
    assert.deepEqual([...store.entries("counters")], []);
    const value = new Uint8Array(8 * possibleCpus()).fill(1);
    store.update("counters", [[encode("u32", 3), value]]);
    assert.deepEqual([...store.entries("counters")], [[encode("u32", 3), value]]);
  });
});

test("Flows and affinity are read as records, backends' statistics and counters are summed", { skip }, async () => {
  const { readAffinity, readBackendStats, readCounters, readFlows } = await import(
    "../../src/dataplane/bpf/inspect.ts"
  );
  withMaps(SMALL, (store) => {
    const [client, vip] = ["203.0.113.5", "198.51.100.1"] as [Address, Address];
    const [backend, node] = ["10.244.0.1", "192.0.2.11"] as [Address, Address];
    const seen = { service_id: 3, backend_id: 4, generation: 5, created_ns: 6n, last_seen_ns: 7n };
    store.update("flows", [
      [
        encode("flow_key", { src_addr: client, dst_addr: vip, src_port: 50_000, dst_port: 80, proto: 17, outward: 0 }),
        encode(
          "flow",
          flowOf({
            addr: backend,
            port: 8080,
            kind: 1,
            flags: 1,
            far_addr: node,
            far_port: 61_000,
            client_port: 61_001,
            ...seen,
          }),
        ),
      ],
    ]);
    assert.deepEqual(readFlows(store), [
      {
        kind: "DNAT",
        protocol: "UDP",
        from: { address: client, port: 50_000 },
        to: { address: vip, port: 80 },
        rewrite: { address: backend, port: 8080 },
        far: { address: node, port: 61_000 },
        client_port: 61_001,
        next_hop: null,
        state: "udpStream",
        ...seen,
      },
    ]);
    const used = { backend_id: 4, generation: 5, last_used_ns: 6n };
    const cookie = Buffer.from("ffffffff000000000000000000000007" + "03000000", "hex");
    cookie.writeBigUInt64LE(4026531840n, 8);
    store.update("affinity", [
      [encode("affinity_key", { client, service_id: 3 }), encode("affinity", used)],
      [cookie, encode("affinity", used)],
    ]);
    assert.deepEqual(
      readAffinity(store)
        .map((record) => record.client)
        .sort(),
      ["203.0.113.5", "netns 4026531840"],
    );
    store.update("backend_stats", [[encode("u32", 4), encode("backend_stats", { new_flows: 9n, open_sockets: 1n })]]);
    assert.deepEqual([...readBackendStats(store)], [[4, { new_flows: 9n, open_sockets: 1n }]]);
    const cpus = new BigUint64Array(possibleCpus()).fill(2n);
    store.update("counters", [[encode("u32", 64 + 7), new Uint8Array(cpus.buffer)]]);
    assert.deepEqual(readCounters(store), [{ hook: "tc_ingress", reason: "no_endpoints", count: 2 * possibleCpus() }]);
  });
});

// ---- the write order ---------------------------------------------------------------------------------------------

test("On the kernel's maps, too, each frontend answers from the old or the new after every write", { skip }, () => {
  fc.assert(
    fc.property(desiredLists(), fc.nat(), (list, seed) => {
      withMaps(SMALL, (store) => checkConsistency(list, { store }));
      withMaps(SMALL, (store) => checkConsistency(list, { store, faultSeed: seed, restarts: true }));
    }),
    { numRuns: 6 },
  );
});

test("A thousand services are written, read back and taken away again", { skip }, () => {
  const services = Array.from({ length: 1000 }, (_, i) =>
    serviceOf(
      `s${i}`,
      [`10.244.${i >> 8}.${i & 255}`, `10.245.${i >> 8}.${i & 255}`],
      [clusterIP(`10.96.${i >> 8}.${i & 255}`)],
    ),
  );
  withMaps({ ...SMALL, slots: 4096, backends: 4096 }, (store) => {
    const programmer = new TableProgrammer(store, { now_ns: () => 0n });
    programmer.apply(desiredOf(...services), { prune: true });
    assert.deepEqual(tablesToDesired(readTables(store)), desiredOf(...services));
    programmer.apply(desiredOf(), { prune: true });
    assert.deepEqual(tablesToDesired(readTables(store)), desiredOf());
    assert.equal(programmer.used().slots, 2000, "what was given up rests");
  });
});
