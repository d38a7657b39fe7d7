// `npm run diff`: differential tests for as long as asked. Prints progress, every disagreement as small as it gets, and
// a summary with the seed, which asks the same again.
import { parseArgs } from "node:util";
import { drawCluster } from "../test/diff/cluster.ts";
import { newTally } from "../test/diff/compare.ts";
import { Labs, type LabsOptions } from "../test/diff/labs.ts";
import { clusterObjects } from "../test/diff/objects.ts";
import { SOURCES } from "../test/diff/probes.ts";
import { formatDisagreement, formatTally } from "../test/diff/report.ts";
import { type Walked, walkAll } from "../test/diff/reuse.ts";
import { drawForwarding, randomOf, runClusters } from "../test/diff/run.ts";
import { newKept, runSequence } from "../test/diff/sequence.ts";
import { FORWARDINGS } from "../test/lib/forwarding.ts";

const USAGE = `npm run diff -- [--minutes N] [--seed S] [--first CLUSTER] [--cases PER_CLUSTER] [--forwarding ${FORWARDINGS.join("|")}]`;

const text = { type: "string" } as const;

const readOptions = () => {
  try {
    const options = { minutes: text, seed: text, first: text, cases: text, forwarding: text };
    const { values } = parseArgs({ options });
    /** 0 or more. */
    const number = (name: "minutes" | "seed" | "first" | "cases", otherwise: number): number => {
      const given = values[name] ?? String(otherwise);
      if (!/^\d+(\.\d+)?$/.test(given)) throw new Error(`--${name}: expected a number, got ${given}`);
      return Number(given);
    };
    const forwarding = FORWARDINGS.find((one) => one === values.forwarding);
    if (values.forwarding !== undefined && forwarding === undefined)
      throw new Error(`--forwarding: expected ${FORWARDINGS.join(" or ")}, got ${values.forwarding}`);
    return {
      minutes: number("minutes", 5),
      seed: number("seed", Math.floor(Math.random() * 1_000_000)),
      first: number("first", 0),
      cases: number("cases", 200),
      /** None: each in its turn. */
      always: forwarding === undefined ? {} : { forwarding },
    };
  } catch (error) {
    console.error(`diff: ${error instanceof Error ? error.message : error}\nUsage: ${USAGE}`);
    process.exit(2);
  }
};

const { minutes, seed, first, cases, always } = readOptions();

/** So many clusters with one variation, then as many with the next. */
const CLUSTERS_OF_A_VARIATION = 10;
const VARIATIONS: readonly LabsOptions[] = [
  { flavour: "nft", attach: "tcx" },
  { flavour: "legacy", attach: "clsact" },
  { flavour: "nft", attach: "clsact", nodePortAddresses: "primary" },
  { flavour: "legacy", attach: "tcx", nodePortAddresses: ["192.168.0.0/27", "fd00:192::/120"] },
  { flavour: "nft", attach: "tcx", nodePortAddresses: ["127.0.0.0/8"] },
  { flavour: "nft", attach: "tcx", socketLB: "host" },
];
/** After so many clusters one of them is changed, step by step, and walked over from one local port. */
const CLUSTERS_OF_A_SEQUENCE = 5;
const PROGRESS_MS = 20_000;

const deadline = performance.now() + minutes * 60_000;
const [tally, kept] = [newTally(), newKept()];
console.log(`seed ${seed}`);
const runOneSequence = async (labs: Labs, number: number): Promise<void> => {
  const before = [tally.disagreements.length, kept.complaints.length] as const;
  const options = { seed, number, changes: 6, cases: Math.ceil(cases / 3), random: randomOf(seed, number) };
  await runSequence(labs, options, tally, kept);
  const found = [...tally.disagreements.slice(before[0]).map(formatDisagreement), ...kept.complaints.slice(before[1])];
  for (const text of found) console.log(`Disagreement: seed ${seed}, sequence ${number}: ${text}`);
};

const STEPS_OF_A_WALK = 40;
const walked: Walked = { steps: 0, complaints: [] };

const walkOver = async (labs: Labs, number: number): Promise<void> => {
  const world = await labs.apply(clusterObjects(drawCluster(seed, number), labs.places));
  const random = randomOf(seed, number);
  const forwardings = FORWARDINGS.map((_, turn) => drawForwarding(seed, number, turn));
  const options = { clients: SOURCES, steps: STEPS_OF_A_WALK, forwardings, random };
  const { steps, complaints } = await walkAll(labs, world, options);
  walked.steps += steps;
  walked.complaints.push(...complaints);
  for (const text of complaints) console.log(`Disagreement: seed ${seed}, walk over cluster ${number}: ${text}`);
};

let said_ms = performance.now();
for (let number = first; performance.now() < deadline; ) {
  const variation = VARIATIONS[Math.floor(number / CLUSTERS_OF_A_VARIATION) % VARIATIONS.length] ?? { flavour: "nft" };
  const words = JSON.stringify(variation);
  const labs = await Labs.create({ ...variation, ...always, dataplanes: ["bpf", "iptables", "userspace"] });
  try {
    do {
      await runClusters(labs, { seed, first: number, clusters: 1, cases, say: console.log }, tally);
      if (number % CLUSTERS_OF_A_SEQUENCE === CLUSTERS_OF_A_SEQUENCE - 1) {
        await runOneSequence(labs, number);
        await walkOver(labs, number);
      }
      if (performance.now() - said_ms < PROGRESS_MS) continue;
      said_ms = performance.now();
      console.log(`cluster ${number}, ${words}: ${formatTally(tally)}`);
    } while (++number % CLUSTERS_OF_A_VARIATION !== 0 && performance.now() < deadline);
  } catch (error) {
    console.error(`diff: seed ${seed}, cluster ${number}, ${words}`);
    console.error(labs.logs().slice(-4000));
    throw error;
  } finally {
    await labs.close();
  }
}
console.log(`seed ${seed}: ${formatTally(tally)}`);
console.log(`  ${kept.connections} connections held through changes, ${kept.flows} UDP flows asked again`);
console.log(`  ${walked.steps} steps from local ports used again and again`);
for (const text of [...kept.complaints, ...walked.complaints]) console.log(`  ${text}`);
process.exit(tally.disagreements.length + kept.complaints.length + walked.complaints.length === 0 ? 0 : 1);
