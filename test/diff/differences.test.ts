// The table of intended differences is that of the documentation; where none applies, both dataplanes have one answer.
import assert from "node:assert/strict";
import { test } from "node:test";
import { INTENDED } from "../../src/compile/intended.ts";
import { planPlaces } from "../lib/network.ts";
import { drawCluster } from "./cluster.ts";
import { caseOf, DIFFERENCES } from "./differences.ts";
import { formatExpected } from "./expected.ts";
import { clusterObjects } from "./objects.ts";
import { everyProbe, formatProbe } from "./probes.ts";
import { makeWorld } from "./world.ts";

const places = planPlaces(3, 2);

test("every difference is one of docs/semantics.md", () => {
  for (const { name } of DIFFERENCES) assert.ok(Number.parseInt(name, 10) in INTENDED, name);
});

test("both dataplanes have one answer where no difference applies, and every difference applies somewhere", () => {
  const met = new Set<string>();
  for (let number = 0; number < 60; number++) {
    const [nodePorts, socketLB] = [
      number % 2 === 0 ? [] : ("primary" as const),
      number % 3 === 0 ? "host" : "all",
    ] as const;
    const world = makeWorld(clusterObjects(drawCluster(1, number), places), places, nodePorts, socketLB);
    for (const probe of everyProbe(world).filter((_, i) => i % 7 === 0)) {
      const { answers, differences } = caseOf(world, probe);
      for (const name of differences) met.add(name);
      if (differences.length === 0)
        assert.equal(formatExpected(answers.bpf), formatExpected(answers.iptables), formatProbe(probe));
    }
  }
  assert.deepEqual(
    DIFFERENCES.map(({ name }) => name).filter((name) => !met.has(name)),
    [],
    "differences that no probe of these clusters meets",
  );
});
