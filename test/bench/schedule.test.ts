// The order of a run: what is compared is measured side by side, and nobody is always first.
import assert from "node:assert/strict";
import { test } from "node:test";
import { schedule } from "../../src/bench/schedule.ts";

const text = (steps: ReturnType<typeof schedule<string, string>>): string =>
  steps.map(({ round, measurement, stack }) => `${round}${measurement}${stack}`).join(" ");

test("each measurement is made on one stack after the other, and every other round in reverse", () => {
  assert.equal(text(schedule(["p", "q"], ["a", "b"], 3)), "0pa 0pb 0qa 0qb 1pb 1pa 1qb 1qa 2pa 2pb 2qa 2qb");
});

test("what a stack cannot do is left out, and the rest keeps its order", () => {
  assert.equal(
    text(schedule(["p", "q"], ["a", "b"], 2, (measurement, stack) => measurement !== "p" || stack !== "a")),
    "0pb 0qa 0qb 1pb 1qb 1qa",
  );
});

test("over an even number of rounds every stack is as often before another as after it", () => {
  const steps = schedule(["p"], ["a", "b", "c"], 4);
  const places = Map.groupBy(
    steps.map((step, i) => ({ stack: step.stack, place: i % 3 })),
    ({ stack }) => stack,
  );
  for (const [stack, all] of places)
    assert.equal(
      all.reduce((sum, { place }) => sum + place, 0),
      4,
      `${stack} is as often early as late`,
    );
});
