// Samples to figures: medians with their spread, and ratios taken pair by pair, so that what the machine did meanwhile
// hits both sides alike. Pure.
import type { MetricOfResult, Sample } from "./result.ts";

export interface Spread {
  readonly median: number;
  readonly min: number;
  readonly max: number;
  readonly n: number;
}

/** The middle one; of an even number the mean of the two in the middle. NaN of nothing. */
export const median = (values: readonly number[]): number => {
  const sorted = [...values].sort((x, y) => x - y);
  const upper = sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
  const lower = sorted[Math.ceil(sorted.length / 2) - 1] ?? Number.NaN;
  return (lower + upper) / 2;
};

/** null: no value at all. */
export const spreadOf = (values: readonly number[]): Spread | null =>
  values.length === 0
    ? null
    : { median: median(values), min: Math.min(...values), max: Math.max(...values), n: values.length };

/** The value that so large a share (0..1) of the values does not exceed: the nearest rank. NaN of nothing. */
export const percentile = (values: readonly number[], share: number): number => {
  const sorted = [...values].sort((x, y) => x - y);
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil(share * sorted.length) - 1))] ?? Number.NaN;
};

/** What one bar of a plot, or one cell of a table, stands for. `services` 0: the mode has none. */
export interface Place {
  readonly metric: string;
  readonly mode: string;
  readonly services: number;
}

export const samplesAt = (samples: readonly Sample[], { metric, mode, services }: Place): readonly Sample[] =>
  samples.filter((s) => s.metric === metric && s.mode === mode && s.services === services);

export const spreadAt = (samples: readonly Sample[], place: Place): Spread | null =>
  spreadOf(samplesAt(samples, place).map((s) => s.value));

/** Numbers of services with samples, ascending. */
export const servicesOf = (samples: readonly Sample[], metric: string, mode?: string): readonly number[] =>
  [
    ...new Set(
      samples.filter((s) => s.metric === metric && (mode === undefined || s.mode === mode)).map((s) => s.services),
    ),
  ].sort((x, y) => x - y);

/**
 * How many times as good as the baseline, round by round: over 1 is better, whichever way the metric goes. A mode
 * without services (services 0) is compared with the baseline at `services`, and the other way round. Of nothing it is
 * infinitely much, and nothing is as good as nothing. null: no round has both.
 */
export const timesBetter = (
  samples: readonly Sample[],
  metric: Pick<MetricOfResult, "name" | "better">,
  modes: { readonly mode: string; readonly baseline: string },
  services: number,
): Spread | null => spreadOf(ratiosToBaseline(samples, metric, modes, services));

/** What timesBetter() is the spread of. */
export const ratiosToBaseline = (
  samples: readonly Sample[],
  metric: Pick<MetricOfResult, "name" | "better">,
  modes: { readonly mode: string; readonly baseline: string },
  services: number,
): readonly number[] =>
  ratiosBetween(samples, metric, { mode: modes.mode, services }, { mode: modes.baseline, services });

/** A mode at a number of services against another, or the same at another number; by round. */
export const ratiosBetween = (
  samples: readonly Sample[],
  { name: metric, better }: Pick<MetricOfResult, "name" | "better">,
  own: Omit<Place, "metric">,
  than: Omit<Place, "metric">,
): readonly number[] => {
  const base = byRound(samples, { metric, ...than });
  return [...byRound(samples, { metric, ...own })].flatMap(([round, value]) => {
    const other = base.get(round);
    if (other === undefined) return [];
    if (other === value) return [1];
    return [better === "higher" ? value / other : other / value];
  });
};

/** At that number of services; of a mode that has none, at 0. */
const byRound = (samples: readonly Sample[], place: Place): ReadonlyMap<number, number> => {
  const exact = samplesAt(samples, place);
  const found = exact.length > 0 ? exact : samplesAt(samples, { ...place, services: 0 });
  return new Map(found.map((s) => [s.round, s.value]));
};
