// How beeline stands against its rivals: every mode of beeline against every rival, in every metric, at every number of
// services, by the ratios of samples that were taken one right after the other. Better or worse counts only when every
// round says so; everything else is too close to call. Pure.
import type { MetricOfResult, ModeOfResult, Result } from "./result.ts";
import { ratiosToBaseline, type Spread, servicesOf, spreadOf } from "./statistics.ts";

export interface Comparison {
  readonly metric: MetricOfResult;
  readonly services: number;
  /** beeline's. */
  readonly mode: ModeOfResult;
  readonly rival: ModeOfResult;
  /** How many times as good as the rival, round by round. */
  readonly times: Spread;
  /** In how many of the rounds the rival was better. */
  readonly behind: number;
  readonly standing: Standing;
}

/** even: the rounds do not agree; or there is one only, and it is less than twice as good or as bad. */
export type Standing = "better" | "worse" | "even";

/** A mode without services translates nothing: no rival, but the limit of what a node can do. */
export const isLimit = ({ beeline, counts_services }: ModeOfResult): boolean => !beeline && !counts_services;

const isRival = (mode: ModeOfResult): boolean => !mode.beeline && !isLimit(mode);

export const comparisonsOf = (result: Result): readonly Comparison[] => {
  const rivals = result.modes.filter(isRival);
  const own = result.modes.filter(({ beeline }) => beeline);
  return result.metrics.flatMap((metric) =>
    own.flatMap((mode) =>
      servicesOf(result.samples, metric.name, mode.name).flatMap((services) =>
        rivals.flatMap((rival) => comparisonOf(result, { metric, mode, rival, services })),
      ),
    ),
  );
};

type Pair = Pick<Comparison, "metric" | "mode" | "rival" | "services">;

/** Empty: there is no round with both. */
const comparisonOf = ({ samples }: Result, pair: Pair): readonly Comparison[] => {
  const { metric, mode, rival, services } = pair;
  const ratios = ratiosToBaseline(samples, metric, { mode: mode.name, baseline: rival.name }, services);
  const times = spreadOf(ratios);
  if (times === null) return [];
  return [{ ...pair, times, behind: ratios.filter((ratio) => ratio < 1).length, standing: standingOf(times) }];
};

/** One round always agrees with itself: nothing is known of its spread, so only what is plain counts. */
export const PLAIN = 2;

const standingOf = ({ min, max, n }: Spread): Standing => {
  const least = n === 1 ? PLAIN : 1;
  if (max < 1 / least) return "worse";
  return min > least ? "better" : "even";
};

/** How likely it is that all of so many rounds agree, either way, when there is no difference at all. */
export const chanceOfAgreement = (rounds: number): number => 2 * 0.5 ** rounds;

// ---- what is said of all of them ---------------------------------------------------------------------------------------

/** The whole result in a sentence. */
export const answer = (all: readonly Comparison[]): string => {
  if (all.length === 0) return "Nothing to compare: the run holds no pair of a beeline mode and a rival.";
  const of = (standing: Comparison["standing"]): number => all.filter((c) => c.standing === standing).length;
  const [worse, better, even] = [of("worse"), of("better"), of("even")];
  const rest = `better in ${better}${even === 0 ? "" : `, and ${even} ${even === 1 ? "is" : "are"} too close to call`}`;
  if (worse === 0) return `Nowhere, beyond the noise: of ${comparisons(all.length)} with a rival, beeline is ${rest}.`;
  return `In ${worse} of ${comparisons(all.length)} with a rival; it is ${rest}.`;
};

const comparisons = (n: number): string => `${n} ${n === 1 ? "comparison" : "comparisons"}`;

/** A mode of beeline in a metric, with every rival that is better: each where it is so by most. */
export interface Behind {
  readonly own: Comparison;
  readonly rivals: readonly Comparison[];
  /** At which some rival is better. */
  readonly services: readonly number[];
  readonly sure: boolean;
}

/** Sure ones first, then by how far behind the worst is. What was measured once and is not plain says nothing. */
export const rowsBehind = (all: readonly Comparison[]): readonly Behind[] => {
  const groups = new Map<string, Comparison[]>();
  for (const one of all) {
    if (one.standing === "better" || one.times.median >= 1 || (one.times.n === 1 && one.standing === "even")) continue;
    const key = JSON.stringify([one.metric.name, one.mode.name, one.standing]);
    groups.set(key, [...(groups.get(key) ?? []), one]);
  }
  return [...groups.values()]
    .flatMap((group) => {
      const worstFirst = [...group].sort((a, b) => a.times.median - b.times.median);
      const [own] = worstFirst;
      if (own === undefined) return [];
      const rivals = worstFirst.filter((one, i) => worstFirst.findIndex((other) => other.rival === one.rival) === i);
      const services = [...new Set(group.map((one) => one.services))].sort((a, b) => a - b);
      return [{ own, rivals, services, sure: own.standing === "worse" }];
    })
    .sort((a, b) => Number(b.sure) - Number(a.sure) || a.own.times.median - b.own.times.median);
};
