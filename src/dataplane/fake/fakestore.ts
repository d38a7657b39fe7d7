// Maps without a kernel, behind the same border as the real ones: sizes, ARRAY and LPM semantics, full maps. FaultyStore
// makes any store fail on purpose; WatchedStore shows every single entry as it is written.
import { maps } from "../bpf/abi.gen.ts";
import { type StructName, sizeOf } from "../bpf/codec.ts";
import { MapError, type MapName, type MapStore } from "../bpf/mapstore.ts";

type Entry = readonly [key: Uint8Array, value: Uint8Array];

const E2BIG = 7;
const EAGAIN = 11;
const ENOMEM = 12;
const EINVAL = 22;
const ENOSPC = 28;

const ARRAYS: readonly number[] = [2 /* BPF_MAP_TYPE_ARRAY */, 6 /* PERCPU_ARRAY */];
const LRUS: readonly number[] = [9 /* BPF_MAP_TYPE_LRU_HASH */];
const LPM_TRIE = 11;

/** Sizes are those of maps.h unless `maxEntries` says otherwise. A per-CPU map has one CPU. */
export class FakeStore implements MapStore {
  readonly #maxEntries: Readonly<Partial<Record<MapName, number>>>;
  readonly #contents = new Map<MapName, Map<string, Entry>>();

  constructor(maxEntries: Readonly<Partial<Record<MapName, number>>> = {}) {
    this.#maxEntries = maxEntries;
  }

  capacity(map: MapName): number {
    return this.#maxEntries[map] ?? maps[map].max_entries;
  }

  entries(map: MapName, below = Number.POSITIVE_INFINITY): Entry[] {
    const held = Array.from(this.#content(map).values(), ([key, value]): Entry => [key.slice(), value.slice()]);
    if (!isArray(map)) return held;
    return held
      .filter(([key, value]) => indexOf(key) < below && value.some((byte) => byte !== 0))
      .sort(([a], [b]) => indexOf(a) - indexOf(b));
  }

  lookup(map: MapName, key: Uint8Array): Uint8Array | null {
    checkSize(map, key, keySize(map));
    if (maps[map].type === LPM_TRIE) return longestPrefix([...this.#content(map).values()], key);
    const found = this.#content(map).get(textOf(key))?.[1].slice();
    if (found !== undefined) return found;
    return isArray(map) && indexOf(key) < this.capacity(map) ? new Uint8Array(valueSize(map)) : null;
  }

  update(map: MapName, entries: readonly Entry[]): void {
    for (const [done, [key, value]] of entries.entries()) {
      checkSize(map, key, keySize(map));
      checkSize(map, value, valueSize(map));
      const errno = this.#put(map, key, value);
      if (errno !== 0) throw new MapError(`Cannot write map ${map}: it is full`, map, errno, done);
    }
  }

  delete(map: MapName, keys: readonly Uint8Array[]): void {
    if (isArray(map)) throw new MapError(`Cannot delete from array map ${map}`, map, EINVAL, 0);
    for (const key of keys) {
      checkSize(map, key, keySize(map));
      this.#content(map).delete(textOf(key));
    }
  }

  waitForPrograms(): void {}

  #put(map: MapName, key: Uint8Array, value: Uint8Array): number {
    const content = this.#content(map);
    const text = textOf(key);
    if (isArray(map)) {
      if (indexOf(key) >= this.capacity(map)) return E2BIG;
    } else if (!content.has(text) && content.size >= this.capacity(map)) {
      if (!LRUS.includes(maps[map].type)) return maps[map].type === LPM_TRIE ? ENOSPC : E2BIG;
      content.delete(content.keys().next().value ?? "");
    }
    content.set(text, [key.slice(), value.slice()]);
    return 0;
  }

  #content(map: MapName): Map<string, Entry> {
    const found = this.#contents.get(map) ?? new Map<string, Entry>();
    this.#contents.set(map, found);
    return found;
  }
}

const isArray = (map: MapName): boolean => ARRAYS.includes(maps[map].type);
const keySize = (map: MapName): number => sizeOf(maps[map].key as StructName);
const valueSize = (map: MapName): number => sizeOf(maps[map].value as StructName);
const textOf = (key: Uint8Array): string => Buffer.from(key).toString("latin1");
const indexOf = (key: Uint8Array): number => new DataView(key.buffer, key.byteOffset, 4).getUint32(0, true);

/** An LPM key is a prefix length, then the bits. */
const longestPrefix = (entries: readonly Entry[], key: Uint8Array): Uint8Array | null => {
  const bits = indexOf(key);
  let best: Entry | null = null;
  for (const entry of entries) {
    const length = indexOf(entry[0]);
    if (length > bits || (best !== null && length <= indexOf(best[0]))) continue;
    if (sameBits(entry[0].subarray(4), key.subarray(4), length)) best = entry;
  }
  return best?.[1].slice() ?? null;
};

const sameBits = (a: Uint8Array, b: Uint8Array, bits: number): boolean =>
  a.every((byte, i) => {
    const mask = (0xff << (8 - Math.min(8, Math.max(0, bits - 8 * i)))) & 0xff;
    return ((byte ^ (b[i] ?? 0)) & mask) === 0;
  });

const checkSize = (map: MapName, bytes: Uint8Array, size: number): void => {
  if (bytes.length !== size) throw new MapError(`Map ${map}: ${bytes.length} bytes, not ${size}`, map, EINVAL, 0);
};

/** What goes wrong with one call of update or delete. */
export interface Fault {
  /** Entries written before it fails; more than there are: the call succeeds. */
  readonly after: number;
  readonly errno: number;
}

/** Fails by plan: `next` is asked before each update and delete, and answers what goes wrong with it (null: nothing). */
export class FaultyStore implements MapStore {
  readonly #store: MapStore;
  readonly #next: () => Fault | null;

