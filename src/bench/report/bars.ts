// A bar for each mode, from zero: its length is the median, the whisker reaches from the least to the most, and every
// sample is a dot. Several numbers of services are panels below each other on one scale.
import { quantity, quantityRange, quantityText } from "../quantity.ts";
import type { Spread } from "../statistics.ts";
import { bottomAxis, roomyTicks, tickText, upright } from "./axis.ts";
import type { Look } from "./looks.ts";
import { dots, whiskerAcross } from "./marks.ts";
import { type Markup, markup, NOTHING } from "./markup.ts";
import { linearScale, type Scale } from "./scale.ts";
import { BOLD, fitted, textWidth } from "./text.ts";

export interface Bar {
  readonly label: string;
  readonly look: Look;
  readonly spread: Spread;
  readonly values: readonly number[];
}

export interface BarPanel {
  /** `10 000 services`; null: there is only this one. */
  readonly title: string | null;
  readonly bars: readonly Bar[];
}

export interface BarFigure {
  readonly panels: readonly BarPanel[];
  readonly unit: string;
  /** What the generator reaches alone; null: not measured. */
  readonly generator: number | null;
  /** For who does not see it. */
  readonly description: string;
}

const BAR = 14;
/** Below this width a label stands above its bar. */
const NARROW = 460;

export const barFigure = ({ panels, unit, generator, description }: BarFigure, width: number): Markup => {
  const bars = panels.flatMap((panel) => panel.bars);
  const most = Math.max(0, ...bars.map(({ spread }) => spread.max));
  // Far above every bar it would only press them together; the caption names it.
  const limit = generator !== null && generator <= most * 1.6 ? generator : null;
  const narrow = width < NARROW;
  const left = narrow ? 5 : Math.min(width / 3, Math.max(...bars.map(({ label }) => textWidth(label))) + 10);
  const right = width - Math.max(...bars.map((bar) => textWidth(valueText(bar, unit)) * BOLD)) - 12;
  const scale = linearScale(Math.max(most, limit ?? 0), [left, right], narrow ? 3 : 5);
  const ticks = roomyTicks(scale, (value) => tickText(value, unit), width);
  const rowHeight = narrow ? 41 : 25;
  let y = limit === null ? 2 : 16;
  const drawn: Markup[] = [];
  for (const { title, bars } of panels) {
    if (title !== null) {
      drawn.push(markup`<text class="panel" x="${narrow ? 2 : left}" y="${y + 14}">${title}</text>`);
      y += 22;
    }
    for (const bar of bars) {
      drawn.push(row(bar, { y, left, scale, unit, narrow, room: narrow ? width : left - 8 }));
      y += rowHeight;
    }
    y += 6;
  }
  const line = limit === null ? NOTHING : limitLine(scale.at(limit), y, width);
  return markup`<svg xmlns="http://www.w3.org/2000/svg" class="figure" viewBox="0 0 ${width} ${y + 22}" width="${width}" height="${y + 22}" role="img" aria-label="${description}">${upright(ticks, limit === null ? 2 : 16, y)}${line}${drawn}${bottomAxis(ticks, y)}</svg>`;
};

interface Frame {
  readonly y: number;
  readonly left: number;
  readonly scale: Scale;
  readonly unit: string;
  readonly narrow: boolean;
  /** Of a label. */
  readonly room: number;
}

const row = (bar: Bar, { y, left, scale, unit, narrow, room }: Frame): Markup => {
  const { label, look, spread, values } = bar;
  const top = y + (narrow ? 19 : 5);
  const middle = top + BAR / 2;
  const end = scale.at(spread.median);
  const name = narrow
    ? markup`<text class="label" x="2" y="${y + 14}">${fitted(label, room)}</text>`
    : markup`<text class="label" x="${left - 8}" y="${middle + 4}" text-anchor="end">${fitted(label, room)}</text>`;
  return markup`<g class="${look.name}"><title>${`${label}: ${spreadText(spread, unit)}`}</title>${name}<rect class="bar" x="${left}" y="${top}" width="${Math.max(0.5, end - left)}" height="${BAR}"/><path class="median" d="M${end} ${top}v${BAR}"/>${whiskerAcross(scale.at(spread.min), scale.at(spread.max), middle)}${dots(values.map((value, i) => [scale.at(value), middle + ((i % 3) - 1) * 3]))}<text class="value" x="${Math.max(scale.at(spread.max), end) + 7}" y="${middle + 4}">${valueText(bar, unit)}</text></g>`;
};

const limitLine = (x: number, bottom: number, width: number): Markup => {
  const text = "generator alone";
  const end = x + textWidth(text, 11) / 2 > width;
  return markup`<path class="ceiling" d="M${x} 14V${bottom}"/><text class="tick" x="${end ? width : x}" y="10" text-anchor="${end ? "end" : "middle"}">${text}</text>`;
};

const valueText = ({ spread }: Bar, unit: string): string => {
  const { number, unit: shown } = quantity(spread.median, unit);
  return shown === unit && unit.includes("/") ? number : `${number} ${shown}`.trimEnd();
};

/** `1.13 M packets/s (1.08 M–1.14 M packets/s, 7 rounds)` */
export const spreadText = ({ median, min, max, n }: Spread, unit: string): string =>
  `${quantityText(median, unit)} (${quantityRange(min, max, unit)}, ${n} ${n === 1 ? "round" : "rounds"})`;
