// The summary: how many times as good as the baseline every mode is, one row per metric, at the largest number of services.
import { timesRange, timesText } from "../quantity.ts";
import type { MetricOfResult, ModeOfResult, Result } from "../result.ts";
import { isLimit } from "../standing.ts";
import { type Spread, servicesOf, timesBetter } from "../statistics.ts";
import { servicesText } from "./behind.ts";
import type { Look } from "./looks.ts";
import { type Markup, markup, NOTHING } from "./markup.ts";

export const ratiosSection = (result: Result, looks: ReadonlyMap<string, Look>): Markup => {
  const baseline = result.modes.find(({ name }) => name === result.method.baseline);
  if (baseline === undefined) return NOTHING;
  const measured = new Set(result.samples.map(({ mode }) => mode));
  const modes = result.modes.filter(({ name }) => measured.has(name)).sort((a, b) => rank(a) - rank(b));
  const rows = result.metrics.flatMap((metric) => {
    const services = Math.max(0, ...servicesOf(result.samples, metric.name));
    const cells = modes.map((mode) => ratioOf(result, metric, mode, baseline, services));
    return cells.some((cell) => cell !== null) ? [{ metric, services, cells }] : [];
  });
  if (rows.length === 0) return NOTHING;
  const most = Math.max(...rows.map(({ services }) => services));
  return markup`<section id="ratios"><h2>Against ${baseline.title}</h2><p class="note">How many times as good, at ${servicesText(most)}: median of the rounds, least to most below. Over 1 is better, whichever way a metric goes. Coloured where every round agrees: blue is better, brown is worse.</p><div class="wide-table"><table class="ratios"><thead><tr><td></td>${modes.map((mode) => markup`<th scope="col"><span class="mode ${looks.get(mode.name)?.name ?? ""}">${mode.title}</span></th>`)}</tr></thead><tbody>${rows.map(
    ({ metric, services, cells }) =>
      markup`<tr><th scope="row"><a href="#${`metric-${metric.name}`}">${metric.title}</a>${services === most ? "" : markup`<small>${servicesText(services)}</small>`}</th>${cells.map((cell, i) => cellOf(cell, modes[i]?.name === baseline.name))}</tr>`,
  )}</tbody></table></div></section>`;
};

/** beeline's first: on a phone the rest is further to the right. */
const rank = (mode: ModeOfResult): number => (mode.beeline ? 0 : isLimit(mode) ? 2 : 1);

const ratioOf = (
  { samples }: Result,
  metric: MetricOfResult,
  mode: ModeOfResult,
  baseline: ModeOfResult,
  services: number,
): Spread | null => timesBetter(samples, metric, { mode: mode.name, baseline: baseline.name }, services);

const cellOf = (cell: Spread | null, isBaseline: boolean): Markup => {
  if (cell === null) return markup`<td class="none">–</td>`;
  if (isBaseline) return markup`<td class="base">1</td>`;
  const { median, min, max, n } = cell;
  const range = n === 1 ? markup`<small>once</small>` : markup`<small>${timesRange(min, max)}</small>`;
  return markup`<td class="${tint(cell)}">${timesText(median)}${range}</td>`;
};

/** Three strengths each way; none where the rounds disagree. */
const tint = ({ median, min, max, n }: Spread): string => {
  if (n === 1 ? median > 0.5 && median < 2 : min <= 1 && max >= 1) return "";
  const strength = Math.abs(Math.log2(median));
  return `${median > 1 ? "up" : "down"}${strength > 2 ? 3 : strength > 0.5 ? 2 : 1}`;
};