  constructor(store: MapStore, next: () => Fault | null) {
    this.#store = store;
    this.#next = next;
  }

  capacity(map: MapName): number {
    return this.#store.capacity(map);
  }

  entries(map: MapName, below?: number): Iterable<Entry> {
    return this.#store.entries(map, below);
  }

  lookup(map: MapName, key: Uint8Array): Uint8Array | null {
    return this.#store.lookup(map, key);
  }

  update(map: MapName, entries: readonly Entry[]): void {
    this.#until(map, entries, (some) => this.#store.update(map, some));
  }

  delete(map: MapName, keys: readonly Uint8Array[]): void {
    this.#until(map, keys, (some) => this.#store.delete(map, some));
  }

  waitForPrograms(): void {
    this.#store.waitForPrograms();
  }

  #until<T>(map: MapName, all: readonly T[], write: (some: readonly T[]) => void): void {
    const fault = this.#next();
    if (fault === null || fault.after >= all.length) return write(all);
    write(all.slice(0, fault.after));
    const message = `Cannot write map ${map}: made to fail after ${fault.after} of ${all.length} entries`;
    throw new MapError(message, map, fault.errno, fault.after);
  }
}

/** A plan of faults for FaultyStore, the same for the same seed: about one call in `every` fails, at once or part-way. */
export const seededFaults = (seed: number, every: number): (() => Fault | null) => {
  const errnos = [E2BIG, ENOMEM, EAGAIN];
  let state = seed >>> 0 || 1;
  const random = (below: number): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  return () => (random(every) > 0 ? null : { after: random(4), errno: errnos[random(errnos.length)] ?? ENOMEM });
};

export interface Watcher {
  /** After every single entry; a value of null: removed. */
  written(map: MapName, key: Uint8Array, value: Uint8Array | null): void;
  /** Programs that ran before have ended. */
  waited(): void;
}

/** Writes entry by entry, and tells a watcher after each. */
export class WatchedStore implements MapStore {
  readonly #store: MapStore;
  readonly #watcher: Watcher;

  constructor(store: MapStore, watcher: Watcher) {
    this.#store = store;
    this.#watcher = watcher;
  }

  capacity(map: MapName): number {
    return this.#store.capacity(map);
  }

  entries(map: MapName, below?: number): Iterable<Entry> {
    return this.#store.entries(map, below);
  }

  lookup(map: MapName, key: Uint8Array): Uint8Array | null {
    return this.#store.lookup(map, key);
  }

  update(map: MapName, entries: readonly Entry[]): void {
    for (const [done, entry] of entries.entries()) {
      rethrowAfter(done, () => this.#store.update(map, [entry]));
      this.#watcher.written(map, ...entry);
    }
  }

  delete(map: MapName, keys: readonly Uint8Array[]): void {
    for (const [done, key] of keys.entries()) {
      rethrowAfter(done, () => this.#store.delete(map, [key]));
      this.#watcher.written(map, key, null);
    }
  }

  waitForPrograms(): void {
    this.#store.waitForPrograms();
    this.#watcher.waited();
  }
}

/** Counts the entries written one by one before into the error of this one. */
const rethrowAfter = (done: number, write: () => void): void => {
  try {
    write();
  } catch (error) {
    if (!(error instanceof MapError)) throw error;
    throw new MapError(error.message, error.map, error.errno, done + error.done);
  }
};
