// From values to pixels: a linear scale from zero for bars, a logarithmic one for sizes and times over magnitudes. Each
// says where its ticks are, so that an axis needs no arithmetic of its own.

export interface Scale {
  /** Where a value lies, in pixels. */
  at(value: number): number;
  readonly ticks: readonly number[];
}

export type Span = readonly [from: number, to: number];

/** 0 to at least `max`, with about `count` round steps; the end of the pixels is `max` itself, so that nothing is wasted. */
export const linearScale = (max: number, pixels: Span, count = 4): Scale => {
  const top = max > 0 ? max : 1;
  const step = roundStep(top / count);
  const ticks = Array.from({ length: Math.floor(top / step + 1e-9) + 1 }, (_, i) => i * step);
  return { at: (value) => between(pixels, value / top), ticks };
};

/**
 * Over all positive values. A range under a factor of `least` is widened about its middle: else mere noise would fill
 * the height of a plot.
 */
export const logScale = (values: readonly number[], pixels: Span, least = 8): Scale => {
  const positive = values.filter((value) => value > 0);
  const low = Math.log10(Math.min(...positive));
  const high = Math.log10(Math.max(...positive));
  if (positive.length === 0) return { at: () => pixels[0], ticks: [] };
  const missing = Math.max(0, Math.log10(least) - (high - low)) / 2;
  const from = low - missing;
  const to = high + missing;
  // Zero has no place on such a scale; it is drawn at the edge.
  const logarithm = (value: number): number => (value > 0 ? Math.max(from, Math.log10(value)) : from);
  const at = (value: number): number => between(pixels, (logarithm(value) - from) / (to - from));
  return { at, ticks: logTicks(from, to) };
};

/** Decades; with 2 and 5 between them where there are few. */
const logTicks = (from: number, to: number): readonly number[] => {
  const factors = to - from > 2.5 ? [1] : [1, 2, 5];
  const decades = Array.from({ length: Math.ceil(to) - Math.floor(from) + 1 }, (_, i) => Math.floor(from) + i);
  const all = decades.flatMap((decade) => factors.map((factor) => Number(`${factor}e${decade}`)));
  return all.filter((tick) => Math.log10(tick) >= from - 1e-9 && Math.log10(tick) <= to + 1e-9);
};

const between = ([from, to]: Span, share: number): number => from + (to - from) * share;

/** The next of 1, 2, 5 times a power of ten. */
const roundStep = (least: number): number => {
  const power = 10 ** Math.floor(Math.log10(least));
  const factor = [1, 2, 5, 10].find((f) => f * power >= least * (1 - 1e-9)) ?? 10;
  return factor * power;
};

/**
 * Labels that want to be at these places, at least `gap` apart and within the span, each as near to its place as the
 * others allow. In the order they came in.
 */
export const spreadApart = (wanted: readonly number[], gap: number, [from, to]: Span): readonly number[] => {
  const order = wanted.map((_, i) => i).sort((a, b) => (wanted[a] ?? 0) - (wanted[b] ?? 0));
  // Labels that touch are one block, placed where its members on average want to be.
  const blocks: { readonly members: number[]; start: number }[] = [];
  for (const i of order) {
    blocks.push({ members: [i], start: 0 });
    settle(blocks, wanted, gap, [from, to]);
  }
  const placed: number[] = [];
  for (const { members, start } of blocks) for (const [k, i] of members.entries()) placed[i] = start + k * gap;
  return placed;
};

const settle = (
  blocks: { readonly members: number[]; start: number }[],
  wanted: readonly number[],
  gap: number,
  [from, to]: Span,
): void => {
  for (;;) {
    const last = blocks.at(-1);
    if (last === undefined) return;
    const mean = last.members.reduce((sum, i, k) => sum + (wanted[i] ?? 0) - k * gap, 0) / last.members.length;
    last.start = Math.max(from, Math.min(mean, to - (last.members.length - 1) * gap));
    const before = blocks.at(-2);
    if (before === undefined || before.start + before.members.length * gap <= last.start + 1e-9) return;
    before.members.push(...last.members);
    blocks.pop();
  }
};
