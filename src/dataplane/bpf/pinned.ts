// The real MapStore: maps in the kernel, by file descriptor. Reads and writes go in batches; where a batch stops, the
// rest goes entry by entry, so that the one that failed is named. Works on pinned maps with the agent dead or alive.
import { maps } from "./abi.gen.ts";
import { MapError, type MapName, type MapStore } from "./mapstore.ts";
import { mapPin } from "./pins.ts";
import { EINVAL, ENOENT, ENOSPC, isSystemError } from "./system/errors.ts";
import { closeFd, openPinned } from "./system/file.ts";
import {
  mapDelete,
  mapDeleteBatch,
  mapInfo,
  mapLookup,
  mapLookupBatch,
  mapUpdate,
  mapUpdateBatch,
  possibleCpus,
} from "./system/map.ts";
import { waitForPrograms } from "./system/program.ts";

/** Opens maps of a pin directory (pins.ts) as they are first asked for. Throws SystemError (ENOENT) then, when one is not pinned. */
export const openPinnedMaps = (directory: string): MapStore & { close(): void } => {
  const fds = new Map<MapName, number>();
  const open = (map: MapName): number => {
    const fd = fds.get(map) ?? openPinned(mapPin(directory, map));
    fds.set(map, fd);
    return fd;
  };
  const close = (): void => {
    for (const fd of fds.values()) closeFd(fd);
    fds.clear();
  };
  return { ...createKernelStore(open), close };
};

/** A store over any file descriptors, of pinned maps or of a loaded object's. They stay the caller's. */
export const createKernelStore = (fdOf: (map: MapName) => number): MapStore => {
  const sizes = new Map<MapName, Sizes>();
  const sizesOf = (map: MapName): Sizes => {
    const known = sizes.get(map) ?? readSizes(fdOf(map));
    sizes.set(map, known);
    return known;
  };
  return {
    capacity: (map) => sizesOf(map).max_entries,
    entries: (map, below) => readEntries(map, fdOf(map), sizesOf(map), below ?? Number.POSITIVE_INFINITY),
    lookup(map, key) {
      const value = new Uint8Array(sizesOf(map).value_size);
      return mapLookup(fdOf(map), key, value) ? value : null;
    },
    update(map, entries) {
      if (entries.length > 0) updateAll(map, fdOf(map), sizesOf(map), entries);
    },
    delete(map, keys) {
      if (keys.length > 0) deleteAll(map, fdOf(map), sizesOf(map), keys);
    },
    waitForPrograms,
  };
};

interface Sizes {
  readonly key_size: number;
  /** As user space sees it: all CPUs' values one after another in a per-CPU map. */
  readonly value_size: number;
  readonly max_entries: number;
}

const PER_CPU: readonly number[] = [5 /* PERCPU_HASH */, 6 /* PERCPU_ARRAY */, 10 /* LRU_PERCPU_HASH */];

const readSizes = (fd: number): Sizes => {
  const { type, key_size, value_size, max_entries } = mapInfo(fd);
  const perCpu = Math.ceil(value_size / 8) * 8 * possibleCpus();
  return { key_size, value_size: PER_CPU.includes(type) ? perCpu : value_size, max_entries };
};

const BATCH = 4096;
const ARRAYS: readonly number[] = [2 /* BPF_MAP_TYPE_ARRAY */, 6 /* PERCPU_ARRAY */];
const BPF_MAP_TYPE_SK_STORAGE = 24;

