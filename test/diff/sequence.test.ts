// Clusters that change: random lists of changes written to both labs, compared after each, while connections stay open
// and UDP flows go on, and agents are killed.
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { newTally } from "./compare.ts";
import { Labs } from "./labs.ts";
import { formatDisagreement, formatTally } from "./report.ts";
import { randomOf } from "./run.ts";
import { newKept, runSequence } from "./sequence.ts";

const labs = await Labs.create({ flavour: "legacy" });
after(() => labs.close());

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
  });
}
