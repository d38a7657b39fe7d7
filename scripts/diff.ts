// `npm run diff`: differential tests for as long as asked. Prints progress, every disagreement as small as it gets, and a
// summary with the seed, which asks the same again.
import { parseArgs } from "node:util";
import { newTally } from "../test/diff/compare.ts";
import { Labs } from "../test/diff/labs.ts";
import { formatTally } from "../test/diff/report.ts";
import { runClusters } from "../test/diff/run.ts";

const { values } = parseArgs({
  options: {
    minutes: { type: "string", default: "5" },
    seed: { type: "string", default: String(Math.floor(Math.random() * 1_000_000)) },
    first: { type: "string", default: "0" },
    cases: { type: "string", default: "200" },
  },
});
const [minutes, seed, first, cases] = [values.minutes, values.seed, values.first, values.cases].map(Number);
if (minutes === undefined || seed === undefined || first === undefined || cases === undefined)
  throw new Error("There are no options");
for (const [name, value] of Object.entries({ minutes, seed, first, cases })) {
  if (Number.isFinite(value) && value >= 0) continue;
  console.error(`diff: --${name}: expected a number`);
  process.exit(2);
}

/** So many clusters with one flavour of iptables, then as many with the other. */
const CLUSTERS_OF_A_FLAVOUR = 40;
const PROGRESS_MS = 20_000;

const deadline = performance.now() + minutes * 60_000;
const tally = newTally();
console.log(`seed ${seed}`);
let said_ms = performance.now();
for (let number = first; performance.now() < deadline; ) {
  const flavour = Math.floor(number / CLUSTERS_OF_A_FLAVOUR) % 2 === 0 ? "nft" : "legacy";
  const labs = await Labs.create({ flavour });
  try {
    do {
      await runClusters(labs, { seed, first: number, clusters: 1, cases, say: console.log }, tally);
      if (performance.now() - said_ms < PROGRESS_MS) continue;
      said_ms = performance.now();
      console.log(`cluster ${number}, iptables-${flavour}: ${formatTally(tally)}`);
    } while (++number % CLUSTERS_OF_A_FLAVOUR !== 0 && performance.now() < deadline);
  } catch (error) {
    console.error(`diff: seed ${seed}, cluster ${number}, iptables-${flavour}`);
    console.error(labs.logs().slice(-4000));
    throw error;
  } finally {
    await labs.close();
  }
}
console.log(`seed ${seed}: ${formatTally(tally)}`);
process.exit(tally.disagreements.length === 0 ? 0 : 1);
