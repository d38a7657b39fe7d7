// Every object loads with every combination of its options, and costs the verifier no more than instructions.txt says.
// UPDATE=1 rewrites that table. The counts are one kernel's: on another, loading alone is checked.
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { release } from "node:os";
import { test } from "node:test";
import { layouts, type Options } from "../../src/dataplane/bpf/abi.gen.ts";
import { loadObject, programInfo } from "../../src/dataplane/bpf/libbpf.ts";
import { loadOptions, objectPath } from "../lib/datapath.ts";

const TABLE = `${import.meta.dirname}/instructions.txt`;
/** A program may grow by this much before somebody has to look at it. */
const MARGIN = 1.1;
const OBJECTS = ["sock", "tc"] as const;
const NAMES = layouts.options.fields.map((field) => field.name);
const smallMaps = { slots: 64, backends: 64, backend_stats: 64, flows: 64, frontends: 64, affinity: 64, nodeports: 64 };

/** Every options record of zeros and ones. */
const combinations: readonly Options[] = Array.from(
  { length: 2 ** NAMES.length },
  (_, bits) => Object.fromEntries(NAMES.map((name, i) => [name, (bits >> i) & 1])) as unknown as Options,
);

const nameOf = (options: Options): string => NAMES.filter((name) => options[name] === 1).join("+") || "nothing";

const instructionsOf = (object: (typeof OBJECTS)[number], options: Options): ReadonlyMap<string, number> => {
  const loaded = loadObject(objectPath(object), { options: loadOptions(options), maxEntries: smallMaps });
  try {
    return new Map(
      loaded.programs.map((name) => [
        `${name} ${nameOf(options)}`,
        programInfo(loaded.program(name)).verified_instructions,
      ]),
    );
  } finally {
    loaded.close();
  }
};

const format = (counts: ReadonlyMap<string, number>): string =>
  [
    "# Instructions the verifier walks through: program, options that are on, count. UPDATE=1 rewrites this.",
    `kernel ${release()}`,
    ...[...counts].map(([what, n]) => `${what} ${n}`),
    "",
  ].join("\n");

const parse = (text: string): { kernel: string; counts: ReadonlyMap<string, number> } => {
  const lines = text.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
  const kernel = lines.find((line) => line.startsWith("kernel "))?.slice(7) ?? "";
  const rows = lines.filter((line) => !line.startsWith("kernel "));
  return {
    kernel,
    counts: new Map(rows.map((row) => [row.slice(0, row.lastIndexOf(" ")), Number(row.slice(row.lastIndexOf(" ")))])),
  };
};

test("every combination of options of every object passes the verifier, at its known cost", (t) => {
  const counts = new Map<string, number>();
  for (const object of OBJECTS) {
    for (const options of combinations) {
      for (const [what, n] of instructionsOf(object, options)) counts.set(what, n);
    }
  }
  assert.equal(counts.size, (9 + 2) * combinations.length, "nine socket programs and two of tc");
  if (process.env.UPDATE === "1") writeFileSync(TABLE, format(counts));
  const known = parse(readFileSync(TABLE, "utf8"));
  if (known.kernel !== release()) {
    t.diagnostic(`instructions.txt is of kernel ${known.kernel}; on ${release()} only loading was checked`);
    return;
  }
  assert.deepEqual([...counts.keys()].sort(), [...known.counts.keys()].sort(), "the same programs as in the table");
  for (const [what, n] of counts) {
    const limit = (known.counts.get(what) ?? 0) * MARGIN;
    assert.ok(n <= limit, `${what}: ${n} instructions, over ${Math.floor(limit)}: look why, then run with UPDATE=1`);
  }
});
