// A result for a terminal: one block for each metric when all is done, and one line for each mode and size while it is
// measured. Pure.
import { columns, count } from "../lib/text.ts";
import { GOAL_HEADS, goalRow, goalsAnswer, judge } from "./goals.ts";
import { timesText } from "./quantity.ts";
import type { MetricOfResult, Result, Sample } from "./result.ts";
import { answer, comparisonsOf, rowsBehind } from "./standing.ts";
import { servicesOf, spreadAt, timesBetter } from "./statistics.ts";

/** Every metric: modes down, numbers of services across, and how many times as good as the baseline. */
export const resultTable = (result: Result): string => {
  const { machine, method, versions, problems } = result;
  const head = [
    `beeline ${versions.beeline} on ${machine.cpus} × ${machine.cpu}${machine.virtual === null ? "" : " (virtual)"}, kernel ${machine.kernel}`,
    `median (least–greatest) of ${count(method.rounds, "round")} of ${method.seconds} s${result.complete ? "" : "; INTERRUPTED: what had been measured by then"}`,
  ];
  const skipped = result.modes.flatMap(({ name, skipped }) =>
    skipped === null ? [] : [`skipped: ${name}: ${skipped}`],
  );
  const blocks = result.metrics.map((metric) => metricBlock(result, metric)).filter((block) => block !== "");
  const troubles = problems.map((problem) => `problem: ${problem}`);
  return `${[...head, ...skipped].join("\n")}\n\n${blocks.join("\n")}\n${goalsBlock(result)}${behindBlock(result)}${troubles.length > 0 ? `\n${troubles.join("\n")}\n` : ""}`;
};

const goalsBlock = (result: Result): string => {
  const all = judge(result);
  if (all.judged.length === 0) return "";
  const [what = "", ...heads] = GOAL_HEADS.map((head) => head.toUpperCase());
  const rows = all.judged.map((one) => goalRow(result, one).map((text, i) => (i === 0 ? `  ${text}` : text)));
  return `${columns([`Goals: ${what}`, ...heads], rows)}${goalsAnswer(all)}\n\n`;
};

/** Last, so that it stands right above the prompt. */
const behindBlock = (result: Result): string => {
  const all = comparisonsOf(result);
  const rows = rowsBehind(all).map(({ own, rivals, services, sure }) => [
    `  ${own.metric.title}${sure ? "" : " (not certain)"}`,
    own.mode.name,
    services[0] === 0 ? "" : services.join(","),
    rivals.map(({ rival, times }) => `${rival.name} ${timesText(times.median)}`).join(", "),
  ]);
  const heads = ["Where beeline is slower, or needs more", "MODE", "SERVICES", "TIMES AS GOOD AS"];
  return `${columns(rows.length === 0 ? null : heads, rows)}${answer(all)}\n`;
};

const metricBlock = (result: Result, metric: MetricOfResult): string => {
  const sizes = servicesOf(result.samples, metric.name).filter((services) => services > 0);
  const shown = sizes.length === 0 ? [0] : sizes;
  const rows = [
    ...result.modes.flatMap((mode) => {
      const cells = shown.map((services) => cell(result, metric, mode.name, services));
      return cells.every((text) => text === "") ? [] : [[`  ${mode.name}`, ...cells]];
    }),
    ...limitRow(result, metric),
  ];
  if (rows.length === 0) return "";
  const headers = [
    `${metric.title} (${metric.unit}, ${metric.better} is better)`,
    ...shown.map((services) => (services === 0 ? "" : `${services} services`)),
  ];
  return columns(headers, rows);
};

const cell = ({ samples, method }: Result, metric: MetricOfResult, mode: string, services: number): string => {
  const spread =
    spreadAt(samples, { metric: metric.name, mode, services }) ??
    spreadAt(samples, { metric: metric.name, mode, services: 0 });
  if (spread === null) return "";
  const { median, min, max, n } = spread;
  const range = n === 1 ? "" : ` (${brief(min)}–${brief(max)})`;
  const value = `${brief(median)}${range}${lossText(samples, metric.name, mode, services)}`;
  if (method.baseline === null || method.baseline === mode) return value;
  const times = timesBetter(samples, metric, { mode, baseline: method.baseline }, services);
  return times === null ? value : `${value} ${timesText(times.median)}`;
};

/** Half a percent is what queues lose at the end of a run. */
const WORTH_SAYING = 0.005;

const lossText = (samples: readonly Sample[], metric: string, mode: string, services: number): string => {
  const own = samples.filter((s) => s.metric === metric && s.mode === mode && [services, 0].includes(s.services));
  const [sent, lost] = [own.reduce((sum, s) => sum + s.sent, 0), own.reduce((sum, s) => sum + s.lost, 0)];
  return lost <= sent * WORTH_SAYING ? "" : `, ${((100 * lost) / sent).toFixed(1)} % lost`;
};

const limitRow = ({ generator }: Result, { name }: MetricOfResult): readonly (readonly string[])[] => {
  const values = generator.filter(({ metric }) => metric === name).map(({ value }) => value);
  if (values.length === 0) return [];
  const sorted = [...values].sort((x, y) => x - y);
  return [["  (generator's limit)", brief(sorted[Math.floor(sorted.length / 2)] ?? 0)]];
};

/** `1.28M`, `45.2k`, `0.123`: three digits that count. */
export const brief = (value: number): string => {
  if (!Number.isFinite(value)) return "∞";
  const [suffix, size] = UNITS.find(([, least]) => Math.abs(value) >= least) ?? ["", 1];
  const scaled = value / size;
  const decimals = Math.max(0, 2 - Math.max(0, Math.floor(Math.log10(Math.max(1e-9, Math.abs(scaled))))));
  return `${scaled.toFixed(value === 0 ? 0 : decimals)}${suffix}`;
};

const UNITS: readonly (readonly [suffix: string, size: number])[] = [
  ["G", 1e9],
  ["M", 1e6],
  ["k", 1e4 / 10],
];

/** What of a run is shown while it goes on. */
export interface Live {
  readonly samples: readonly Sample[];
  /** Each a line; services 0: the mode has none. */
  readonly places: readonly { readonly mode: string; readonly services: number }[];
  readonly metrics: readonly string[];
}

/** Medians so far; as many columns, and lines, as fit. */
export const liveTable = ({ samples, places, metrics }: Live, width: number, height: number): string => {
  const rows = places.map(({ mode, services }) => [
    services === 0 ? mode : `${mode} ${services}`,
    ...metrics.map((metric) => {
      const spread = spreadAt(samples, { metric, mode, services });
      return spread === null ? "·" : brief(spread.median);
    }),
  ]);
  for (let shown = metrics.length + 1; shown > 1; shown--) {
    const fit = (line: readonly string[]): readonly string[] => line.slice(0, shown);
    const text = columns(fit(["", ...metrics]), rows.map(fit));
    const lines = text.trimEnd().split("\n");
    if (lines.every((line) => [...line].length <= width)) return `${lines.slice(0, Math.max(2, height)).join("\n")}\n`;
  }
  return "";
};

/** `4m 05s`, `32s`. */
export const timeText = (seconds: number): string => {
  const whole = Math.max(0, Math.round(seconds));
  return whole < 60 ? `${whole}s` : `${Math.floor(whole / 60)}m ${String(whole % 60).padStart(2, "0")}s`;
};
