// Two results compared: a change beyond the noise is called what it is, noise is not, and what cannot be compared is said.
import assert from "node:assert/strict";
import { test } from "node:test";
import { compareResults, type Row } from "../../src/bench/compare.ts";
import type { Result } from "../../src/bench/result.ts";
import { drawResult } from "../lib/bench-result.ts";

const TOLERANCE = 0.1;
const called = (rows: readonly Row[], verdict: Row["verdict"]): readonly string[] =>
  rows
    .filter((row) => row.verdict === verdict)
    .map(({ mode, metric, services }) => `${mode.name} ${metric.name} ${services}`);

test("a mode that got slower is worse in both kinds of metrics, a faster one is better, and nothing else changed", () => {
  const before = drawResult({ seed: 1 });
  const factors: Readonly<Record<string, number>> = {
    "bpf-tc packets": 0.7,
    "bpf-tc connect-p50": 1.4,
    "bpf-xdp packets": 1.5,
    "bpf-xdp update": 0.5,
  };
  const after = drawResult({ seed: 2, factor: (mode, metric) => factors[`${mode} ${metric}`] ?? 1 });
  const { rows, warnings } = compareResults(before, after, TOLERANCE);
  const at = (name: string): readonly string[] => [10, 1000, 10_000].map((services) => `${name} ${services}`);
  assert.deepEqual(called(rows, "worse"), [...at("bpf-tc packets"), ...at("bpf-tc connect-p50")]);
  assert.deepEqual(called(rows, "better"), [...at("bpf-xdp packets"), ...at("bpf-xdp update")]);
  assert.deepEqual(warnings, []);
});

test("noise is not called a change: two hundred pairs of runs of the same thing, at three rounds and much noise", () => {
  const seed = Date.now() % 1_000_000;
  console.log(`seed ${seed}`);
  let [changed, all] = [0, 0];
  for (let i = 0; i < 200; i++) {
    const [before, after] = [0, 1].map((k) =>
      drawResult({ seed: seed + 2 * i + k, rounds: 3, services: [10], noise: 0.2 }),
    );
    if (before === undefined || after === undefined) throw new Error("nothing drawn");
    const { rows } = compareResults(before, after, 0.02);
    changed += rows.filter(({ verdict }) => verdict === "worse" || verdict === "better").length;
    all += rows.filter(({ verdict }) => verdict !== "unknown").length;
  }
  assert.ok(all > 5000, `${all} rows`);
  assert.ok(changed / all < 0.005, `${changed} of ${all} are called a change`);
});

test("less than the tolerance is no change, however quiet the rounds are", () => {
  const before = drawResult({ seed: 1, noise: 0.0001 });
  const after = drawResult({ seed: 2, noise: 0.0001, factor: (mode) => (mode === "bpf-tc" ? 1.08 : 1) });
  assert.deepEqual(called(compareResults(before, after, 0.1).rows, "better"), []);
  assert.ok(called(compareResults(before, after, 0.05).rows, "better").length > 0);
});

test("rounds that agree by luck are as noisy as the metric usually is", () => {
  const noisy = drawResult({ seed: 1, noise: 0.3, rounds: 3 });
  const lucky = (factor: number): Result => ({
    ...noisy,
    samples: noisy.samples.map((s) =>
      s.mode === "bpf-tc" && s.metric === "packets" ? { ...s, value: 600_000 * factor } : s,
    ),
  });
  assert.deepEqual(called(compareResults(lucky(1), lucky(0.85), 0.05).rows, "worse"), []);
});

test("with one or two rounds nothing is said", () => {
  const before = drawResult({ seed: 1, rounds: 2 });
  const after = drawResult({ seed: 2, rounds: 5, factor: () => 0.1 });
  const { rows } = compareResults(before, after, TOLERANCE);
  assert.ok(rows.length > 100);
  assert.deepEqual([...new Set(rows.map(({ verdict }) => verdict))], ["unknown"]);
});

test("another machine, another method, problems and interruptions are warnings", () => {
  const before = drawResult({ seed: 1 });
  const after: Result = {
    ...before,
    complete: false,
    machine: { ...before.machine, kernel: "6.99" },
    method: { ...before.method, seconds: 3 },
    problems: ["nftables broke"],
  };
  assert.deepEqual(compareResults(before, after, TOLERANCE).warnings, [
    "Another kernel: 6.18.5 before, 6.99 after",
    "Another seconds of a measurement: 1 before, 3 after",
    "The run after was interrupted",
    "A problem of the run after: nftables broke",
  ]);
});

test("when plain routing changed, so did the machine", () => {
  const { warnings } = compareResults(drawResult({ seed: 1 }), drawResult({ seed: 2, factor: () => 0.5 }), TOLERANCE);
  assert.ok(
    warnings.some((text) => text.startsWith("The machine itself changed: plain routing")),
    `${warnings}`,
  );
});

test("what only one of them measured is named, and a metric whose unit changed is not compared", () => {
  const before = drawResult({ seed: 1 });
  const after: Result = {
    ...before,
    samples: before.samples.filter(({ mode }) => mode !== "bpf-xdp"),
    metrics: before.metrics.map((metric) => (metric.name === "update" ? { ...metric, unit: "s" } : metric)),
  };
  const { rows, warnings } = compareResults(before, after, TOLERANCE);
  assert.ok(
    warnings.some((text) => /^Only before, so not compared: beeline XDP in Established packets/.test(text)),
    `${warnings}`,
  );
  assert.ok(!rows.some(({ metric }) => metric.name === "update"));
  assert.ok(warnings.includes("Not compared: One endpoint changes was in ms before, and is in s after"), `${warnings}`);
});

test("noise in which little could be noticed is a warning", () => {
  const [before, after] = [drawResult({ seed: 1, noise: 1, rounds: 3 }), drawResult({ seed: 2, noise: 1, rounds: 3 })];
  const { warnings } = compareResults(before, after, TOLERANCE);
  assert.match(
    warnings.join("\n"),
    /^So noisy that half of the figures would have to change by more than \d+ % to be noticed$/m,
  );
});
