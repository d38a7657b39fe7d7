// A result read from a file: the whole shape is checked, and the error names what is wrong with it.
import assert from "node:assert/strict";
import { test } from "node:test";
import { parseResult, type Result } from "../../src/bench/result.ts";
import { isInputError } from "../../src/lib/errors.ts";

const example: Result = {
  kind: "beeline-bench",
  version: 1,
  started: "2026-01-01T00:00:00.000Z",
  duration_s: 1,
  complete: true,
  machine: { cpu: "a CPU", cpus: 2, memory_bytes: 1, kernel: "6.18", virtual: null },
  versions: { beeline: "0.1.0", commit: null, node: "24", libbpf: "1.1", iptables: null, nft: null },
  method: {
    rounds: 1,
    seconds: 1,
    warm_up_s: 0,
    order: "in turn",
    pinning: [{ cpu: 0, what: "all" }],
    baseline: null,
    services: [10],
    command: "beeline bench",
  },
  modes: [{ name: "route", title: "route", summary: "", beeline: false, counts_services: false, skipped: null }],
  metrics: [
    {
      name: "packets",
      title: "Packets",
      summary: "",
      unit: "packets/s",
      better: "higher",
      axis: "mode",
      skipped: null,
    },
  ],
  gaps: [],
  samples: [
    {
      mode: "route",
      metric: "packets",
      services: 0,
      round: 0,
      value: 1,
      sent: 1,
      lost: 0,
      proof: { counter: "c", expected: 1, counted: 1 },
    },
  ],
  generator: [],
  problems: [],
};

const refused = (text: string, why: RegExp): void =>
  assert.throws(
    () => parseResult(text, "a.json"),
    (error: Error) => {
      assert.ok(isInputError(error));
      assert.match(error.message, /^Cannot read a\.json: /);
      assert.match(error.message, why);
      return true;
    },
  );

test("what was written is read back the same", () => {
  assert.deepEqual(parseResult(JSON.stringify(example), "a.json"), example);
});

test("a file that is no result is refused, and the reason names the place", () => {
  refused("{", /not JSON/);
  refused("[]", /not a result of `beeline bench -o json`/);
  refused(JSON.stringify({ ...example, version: 99 }), /version 99 of the format, and this reads 1/);
  refused(JSON.stringify({ ...example, more: 1 }), /more/);
  refused(JSON.stringify({ ...example, modes: [{ ...example.modes[0], beeline: "yes" }] }), /modes\.0\.beeline/);
});

test("a sample of a mode or metric that the result does not list is refused", () => {
  const [sample] = example.samples;
  refused(JSON.stringify({ ...example, samples: [{ ...sample, mode: "other" }] }), /samples\.0: mode other/);
  refused(JSON.stringify({ ...example, samples: [{ ...sample, metric: "other" }] }), /samples\.0: metric other/);
  const gap = { mode: "other", metric: "packets", services: null, why: "none" };
  refused(JSON.stringify({ ...example, gaps: [gap] }), /gaps\.0: mode other/);
});
