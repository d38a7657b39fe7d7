// A result for docs/benchmarks.md: the same answers as the page as Markdown, and each plot as an SVG file of its own.
import { GOAL_HEADS, goalRow, goalsAnswer, judge } from "../goals.ts";
import { grouped, timesRange, timesText } from "../quantity.ts";
import type { MetricOfResult, Result } from "../result.ts";
import { answer, comparisonsOf, isLimit, rowsBehind } from "../standing.ts";
import { servicesOf, timesBetter } from "../statistics.ts";
import { day, machineText, missingFrom, PARTIAL, troublesOf, whatText } from "./about.ts";
import { servicesText } from "./behind.ts";
import { figureOf } from "./figures.ts";
import { looksOf } from "./looks.ts";
import { WIDTHS } from "./metrics.ts";
import { FIGURE_STYLE } from "./style.ts";

export interface Document {
  readonly markdown: string;
  /** By metric: SVG files. */
  readonly figures: ReadonlyMap<string, string>;
}

/** `folder`: where the page finds the figures. */
export const documentOf = (result: Result, folder: string): Document => {
  const looks = looksOf(result.modes);
  const drawn = result.metrics.flatMap((metric) => {
    const figure = figureOf(result, metric, looks);
    return figure === null ? [] : [{ metric, svg: standalone(figure(WIDTHS.wide).markup) }];
  });
  const plots = drawn.map(({ metric }) => plot(metric, folder)).join("\n\n");
  const markdown = [
    `Measured ${day(result.started)}: ${whatText(result)} ${machineText(result)}`,
    `\`${result.method.command}\``,
    troubles(result),
    `### Where beeline is slower, or needs more\n\n${answer(comparisonsOf(result))}`,
    behind(result),
    goals(result),
    ratios(result),
    `### Plots\n\nBars and markers are medians of the rounds, whiskers reach from the least to the most, dots are rounds.`,
    plots,
    missing(result),
  ].filter((part) => part !== "");
  return {
    markdown: markdown.join("\n\n"),
    figures: new Map(drawn.map(({ metric, svg }) => [metric.name, svg])),
  };
};

const standalone = (svg: string): string =>
  `${svg.replace(/^<svg[^>]*>/, (tag) => `${tag}<style>${FIGURE_STYLE}</style>`)}\n`;

const plot = ({ name, title, unit, better, summary }: MetricOfResult, folder: string): string =>
  `**${cell(title)}** (${cell(unit)}, ${better === "higher" ? "more" : "less"} is better). ${cell(summary)}\n\n![${cell(title)}](${folder}/${name}.svg)`;

const troubles = (result: Result): string =>
  [...(result.complete ? [] : [`A partial run. ${PARTIAL}`]), ...troublesOf(result)]
    .map((text) => `> **To be known first:** ${cell(text)}`)
    .join("\n>\n");

const behind = (result: Result): string => {
  const rows = rowsBehind(comparisonsOf(result)).map(({ own, rivals, services, sure }) => [
    own.metric.title,
    own.mode.title,
    services.map((n) => (n === 0 ? "–" : grouped(n))).join(", "),
    rivals
      .map(
        ({ rival, times }) =>
          `${rival.title} ${timesText(times.median)}${times.n === 1 ? "" : ` (${timesRange(times.min, times.max)})`}`,
      )
      .join(", "),
    sure ? "yes" : "no: the rounds disagree",
  ]);
  if (rows.length === 0) return "";
  return `${table(["what", "beeline", "services", "times as good as", "certain"], rows)}\n\n0.90× is 10 % behind, whichever way a metric goes.`;
};

const goals = (result: Result): string => {
  const all = judge(result);
  if (all.judged.length === 0) return "";
  const rows = all.judged.map((one) => goalRow(result, one));
  return `### Goals\n\n${goalsAnswer(all)} Medians of ratios taken round by round, with the least and the greatest.\n\n${table(GOAL_HEADS, rows)}`;
};

const ratios = (result: Result): string => {
  const baseline = result.modes.find(({ name }) => name === result.method.baseline);
  if (baseline === undefined) return "";
  const modes = result.modes.filter(
    ({ name }) => name !== baseline.name && result.samples.some(({ mode }) => mode === name),
  );
  const rows = result.metrics.flatMap((metric) => {
    const services = Math.max(0, ...servicesOf(result.samples, metric.name));
    const cells = modes.map(({ name }) => {
      const times = timesBetter(result.samples, metric, { mode: name, baseline: baseline.name }, services);
      return times === null ? "–" : timesText(times.median);
    });
    return cells.every((text) => text === "–") ? [] : [[metric.title, ...cells]];
  });
  const most = Math.max(0, ...result.method.services);
  const heads = ["", ...modes.map((mode) => (isLimit(mode) ? `${mode.title} (limit)` : mode.title))];
  return `### Against ${cell(baseline.title)}, at ${servicesText(most)}\n\n${table(heads, rows)}\n\nTimes as good: over 1 is better.`;
};

const missing = (result: Result): string => {
  const rows = missingFrom(result);
  if (rows.length === 0) return "";
  return `### Not measured\n\n${rows.map(([what, why]) => `* ${cell(what)}: ${cell(why)}`).join("\n")}`;
};

const table = (heads: readonly string[], rows: readonly (readonly string[])[]): string =>
  [heads, heads.map(() => "---"), ...rows].map((row) => `| ${row.map(cell).join(" | ")} |`).join("\n");

/** On one line, and nothing in it is Markdown or HTML. */
const cell = (text: string): string => text.replace(/\s+/g, " ").replace(/[\\|<>*_`[\]]/g, "\\$&");

/** What a page has between the two marks, replaced. Throws where there are none. */
export const withResults = (page: string, markdown: string): string => {
  const [from, to] = [page.indexOf(BEGIN), page.indexOf(END)];
  if (from < 0 || to < from) throw new Error(`Cannot find the lines ${BEGIN} and ${END}`);
  return `${page.slice(0, from)}${BEGIN}\n\n${markdown}\n\n${page.slice(to)}`;
};

const BEGIN = "<!-- results: written by npm run bench:docs -->";
const END = "<!-- end of results -->";
