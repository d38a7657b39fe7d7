// The first thing on the page: the answer in one sentence, and a table of everything in which beeline is worse than a
// rival, the worst first. Where the rounds do not agree the row says so, and is not counted.
import { list } from "../../lib/text.ts";
import { grouped, quantityText, timesRange, timesText } from "../quantity.ts";
import type { Result } from "../result.ts";
import {
  answer,
  type Behind,
  type Comparison,
  chanceOfAgreement,
  comparisonsOf,
  PLAIN,
  rowsBehind,
} from "../standing.ts";
import { type Place, spreadAt } from "../statistics.ts";
import type { Look } from "./looks.ts";
import { type Markup, markup, NOTHING } from "./markup.ts";

export const behindSection = (result: Result, looks: ReadonlyMap<string, Look>): Markup => {
  const all = comparisonsOf(result);
  return markup`<section id="slower"><h2>Where beeline is slower, or needs more</h2><p class="answer">${answer(all)}</p>${table(result, all, looks)}${bounds(result, all)}</section>`;
};

/** What is not certain is one click away: it is not counted, and often much. */
const table = (result: Result, all: readonly Comparison[], looks: ReadonlyMap<string, Look>): Markup => {
  const rows = rowsBehind(all);
  const [sure, unsure] = [rows.filter((row) => row.sure), rows.filter((row) => !row.sure)];
  const of = (some: readonly Behind[]): Markup =>
    some.length === 0
      ? NOTHING
      : markup`<table class="behind"><thead><tr><th scope="col">what</th><th scope="col">beeline</th><th scope="col">rivals that do better</th></tr></thead><tbody>${some.map((row) => rowOf(result, row, looks))}</tbody></table>`;
  if (unsure.length === 0) return of(sure);
  return markup`${of(sure)}<details class="unsure"><summary>${unsure.length} more where the median is behind, but the rounds disagree</summary>${of(unsure)}</details>`;
};

const rowOf = (result: Result, { own, rivals, services }: Behind, looks: ReadonlyMap<string, Look>): Markup => {
  const at = services.length === 1 && own.services === 0 ? "" : `at ${list(services.map(grouped))} services`;
  const several = services.length > 1;
  const items = rivals.map(
    (one) =>
      markup`<li>${modeValue(result, one, one.rival, looks)}<span class="times"><b>${timesText(one.times.median)}</b> <small>${detail(one, several)}</small></span></li>`,
  );
  return markup`<tr><th scope="row"><a href="#${`metric-${own.metric.name}`}">${own.metric.title}</a><small>${at}</small></th><td>${modeValue(result, own, own.mode, looks)}</td><td><ul>${items}</ul></td></tr>`;
};

/** `0.28–0.31×, behind in 4 of 5 rounds, most at 10 services` */
const detail = ({ times, behind, services }: Comparison, several: boolean): string => {
  const range = `${timesRange(times.min, times.max)}, behind in ${behind} of ${times.n} rounds`;
  return `${times.n === 1 ? "measured once" : range}${several ? `, most at ${grouped(services)} services` : ""}`;
};

const modeValue = (
  result: Result,
  { metric, services }: Comparison,
  mode: { readonly name: string; readonly title: string },
  looks: ReadonlyMap<string, Look>,
): Markup => {
  const place: Place = { metric: metric.name, mode: mode.name, services };
  const spread = spreadAt(result.samples, place);
  const value = spread === null ? "" : quantityText(spread.median, metric.unit);
  return markup`<span class="mode ${looks.get(mode.name)?.name ?? ""}">${mode.title}</span> <span class="figures">${value}</span>`;
};

export const servicesText = (services: number): string =>
  services === 0 ? "without services" : `${grouped(services)} ${services === 1 ? "service" : "services"}`;

/** What the counts above rest on, for who doubts them. */
const bounds = (result: Result, all: readonly Comparison[]): Markup => {
  if (all.length === 0) return NOTHING;
  const rounds = Math.max(...all.map(({ times }) => times.n));
  const once = all.some(({ times }) => times.n === 1);
  const luck =
    rounds < 2
      ? "There was one round only, so nothing is known of the noise."
      : `With ${rounds} rounds, luck alone would make all of them agree in one comparison of ${Math.round(1 / chanceOfAgreement(rounds))}.`;
  const limit = result.modes.filter((m) => !m.beeline && !m.counts_services && m.skipped === null);
  const route =
    limit.length === 0
      ? ""
      : ` Not a rival, but the limit: ${list(limit.map(({ title }) => title))}, which does no Services at all.`;
  return markup`<p class="note">Each mode of beeline against each rival, metric and number of services; <b>0.90×</b> is 10 % behind the rival, whichever way the metric goes. Ratios are of samples taken one right after the other; better or worse counts only when <em>every</em> round says so. ${luck}${once ? ` What was measured once only counts from ${PLAIN}× on.` : ""}${route}</p>`;
};
