// What was refused or dropped, live: the programs write events while somebody listens, and nothing when nobody does. One
// listener at a time: a lock says who, and ends with the process, as do the events a few seconds later.
import { RefusedError } from "../../lib/errors.ts";
import type { Address } from "../../model/address.ts";
import { decode, encode, sizeOf } from "./codec.ts";
import { hookName, reasonName } from "./inspect.ts";
import { takeLock } from "./lock.ts";
import type { MapStore } from "./mapstore.ts";
import { mapPin, mapsDirectory } from "./pins.ts";
import { readRing } from "./ring.ts";
import { bootTime_ns } from "./system/clock.ts";
import { closeFd, openPinned } from "./system/file.ts";
import { interfaceName } from "./system/interface.ts";
import { mapRing } from "./system/mapped-ring.ts";
import { protoName } from "./tables.ts";

export interface DropEvent {
  /** CLOCK_BOOTTIME. */
  readonly time_ns: bigint;
  /** `tc_ingress`, … */
  readonly hook: string;
  /** As in model/reason.ts. */
  readonly reason: string;
  /** null: a socket call. Of a device that is gone, or another network namespace's: `if7`. */
  readonly device: string | null;
  readonly protocol: string;
  /** Of a socket that is not bound yet: 0.0.0.0 or ::, port 0. */
  readonly from: { readonly address: Address; readonly port: number };
  readonly to: { readonly address: Address; readonly port: number };
  /** null: not known. */
  readonly service_id: number | null;
  readonly backend_id: number | null;
  /** Of a socket call; null: a packet. */
  readonly caller: { readonly pid: number; readonly name: string; readonly netns_cookie: bigint } | null;
}

export interface EventCounts {
  readonly written: number;
  /** Not written: more than the rate allows. */
  readonly limited: number;
  /** Not written: the buffer was full, because nobody read it fast enough. */
  readonly lost: number;
}

export interface EventListener {
  /** What came since the last call, oldest first. To be called several times a second: after three without, events stop. */
  read(): readonly DropEvent[];
  /** Since it began to listen. */
  counts(): EventCounts;
  close(): void;
}

const LEASE_NS = 3_000_000_000n;

/** `rate`: events a second of one hook, reason and CPU. Throws RefusedError while somebody else listens. */
export const listenForEvents = (directory: string, store: MapStore, rate: number): EventListener => {
  const lock = lockFor(directory);
  const fd = openPinned(mapPin(directory, "events"));
  const ring = mapRing(fd);
  closeFd(fd);
  const listen = (until_ns: bigint): void =>
    store.update("listener", [
      [encode("u32", 0), encode("listener", { until_ns, interval_ns: BigInt(Math.max(1, Math.round(1e9 / rate))) })],
    ]);
  readRing(ring, () => {}); // what a former listener left behind
  const before = readEventCounts(store);
  let until_ns = bootTime_ns() + LEASE_NS;
  listen(until_ns);
  return {
    read() {
      const now_ns = bootTime_ns();
      if (until_ns - now_ns < LEASE_NS / 2n) {
        until_ns = now_ns + LEASE_NS;
        listen(until_ns);
      }
      const events: DropEvent[] = [];
      readRing(ring, (record) => events.push(decodeEvent(record)));
      return events;
    },
    counts() {
      const now = readEventCounts(store);
      return {
        written: now.written - before.written,
        limited: now.limited - before.limited,
        lost: now.lost - before.lost,
      };
    },
    close() {
      listen(0n);
      ring.close();
      lock.release();
    },
  };
};

const lockFor = (directory: string): ReturnType<typeof takeLock> => {
  try {
    return takeLock(mapsDirectory(directory), "`beeline trace`");
  } catch (cause) {
    if (cause instanceof RefusedError) throw new RefusedError(`Cannot listen for events, one can at a time`, { cause });
    throw cause;
  }
};

const decodeEvent = (record: Uint8Array): DropEvent => {
  const event = decode("event", record);
  const { key, pid, process, netns_cookie } = event;
  return {
    time_ns: event.time_ns,
    hook: hookName(event.hook),
    reason: reasonName(event.reason),
    device: event.ifindex === 0 ? null : (interfaceName(event.ifindex) ?? `if${event.ifindex}`),
    protocol: protoName(key.proto),
    from: { address: key.src_addr, port: key.src_port },
    to: { address: key.dst_addr, port: key.dst_port },
    service_id: event.service_id || null,
    backend_id: event.backend_id || null,
    caller: pid === 0 ? null : { pid, name: process, netns_cookie },
  };
};

/** Of all hooks, reasons and CPUs, since the maps were made. */
const readEventCounts = (store: MapStore): EventCounts => {
  const counts = Array.from(store.entries("event_budgets"), ([, perCpu]) => sumEventCounts(perCpu));
  const sum = (name: keyof EventCounts): number => counts.reduce((total, count) => total + count[name], 0);
  return { written: sum("written"), limited: sum("limited"), lost: sum("lost") };
};

/** One value of event_budgets: that of each CPU, one after another. */
export const sumEventCounts = (perCpu: Uint8Array): EventCounts => {
  const size = sizeOf("event_budget");
  const sum = { written: 0, limited: 0, lost: 0 };
  for (let offset = 0; offset < perCpu.length; offset += size) {
    const budget = decode("event_budget", perCpu.subarray(offset, offset + size));
    sum.written += Number(budget.written);
    sum.limited += Number(budget.limited);
    sum.lost += Number(budget.lost);
  }
  return sum;
};
