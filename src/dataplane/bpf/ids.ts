// Small numbers for things: the lowest free one first, so that maps stay dense at their start. Which numbers are taken
// is recovered from what the maps hold; the generation of a number tells its holders apart over time.

/** Numbers 1..limit. 0 is never given out: it means nobody. */
export interface Ids {
  /** The lowest free number, or null when all are taken. */
  take(): number | null;
  /** Marks a number found in a map as taken. False: it was taken already. */
  adopt(id: number): boolean;
  release(id: number): void;
  free(): number;
}

export const createIds = (limit: number): Ids => {
  const taken = new Set<number>();
  let lowest = 1; // no free number below
  const take = (): number | null => {
    while (taken.has(lowest)) lowest++;
    if (lowest > limit) return null;
    taken.add(lowest);
    return lowest++;
  };
  const adopt = (id: number): boolean => {
    if (taken.has(id)) return false;
    taken.add(id);
    return true;
  };
  const release = (id: number): void => {
    if (taken.delete(id) && id < lowest) lowest = id;
  };
  return { take, adopt, release, free: () => Math.max(0, limit - taken.size) };
};

/** Ids whose every holder has a generation of its own, so that a remembered (id, generation) is never mistaken. */
export interface GenerationIds {
  take(): { readonly id: number; readonly generation: number } | null;
  /** An id found in a map: taken, or free with the generation of its last holder. False: it was taken already. */
  adopt(id: number, generation: number, taken: boolean): boolean;
  release(id: number): void;
  free(): number;
  /** Above every id that was ever taken. */
  end(): number;
}

export const createGenerationIds = (limit: number): GenerationIds => {
  const ids = createIds(limit);
  const generations = new Map<number, number>();
  let end = 1;
  const note = (id: number, generation: number): void => {
    generations.set(id, generation);
    end = Math.max(end, id + 1);
  };
  const take = (): { id: number; generation: number } | null => {
    const id = ids.take();
    if (id === null) return null;
    const generation = nextGeneration(generations.get(id) ?? 0);
    note(id, generation);
    return { id, generation };
  };
  const adopt = (id: number, generation: number, taken: boolean): boolean => {
    if (taken && !ids.adopt(id)) return false;
    note(id, generation);
    return true;
  };
  return { take, adopt, release: ids.release, free: ids.free, end: () => end };
};

/** A u32 that skips 0, which is no holder's. */
const nextGeneration = (generation: number): number => (generation >= 0xffffffff ? 1 : generation + 1);
