import assert from "node:assert/strict";
import { test } from "node:test";
import { MapError, type MapStore } from "../../src/dataplane/bpf/mapstore.ts";
import { FakeStore, FaultyStore, seededFaults, WatchedStore } from "../../src/dataplane/fake/fakestore.ts";

const u32 = (value: number): Uint8Array => new Uint8Array(new Uint32Array([value]).buffer);
const service = (first: number): Uint8Array => new Uint8Array(204).fill(first, 0, 1);

const failure = (call: () => void): { errno: number; done: number } => {
  try {
    call();
  } catch (error) {
    if (error instanceof MapError) return { errno: error.errno, done: error.done };
    throw error;
  }
  return assert.fail("it succeeds");
};

test("A full hash map refuses a new key with E2BIG, says how many it took, and still replaces", () => {
  const store = new FakeStore({ services: 2 });
  const three = [1, 2, 3].map((i) => [u32(i), service(i)] as const);
  assert.deepEqual(
    failure(() => store.update("services", three)),
    { errno: 7, done: 2 },
  );
  store.update("services", [[u32(1), service(9)]]);
  assert.equal(store.lookup("services", u32(1))?.[0], 9);
  assert.equal(store.lookup("services", u32(3)), null);
});

test("An array has every index and no other, lists what is not zero, and deletes nothing", () => {
  const store = new FakeStore({ slots: 4 });
  store.update("slots", [
    [u32(3), u32(7)],
    [u32(1), u32(5)],
    [u32(2), u32(0)],
  ]);
  assert.deepEqual(store.lookup("slots", u32(0)), u32(0));
  assert.equal(store.lookup("slots", u32(4)), null);
  assert.deepEqual(
    failure(() => store.update("slots", [[u32(4), u32(1)]])),
    { errno: 7, done: 0 },
  );
  assert.deepEqual(
    [...store.entries("slots")],
    [
      [u32(1), u32(5)],
      [u32(3), u32(7)],
    ],
  );
  assert.deepEqual([...store.entries("slots", 3)], [[u32(1), u32(5)]]);
  assert.equal(failure(() => store.delete("slots", [u32(1)])).errno, 22);
});

test("Keys and values of the wrong size are refused", () => {
  const store = new FakeStore();
  assert.equal(failure(() => store.update("services", [[u32(1), u32(1)]])).errno, 22);
  assert.equal(failure(() => store.delete("services", [new Uint8Array(3)])).errno, 22);
});

test("What was written does not change with the buffers it came from or went to", () => {
  const store = new FakeStore();
  const value = service(1);
  store.update("services", [[u32(1), value]]);
  value[0] = 2;
  const read = store.lookup("services", u32(1));
  assert.equal(read?.[0], 1);
  read?.fill(3);
  assert.equal(store.lookup("services", u32(1))?.[0], 1);
});

test("A faulty store writes so many entries, then fails with the planned errno", () => {
  const plan = [{ after: 1, errno: 12 }, { after: 0, errno: 11 }, null, { after: 9, errno: 7 }];
  const store = new FakeStore();
  const faulty: MapStore = new FaultyStore(store, () => plan.shift() ?? null);
  const two = [1, 2].map((i) => [u32(i), service(i)] as const);
  assert.deepEqual(
    failure(() => faulty.update("services", two)),
    { errno: 12, done: 1 },
  );
  assert.equal([...store.entries("services")].length, 1);
  assert.deepEqual(
    failure(() => faulty.delete("services", [u32(1)])),
    { errno: 11, done: 0 },
  );
  faulty.update("services", two);
  faulty.update("services", two);
  assert.equal([...faulty.entries("services")].length, 2);
});

test("The same seed makes the same faults, and some calls fail and some do not", () => {
  const faults = (seed: number): readonly unknown[] => Array.from({ length: 50 }, seededFaults(seed, 4));
  assert.deepEqual(faults(7), faults(7));
  assert.notDeepEqual(faults(7), faults(8));
  assert.ok(faults(7).includes(null) && faults(7).some((fault) => fault !== null));
});

test("A watched store tells of every entry as it is written, and of the one that failed nothing", () => {
  const seen: string[] = [];
  const store = new WatchedStore(new FakeStore({ services: 2 }), {
    written: (map, key, value) => void seen.push(`${map} ${key[0]} ${value === null ? "gone" : value[0]}`),
    waited: () => void seen.push("waited"),
  });
  const three = [1, 2, 3].map((i) => [u32(i), service(i)] as const);
  assert.deepEqual(
    failure(() => store.update("services", three)),
    { errno: 7, done: 2 },
  );
  store.waitForPrograms();
  store.delete("services", [u32(2)]);
  assert.deepEqual(seen, ["services 1 1", "services 2 2", "waited", "services 2 gone"]);
});
