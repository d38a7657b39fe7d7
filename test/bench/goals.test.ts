// Which goals a run meets, by ratios of its own samples.
import assert from "node:assert/strict";
import { test } from "node:test";
import { FLAT_METRICS, GOALS, goalRow, goalsAnswer, judge } from "../../src/bench/goals.ts";
import { METRICS } from "../../src/bench/measurements.ts";
import { MODES } from "../../src/bench/modes.ts";
import type { Result, Sample } from "../../src/bench/result.ts";
import { drawResult } from "../lib/bench-result.ts";

/** `packets bpf-tc 10`: by round. */
const resultOf = (values: Readonly<Record<string, readonly number[]>>): Result => {
  const samples = Object.entries(values).flatMap(([place, rounds]): Sample[] => {
    const [metric = "", mode = "", services] = place.split(" ");
    const proof = { counter: "c", expected: 1, counted: 1 };
    const rest = { mode, metric, services: Number(services), sent: 1, lost: 0, proof };
    return rounds.map((value, round) => ({ ...rest, round, value }));
  });
  const modes = MODES.map((mode) => ({ ...mode, skipped: null }));
  return { ...drawResult({ seed: 1 }), modes, metrics: [...METRICS], samples };
};

const rowsOf = (result: Result): readonly string[] =>
  judge(result).judged.map((one) => goalRow(result, one).join(" | "));

test("a goal is met by the median of ratios taken round by round, and the rounds are counted", () => {
  const values = { "packets iptables-legacy 10": [100, 200, 100], "packets bpf-tc 10": [130, 280, 120] };
  assert.deepEqual(rowsOf(resultOf(values)), [
    "Established packets | beeline tc, 10 services | iptables (legacy), 10 services | ≥ 1.30× | 1.30× (1.20–1.40×) | yes: in 2 of 3 rounds",
  ]);
});

test("a goal that is missed says by how much; of a metric in which less is better, less is better", () => {
  const values = { "connect-p50 route 0": [100, 100], "connect-p50 bpf-socket 10000": [110, 110] };
  assert.deepEqual(rowsOf(resultOf(values)), [
    "TCP connect, median | beeline sockets, 10\u202f000 services | plain routing | ≥ 0.97× | 0.91× (0.91×) | no, 6.4 % short: in 0 of 2 rounds",
  ]);
});

test("of what must not grow with the services, each mode shows the metric that grows most", () => {
  const values = {
    "packet-cpu bpf-tc 10": [100],
    "packet-cpu bpf-tc 10000": [101],
    "requests bpf-tc 10": [100],
    "requests bpf-tc 10000": [95],
  };
  assert.deepEqual(rowsOf(resultOf(values)), [
    "Connect, request, close, which more services cost most | beeline tc, 10\u202f000 services | itself, 10 services | ≥ 0.98× | 0.95× | no, 3.1 % short: in 0 of 1 round",
  ]);
});

test("goals that a run cannot judge are counted, not left out in silence", () => {
  const none = judge(resultOf({ "packets bpf-tc 100": [1] }));
  assert.deepEqual(none.judged, []);
  const all = judge(resultOf({ "packets iptables-legacy 10": [1], "packets bpf-tc 10": [2] }));
  assert.equal(
    goalsAnswer(all),
    `Goals met: 1 of 1. ${none.unmeasured - 1} more need modes, metrics or numbers of services that this run has not.`,
  );
});

test("goals name metrics and modes that there are", () => {
  const known = METRICS.map(({ name }) => name);
  assert.deepEqual(
    [...GOALS.map(({ metric }) => metric), ...FLAT_METRICS].filter((name) => !known.includes(name)),
    [],
  );
  const modes = MODES.map(({ name }) => name);
  assert.deepEqual(
    GOALS.flatMap(({ own, than }) => [own.mode, than.mode]).filter((name) => !modes.includes(name)),
    [],
  );
});
