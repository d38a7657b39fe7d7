// Which figure shows a metric, and from which samples: lines over the number of services where the metric asks for them
// and there are several numbers, bars otherwise. A function of the width, so that a phone gets its own drawing.
import { grouped } from "../quantity.ts";
import type { MetricOfResult, Result } from "../result.ts";
import { median, type Spread, samplesAt, servicesOf, spreadAt } from "../statistics.ts";
import { barFigure } from "./bars.ts";
import { lineFigure } from "./lines.ts";
import type { Look } from "./looks.ts";
import type { Markup } from "./markup.ts";

export type Figure = (width: number) => Markup;

/** null: no sample of it. */
export const figureOf = (result: Result, metric: MetricOfResult, looks: ReadonlyMap<string, Look>): Figure | null => {
  const counts = servicesOf(result.samples, metric.name).filter((n) => n > 0);
  const places = placesOf(result, metric, looks);
  if (places.length === 0) return null;
  const description = `${metric.title}, ${metric.better} is better`;
  const { unit } = metric;
  if (metric.axis === "services" && counts.length > 1) {
    const lines = result.modes.flatMap(({ name, title }) => {
      const points = places.filter(({ mode }) => mode === name);
      const [first] = points;
      return first === undefined ? [] : [{ label: title, look: first.look, points }];
    });
    return (width) => lineFigure({ lines, unit, description: `${description}, by number of services` }, width);
  }
  // The ends say whether the number matters; what is between stands in the table.
  const panels = endsOf(counts).map((services) => ({
    title: counts.length > 1 ? `${grouped(services)} services` : null,
    bars: places
      .filter((place) => place.services === services || place.services === 0)
      .map(({ label, look, spread, values }) => ({ label, look, spread, values })),
  }));
  return (width) => barFigure({ panels, unit, generator: generatorOf(result, metric), description }, width);
};

/** The first and the last; 0 where there is none: only modes without services were measured. */
const endsOf = (counts: readonly number[]): readonly number[] => [...new Set([counts[0] ?? 0, counts.at(-1) ?? 0])];

interface Shown {
  readonly mode: string;
  readonly label: string;
  readonly look: Look;
  readonly services: number;
  readonly spread: Spread;
  readonly values: readonly number[];
}

/** In the order of the modes, then by number of services. */
const placesOf = ({ modes, samples }: Result, metric: MetricOfResult, looks: ReadonlyMap<string, Look>): Shown[] =>
  modes.flatMap(({ name: mode, title: label }) =>
    servicesOf(samples, metric.name, mode).flatMap((services) => {
      const place = { metric: metric.name, mode, services };
      const spread = spreadAt(samples, place);
      const look = looks.get(mode);
      if (spread === null || look === undefined) return [];
      return [{ mode, label, look, services, spread, values: samplesAt(samples, place).map(({ value }) => value) }];
    }),
  );

/** The median of what the generator alone reached; null: it was not measured for this metric. */
export const generatorOf = ({ generator }: Result, { name }: MetricOfResult): number | null => {
  const values = generator.filter(({ metric }) => metric === name).map(({ value }) => value);
  return values.length === 0 ? null : median(values);
};
