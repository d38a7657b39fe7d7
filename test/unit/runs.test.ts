import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { createRuns, REST_NS, type Run } from "../../src/dataplane/bpf/runs.ts";

const placed = (found: ReturnType<ReturnType<typeof createRuns>["place"]>): { run: Run; fresh: boolean } => {
  assert.ok(found !== null);
  return found;
};

test("Equal lists share one run; a run ends with its last holder", () => {
  const runs = createRuns(10);
  const first = placed(runs.place([1, 2], 0n));
  assert.equal(first.fresh, true);
  runs.hold(first.run);
  const second = placed(runs.place([1, 2], 0n));
  assert.deepEqual([second.fresh, second.run.base], [false, first.run.base]);
  runs.hold(second.run);
  runs.release(first.run, 0n);
  assert.equal(placed(runs.place([3], 2n * REST_NS)).run.base, 2, "still held once");
  runs.release(second.run, 2n * REST_NS);
  assert.equal(placed(runs.place([4], 4n * REST_NS)).run.base, 0);
});

test("The order of a list is part of it", () => {
  const runs = createRuns(10);
  const a = placed(runs.place([1, 2], 0n));
  const b = placed(runs.place([2, 1], 0n));
  assert.notEqual(a.run.base, b.run.base);
});

test("A released run rests a second before its slots are used again, unless a wait ends the rest", () => {
  const runs = createRuns(4);
  const { run } = placed(runs.place([1, 2, 3], 0n));
  runs.hold(run);
  runs.release(run, 5n);
  assert.equal(runs.place([4, 5], REST_NS + 4n), null);
  assert.equal(placed(runs.place([4, 5], REST_NS + 5n)).run.base, 0);
  const again = createRuns(3);
  const whole = placed(again.place([1, 2, 3], 0n)).run;
  again.hold(whole);
  again.release(whole, 0n);
  assert.equal(again.place([9], 0n), null);
  again.endRest();
  assert.equal(placed(again.place([9], 0n)).run.base, 0);
});

test("A list that comes back while its run rests takes the run again, without a write", () => {
  const runs = createRuns(4);
  const { run } = placed(runs.place([1, 2], 0n));
  runs.hold(run);
  runs.release(run, 0n);
  const back = placed(runs.place([1, 2], 1n));
  assert.deepEqual([back.fresh, back.run.base], [false, 0]);
  runs.hold(back.run);
  runs.endRest();
  assert.equal(placed(runs.place([3], 9n * REST_NS)).run.base, 2, "it rests no longer");
});

test("A run that was placed and not written can be taken back at once", () => {
  const runs = createRuns(2);
  runs.discard(placed(runs.place([1, 2], 0n)).run);
  assert.equal(placed(runs.place([3, 4], 0n)).fresh, true);
});

test("The first gap that is large enough is used, and gaps that meet become one", () => {
  const runs = createRuns(10);
  const list = [[1, 1], [2], [3, 3, 3], [4]].map((ids) => {
    const { run } = placed(runs.place(ids, 0n));
    runs.hold(run);
    return run;
  });
  const [a, b, c] = list;
  assert.ok(a && b && c);
  for (const run of [a, c]) runs.release(run, 0n);
  runs.endRest();
  assert.equal(placed(runs.place([5, 5, 5], 0n)).run.base, 3);
  runs.release(b, 0n);
  runs.endRest();
  assert.equal(placed(runs.place([6, 6, 6], 0n)).run.base, 0);
});

test("Runs found in maps are adopted: shared ones once more each, overlapping ones only reserved", () => {
  const runs = createRuns(10);
  const first = runs.adopt(2, [1, 2]);
  assert.equal(runs.adopt(2, [1, 2]), first);
  assert.equal(runs.adopt(3, [2, 9]), null);
  assert.equal(runs.used(), 3);
  const found = placed(runs.place([1, 2], 0n));
  assert.deepEqual([found.fresh, found.run.base], [false, 2]);
  assert.equal(placed(runs.place([7, 7, 7], 0n)).run.base, 5);
  assert.equal(placed(runs.place([8], 0n)).run.base, 0);
});

test("Whatever is placed and released, runs in use never overlap and never leave the map", () => {
  const step = fc.oneof(
    fc.record({ place: fc.array(fc.integer({ min: 1, max: 3 }), { minLength: 1, maxLength: 4 }) }),
    fc.record({ release: fc.nat({ max: 20 }), after_s: fc.nat({ max: 2 }) }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const runs = createRuns(16);
      let held: Run[] = [];
      let now = 0n;
      for (const one of steps) {
        if ("place" in one) {
          const found = runs.place(one.place, now);
          if (found === null) continue;
          assert.deepEqual([...found.run.backend_ids], one.place);
          runs.hold(found.run);
          held.push(found.run);
        } else {
          now += BigInt(one.after_s) * REST_NS;
          const run = held[one.release % Math.max(1, held.length)];
          if (run === undefined) continue;
          runs.release(run, now);
          held = held.filter((_, i) => i !== one.release % held.length);
        }
        const bases = new Map(held.map((run) => [run.base, run]));
        const taken = [...bases.values()].flatMap((run) => run.backend_ids.map((_, i) => run.base + i));
        assert.equal(new Set(taken).size, taken.length);
        assert.ok(taken.every((slot) => slot >= 0 && slot < 16));
      }
    }),
  );
});
