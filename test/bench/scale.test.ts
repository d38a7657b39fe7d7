// Scales, ticks and labels of plots: where values lie, round ticks, labels that keep apart.
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { roomyTicks, tickText } from "../../src/bench/report/axis.ts";
import { linearScale, logScale, spreadApart } from "../../src/bench/report/scale.ts";

test("a linear scale begins at zero, ends at the greatest value, and has round ticks", () => {
  const scale = linearScale(1_679_000, [100, 500]);
  assert.equal(scale.at(0), 100);
  assert.equal(scale.at(1_679_000), 500);
  assert.deepEqual(scale.ticks, [0, 500_000, 1_000_000, 1_500_000]);
  assert.deepEqual(linearScale(0, [0, 10]).ticks.at(0), 0);
});

test("a logarithmic scale: equal factors are equally far apart; decades, with 2 and 5 where there are few", () => {
  const wide = logScale([10, 10_000], [0, 300]);
  assert.deepEqual([10, 100, 1000, 10_000].map(wide.at), [0, 100, 200, 300]);
  assert.deepEqual(wide.ticks, [10, 100, 1000, 10_000]);
  assert.deepEqual(logScale([20, 200], [0, 1]).ticks, [20, 50, 100, 200]);
});

test("a small range is widened, so that noise does not look like a difference", () => {
  const scale = logScale([100, 101], [0, 90]);
  assert.ok(scale.at(101) - scale.at(100) < 1, `${scale.at(101) - scale.at(100)} px for 1 %`);
  assert.ok(Math.abs((scale.at(100) + scale.at(101)) / 2 - 45) < 1e-6, "in the middle");
});

test("a logarithmic scale of nothing, and of zeros, has no ticks and finite places", () => {
  for (const values of [[], [0, 0]]) {
    const scale = logScale(values, [5, 90]);
    assert.deepEqual(scale.ticks, []);
    assert.equal(scale.at(0), 5);
  }
});

test("zero among greater values is drawn at the edge", () => {
  const scale = logScale([0, 10, 1000], [200, 0]);
  assert.equal(scale.at(0), 200);
  assert.equal(scale.at(1000), 0);
});

test("ticks say round numbers, with the unit of a time or size", () => {
  assert.deepEqual(
    [0, 500_000, 1_500_000].map((tick) => tickText(tick, "packets/s")),
    ["0", "500 k", "1.5 M"],
  );
  assert.deepEqual(
    [0, 0.5, 20, 1000].map((tick) => tickText(tick, "ms")),
    ["0", "500 µs", "20 ms", "1 s"],
  );
  assert.deepEqual(
    [100, 10_000].map((tick) => tickText(tick, "µs")),
    ["100 µs", "10 ms"],
  );
});

test("labels of ticks never touch: those without room are left out", () => {
  const scale = { at: (value: number) => value, ticks: [0, 10, 20, 60, 95] };
  const kept = roomyTicks(scale, String, 100);
  assert.deepEqual(
    kept.map(({ text }) => text),
    ["0", "20", "60"],
  );
});

const SPAN = [0, 400] as const;

test("labels are at least the gap apart and inside, in the order of what they name, and not moved without need", () => {
  const seed = Date.now() | 0;
  console.log(`seed ${seed}`);
  const wanted = fc.array(fc.integer({ min: -50, max: 450 }), { maxLength: 20 });
  fc.assert(
    fc.property(wanted, (places) => {
      const gap = 15;
      const placed = spreadApart(places, gap, SPAN);
      assert.equal(placed.length, places.length);
      const sorted = [...placed].sort((a, b) => a - b);
      for (const [i, at] of sorted.entries()) {
        assert.ok(at >= SPAN[0] - 1e-6 && at <= SPAN[1] + 1e-6, `${at} is outside`);
        if (i > 0) assert.ok(at - (sorted[i - 1] ?? 0) >= gap - 1e-6, `${placed} touch`);
      }
      for (const [i, a] of places.entries())
        for (const [j, b] of places.entries())
          if (a < b) assert.ok((placed[i] ?? 0) < (placed[j] ?? 0), `${places} changed places`);
      const alone = places.every(
        (a, i) => a >= 0 && a <= 400 && places.every((b, j) => i === j || Math.abs(a - b) >= gap),
      );
      if (alone) assert.deepEqual(placed, places);
    }),
    { seed, numRuns: 300 },
  );
});
