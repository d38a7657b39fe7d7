// After every single write of every scenario's steps, told in every way, each lookup answers from the old or the new and
// never from neither; and the end is the same. The ways and the checks are test/lib/consistency.ts.
import { test } from "node:test";
import { compile, createMemory } from "../../src/compile/compile.ts";
import { ObjectStore } from "../../src/k8s/store.ts";
import type { Desired } from "../../src/model/desired.ts";
import { checkEveryWay } from "../lib/consistency.ts";
import { applyChange, readScenario, type Scenario, scenarioFiles } from "../lib/scenario.ts";

const SEEDS = [1, 2];

for (const path of scenarioFiles(import.meta.dirname)) {
  const scenario = readScenario(path);
  test(`${scenario.file}: step by step, every write leaves old or new`, () => {
    for (const seed of SEEDS) checkEveryWay(stepByStep(scenario), seed);
  });
  test(`${scenario.file}: one object at a time, every write leaves old or new`, () => {
    for (const seed of SEEDS) checkEveryWay(oneAtATime(scenario), seed);
  });
}

const stepByStep = ({ options, steps }: Scenario): readonly Desired[] => {
  const memory = createMemory();
  return steps.map(({ snapshot }) => compile(snapshot, options, memory).desired);
};

/** After every single change, as a watch brings them. */
const oneAtATime = ({ options, steps }: Scenario): readonly Desired[] => {
  const memory = createMemory();
  const store = new ObjectStore(options.nodeName);
  return steps
    .flatMap(({ changes }) => changes)
    .map((change) => {
      applyChange(store, change);
      return compile(store.snapshot(), options, memory).desired;
    });
};
