// One cluster in every lab: writes it, asks a choice of its cases, and tells every answer that is not as it should be.
import { monitorEventLoopDelay } from "node:perf_hooks";
import type { Forwarding } from "../lib/forwarding.ts";
import { addForwards, type Forwards, NO_FORWARDS } from "../lib/forwards.ts";
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
  /** Of bpf; null: as its agents choose. */
  readonly forwarding: Forwarding | null;
  readonly cluster: Cluster;
  readonly one: Case;
  readonly complaint: string;
}

/** What a comparison, or many, came to. */
export interface Tally {
  /** Who was asked beside evaluate(). */
  readonly voices: Set<DataplaneName>;
  /** How the packets of bpf's lab went on, by how they should. */
  readonly forwards: Map<Forwarding, Forwards>;
  clusters: number;
  /** Cases asked; every one is evaluate()'s answer and one of each voice. */
  probes: number;
  /** Cases without an intended difference, in which every dataplane answered the same. */
  same: number;
  /** Cases by intended difference. */
  readonly differences: Map<string, number>;
  /** What was silent too long at first, and as it should be when asked again. */
  readonly late: Omit<Disagreement, "complaint">[];
  readonly disagreements: Disagreement[];
}

export const newTally = (): Tally => ({
  voices: new Set(),
  forwards: new Map(),
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
  const before = labs.forwards;
  const wrong = await askAll(labs, cluster, chosen, tally);
  countForwards(tally, labs.forwarding, before, labs.forwards);
  const voices = [...labs.labs.keys()];
  for (const voice of voices) tally.voices.add(voice);
  tally.clusters++;
  tally.probes += chosen.length;
  const bad = new Set(wrong.map(({ one }) => one));
  for (const one of chosen) {
    if (bad.has(one)) continue;
    const differences = differencesOf(one, voices);
    if (differences.length === 0) tally.same++;
    for (const name of differences) tally.differences.set(name, (tally.differences.get(name) ?? 0) + 1);
  }
  tally.disagreements.push(...wrong);
  return world;
};

const countForwards = ({ forwards }: Tally, how: Forwarding | null, before: Forwards, after: Forwards): void => {
  if (how === null) return;
  forwards.set(how, addForwards(forwards.get(how) ?? NO_FORWARDS, addForwards(after, before, -1)));
};

/** Those that apply between the answers of these dataplanes and evaluate()'s. */
export const differencesOf = (
  { differences, userspaceDifference }: Case,
  voices: readonly DataplaneName[],
): readonly string[] => [
  ...(voices.some((voice) => voice !== "userspace") ? differences : []),
  ...(userspaceDifference !== null && voices.includes("userspace") ? [`userspace: ${userspaceDifference}`] : []),
];

/** A machine that keeps a process waiting for so long may do the same to the servers in the labs, and for longer. */
const HELD_UP_MS = 250;

/**
 * Asks all labs at once. What is silent too long may be asked once more, with patience: where nobody should answer (an
 * ICMP error may be late, and a kernel drops one for a socket that is still inside connect()), and elsewhere only when the
 * machine has just held us up. A packet that is lost would hide in more.
 */
export const askAll = async (
  labs: Labs,
  cluster: Cluster,
  cases: readonly Case[],
  tally: Tally,
): Promise<readonly Disagreement[]> => {
  const delay = monitorEventLoopDelay({ resolution: 20 });
  delay.enable();
  const found = [...labs.labs].map(async ([dataplane, lab]): Promise<readonly Disagreement[]> => {
    const first = await complaintsOf(lab, dataplane, cases);
    const isHeldUp = delay.max > HELD_UP_MS * 1e6;
    const late = [...first]
      .filter(([{ answers }, text]) => text === "TIMEOUT" && (isHeldUp || answers[dataplane].kind === "failed"))
      .map(([one]) => one);
    const again = await complaintsOf(lab, dataplane, late, 3);
    const inTime = late.filter((one) => !again.has(one));
    const { forwarding } = labs;
    tally.late.push(...inTime.map((one) => ({ dataplane, forwarding, cluster, one })));
    return [...first].flatMap(([one, text]) => {
      const complaint = late.includes(one) ? again.get(one) : text;
      return complaint === undefined ? [] : [{ dataplane, forwarding, cluster, one, complaint }];
    });
  });
  const all = (await Promise.all(found)).flat();
  delay.disable();
  return all;
};
