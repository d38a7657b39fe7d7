// Clusters that change: random lists of changes written to both labs, compared after each, while connections stay open
// and UDP flows go on, and agents are killed.
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { FORWARDINGS } from "../lib/forwarding.ts";
import { assertForwards, assertNoOtherWay } from "../lib/forwards.ts";
import { drawCluster } from "./cluster.ts";
import { newTally } from "./compare.ts";
import { Labs } from "./labs.ts";
import { clusterObjects } from "./objects.ts";
import { formatDisagreement, formatTally } from "./report.ts";
import { walkAll } from "./reuse.ts";
import { drawForwarding, randomOf } from "./run.ts";
import { newKept, runSequence } from "./sequence.ts";

const labs = await Labs.create({ flavour: "legacy" });
after(() => labs.close());

const WALKERS = ["pod1a", "pod2b", "pod3a", "node1", "node3", "client"];
const FRESH = Math.floor(Math.random() * 1_000_000);

for (const [title, seed] of [
  ["seed 1", 1],
  ["a fresh seed", FRESH],
] as const) {
  test(`bpf and iptables agree after every change, and cut nothing that lives: ${title}`, async (t) => {
    t.diagnostic(`seed ${seed}`);
    const [tally, kept] = [newTally(), newKept()];
    for (const number of [0, 1]) {
      const options = { seed, number, changes: 6, cases: 60, random: randomOf(seed, number) };
      await runSequence(labs, options, tally, kept);
    }
    t.diagnostic(`${formatTally(tally)}; ${kept.connections} connections held, ${kept.flows} UDP flows asked again`);
    assert.deepEqual(tally.disagreements.map(formatDisagreement), [], `seed ${seed}`);
    assert.deepEqual(kept.complaints, [], `seed ${seed}`);
    const assertWays = seed === FRESH ? assertNoOtherWay : assertForwards;
    for (const [forwarding, forwards] of tally.forwards) assertWays(forwarding, forwards);
  });
}

for (const [title, seed] of [
  ["seed 1", 1],
  ["a fresh seed", FRESH],
] as const) {
  test(`one local port used again and again meets whom it asks: ${title}`, async (t) => {
    t.diagnostic(`seed ${seed}`);
    const walked = { steps: 0, complaints: [] as string[] };
    for (const number of [10, 11, 12]) {
      const world = await labs.apply(clusterObjects(drawCluster(seed, number), labs.places));
      const random = randomOf(seed, number);
      const forwardings = FORWARDINGS.map((_, turn) => drawForwarding(seed, number, turn));
      const { steps, complaints } = await walkAll(labs, world, { clients: WALKERS, steps: 40, forwardings, random });
      walked.steps += steps;
      walked.complaints.push(...complaints);
    }
    t.diagnostic(`${walked.steps} steps`);
    assert.ok(walked.steps > 1000, String(walked.steps));
    assert.deepEqual(walked.complaints, [], `seed ${seed}`);
  });
}
