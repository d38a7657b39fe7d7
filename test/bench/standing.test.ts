// How beeline stands against its rivals, and the table that says where it is behind.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Result } from "../../src/bench/result.ts";
import { answer, comparisonsOf, rowsBehind } from "../../src/bench/standing.ts";
import { drawResult } from "../lib/bench-result.ts";

/** What each mode reached, round by round, of packets/s. */
const resultOf = (values: Readonly<Record<string, readonly number[]>>): Result => {
  const drawn = drawResult({ seed: 1, rounds: 1, services: [10] });
  const samples = Object.entries(values).flatMap(([mode, list]) =>
    list.map((value, round) => ({
      ...{ mode, metric: "packets", services: mode === "route" ? 0 : 10, round, value },
      ...{ sent: 1, lost: 0, proof: { counter: "c", expected: 1, counted: 1 } },
    })),
  );
  return { ...drawn, samples };
};

const standings = (values: Readonly<Record<string, readonly number[]>>): readonly string[] =>
  comparisonsOf(resultOf(values)).map(
    ({ mode, rival, standing, behind }) => `${mode.name} ${rival.name} ${standing} ${behind}`,
  );

test("worse, or better, is what every round says; one that disagrees makes it even", () => {
  const iptables = [100, 110, 90];
  assert.deepEqual(standings({ "iptables-nft": iptables, "bpf-tc": [99, 109, 89] }), ["bpf-tc iptables-nft worse 3"]);
  assert.deepEqual(standings({ "iptables-nft": iptables, "bpf-tc": [101, 111, 91] }), ["bpf-tc iptables-nft better 0"]);
  assert.deepEqual(standings({ "iptables-nft": iptables, "bpf-tc": [99, 109, 91] }), ["bpf-tc iptables-nft even 2"]);
});

test("rounds are compared with each other: a machine that slows down for both does not hide a difference", () => {
  assert.deepEqual(standings({ nftables: [100, 50, 20], "bpf-tc": [95, 47, 19] }), ["bpf-tc nftables worse 3"]);
});

test("what was measured once counts only when it is plain", () => {
  assert.deepEqual(standings({ nftables: [100], "bpf-tc": [60] }), ["bpf-tc nftables even 1"]);
  assert.deepEqual(standings({ nftables: [100], "bpf-tc": [40] }), ["bpf-tc nftables worse 1"]);
  assert.deepEqual(standings({ nftables: [100], "bpf-tc": [210] }), ["bpf-tc nftables better 0"]);
});

test("plain routing is no rival, and one beeline mode is none of another", () => {
  assert.deepEqual(standings({ route: [200, 200], "bpf-tc": [100, 100], "bpf-xdp": [150, 150] }), []);
  assert.match(answer([]), /^Nothing to compare/);
});

const behindOf = (values: Readonly<Record<string, readonly number[]>>) => rowsBehind(comparisonsOf(resultOf(values)));

test("the table has every mode that is behind, the worst first, and the uncertain ones after the sure ones", () => {
  const rows = behindOf({
    "iptables-legacy": [100, 100],
    nftables: [120, 120],
    "bpf-tc": [90, 90],
    "bpf-xdp": [50, 50],
    "bpf-tc-direct": [150, 99],
  });
  assert.deepEqual(
    rows.map(({ own, rivals, sure }) => [own.mode.name, rivals.map(({ rival }) => rival.name), sure]),
    [
      ["bpf-xdp", ["nftables", "iptables-legacy"], true],
      ["bpf-tc", ["nftables", "iptables-legacy"], true],
    ],
  );
  const uncertain = behindOf({ "iptables-legacy": [100, 100], "bpf-tc": [101, 90] });
  assert.deepEqual(
    uncertain.map(({ sure }) => sure),
    [false],
  );
});

test("the answer counts what is worse, better and too close to call, and never leaves out the worse", () => {
  const all = comparisonsOf(resultOf({ "iptables-legacy": [100, 100], nftables: [120, 120], "bpf-tc": [110, 110] }));
  assert.equal(answer(all), "In 1 of 2 comparisons with a rival; it is better in 1.");
  const none = comparisonsOf(resultOf({ nftables: [100, 100], "bpf-tc": [110, 110], "bpf-xdp": [99, 101] }));
  assert.equal(
    answer(none),
    "Nowhere, beyond the noise: of 2 comparisons with a rival, beeline is better in 1, and 1 is too close to call.",
  );
});
