// An axis in words: ticks that have room for their labels, and those labels.
import { quantity } from "../quantity.ts";
import { type Markup, markup } from "./markup.ts";
import type { Scale } from "./scale.ts";
import { textWidth } from "./text.ts";

const TICK_PX = 11;

/** `500 k`, `1 M`, `10 ms`: a tick is round, so it has no trailing zeros; the unit of a rate stands beside the axis. */
export const tickText = (value: number, unit: string): string => {
  const { number, unit: shown } = quantity(value, unit);
  const short = number.replace(/\.(\d*?)0+(?!\d)/, (_all, kept: string) => (kept === "" ? "" : `.${kept}`));
  return shown === unit && !TIMES_AND_SIZES.has(unit) ? short : value === 0 ? "0" : `${short} ${shown}`;
};

const TIMES_AND_SIZES = new Set(["ns", "µs", "ms", "s", "bytes", "kB", "MB", "GB"]);

interface Tick {
  readonly at: number;
  readonly text: string;
}

/** Those whose labels, centred, neither touch each other nor pass `right`; the ends come first. */
export const roomyTicks = (scale: Scale, label: (value: number) => string, right: number): readonly Tick[] => {
  const kept: (Tick & { readonly half: number })[] = [];
  const [first, ...rest] = scale.ticks;
  const last = rest.at(-1);
  for (const value of [
    ...(first === undefined ? [] : [first]),
    ...(last === undefined ? [] : [last]),
    ...rest.slice(0, -1),
  ]) {
    const tick = { at: scale.at(value), text: label(value) };
    const half = textWidth(tick.text, TICK_PX) / 2;
    const free = kept.every((other) => Math.abs(other.at - tick.at) >= other.half + half + TICK_GAP);
    if (free && tick.at + half <= right) kept.push({ ...tick, half });
  }
  return kept.sort((a, b) => a.at - b.at);
};

const TICK_GAP = 8;

/** Labels below `y`. */
export const bottomAxis = (ticks: readonly Tick[], y: number): Markup =>
  markup`${ticks.map(({ at, text }) => markup`<text class="tick" x="${at}" y="${y + 15}" text-anchor="middle">${text}</text>`)}`;

/** Lines across, behind the data. */
export const upright = (ticks: readonly Tick[], from: number, to: number): Markup =>
  markup`${ticks.map(({ at }) => markup`<path class="grid" d="M${at} ${from}V${to}"/>`)}`;