function* readEntries(map: MapName, fd: number, sizes: Sizes, below: number): Generator<Entry> {
  if (maps[map].type === BPF_MAP_TYPE_SK_STORAGE) {
    throw new MapError(`Cannot list map ${map}: it lives in the sockets`, map, EINVAL, 0);
  }
  const { key_size, value_size } = sizes;
  const isArray = ARRAYS.includes(maps[map].type);
  const end = isArray ? Math.min(below, sizes.max_entries) : Number.POSITIVE_INFINITY;
  let cursor: Uint8Array | null = null;
  let read = 0;
  while (read < end) {
    const batch = readBatch(fd, cursor, sizes, Math.min(BATCH, Math.max(1, sizes.max_entries), end - read));
    const isEmpty = isArray ? zeroTest(batch.values, value_size) : () => false;
    for (let i = 0; i < batch.done; i++) {
      if (isEmpty(i)) continue;
      yield [
        batch.keys.subarray(i * key_size, (i + 1) * key_size),
        batch.values.subarray(i * value_size, (i + 1) * value_size),
      ];
    }
    cursor = batch.cursor;
    read += batch.done;
    if (cursor === null) return;
  }
}

/** Whether entry i is all zero. Most of a large array is, so words are compared where they lie. */
const zeroTest = (values: Uint8Array, value_size: number): ((i: number) => boolean) => {
  const wordSize = value_size % 8 === 0 ? 8 : 4;
  const words = wordSize === 8 ? new BigUint64Array(values.buffer) : new Uint32Array(values.buffer);
  const perValue = value_size / wordSize;
  return (i) => {
    for (let word = i * perValue; word < (i + 1) * perValue; word++) if (words[word]) return false;
    return true;
  };
};

/** Asks for more when one bucket of a hash map holds more entries than there is room for. */
const readBatch = (
  fd: number,
  cursor: Uint8Array | null,
  sizes: Sizes,
  count: number,
): ReturnType<typeof mapLookupBatch> => {
  try {
    return mapLookupBatch(fd, cursor, sizes, count);
  } catch (error) {
    if (!isSystemError(error, ENOSPC) || count > sizes.max_entries) throw error;
    return readBatch(fd, cursor, sizes, 2 * count);
  }
};

type Entry = readonly [key: Uint8Array, value: Uint8Array];

const updateAll = (map: MapName, fd: number, sizes: Sizes, entries: readonly Entry[]): void => {
  const keys = join(entries, 0, sizes.key_size);
  const values = join(entries, 1, sizes.value_size);
  const { errno, done } = mapUpdateBatch(fd, keys, values, entries.length);
  if (errno === 0) return;
  for (let i = written(entries.length, done); i < entries.length; i++) {
    const [key, value] = entries[i] ?? [new Uint8Array(), new Uint8Array()];
    const failed = mapUpdate(fd, key, value);
    if (failed !== 0) throw new MapError(`Cannot write map ${map}: ${why(failed)}`, map, failed, i);
  }
};

/** A batch that was refused as a whole (a kernel without batches for this map) leaves `done` as it was given. */
const written = (count: number, done: number): number => (done < count ? done : 0);

const join = (entries: readonly Entry[], part: 0 | 1, size: number): Uint8Array => {
  const bytes = new Uint8Array(entries.length * size);
  for (const [i, entry] of entries.entries()) bytes.set(entry[part], i * size);
  return bytes;
};

const deleteAll = (map: MapName, fd: number, sizes: Sizes, keys: readonly Uint8Array[]): void => {
  const bytes = new Uint8Array(keys.length * sizes.key_size);
  for (const [i, key] of keys.entries()) bytes.set(key, i * sizes.key_size);
  const { errno, done } = mapDeleteBatch(fd, bytes, keys.length);
  if (errno === 0) return;
  // A batch stops at a key that is absent, which is fine for us.
  for (let i = written(keys.length, done); i < keys.length; i++) {
    try {
      mapDelete(fd, keys[i] ?? new Uint8Array());
    } catch (error) {
      if (!isSystemError(error)) throw error;
      throw new MapError(`Cannot delete from map ${map}: ${why(error.errno)}`, map, error.errno, i);
    }
  }
};

const why = (errno: number): string => {
  if (errno === 7 || errno === ENOSPC) return `it is full (errno ${errno})`;
  if (errno === ENOENT) return "no such entry";
  return `errno ${errno}`;
};
