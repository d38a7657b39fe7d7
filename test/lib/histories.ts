// The steps of a scenario told in every order that could happen: each is a list of Desireds that ends as the scenario
// does, so whatever is written on the way, the end must be the same.
import { type CompileMemory, compile, createMemory } from "../../src/compile/compile.ts";
import { ObjectStore } from "../../src/k8s/store.ts";
import type { Desired } from "../../src/model/desired.ts";
import type { Snapshot } from "../../src/model/snapshot.ts";
import { applyChange, type Scenario } from "./scenario.ts";

export interface History {
  /** `backward`, `one object at a time`, … */
  readonly name: string;
  readonly desireds: readonly Desired[];
}

const EMPTY: Snapshot = { services: new Map(), slices: new Map(), node: null };

/** `random(n)`: 0 to n - 1. */
export const historiesOf = (scenario: Scenario, random: (below: number) => number): readonly History[] => {
  const steps = scenario.steps.map(({ snapshot }) => snapshot);
  const split = oneAtATime(scenario);
  const told: Readonly<Record<string, readonly Snapshot[]>> = {
    forward: steps,
    backward: steps.toReversed(),
    shuffled: shuffle(steps, random),
    "with empties": steps.flatMap((step) => [step, EMPTY]),
    repeated: [...steps, ...steps].flatMap((step) => [step, step]),
    "one object at a time": split,
    "one object at a time, backward": split.toReversed(),
    "one object at a time, shuffled": shuffle(split, random),
  };
  return Object.entries(told).map(([name, snapshots]) => {
    const memory: CompileMemory = createMemory();
    const end = steps.slice(-1);
    const desireds = [...snapshots, ...end].map((snapshot) => compile(snapshot, scenario.options, memory).desired);
    return { name, desireds };
  });
};

/** The snapshots after every single change. */
const oneAtATime = ({ options, steps }: Scenario): readonly Snapshot[] => {
  const store = new ObjectStore(options.nodeName);
  return steps
    .flatMap(({ changes }) => changes)
    .map((change) => {
      applyChange(store, change);
      return store.snapshot();
    });
};

const shuffle = <T>(values: readonly T[], random: (below: number) => number): readonly T[] => {
  const left = [...values];
  return values.flatMap(() => left.splice(random(left.length), 1));
};
