// One card for each metric: its figure, drawn for a desk and for a phone, and below it every figure as a table.
import { grouped, quantity, quantityRange, quantityText, timesRange, timesText } from "../quantity.ts";
import type { MetricOfResult, Result } from "../result.ts";
import { samplesAt, servicesOf, spreadAt, timesBetter } from "../statistics.ts";
import { figureOf, generatorOf } from "./figures.ts";
import type { Look } from "./looks.ts";
import { type Markup, markup, NOTHING } from "./markup.ts";

/** Pixels that a figure has in a column of the page, and on a phone. */
export const WIDTHS = { wide: 540, narrow: 336 } as const;

export const metricsSection = (result: Result, looks: ReadonlyMap<string, Look>): Markup => {
  const cards = result.metrics.flatMap((metric) => {
    const figure = figureOf(result, metric, looks);
    if (figure === null) return [];
    return [
      markup`<article class="card" id="${`metric-${metric.name}`}"><h3>${metric.title}</h3><p class="unit">${unitText(metric)}</p><figure><div class="at-desk">${figure(WIDTHS.wide)}</div><div class="at-phone">${figure(WIDTHS.narrow)}</div><figcaption>${metric.summary}${generatorNote(result, metric)}</figcaption></figure>${values(result, metric)}</article>`,
    ];
  });
  return markup`<section id="metrics"><h2>Every metric</h2><p class="note">A bar or marker is the median of the rounds, the whisker reaches from the least to the most, a dot is one round. All figures are one click below each plot.</p><div class="cards">${cards}</div></section>`;
};

const unitText = ({ unit, better }: MetricOfResult): string =>
  `${unit}, ${better === "higher" ? "more" : "less"} is better`;

/** A mode that is near the generator's limit may be faster than it shows. */
const generatorNote = (result: Result, metric: MetricOfResult): Markup => {
  const limit = generatorOf(result, metric);
  if (limit === null) return NOTHING;
  return markup` The generator alone reaches ${quantityText(limit, metric.unit)}; no mode can show more.`;
};

const values = (result: Result, metric: MetricOfResult): Markup => {
  const baseline = result.method.baseline;
  const rows = result.modes.flatMap(({ name: mode, title }) =>
    servicesOf(result.samples, metric.name, mode).flatMap((services) => {
      const place = { metric: metric.name, mode, services };
      const spread = spreadAt(result.samples, place);
      if (spread === null) return [];
      const ratio =
        baseline === null || baseline === mode
          ? null
          : timesBetter(result.samples, metric, { mode, baseline }, services);
      const lost = samplesAt(result.samples, place).reduce((sum, one) => sum + one.lost, 0);
      return [
        markup`<tr><th scope="row">${title}</th><td>${services === 0 ? "–" : grouped(services)}</td><td><b>${quantityText(spread.median, metric.unit)}</b></td><td>${quantityRange(spread.min, spread.max, metric.unit)}</td><td>${spread.n}</td><td>${ratio === null ? "–" : markup`${timesText(ratio.median)} <small>${timesRange(ratio.min, ratio.max)}</small>`}</td><td>${lost === 0 ? "0" : quantity(lost, "").number}</td></tr>`,
      ];
    }),
  );
  return markup`<details><summary>All figures</summary><div class="wide-table"><table class="values"><thead><tr><th scope="col">mode</th><th scope="col">services</th><th scope="col">median</th><th scope="col">least–most</th><th scope="col">rounds</th><th scope="col">times as good</th><th scope="col">lost</th></tr></thead><tbody>${rows}</tbody></table></div></details>`;
};
