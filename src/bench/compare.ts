// Two results of the same benchmark, before and after a change: what got worse, what got better, and what is noise.
//
// The rule. For a mode, a metric and a number of services, the medians have to lie further apart than the two ranges (least
// to most) are wide together; than such ranges usually are in this metric (the middle one of all modes and sizes, since
// few rounds can agree by luck); and than the tolerance, since two runs differ even when nothing has changed. With fewer
// than three rounds on a side nothing is said. Drawn from one distribution, 3 rounds are called different in 0.1 % of
// the cases, 5 rounds in less than 0.01 %. Pure.
import { list } from "../lib/text.ts";
import type { MetricOfResult, ModeOfResult, Result } from "./result.ts";
import { isLimit } from "./standing.ts";
import { median, type Place, type Spread, samplesAt, spreadAt } from "./statistics.ts";

export type Change = "worse" | "better" | "same" | "unknown";

export interface Row {
  readonly metric: MetricOfResult;
  readonly mode: ModeOfResult;
  readonly services: number;
  readonly before: Spread;
  readonly after: Spread;
  /** Of the median, as a share of the one before: 0.1 is a tenth more, whether that is good or not. */
  readonly change: number;
  /** As large a share would be noise. */
  readonly noise: number;
  readonly verdict: Change;
}

export interface ResultComparison {
  readonly rows: readonly Row[];
  /** Why the two should perhaps not be compared, in words. */
  readonly warnings: readonly string[];
}

export const LEAST_ROUNDS = 3;

/** `tolerance`: a share. */
export const compareResults = (before: Result, after: Result, tolerance: number): ResultComparison => {
  const rows = after.metrics.flatMap((metric) => rowsOf(before, after, metric, tolerance));
  const warnings = [
    ...warningsOf(before, after),
    ...restlessLimits(rows),
    ...tooNoisy(rows),
    ...oneSided(before, after),
  ];
  return { rows, warnings };
};

/** Another unit is another metric. */
const isSame = (a: MetricOfResult, b: MetricOfResult): boolean => a.unit === b.unit && a.better === b.better;

type Bare = Omit<Row, "noise" | "verdict"> & { readonly ownNoise: number };

const rowsOf = (before: Result, after: Result, metric: MetricOfResult, tolerance: number): readonly Row[] => {
  const known = before.metrics.find(({ name }) => name === metric.name);
  if (known === undefined || !isSame(known, metric)) return [];
  const bare = after.modes.flatMap((mode) => bareRows(before, after, metric, mode));
  const usual = median(bare.filter(isEnough).map(({ ownNoise }) => ownNoise));
  return bare.map(({ ownNoise, ...row }) => {
    const noise = Math.max(ownNoise, Number.isNaN(usual) ? 0 : usual, tolerance);
    return { ...row, noise, verdict: isEnough(row) ? verdictOf(row.change, noise, metric) : "unknown" };
  });
};

const bareRows = (before: Result, after: Result, metric: MetricOfResult, mode: ModeOfResult): readonly Bare[] =>
  placesOf(after, metric.name, mode.name).flatMap((place) => {
    const [was, is] = [spreadAt(before.samples, place), spreadAt(after.samples, place)];
    if (was === null || is === null || was.median === 0) return [];
    const change = is.median / was.median - 1;
    const ownNoise = (was.max - was.min + (is.max - is.min)) / Math.abs(was.median);
    return [{ metric, mode, services: place.services, before: was, after: is, change, ownNoise }];
  });

const isEnough = ({ before, after }: Pick<Row, "before" | "after">): boolean =>
  before.n >= LEAST_ROUNDS && after.n >= LEAST_ROUNDS;

const verdictOf = (change: number, noise: number, { better }: MetricOfResult): Change => {
  if (Math.abs(change) <= noise) return "same";
  return change > 0 === (better === "higher") ? "better" : "worse";
};

