// The border between tables and the kernel: bytes in and out of maps by name. The real one is libbpf (pinned maps),
// the fakes are in dataplane/fake/. Everything above it is pure and cannot tell them apart.
import type { maps } from "./abi.gen.ts";

export type MapName = keyof typeof maps;

export interface MapStore {
  /** Entries the map can hold. */
  capacity(map: MapName): number;
  /** Every entry, in no order; of an ARRAY map those that are not all zero, by index, and none at `below` or beyond.
   * Buffers are the caller's. */
  entries(map: MapName, below?: number): Iterable<readonly [key: Uint8Array, value: Uint8Array]>;
  /** null: not there. */
  lookup(map: MapName, key: Uint8Array): Uint8Array | null;
  /** Inserts or replaces, in order. On failure throws MapError; entries before `MapError.done` are written. */
  update(map: MapName, entries: readonly (readonly [key: Uint8Array, value: Uint8Array])[]): void;
  /** Removes; what is absent already is fine. Never called for ARRAY maps. */
  delete(map: MapName, keys: readonly Uint8Array[]): void;
  /** Returns when every program run that was under way at the call has ended (an RCU grace period). */
  waitForPrograms(): void;
}

/** The kernel refused a map operation. */
export class MapError extends Error {
  override readonly name = "MapError";
  readonly map: MapName;
  /** Positive errno: 7 E2BIG (full), 12 ENOMEM, … */
  readonly errno: number;
  /** Entries that were written before the failure. */
  readonly done: number;

  constructor(message: string, map: MapName, errno: number, done: number) {
    super(message);
    this.map = map;
    this.errno = errno;
    this.done = done;
  }
}
