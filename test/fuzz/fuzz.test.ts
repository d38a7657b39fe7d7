// Random and changed packets through every tc program, for a few seconds: the same ones each time, and some that nobody
// has seen. `npm run fuzz` goes on for as long as it is told.
import assert from "node:assert/strict";
import { randomInt } from "node:crypto";
import { after, before, test } from "node:test";
import { Datapath } from "../lib/datapath.ts";
import { Fuzzer, formatFailure } from "./run.ts";
import { PROGRAMS } from "./world.ts";

let fuzzer: Fuzzer;
before(() => {
  fuzzer = new Fuzzer();
});
after(() => fuzzer.close());

const rounds = (first: number, most_ms: number, most: number): void => {
  const end = performance.now() + most_ms;
  for (let seed = first; seed < first + most && performance.now() < end; seed++) {
    const failure = fuzzer.round(seed);
    if (failure !== null) assert.fail(formatFailure(failure));
  }
};

test("packets of fixed seeds come out as they should", () => rounds(1, 8_000, 250));

test("packets of a fresh seed do, too", (t) => {
  const seed = randomInt(2 ** 31);
  t.diagnostic(`seed ${seed}`);
  rounds(seed, 5_000, 150);
});

test("they met every kind of answer", () => {
  for (const reason of [
    ...["NOT_OURS", "NEW_FLOW", "ESTABLISHED", "REPLY", "ICMP_ERROR", "FRAGMENT", "MALFORMED", "LOOPBACK"],
    ...["NO_ENDPOINTS", "NO_LOCAL_ENDPOINTS", "SOURCE_RANGE", "NOT_HANDLED", "REPLY_FAILED"],
    ...["UNLISTED_PORT", "PROTOCOL", "ECHO", "STRAY_ICMP", "EARLY_FRAGMENT", "UNREADABLE"],
    ...["PARKED", "REORDERED"],
  ]) {
    assert.ok(fuzzer.met.has(`REASON_${reason}`), `${reason} is not among ${[...fuzzer.met.keys()].join(" ")}`);
  }
});

test("and went on in every way", () => {
  const ways = [
    "PEER",
    "WIRE",
    "NEIGHBOUR",
    "NEXT_HOP",
    "HOP_LIMIT",
    "HEADERS",
    "FRAGMENT",
    "TOO_LARGE",
    "VLAN",
    "HAIRPIN",
  ];
  for (const way of [...ways.map((one) => `FORWARD_${one}`), "XDP"])
    assert.ok(fuzzer.met.has(way), `${way} is not among ${[...fuzzer.met.keys()].join(" ")}`);
});

test("no program of packets is left out", () => {
  const datapath = new Datapath();
  assert.deepEqual([...datapath.programs].sort(), [...PROGRAMS].sort());
  datapath.close();
});
