// When a figure is not believed, and why.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Measured } from "../../src/bench/measurements.ts";
import { complaintOf } from "../../src/bench/run.ts";

const measured: Measured = {
  values: { m: 1 },
  sent: 100,
  lost: 0,
  wrong: 0,
  flows: 100,
  packets: 300,
  lossy: false,
};
const proof = { counter: "rules", expected: 100, counted: 100 };

test("a mode that counted all that was sent, and more, is believed", () => {
  assert.equal(complaintOf(measured, proof), null);
  assert.equal(complaintOf(measured, { ...proof, counted: 101 }), null);
});

test("one packet fewer than were carried, and the mode did not carry them", () => {
  assert.equal(
    complaintOf(measured, { ...proof, counted: 99 }),
    "the mode did not carry it: rules: 99, and 100 are needed",
  );
});

test("a connection may not get lost; packets of a sender that is faster than the path may, but not all of them", () => {
  assert.equal(complaintOf({ ...measured, lost: 1 }, proof), "1 of 100 were lost");
  assert.equal(complaintOf({ ...measured, lost: 99, lossy: true }, proof), null);
  assert.equal(complaintOf({ ...measured, lost: 100, lossy: true }, proof), "nothing arrived");
});

test("a wrong answer is never believed, nor a value that is none", () => {
  assert.match(complaintOf({ ...measured, wrong: 1 }, proof) ?? "", /^1 of 100 answers or packets came from/);
  assert.equal(complaintOf({ ...measured, values: { m: Number.NaN } }, proof), "there is nothing to count");
  assert.equal(complaintOf({ ...measured, values: { m: -1 } }, proof), "there is nothing to count");
});
