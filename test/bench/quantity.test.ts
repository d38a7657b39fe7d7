// Values as people read them: three digits, the unit that fits, ranges, ratios.
import assert from "node:assert/strict";
import { test } from "node:test";
import { digits, grouped, quantityRange, quantityText, timesRange, timesText } from "../../src/bench/quantity.ts";

test("a value has three digits that count, and the unit of its kind that fits", () => {
  const cases: readonly (readonly [number, string, string])[] = [
    [8600, "ms", "8.60 s"],
    [0.29, "ms", "290 µs"],
    [2003, "ns", "2.00 µs"],
    [0.5, "ns", "0.500 ns"],
    [999.4, "ms", "999 ms"],
    [999.6, "ms", "1.00 s"],
    [36_000, "s", "36\u202f000 s"],
    [25_281_000_000, "bytes", "25.3 GB"],
    [0, "MB", "0 MB"],
    [1_133_000, "packets/s", "1.13 M packets/s"],
    [999_600, "flows/s", "1.00 M flows/s"],
    [999, "flows/s", "999 flows/s"],
    [18.31, "Gbit/s", "18.3 Gbit/s"],
    [0.0123, "Gbit/s", "0.0123 Gbit/s"],
    [12_345, "", "12.3 k"],
    [Number.NaN, "ms", "– ms"],
  ];
  for (const [value, unit, text] of cases) assert.equal(quantityText(value, unit), text, `${value} ${unit}`);
});

test("a range has its unit once, unless the ends have different ones", () => {
  assert.equal(quantityRange(8.6, 11.1, "s"), "8.60–11.1 s");
  assert.equal(quantityRange(980, 1200, "µs"), "980 µs–1.20 ms");
  assert.equal(quantityRange(990_000, 1_130_000, "packets/s"), "990 k–1.13 M packets/s");
});

test("a ratio has two decimals, more where they would say nothing", () => {
  assert.deepEqual([27.44, 2.271, 1, 0.847, 0.0581, 0.08].map(timesText), [
    "27.4×",
    "2.27×",
    "1.00×",
    "0.85×",
    "0.058×",
    "0.080×",
  ]);
  assert.equal(timesRange(2.1, 2.31), "2.10–2.31×");
  assert.equal(timesRange(2.1, 2.1001), "2.10×");
});

test("thousands are set apart, decimals are not", () => {
  assert.equal(grouped(10_000), "10\u202f000");
  assert.equal(grouped("1234567.12345"), "1\u202f234\u202f567.12345");
  assert.equal(grouped(999), "999");
  assert.equal(digits(0.00012345), "0.000123");
});
