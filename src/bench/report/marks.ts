// What data is drawn with: a marker for a median, a whisker from least to most, a dot for every sample.
import type { Look, Marker } from "./looks.ts";
import { type Markup, markup } from "./markup.ts";

/** About the middle (0, 0), seven pixels across. */
const SHAPES: Readonly<Record<Marker, string>> = {
  disc: "M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0z",
  square: "M-3.2-3.2h6.4v6.4h-6.4z",
  diamond: "M0-4.4L4.4 0L0 4.4L-4.4 0z",
  triangle: "M0-4.2L4 3.2H-4z",
};

export const marker = ({ marker: shape }: Look, x: number, y: number): Markup =>
  markup`<path class="marker" transform="translate(${x} ${y})" d="${SHAPES[shape]}"/>`;

/** Lying, with caps. */
export const whiskerAcross = (from: number, to: number, y: number): Markup =>
  markup`<path class="whisker" d="M${from} ${y}H${to}M${from} ${y - 4}v8M${to} ${y - 4}v8"/>`;

/** Standing, with caps. */
export const whiskerUp = (x: number, from: number, to: number): Markup =>
  markup`<path class="whisker" d="M${x} ${from}V${to}M${x - 3} ${from}h6M${x - 3} ${to}h6"/>`;

/** One path: a line of no length with round ends is a dot. */
export const dots = (places: readonly (readonly [x: number, y: number])[]): Markup =>
  places.length === 0 ? markup`` : markup`<path class="dots" d="${places.map(([x, y]) => markup`M${x} ${y}h0`)}"/>`;
