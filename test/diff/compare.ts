// One cluster in both labs: writes it, asks a choice of its cases, and tells every answer that is not as it should be.
import { complaintsOf } from "./ask.ts";
import type { Cluster } from "./cluster.ts";
import type { Case } from "./differences.ts";
import type { DataplaneName } from "./expected.ts";
import type { Labs } from "./labs.ts";
import { clusterObjects } from "./objects.ts";
import { chooseCases } from "./probes.ts";
import type { World } from "./world.ts";

export interface Disagreement {
  readonly dataplane: DataplaneName;
  readonly cluster: Cluster;
  readonly one: Case;
  readonly complaint: string;
}

/** What a comparison, or many, came to. */
export interface Tally {
  clusters: number;
  /** Cases asked; every one is three answers: evaluate()'s, bpf's, iptables'. */
  probes: number;
  /** Cases without an intended difference, in which both dataplanes answered the same. */
  same: number;
  /** Cases by intended difference. */
  readonly differences: Map<string, number>;
  /** Answers that came late at first, and in time when asked again. */
  readonly late: Omit<Disagreement, "complaint">[];
  readonly disagreements: Disagreement[];
}

export const newTally = (): Tally => ({
  clusters: 0,
  probes: 0,
  same: 0,
  differences: new Map(),
  late: [],
  disagreements: [],
});

export interface CompareOptions {
  /** Cases of each cluster. */
  readonly cases: number;
  readonly random: () => number;
}

export const compareCluster = async (
  labs: Labs,
  cluster: Cluster,
  { cases, random }: CompareOptions,
  tally: Tally,
): Promise<World> => {
  const world = await labs.apply(clusterObjects(cluster, labs.places));
  const chosen = chooseCases(world, cases, random);
  const wrong = await askBoth(labs, cluster, chosen, tally);
  tally.clusters++;
  tally.probes += chosen.length;
  const bad = new Set(wrong.map(({ one }) => one));
  for (const one of chosen) {
    if (bad.has(one)) continue;
    if (one.differences.length === 0) tally.same++;
    for (const name of one.differences) tally.differences.set(name, (tally.differences.get(name) ?? 0) + 1);
  }
  tally.disagreements.push(...wrong);
  return world;
};

/** Asks both labs at once. What only came too late is asked once more, with patience. */
const askBoth = async (
  labs: Labs,
  cluster: Cluster,
  cases: readonly Case[],
  tally: Tally,
): Promise<readonly Disagreement[]> => {
  const found = [...labs.labs].map(async ([dataplane, lab]): Promise<readonly Disagreement[]> => {
    const first = await complaintsOf(lab, dataplane, cases);
    const late = [...first]
      .filter(([one, text]) => text === "TIMEOUT" && !isTelling(dataplane, one))
      .map(([one]) => one);
    const again = await complaintsOf(lab, dataplane, late, 3);
    const inTime = late.filter((one) => !again.has(one));
    tally.late.push(...inTime.map((one) => ({ dataplane, cluster, one })));
    return [...first].flatMap(([one, text]) => {
      const complaint = late.includes(one) ? again.get(one) : text;
      return complaint === undefined ? [] : [{ dataplane, cluster, one, complaint }];
    });
  });
  return (await Promise.all(found)).flat();
};

/** Asked again it would share its port with fewer others, and what went wrong would be right. */
const isTelling = (dataplane: DataplaneName, { probe, answers }: Case): boolean =>
  probe.sharedPort && answers[dataplane].kind === "reached";
