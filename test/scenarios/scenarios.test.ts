// Every behaviour, one file each: the expectations of test/scenarios/*.txtar hold, in evaluate() and through the maps,
// fake, real and faulty, which read back as what was wanted. `UPDATE=1` writes the expectations anew.
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { type TestContext, test } from "node:test";
import { type Compiled, compile, createMemory } from "../../src/compile/compile.ts";
import { formatDesired } from "../../src/compile/format.ts";
import { MapError, type MapStore } from "../../src/dataplane/bpf/mapstore.ts";
import { TableProgrammer } from "../../src/dataplane/bpf/programmer.ts";
import { tablesToDesired } from "../../src/dataplane/bpf/readback.ts";
import { formatTables, readTables } from "../../src/dataplane/bpf/tables.ts";
import { FaultyStore, seededFaults } from "../../src/dataplane/fake/fakestore.ts";
import {
  type Answers,
  answersOf,
  expectedOf,
  formatProbes,
  readScenario,
  rewrite,
  type Scenario,
  scenarioFiles,
} from "../lib/scenario.ts";
import { noRealMaps, openRealStore, smallFakeStore } from "../lib/stores.ts";

for (const path of scenarioFiles(import.meta.dirname)) {
  const scenario = readScenario(path);
  test(`${scenario.file}: ${scenario.title}`, async (t) => {
    const compiled = compileSteps(scenario);
    const tables = program(scenario, compiled, smallFakeStore());
    const answers = scenario.steps.map((step, i): Answers => {
      const result = compiled[i];
      assert.ok(result !== undefined);
      return answersOf(step, scenario.options, result, tables[i] ?? "");
    });
    if (process.env.UPDATE === "1") writeFileSync(path, rewrite(readFileSync(path, "utf8"), answers));
    for (const [i, expected] of expectedOf(readFileSync(path, "utf8")).entries()) {
      assert.ok(expected.probes !== undefined || expected.desired !== undefined, "a step expects nothing");
      assert.deepEqual(onlyAsked(answers[i] ?? {}, expected), { problems: "", ...expected }, scenario.steps[i]?.name);
    }
    await t.test("in real maps", { skip: noRealMaps }, (t) => throughRealMaps(t, scenario, compiled, tables));
    await t.test("in maps that fail", () => throughFaultyMaps(scenario, compiled));
  });
}

/** Step by step with one memory; the memory must not show. */
const compileSteps = ({ steps, options }: Scenario): readonly Compiled[] => {
  const memory = createMemory();
  return steps.map(({ snapshot }) => {
    const compiled = compile(snapshot, options, memory);
    assert.deepEqual(asText(compiled), asText(compile(snapshot, options)));
    return compiled;
  });
};

const asText = ({ desired, ...rest }: Compiled): object => ({ desired: formatDesired(desired), ...rest });

/** Writes each step into the store, and asks it every probe; answers the tables after each. */
const program = (scenario: Scenario, compiled: readonly Compiled[], store: MapStore): readonly string[] => {
  const programmer = new TableProgrammer(store, { now_ns: clock() });
  return scenario.steps.map((step, i) => {
    const desired = compiled[i]?.desired;
    assert.ok(desired !== undefined);
    applyUntilDone(programmer, desired);
    const tables = readTables(store);
    const actual = tablesToDesired(tables);
    assert.equal(formatDesired(actual), formatDesired(desired), `${step.name} reads back`);
    assert.equal(formatProbes(step.packets, actual), formatProbes(step.packets, desired), `${step.name} answers`);
    return formatTables(tables);
  });
};

const applyUntilDone = (programmer: TableProgrammer, desired: Compiled["desired"]): void => {
  for (let attempt = 0; attempt < 1000; attempt++) {
    try {
      programmer.apply(desired, { prune: true });
      return;
    } catch (error) {
      if (!(error instanceof MapError)) throw error;
    }
  }
  assert.fail("apply never succeeds");
};

const throughRealMaps = (
  t: TestContext,
  scenario: Scenario,
  compiled: readonly Compiled[],
  tables: readonly string[],
): void => {
  const store = openRealStore();
  t.after(() => store.close());
  assert.deepEqual(program(scenario, compiled, store), tables);
};

const throughFaultyMaps = (scenario: Scenario, compiled: readonly Compiled[]): void => {
  for (const seed of [1, 2, 3]) program(scenario, compiled, new FaultyStore(smallFakeStore(), seededFaults(seed, 2)));
};

/** Ten seconds a look: nothing rests for long. */
const clock = (): (() => bigint) => {
  let now_ns = 0n;
  return () => {
    now_ns += 10_000_000_000n;
    return now_ns;
  };
};

/** The answers to what is asked; problems are always asked for. */
const onlyAsked = (answers: Answers, expected: Answers): Answers =>
  Object.fromEntries(Object.entries(answers).filter(([name]) => name === "problems" || name in expected));