const placesOf = ({ samples }: Result, metric: string, mode: string): readonly Place[] => {
  const counts = samples.filter((s) => s.metric === metric && s.mode === mode).map(({ services }) => services);
  return [...new Set(counts)].sort((a, b) => a - b).map((services) => ({ metric, mode, services }));
};

// ---- whether they can be compared -----------------------------------------------------------------------------------

/** What both should have in common, in words. */
const ALIKE: readonly (readonly [what: string, of: (result: Result) => string])[] = [
  ["CPU", ({ machine }) => machine.cpu],
  ["number of CPUs", ({ machine }) => String(machine.cpus)],
  ["memory", ({ machine }) => `${(machine.memory_bytes / 1e9).toFixed(0)} GB`],
  ["kernel", ({ machine }) => machine.kernel],
  ["virtualisation", ({ machine }) => machine.virtual ?? "none"],
  ["Node", ({ versions }) => versions.node],
  ["libbpf", ({ versions }) => versions.libbpf ?? "none"],
  ["iptables", ({ versions }) => versions.iptables ?? "none"],
  ["nft", ({ versions }) => versions.nft ?? "none"],
  ["seconds of a measurement", ({ method }) => String(method.seconds)],
  ["warm-up", ({ method }) => String(method.warm_up_s)],
  ["order", ({ method }) => method.order],
  ["CPUs in use", ({ method }) => method.pinning.map(({ cpu, what }) => `${cpu}: ${what}`).join("; ")],
];

const warningsOf = (before: Result, after: Result): readonly string[] => [
  ...ALIKE.flatMap(([what, of]) =>
    of(before) === of(after) ? [] : [`Another ${what}: ${of(before)} before, ${of(after)} after`],
  ),
  ...after.metrics.flatMap((metric) => {
    const known = before.metrics.find(({ name }) => name === metric.name);
    if (known === undefined || isSame(known, metric)) return [];
    return [`Not compared: ${metric.title} was in ${known.unit} before, and is in ${metric.unit} after`];
  }),
  ...trouble(before, "before"),
  ...trouble(after, "after"),
];

const trouble = ({ complete, problems }: Result, which: "before" | "after"): readonly string[] => [
  ...(complete ? [] : [`The run ${which} was interrupted`]),
  ...problems.map((problem) => `A problem of the run ${which}: ${problem}`),
];

/** No change of beeline's can make plain routing slower. */
const restlessLimits = (rows: readonly Row[]): readonly string[] =>
  rows
    .filter(({ mode, verdict }) => isLimit(mode) && (verdict === "worse" || verdict === "better"))
    .map(
      ({ metric, mode, verdict }) =>
        `The machine itself changed: ${mode.title}, which has nothing of beeline, got ${verdict} in ${metric.title}`,
    );

/** From there on "nothing got worse" says little. */
const MUCH_NOISE = 0.5;

const tooNoisy = (rows: readonly Row[]): readonly string[] => {
  const usual = median(rows.filter(({ verdict }) => verdict !== "unknown").map(({ noise }) => noise));
  if (!(usual > MUCH_NOISE)) return [];
  return [
    `So noisy that half of the figures would have to change by more than ${Math.round(usual * 100)} % to be noticed`,
  ];
};

const oneSided = (before: Result, after: Result): readonly string[] => {
  const only = (one: Result, other: Result, which: string): readonly string[] => {
    const places = one.metrics.flatMap((metric) =>
      one.modes.flatMap((mode) =>
        placesOf(one, metric.name, mode.name)
          .filter((place) => samplesAt(other.samples, place).length === 0)
          .map(({ services }) => ({ metric: metric.title, mode: mode.title, services })),
      ),
    );
    if (places.length === 0) return [];
    const names = (of: (place: (typeof places)[number]) => string): string => list([...new Set(places.map(of))]);
    return [`Only ${which}, so not compared: ${names(({ mode }) => mode)} in ${names(({ metric }) => metric)}`];
  };
  return [...only(before, after, "before"), ...only(after, before, "after")];
};
