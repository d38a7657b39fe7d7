// What beeline is to reach, as ratios that one run measures side by side, and whether a run reached it. A goal is met by
// the median of the rounds; in how many of them it was met is said as well. Pure.
import { count } from "../lib/text.ts";
import { grouped, timesRange, timesText } from "./quantity.ts";
import type { MetricOfResult, Result } from "./result.ts";
import { ratiosBetween, type Spread, spreadOf } from "./statistics.ts";

/** One mode, with so many services; 0: it has none. */
interface Side {
  readonly mode: string;
  readonly services: number;
}

export interface Goal {
  readonly metric: string;
  readonly own: Side;
  readonly than: Side;
  /** At least so many times as good. */
  readonly times: number;
}

export interface Judged {
  readonly goal: Goal;
  readonly metric: MetricOfResult;
  readonly times: Spread;
  readonly met: boolean;
  /** Of `times.n`. */
  readonly roundsMet: number;
}

const [FEW, MANY] = [10, 10_000];
const ROUTE: Side = { mode: "route", services: 0 };
const at = (services: number) => (mode: string) => ({ mode, services });
const [few, many] = [at(FEW), at(MANY)];
const rules = "iptables-legacy";

export const GOALS: readonly Goal[] = [
  { metric: "packets-away", own: few("bpf-xdp"), than: few(rules), times: 3 },
  { metric: "packets", own: few("bpf-tc-direct"), than: few(rules), times: 2.2 },
  { metric: "packets", own: few("bpf-tc-direct"), than: ROUTE, times: 1.4 },
  { metric: "packets", own: few("bpf-tc"), than: few(rules), times: 1.3 },
  { metric: "udp", own: few("bpf-tc-direct"), than: few(rules), times: 1.6 },
  { metric: "new-flows", own: few("bpf-tc-direct"), than: few(rules), times: 2.5 },
  { metric: "new-flows", own: many("bpf-tc-direct"), than: many(rules), times: 30 },
  { metric: "connect-p50", own: many("bpf-tc-direct"), than: ROUTE, times: 1 / 1.03 },
  { metric: "connect-p50", own: many("bpf-socket"), than: ROUTE, times: 1 / 1.03 },
  { metric: "requests", own: many("bpf-tc-direct"), than: few(rules), times: 1 },
  { metric: "bulk", own: few("bpf-tc-direct"), than: few(rules), times: 1.1 },
  { metric: "bulk-1500", own: few("bpf-tc-direct"), than: few(rules), times: 1.8 },
];

/** What may not depend on how many services there are; by CPU time where it is known, since that can tell two per cent. */
export const FLAT_METRICS: readonly string[] = [
  "packet-cpu",
  "packet-away-net",
  "new-flow-cpu",
  "udp-cpu",
  "connect-p50",
  "requests",
  "bulk",
  "bulk-1500",
  "first-packet",
];
const FLAT = 0.98;

const flatGoals = (mode: string): readonly Goal[] =>
  FLAT_METRICS.map((metric) => ({ metric, own: many(mode), than: few(mode), times: FLAT }));

/** The goals of which the run has both sides, and how many it has not. Of what must not grow, each mode's worst. */
export const judge = (result: Result): { readonly judged: readonly Judged[]; readonly unmeasured: number } => {
  const single = GOALS.map((goal) => judgeOne(result, goal));
  const flat = result.modes
    .filter(({ beeline }) => beeline)
    .map(({ name }) => worst(flatGoals(name).flatMap((goal) => judgeOne(result, goal) ?? [])));
  const all = [...single, ...flat];
  const judged = all.filter((one) => one !== null);
  return { judged, unmeasured: all.length - judged.length };
};

const judgeOne = (result: Result, goal: Goal): Judged | null => {
  const metric = result.metrics.find(({ name }) => name === goal.metric);
  if (metric === undefined) return null;
  const ratios = ratiosBetween(result.samples, metric, goal.own, goal.than);
  const times = spreadOf(ratios);
  if (times === null) return null;
  const roundsMet = ratios.filter((ratio) => ratio >= goal.times).length;
  return { goal, metric, times, met: times.median >= goal.times, roundsMet };
};

/** What most rounds agree on first: among so many, some lie low by luck. */
const worst = (all: readonly Judged[]): Judged | null =>
  [...all].sort((a, b) => a.roundsMet / a.times.n - b.roundsMet / b.times.n || a.times.median - b.times.median)[0] ??
  null;

// ---- as text -------------------------------------------------------------------------------------------------------

export const GOAL_HEADS = ["what", "beeline", "against", "goal", "measured", "met"] as const;

/** A row below GOAL_HEADS. */
export const goalRow = ({ modes }: Result, judged: Judged): readonly string[] => {
  const { goal, metric, times, met, roundsMet } = judged;
  const side = ({ mode, services }: Side): string => {
    const title = modes.find(({ name }) => name === mode)?.title ?? mode;
    return services === 0 ? title : `${title}, ${grouped(services)} services`;
  };
  const itself = goal.own.mode === goal.than.mode;
  return [
    itself ? `${metric.title}, which more services cost most` : metric.title,
    side(goal.own),
    itself ? `itself, ${grouped(goal.than.services)} services` : side(goal.than),
    `≥ ${timesText(goal.times)}`,
    times.n === 1 ? timesText(times.median) : `${timesText(times.median)} (${timesRange(times.min, times.max)})`,
    `${met ? "yes" : `no, ${percent(1 - times.median / goal.times)} short`}: in ${roundsMet} of ${count(times.n, "round")}`,
  ];
};

const percent = (share: number): string => `${share < 0.1 ? (100 * share).toFixed(1) : Math.round(100 * share)} %`;

/** All of them in a sentence. */
export const goalsAnswer = ({ judged, unmeasured }: ReturnType<typeof judge>): string => {
  const met = judged.filter((one) => one.met).length;
  const rest =
    unmeasured === 0 ? "" : ` ${unmeasured} more need modes, metrics or numbers of services that this run has not.`;
  return `Goals met: ${met} of ${judged.length}.${rest}`;
};
