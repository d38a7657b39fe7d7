// A run of generated clusters, one after another, all from one seed: the same seed asks the same again.
import { FORWARDINGS, type Forwarding } from "../lib/forwarding.ts";
import { seededRandom, shuffled } from "../lib/random.ts";
import { drawCluster } from "./cluster.ts";
import { compareCluster, type Disagreement, type Tally } from "./compare.ts";
import type { Labs } from "./labs.ts";
import { formatDisagreement, scenarioDraft } from "./report.ts";
import { shrink } from "./shrink.ts";

export interface RunOptions {
  readonly seed: number;
  /** Number of the first cluster. */
  readonly first: number;
  readonly clusters: number;
  /** Cases of each cluster. */
  readonly cases: number;
  /** How bpf forwards while a cluster is asked; by default its number and the seed choose. */
  readonly forwarding?: Forwarding;
  /** Said while it goes on. */
  readonly say: (text: string) => void;
}

export const runClusters = async (labs: Labs, options: RunOptions, tally: Tally): Promise<void> => {
  const { seed, first, clusters, cases, say } = options;
  for (let number = first; number < first + clusters; number++) {
    const before = tally.disagreements.length;
    await labs.forward(options.forwarding ?? drawForwarding(seed, 0, number));
    await compareCluster(labs, drawCluster(seed, number), { cases, random: randomOf(seed, number) }, tally);
    const [found, ...more] = tally.disagreements.slice(before);
    if (found !== undefined) say(await explain(labs, found, more, `seed ${seed}, cluster ${number}`));
  }
};

/** The first disagreement, as small as it gets, and the others of the cluster in a few lines each. */
const explain = async (
  labs: Labs,
  found: Disagreement,
  more: readonly Disagreement[],
  where: string,
): Promise<string> => {
  const smallest = await shrink(labs, found);
  return [
    `Disagreement: ${where}: ${formatDisagreement(found)}`,
    ...more.slice(0, 5).map((one) => `also: ${formatDisagreement(one)}`),
    ...(more.length > 5 ? [`also: ${more.length - 5} more`] : []),
    `The smallest cluster that shows it: ${formatDisagreement(smallest)}`,
    scenarioDraft(smallest, labs.places),
  ].join("\n");
};

/** Number `turn` of as many ways in turn as there are, in an order that the seed and `number` choose. */
export const drawForwarding = (seed: number, number: number, turn: number): Forwarding =>
  shuffled(FORWARDINGS, randomOf(seed ^ 0x5bd1e995, number))[turn % FORWARDINGS.length] as Forwarding;

/** Numbers below 1 for one cluster of a seed. */
export const randomOf = (seed: number, number: number): (() => number) =>
  seededRandom(Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b) + Math.imul(number, 0xc2b2ae35));
