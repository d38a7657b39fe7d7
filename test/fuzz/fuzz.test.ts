// Random and changed packets through every tc program, for a few seconds: the same ones each time, and some that nobody
// has seen. `npm run fuzz` goes on for as long as it is told.
import assert from "node:assert/strict";
import { randomInt } from "node:crypto";
import { after, before, test } from "node:test";
import { Fuzzer, formatFailure } from "./run.ts";
import { PROGRAMS } from "./world.ts";

let fuzzer: Fuzzer;
before(() => {
  fuzzer = new Fuzzer();
});
after(() => fuzzer.close());

const REASONS = [
  ...["NOT_OURS", "NEW_FLOW", "ESTABLISHED", "REPLY", "ICMP_ERROR", "FRAGMENT", "MALFORMED", "LOOPBACK"],
  ...["NO_ENDPOINTS", "NO_LOCAL_ENDPOINTS", "SOURCE_RANGE", "NOT_HANDLED", "REPLY_FAILED"],
  ...["UNLISTED_PORT", "PROTOCOL", "ECHO", "STRAY_ICMP", "EARLY_FRAGMENT", "UNREADABLE"],
  ...["PARKED", "REORDERED"],
].map((reason) => `REASON_${reason}`);
const FORWARDS = [
  ...["PEER", "WIRE", "NEIGHBOUR", "NEXT_HOP", "HOP_LIMIT", "HEADERS", "FRAGMENT", "TOO_LARGE", "VLAN", "HAIRPIN"],
].map((forward) => `FORWARD_${forward}`);
const WAYS = [...FORWARDS, "XDP"];

const notMet = (all: readonly string[]): readonly string[] => all.filter((one) => !fuzzer.met.has(one));

/** Of seeds from `first` on: as many as fit into the time, and more, until all of `wanted` was met; at most `most`. */
const rounds = (first: number, time_ms: number, most: number, wanted: readonly string[] = []): void => {
  const end = performance.now() + time_ms;
  for (let seed = first; seed < first + most; seed++) {
    const failure = fuzzer.round(seed);
    if (failure !== null) assert.fail(formatFailure(failure));
    if (performance.now() >= end && notMet(wanted).length === 0) return;
  }
};

// The first 27 seeds meet them all, which a machine may take longer for than the time.
test("packets of fixed seeds come out as they should", () => rounds(1, 8_000, 250, [...REASONS, ...WAYS]));

test("they met every kind of answer", () => assert.deepEqual(notMet(REASONS), []));

test("and went on in every way", () => assert.deepEqual(notMet(WAYS), []));

test("packets of a fresh seed come out as they should, too", (t) => {
  const seed = randomInt(2 ** 31);
  t.diagnostic(`seed ${seed}`);
  rounds(seed, 5_000, 150);
});

test("no program of packets is left out", () => {
  assert.deepEqual(new Set(fuzzer.programs), new Set(PROGRAMS));
});
