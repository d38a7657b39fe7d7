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
