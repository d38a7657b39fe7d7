// Maps: making, reading and writing them, one entry or many at once.
import { checkLibbpf, ENOENT } from "./errors.ts";
import { libbpf } from "./libbpf.ts";
import { objectInfo } from "./object-info.ts";

/** Creates an unpinned map, for probes and tests. The caller closes it. */
export const mapCreate = (
  type: number,
  name: string,
  key_size: number,
  value_size: number,
  max_entries: number,
): number =>
  checkLibbpf(
    `Cannot create map ${name}`,
    libbpf().map_create(type, name, key_size, value_size, max_entries, null) as number,
  );

export interface MapInfo {
  readonly type: number;
  readonly id: number;
  readonly key_size: number;
  readonly value_size: number;
  readonly max_entries: number;
}

/** What the kernel says of a map. */
export const mapInfo = (fd: number): MapInfo => {
  const info = new DataView(objectInfo("map", fd, 24).buffer);
  const u32 = (offset: number): number => info.getUint32(offset, true);
  return { type: u32(0), id: u32(4), key_size: u32(8), value_size: u32(12), max_entries: u32(16) };
};

/** Answers 0 or a positive errno: what a full map means is the caller's. */
export const mapUpdate = (fd: number, key: Uint8Array, value: Uint8Array): number =>
  Math.abs(libbpf().update_elem(fd, key, value, BPF_ANY) as number);

const BPF_ANY = 0; // a new entry, or a new value of one

/** False: not there. */
export const mapLookup = (fd: number, key: Uint8Array, value: Uint8Array): boolean => {
  const answer = libbpf().lookup_elem(fd, key, value) as number;
  if (answer === -ENOENT) return false;
  checkLibbpf("Cannot look up a map entry", answer);
  return true;
};

/** False: not there. */
export const mapDelete = (fd: number, key: Uint8Array): boolean => {
  const answer = libbpf().delete_elem(fd, key) as number;
  if (answer === -ENOENT) return false;
  checkLibbpf("Cannot delete a map entry", answer);
  return true;
};

/** Next key after `key` (null: the first), or null at the end. For maps without batch lookup. */
export const mapNextKey = (fd: number, key: Uint8Array | null, key_size: number): Uint8Array | null => {
  const next = new Uint8Array(key_size);
  const answer = libbpf().get_next_key(fd, key, next) as number;
  if (answer === -ENOENT) return null;
  checkLibbpf("Cannot walk a map", answer);
  return next;
};

/** Keys and values lie one after another. Answers how many were written, and the errno that stopped it (0: none). */
export const mapUpdateBatch = (
  fd: number,
  keys: Uint8Array,
  values: Uint8Array,
  count: number,
): { readonly errno: number; readonly done: number } => {
  const done = new Uint32Array([count]);
  const answer = libbpf().update_batch(fd, keys, values, done, null) as number;
  return answer < 0 ? { errno: -answer, done: done[0] ?? 0 } : { errno: 0, done: count };
};

export const mapDeleteBatch = (
  fd: number,
  keys: Uint8Array,
  count: number,
): { readonly errno: number; readonly done: number } => {
  const done = new Uint32Array([count]);
  const answer = libbpf().delete_batch(fd, keys, done, null) as number;
  return answer < 0 ? { errno: -answer, done: done[0] ?? 0 } : { errno: 0, done: count };
};

/** Up to `count` entries of a hash or array map after `cursor`; `cursor` is null at first, and null again at the end. */
export const mapLookupBatch = (
  fd: number,
  cursor: Uint8Array | null,
  sizes: { readonly key_size: number; readonly value_size: number },
  count: number,
): {
  readonly keys: Uint8Array;
  readonly values: Uint8Array;
  readonly done: number;
  readonly cursor: Uint8Array | null;
} => {
  const keys = new Uint8Array(count * sizes.key_size);
  const values = new Uint8Array(count * sizes.value_size);
  const next = new Uint8Array(Math.max(4, sizes.key_size));
  const done = new Uint32Array([count]);
  const answer = libbpf().lookup_batch(fd, cursor, next, keys, values, done, null) as number;
  if (answer < 0 && answer !== -ENOENT) checkLibbpf("Cannot read a map", answer);
  return { keys, values, done: done[0] ?? 0, cursor: answer === -ENOENT ? null : next };
};

/** Number of slots in a per-CPU map's value. */
export const possibleCpus = (): number => checkLibbpf("Cannot count CPUs", libbpf().possible_cpus() as number);
