import assert from "node:assert/strict";
import { test } from "node:test";
import { reason } from "../../src/dataplane/bpf/abi.gen.ts";
import { meaningOf, reasons } from "../../src/model/reason.ts";

test("Every reason of the programs has words, and there are no words for any other", () => {
  const names = Object.keys(reason)
    .filter((name) => name.startsWith("REASON_"))
    .map((name) => name.slice("REASON_".length).toLowerCase());
  assert.deepEqual(Object.keys(reasons).sort(), names.sort());
  assert.equal(names.length, reason.REASONS);
});

test("A reason that nobody knows has no words", () => {
  assert.equal(meaningOf("tc_ingress", "constructor"), null);
  assert.match(meaningOf("tc_ingress", "new_flow")?.text ?? "", /chosen/);
});

test("What is refused or dropped says so, and which way it was going unless nothing is known of it", () => {
  for (const [reason, { verdict, direction, text }] of Object.entries(reasons)) {
    const words = {
      passed: "Passed untouched: ",
      held: "Held: ",
      refused: "Refused: ",
      dropped: "Dropped: ",
      answered: "Answered: ",
    };
    const word = verdict === "translated" ? "" : words[verdict];
    assert.ok(text.startsWith(word), text);
    if (verdict === "passed") assert.equal(direction, null, reason);
    if (verdict === "refused" || verdict === "dropped") {
      assert.equal(direction === null, reason === "loopback", reason);
    }
  }
});

test("A call that a socket may not make fails at once: it is refused, where a packet is dropped", () => {
  assert.equal(meaningOf("tc_ingress", "source_range")?.verdict, "dropped");
  assert.equal(meaningOf("sock", "source_range")?.verdict, "refused");
  assert.equal(meaningOf("sock", "new_flow")?.verdict, "translated");
});
