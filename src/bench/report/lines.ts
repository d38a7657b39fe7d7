// A line for each mode over the number of services, both axes logarithmic: markers are medians, whiskers reach from the
// least to the most. Each line is named where it ends; a mode that has no services is a level line.
import { grouped } from "../quantity.ts";
import type { Spread } from "../statistics.ts";
import { bottomAxis, roomyTicks, tickText, upright } from "./axis.ts";
import { spreadText } from "./bars.ts";
import type { Look } from "./looks.ts";
import { marker, whiskerUp } from "./marks.ts";
import { type Markup, markup } from "./markup.ts";
import { logScale, type Scale, spreadApart } from "./scale.ts";
import { fitted, textWidth } from "./text.ts";

export interface Line {
  readonly label: string;
  readonly look: Look;
  /** By number of services, ascending; one point of 0 services is a level line. */
  readonly points: readonly { readonly services: number; readonly spread: Spread }[];
}

export interface LineFigure {
  readonly lines: readonly Line[];
  readonly unit: string;
  readonly description: string;
}

const LABEL_GAP = 15;

export const lineFigure = ({ lines, unit, description }: LineFigure, width: number): Markup => {
  const spreads = lines.flatMap(({ points }) => points.map(({ spread }) => spread));
  const counts = lines.flatMap(({ points }) => points.map(({ services }) => services).filter((n) => n > 0));
  const room = Math.min(width * 0.4, Math.max(...lines.map(({ label }) => textWidth(label))) + 4);
  const height = Math.max(width < 460 ? 230 : 290, lines.length * LABEL_GAP + 50);
  const [top, bottom] = [8, height - 40];
  const y = logScale(
    spreads.flatMap(({ min, max }) => [min, max]),
    [bottom, top],
  );
  const left = Math.max(0, ...y.ticks.map((tick) => textWidth(tickText(tick, unit), 11))) + 8;
  const right = width - room - 28;
  const inner = logScale(counts, [left + 14, right - 6], 2);
  // Ticks where something was measured, not at round numbers.
  const x: Scale = { at: inner.at, ticks: [...new Set(counts)].sort((a, b) => a - b) };
  const ticks = roomyTicks(x, grouped, width);
  const across = y.ticks.map(
    (tick) =>
      markup`<path class="grid" d="M${left} ${y.at(tick)}H${right}"/><text class="tick" x="${left - 6}" y="${y.at(tick) + 4}" text-anchor="end">${tickText(tick, unit)}</text>`,
  );
  const ends = lines.map(({ points }) => y.at(points.at(-1)?.spread.median ?? 1));
  const places = spreadApart(ends, LABEL_GAP, [top + 2, bottom - 2]);
  const drawn = lines.map((line, i) => {
    const end = ends[i] ?? 0;
    const place = places[i] ?? end;
    const leader = markup`<path class="leader" d="M${right} ${end}L${right + 12} ${place}h5"/>${marker(line.look, right + 19, place)}`;
    const name = markup`<text class="label" x="${right + 27}" y="${place + 4}">${fitted(line.label, room)}</text>`;
    return markup`<g class="${line.look.name}"><title>${titleOf(line, unit)}</title>${curve(line, beside(x, i, lines.length), y, [left, right])}${leader}${name}</g>`;
  });
  return markup`<svg xmlns="http://www.w3.org/2000/svg" class="figure" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" aria-label="${description}">${upright(ticks, top, bottom)}${across}${drawn}${bottomAxis(ticks, bottom)}<text class="tick" x="${(left + right) / 2}" y="${height - 6}" text-anchor="middle">services</text></svg>`;
};

/** Lines stand a little beside each other, or whiskers would hide whiskers. */
const beside = (x: Scale, i: number, lines: number): Scale => ({
  ...x,
  at: (value) => x.at(value) + (i - (lines - 1) / 2) * 2,
});

const curve = ({ points, look }: Line, x: Scale, y: Scale, [left, right]: readonly [number, number]): Markup => {
  const [first] = points;
  if (first === undefined) return markup``;
  if (first.services === 0)
    return markup`<path class="curve" stroke-dasharray="${look.dash}" d="M${left} ${y.at(first.spread.median)}H${right}"/>${whiskerUp(left + 4, y.at(first.spread.min), y.at(first.spread.max))}`;
  const path = points.map(
    ({ services, spread }, i) => markup`${i === 0 ? "M" : "L"}${x.at(services)} ${y.at(spread.median)}`,
  );
  const last = points.at(-1) ?? first;
  const tail = markup`M${x.at(last.services)} ${y.at(last.spread.median)}H${right}`;
  const marks = points.map(
    ({ services, spread }) =>
      markup`${whiskerUp(x.at(services), y.at(spread.min), y.at(spread.max))}${marker(look, x.at(services), y.at(spread.median))}`,
  );
  return markup`<path class="curve" stroke-dasharray="${look.dash}" d="${path}"/><path class="leader" stroke-dasharray="${last.services === x.ticks.at(-1) ? "none" : "1 5"}" d="${tail}"/>${marks}`;
};

const titleOf = ({ label, points }: Line, unit: string): string =>
  [
    label,
    ...points.map(
      ({ services, spread }) =>
        `${services === 0 ? "without services" : `${grouped(services)} services`}: ${spreadText(spread, unit)}`,
    ),
  ].join("\n");
