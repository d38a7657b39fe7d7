// Room in `slots`: which consecutive slots hold which list of backend ids. A run never changes once it is published;
// equal lists share one run. A run that nothing points at any more rests before its slots are written again: a program
// may have read the frontend just before and still be on its way to the slot.

/** Consecutive slots, one for each backend id of the list. Never empty: an empty list needs no slots. */
export interface Run {
  readonly base: number;
  readonly backend_ids: readonly number[];
}

export interface Runs {
  /** The run that holds exactly this list. `fresh`: its slots are still to be written. null: no room. */
  place(backend_ids: readonly number[], now_ns: bigint): { readonly run: Run; readonly fresh: boolean } | null;
  /** One more frontend points at it. */
  hold(run: Run): void;
  /** One frontend fewer points at it; the last one lets it rest. Also right for a run placed and never held. */
  release(run: Run, now_ns: bigint): void;
  /** Takes back a run that was placed fresh and whose slots were not written. */
  discard(run: Run): void;
  /** A run found in the maps, with one holder more. null: a different run overlaps it; its slots stay reserved. */
  adopt(base: number, backend_ids: readonly number[]): Run | null;
  /** Every program that could read a resting run has ended: their room is free now. */
  endRest(): void;
  /** Slots held or resting. */
  used(): number;
}

export const REST_NS = 1_000_000_000n;

interface Entry extends Run {
  readonly text: string;
  holders: number;
}

interface Gap {
  base: number;
  count: number;
}

export const createRuns = (capacity: number): Runs => {
  const byText = new Map<string, Entry>();
  const byBase = new Map<number, Entry>();
  const resting = new Map<Entry, bigint>(); // until when, in the order in which they began
  let gaps: Gap[] = capacity > 0 ? [{ base: 0, count: capacity }] : [];

  const place = (backend_ids: readonly number[], now_ns: bigint): { run: Run; fresh: boolean } | null => {
    const text = backend_ids.join();
    const found = byText.get(text);
    if (found !== undefined) return { run: found, fresh: false };
    for (const [entry, until] of resting) {
      if (until > now_ns) break;
      drop(entry);
    }
    const base = takeFirstFit(gaps, backend_ids.length);
    if (base === null) return null;
    return { run: remember({ base, backend_ids, text, holders: 0 }), fresh: true };
  };

  const remember = (entry: Entry): Entry => {
    byText.set(entry.text, entry);
    byBase.set(entry.base, entry);
    return entry;
  };

  const drop = (entry: Entry): void => {
    resting.delete(entry);
    if (byText.get(entry.text) === entry) byText.delete(entry.text);
    byBase.delete(entry.base);
    giveBack(gaps, { base: entry.base, count: entry.backend_ids.length });
  };

  const hold = (run: Run): void => {
    const entry = entryOf(run);
    entry.holders++;
    resting.delete(entry);
  };

  const release = (run: Run, now_ns: bigint): void => {
    const entry = entryOf(run);
    entry.holders = Math.max(0, entry.holders - 1);
    if (entry.holders > 0) return;
    resting.delete(entry);
    resting.set(entry, now_ns + REST_NS);
  };

  const discard = (run: Run): void => {
    const entry = entryOf(run);
    if (entry.holders === 0) drop(entry);
  };

  const adopt = (base: number, backend_ids: readonly number[]): Run | null => {
    const text = backend_ids.join();
    const same = byBase.get(base);
    if (same !== undefined && same.text === text) {
      same.holders++;
      return same;
    }
    const wanted = { base, count: backend_ids.length };
    if (takeExactly(gaps, wanted)) return remember({ base, backend_ids, text, holders: 1 });
    gaps = without(gaps, wanted);
    return null;
  };

  const entryOf = (run: Run): Entry => {
    const entry = byBase.get(run.base);
    if (entry === undefined) throw new Error(`No run at slot ${run.base}`);
    return entry;
  };

  const endRest = (): void => {
    for (const entry of [...resting.keys()]) drop(entry);
  };

  const used = (): number => capacity - gaps.reduce((sum, gap) => sum + gap.count, 0);

  return { place, hold, release, discard, adopt, endRest, used };
};

const takeFirstFit = (gaps: Gap[], count: number): number | null => {
  const index = gaps.findIndex((gap) => gap.count >= count);
  const gap = gaps[index];
  if (gap === undefined) return null;
  const { base } = gap;
  gap.base += count;
  gap.count -= count;
  if (gap.count === 0) gaps.splice(index, 1);
  return base;
};

/** Index of the first gap that begins at or after a slot. */
const firstFrom = (gaps: readonly Gap[], base: number): number => {
  let low = 0;
  for (let high = gaps.length; low < high; ) {
    const middle = (low + high) >> 1;
    if ((gaps[middle]?.base ?? 0) < base) low = middle + 1;
    else high = middle;
  }
  return low;
};

/** False: not all of it is free, and nothing was taken. */
const takeExactly = (gaps: Gap[], wanted: Gap): boolean => {
  const index = firstFrom(gaps, wanted.base + 1) - 1;
  const gap = gaps[index];
  if (gap === undefined || wanted.base + wanted.count > gap.base + gap.count) return false;
  gaps.splice(index, 1, ...cut(gap, wanted));
  return true;
};

/** What is left of a gap on both sides. */
const cut = (gap: Gap, taken: Gap): Gap[] => {
  const [gapEnd, end] = [gap.base + gap.count, taken.base + taken.count];
  const left = { base: gap.base, count: taken.base - gap.base };
  const right = { base: end, count: gapEnd - end };
  return [left, right].filter((part) => part.count > 0);
};

const without = (gaps: readonly Gap[], taken: Gap): Gap[] =>
  gaps.flatMap((gap) => {
    const apart = gap.base + gap.count <= taken.base || taken.base + taken.count <= gap.base;
    return apart ? [gap] : cut(gap, taken);
  });

/** Gaps stay sorted by base, and neighbours merge. */
const giveBack = (gaps: Gap[], freed: Gap): void => {
  const index = firstFrom(gaps, freed.base);
  gaps.splice(index, 0, freed);
  const next = gaps[index + 1];
  if (next !== undefined && freed.base + freed.count === next.base) {
    freed.count += next.count;
    gaps.splice(index + 1, 1);
  }
  const before = gaps[index - 1];
  if (before !== undefined && before.base + before.count === freed.base) {
    before.count += freed.count;
    gaps.splice(index, 1);
  }
};
