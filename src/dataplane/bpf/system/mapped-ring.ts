// The memory of a ring buffer map. Reading it: ../ring.ts.
import { SystemError } from "./errors.ts";
import { errno, libc, memoryAt } from "./libc.ts";
import { mapInfo } from "./map.ts";

/** The memory of a ring buffer map, shared with the kernel. Nothing of it may be touched once it is closed. */
export interface MappedRing {
  /** One element: how far the reader is, in bytes since the beginning. Ours to write. */
  readonly consumer: BigUint64Array;
  /** One element: how far the programs are. */
  readonly producer: BigUint64Array;
  /** The buffer, twice in a row, so that a record that goes over its end is in one piece. */
  readonly data: Uint8Array;
  readonly size_bytes: number;
  close(): void;
}

/** The file descriptor may be closed afterwards. */
export const mapRing = (fd: number): MappedRing => {
  const l = libc();
  const page = l.getpagesize() as number;
  const size_bytes = mapInfo(fd).max_entries;
  const all = page + 2 * size_bytes; // the programs' page, and the data behind it
  const [PROT_READ, PROT_WRITE, MAP_SHARED] = [1, 2, 1];
  const consumer = mapMemory(fd, 0, page, PROT_READ | PROT_WRITE, MAP_SHARED);
  try {
    const rest = mapMemory(fd, page, all, PROT_READ, MAP_SHARED);
    const view = memoryAt(rest, all);
    return {
      consumer: new BigUint64Array(memoryAt(consumer, 8)),
      producer: new BigUint64Array(view, 0, 1),
      data: new Uint8Array(view, page, 2 * size_bytes),
      size_bytes,
      close() {
        l.munmap(consumer, page);
        l.munmap(rest, all);
      },
    };
  } catch (error) {
    l.munmap(consumer, page);
    throw error;
  }
};

const mapMemory = (fd: number, offset: number, length: number, protection: number, flags: number): bigint => {
  const MAP_FAILED = 2n ** 64n - 1n;
  const address = libc().mmap(null, length, protection, flags, fd, offset) as bigint;
  if (address === MAP_FAILED) throw new SystemError("Cannot map a ring buffer into memory", errno());
  return address;
};
