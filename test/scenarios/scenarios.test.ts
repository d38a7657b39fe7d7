// Every behaviour, one file each: the expectations of test/scenarios/*.txtar hold. `UPDATE=1` writes them anew.
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { compile, createMemory } from "../../src/compile/compile.ts";
import { formatDesired } from "../../src/compile/format.ts";
import { type Answers, answersOf, expectedOf, readScenario, rewrite, scenarioFiles } from "../lib/scenario.ts";

for (const path of scenarioFiles(import.meta.dirname)) {
  const { file, title, options, steps } = readScenario(path);
  test(`${file}: ${title}`, () => {
    const memory = createMemory();
    const answers = steps.map((step): Answers => {
      const compiled = compile(step.snapshot, options, memory);
      const afresh = compile(step.snapshot, options);
      assert.deepEqual(
        { ...compiled, desired: formatDesired(compiled.desired) },
        { ...afresh, desired: formatDesired(afresh.desired) },
      );
      return answersOf(step, compiled);
    });
    const text = readFileSync(path, "utf8");
    if (process.env.UPDATE === "1") writeFileSync(path, rewrite(text, answers));
    for (const [i, expected] of expectedOf(readFileSync(path, "utf8")).entries()) {
      assert.ok(expected.probes !== undefined || expected.desired !== undefined, "a step expects nothing");
      assert.deepEqual(
        answered(answers[i] ?? {}, expected),
        { problems: "", ...expected },
        `${file} ${steps[i]?.name}`,
      );
    }
  });
}

/** The answers to what is asked; problems are always asked for. */
const answered = (answers: Answers, expected: Answers): Answers =>
  Object.fromEntries(Object.entries(answers).filter(([name]) => name === "problems" || name in expected));
