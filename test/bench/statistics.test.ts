// Figures out of samples: medians, ranks, and ratios that are taken round by round.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Sample } from "../../src/bench/result.ts";
import { median, percentile, spreadAt, spreadOf, timesBetter } from "../../src/bench/statistics.ts";

const sample = (mode: string, round: number, value: number, services = 10): Sample => ({
  mode,
  metric: "m",
  services,
  round,
  value,
  sent: 1,
  lost: 0,
  proof: { counter: "c", expected: 1, counted: 1 },
});

test("the median is the middle value, of an even number the mean of two, in whatever order they come", () => {
  assert.equal(median([3, 1, 2]), 2);
  assert.equal(median([4, 1, 3, 2]), 2.5);
  assert.equal(median([10, 9, 100]), 10);
  assert.ok(Number.isNaN(median([])));
});

test("a spread has median, least and greatest; nothing has none", () => {
  assert.deepEqual(spreadOf([5, 1, 3]), { median: 3, min: 1, max: 5, n: 3 });
  assert.equal(spreadOf([]), null);
});

test("a percentile is a value that was measured: the nearest rank", () => {
  const values = Array.from({ length: 100 }, (_, i) => 100 - i);
  assert.equal(percentile(values, 0.5), 50);
  assert.equal(percentile(values, 0.99), 99);
  assert.equal(percentile(values, 1), 100);
  assert.equal(percentile(values, 0), 1);
  assert.equal(percentile([7], 0.99), 7);
});

test("a ratio is taken round by round: a slow round of both changes nothing", () => {
  const samples = [sample("a", 0, 100), sample("b", 0, 50), sample("a", 1, 20), sample("b", 1, 10)];
  const modes = { mode: "a", baseline: "b" };
  assert.deepEqual(timesBetter(samples, { name: "m", better: "higher" }, modes, 10), {
    median: 2,
    min: 2,
    max: 2,
    n: 2,
  });
  assert.deepEqual(timesBetter(samples, { name: "m", better: "lower" }, modes, 10), {
    median: 0.5,
    min: 0.5,
    max: 0.5,
    n: 2,
  });
});

test("a round that only one of the two has counts for nothing", () => {
  const samples = [sample("a", 0, 100), sample("b", 0, 50), sample("a", 1, 1)];
  assert.deepEqual(timesBetter(samples, { name: "m", better: "higher" }, { mode: "a", baseline: "b" }, 10), {
    median: 2,
    min: 2,
    max: 2,
    n: 1,
  });
  assert.equal(timesBetter(samples, { name: "m", better: "higher" }, { mode: "a", baseline: "c" }, 10), null);
});

test("a mode without services is compared at every number of services", () => {
  const samples = [sample("route", 0, 4, 0), sample("b", 0, 2, 10), sample("b", 0, 1, 1000)];
  const ratio = (services: number) =>
    timesBetter(samples, { name: "m", better: "higher" }, { mode: "route", baseline: "b" }, services)?.median;
  assert.equal(ratio(10), 2);
  assert.equal(ratio(1000), 4);
  assert.equal(spreadAt(samples, { metric: "m", mode: "route", services: 10 }), null);
});

test("of nothing it is infinitely much, and nothing is as good as nothing", () => {
  const samples = [sample("a", 0, 90), sample("b", 0, 0), sample("c", 0, 0)];
  const times = (mode: string, baseline: string, better: "higher" | "lower"): number | undefined =>
    timesBetter(samples, { name: "m", better }, { mode, baseline }, 10)?.median;
  assert.equal(times("a", "b", "lower"), 0);
  assert.equal(times("a", "b", "higher"), Number.POSITIVE_INFINITY);
  assert.equal(times("b", "c", "lower"), 1);
});
