// The first thing on the page: the answer in one sentence, and a table of everything in which beeline is worse than a
// rival, the worst first. Where the rounds do not agree the row says so, and is not counted.
import { list } from "../../lib/text.ts";
import { grouped, quantityText, timesRange, timesText } from "../quantity.ts";
import type { Result } from "../result.ts";
import { type Comparison, chanceOfAgreement, comparisonsOf, PLAIN } from "../standing.ts";
import { type Place, spreadAt } from "../statistics.ts";
import type { Look } from "./looks.ts";
import { type Markup, markup, NOTHING } from "./markup.ts";

export const behindSection = (result: Result, looks: ReadonlyMap<string, Look>): Markup => {
  const all = comparisonsOf(result);
  return markup`<section id="slower"><h2>Where beeline is slower, or needs more</h2><p class="answer">${answer(all)}</p>${table(result, all, looks)}${bounds(result, all)}</section>`;
};

/** The whole page in a sentence. */
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
export interface Row {
  readonly own: Comparison;
  readonly rivals: readonly Comparison[];
  /** At which some rival is better. */
  readonly services: readonly number[];
  readonly sure: boolean;
}

/** Sure ones first, then by how far behind the worst is. What was measured once and is not plain says nothing. */
export const rowsBehind = (all: readonly Comparison[]): readonly Row[] => {
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

const table = (result: Result, all: readonly Comparison[], looks: ReadonlyMap<string, Look>): Markup => {
  const rows = rowsBehind(all);
  if (rows.length === 0) return NOTHING;
  return markup`<table class="behind"><thead><tr><th scope="col">what</th><th scope="col">beeline</th><th scope="col">rivals that do better</th></tr></thead><tbody>${rows.map((row) => rowOf(result, row, looks))}</tbody></table>`;
};

const rowOf = (result: Result, { own, rivals, services, sure }: Row, looks: ReadonlyMap<string, Look>): Markup => {
  const at = services.length === 1 && own.services === 0 ? "" : `at ${list(services.map(grouped))} services`;
  const several = services.length > 1;
  const items = rivals.map(
    (one) =>
      markup`<li>${modeValue(result, one, one.rival, looks)}<span class="times"><b>${timesText(one.times.median)}</b> <small>${detail(one, several)}</small></span></li>`,
  );
  return markup`<tr class="${sure ? "sure" : "unsure"}"><th scope="row"><a href="#${`metric-${own.metric.name}`}">${own.metric.title}</a><small>${at}</small>${sure ? NOTHING : markup`<small>not certain: the rounds disagree</small>`}</th><td>${modeValue(result, own, own.mode, looks)}</td><td><ul>${items}</ul></td></tr>`;
};

/** `0.28–0.31×, behind in 5 of 5 rounds, worst at 10 services` */
const detail = ({ times, behind, services }: Comparison, several: boolean): string =>
  [
    times.n === 1
      ? "measured once"
      : `${timesRange(times.min, times.max)}, behind in ${behind === times.n ? `all ${times.n}` : `${behind} of ${times.n}`} rounds`,
    ...(several ? [`most at ${grouped(services)} services`] : []),
  ].join(", ");

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
