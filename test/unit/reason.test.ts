import assert from "node:assert/strict";
import { test } from "node:test";
import { reason } from "../../src/dataplane/bpf/abi.gen.ts";
import { reasonText, reasonTexts } from "../../src/model/reason.ts";

test("Every reason of the programs has words, and there are no words for any other", () => {
  const names = Object.keys(reason)
    .filter((name) => name.startsWith("REASON_"))
    .map((name) => name.slice("REASON_".length).toLowerCase());
  assert.deepEqual(Object.keys(reasonTexts).sort(), names.sort());
  assert.equal(names.length, reason.REASONS);
});

test("A reason that nobody knows has no words", () => {
  assert.equal(reasonText("constructor"), null);
  assert.equal(typeof reasonText("new_flow"), "string");
});
