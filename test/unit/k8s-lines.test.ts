import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { TooLargeError } from "../../src/k8s/api-error.ts";
import { createLineSplitter } from "../../src/k8s/lines.ts";

test("Wherever a stream is cut, the same lines come out, decoded", () => {
  const line = fc.string({ unit: "binary", maxLength: 20 }).map((s) => s.replace(/[\r\n]/g, "").trim());
  const cuts = fc.array(fc.nat(200), { maxLength: 20 });
  fc.assert(
    fc.property(fc.array(line), cuts, fc.constantFrom("\n", "\r\n"), (lines, places, end) => {
      const bytes = Buffer.from(lines.map((l) => l + end).join(""));
      const borders = [0, ...places.map((p) => Math.min(p, bytes.length)).sort((a, b) => a - b), bytes.length];
      const split = createLineSplitter(1000);
      const out = borders.flatMap((border, i) => split(bytes.subarray(borders[i - 1] ?? 0, border)));
      assert.deepEqual(
        out,
        lines.filter((l) => l !== ""),
      );
    }),
  );
});

test("A line may be as long as the limit, and no longer, in one piece or many", () => {
  const feed = (length: number, piece: number): readonly string[] => {
    const split = createLineSplitter(100);
    const bytes = Buffer.from(`${"x".repeat(length)}\n`);
    const out: string[] = [];
    for (let i = 0; i < bytes.length; i += piece) out.push(...split(bytes.subarray(i, i + piece)));
    return out;
  };
  for (const piece of [1, 7, 1000]) {
    assert.deepEqual(feed(100, piece), ["x".repeat(100)]);
    assert.throws(() => feed(101, piece), TooLargeError);
  }
});

test("The limit is for each line, not for the stream", () => {
  const split = createLineSplitter(10);
  for (let i = 0; i < 100; i++)
    assert.deepEqual(split(Buffer.from("12345678\n12")), i === 0 ? ["12345678"] : ["1212345678"]);
});

test("What follows the last newline waits", () => {
  const split = createLineSplitter(10);
  assert.deepEqual(split(Buffer.from("a\nb")), ["a"]);
  assert.deepEqual(split(Buffer.from("c\n")), ["bc"]);
});
