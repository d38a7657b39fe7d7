import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { MapName, MapStore } from "../../src/dataplane/bpf/mapstore.ts";
import { phases } from "../../src/dataplane/bpf/order.ts";
import { checkConsistency, checkEveryWay } from "../lib/consistency.ts";
import { desiredLists } from "../lib/desireds.ts";
import { clusterIP, desiredOf, loadBalancer, serviceOf } from "../lib/services.ts";

test("After every single write each frontend answers from the old Desired or the new, whatever way a list is applied", () => {
  fc.assert(
    fc.property(desiredLists(), fc.nat(), (list, seed) => checkEveryWay(list, seed)),
    { numRuns: 25 },
  );
});

// The checker itself: every wrong order must be seen.

const before = serviceOf("web", ["10.244.0.1", "10.244.0.2"], [clusterIP("10.96.0.1"), loadBalancer("198.51.100.1")], {
  sourceRanges: ["10.0.0.0/8"],
});
const after = serviceOf("web", ["10.244.0.2", "10.244.0.3"], [clusterIP("10.96.0.1"), loadBalancer("198.51.100.1")], {
  sourceRanges: ["192.168.0.0/16"],
});
const ranged = [desiredOf(before), desiredOf(after), desiredOf()];

/** Keeps back every write to one map until something has been written to another. */
const late = (map: MapName, until: MapName) => (store: MapStore) => {
  let waiting: (() => void)[] = [];
  return {
    ...forward(store),
    update(to: MapName, entries: Parameters<MapStore["update"]>[1]) {
      if (to === map) waiting.push(() => store.update(to, entries));
      else store.update(to, entries);
      if (to !== until) return;
      for (const write of waiting) write();
      waiting = [];
    },
  };
};

/** Removes from, or retires in, one map before anything else is written. */
const withoutWaiting = (store: MapStore): MapStore => ({ ...forward(store), waitForPrograms: () => {} });

const forward = (store: MapStore): MapStore => ({
  capacity: (map) => store.capacity(map),
  entries: (map, below) => store.entries(map, below),
  lookup: (map, key) => store.lookup(map, key),
  update: (map, entries) => store.update(map, entries),
  delete: (map, keys) => store.delete(map, keys),
  waitForPrograms: () => store.waitForPrograms(),
});

test("The right order passes", () => {
  checkEveryWay(ranged, 1);
});

for (const map of ["services", "backends", "slots", "source_ranges"] as const) {
  test(`The checker sees ${map} written after the frontends`, () => {
    assert.throws(() => checkConsistency(ranged, { through: late(map, "frontends") }), assert.AssertionError);
  });
}

test("The checker sees a backend retired while a program may still be on its way to it", () => {
  assert.throws(
    () => checkConsistency(ranged, { through: withoutWaiting }),
    /a program that read a frontend before comes to/,
  );
});

test("Every phase says why it stands where it stands; what removes waits for the programs that may still follow it", () => {
  const entries = Object.entries(phases);
  for (const [name, phase] of entries) assert.ok(phase.why.length > 0, name);
  const waits = entries.filter(([, phase]) => phase.afterPrograms).map(([name]) => name);
  assert.deepEqual(waits, [
    "point_frontends",
    "lower_backends",
    "retire_backends",
    "narrow_source_ranges",
    "drop_source_ranges",
  ]);
});
