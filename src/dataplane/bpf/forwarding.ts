// Direct forwarding, as far as the agent keeps it for the programs: whether it is on, the generation by which flows know
// that their next hops are still good, and which devices may do what. They check next hops by themselves now and then, so
// without an agent a wrong way lasts seconds.
import { randomInt } from "node:crypto";
import { decode, encode } from "./codec.ts";
import type { MapStore } from "./mapstore.ts";
import { bootTime_ns } from "./system/clock.ts";
import { changeConfig, readConfig } from "./tables.ts";

/** By which way packets go on: direct, where theirs is plain, or all by the kernel. */
export type ForwardingMode = "direct" | "kernel";

export interface ForwardingFacts {
  readonly mode: ForwardingMode;
  /** 0: kernel. */
  readonly generation: number;
  /** How often since the start next hops were to be found anew. */
  readonly bumps: number;
}

export interface Forwarding {
  set(mode: ForwardingMode): void;
  /** Routes, neighbours or devices are not what they were: every flow finds its next hop anew. */
  forgetNextHops(): void;
  /** What is larger is left to the kernel, from the next generation on; 0: no route states its MTU. */
  setRouteMtu(mtu: number): void;
  /** Whether flows between the same two addresses may use one next hop. */
  setSharing(shares: boolean): void;
  /** These devices, by index, may do what their flags say, and no others anything. What is not allowed any more goes first. */
  setDevices(flags: ReadonlyMap<number, number>): void;
  /** The same, but nothing is allowed that was not. */
  restrictDevices(flags: ReadonlyMap<number, number>): void;
  facts(): ForwardingFacts;
  close(): void;
}

/** A burst of changes is one change: so often at most. */
const LEAST_BETWEEN_MS = 10;
const GENERATIONS = 2 ** 16;
const SECOND_NS = 1_000_000_000n;

export const createForwarding = (store: MapStore): Forwarding => {
  let generation = readConfig(store).next_hop_generation;
  // Flows may remember any generation; found at random, it is none of theirs but once in 65,535 times, and for seconds then.
  let last = generation === 0 ? randomInt(1, GENERATIONS) : generation;
  let bumps = 0;
  let bumped_ms = Number.NEGATIVE_INFINITY;
  let later: NodeJS.Timeout | null = null;

  const write = (next: number): void => {
    generation = next;
    changeConfig(store, { next_hop_generation: next });
  };
  const bump = (): void => {
    if (later !== null) clearTimeout(later);
    later = null;
    if (generation === 0) return;
    last = last + 1 === GENERATIONS ? 1 : last + 1; // 0 is no generation
    bumps++;
    bumped_ms = performance.now();
    write(last);
  };
  const forgetNextHops = (): void => {
    const wait_ms = bumped_ms + LEAST_BETWEEN_MS - performance.now();
    if (wait_ms <= 0) bump();
    else later ??= setTimeout(bump, wait_ms).unref();
  };
  const held = (): ReadonlyMap<number, number> =>
    new Map(
      Array.from(store.entries("devices"), ([key, value]) => [decode("u32", key), decode("device", value).flags]),
    );

  const writeDevices = (wanted: ReadonlyMap<number, number>): void => {
    const before = held();
    const gone = [...before.keys()].filter((index) => (wanted.get(index) ?? 0) === 0);
    const changed = [...wanted].filter(([index, flags]) => flags !== 0 && before.get(index) !== flags);
    if (gone.length + changed.length === 0) return;
    const key = (index: number): Uint8Array => encode("u32", index);
    store.delete("devices", gone.map(key));
    const rows = changed.map(([index, flags]) => [key(index), encode("device", { flags })] as const);
    store.update("devices", rows);
    bump();
  };

  bump(); // what an agent before us did not live to see
  return {
    set(mode) {
      if ((generation === 0) === (mode === "kernel")) return;
      // Those opened meanwhile go either way, and to be taken for one of before costs a flow no more than a question.
      changeConfig(store, { forwarding_since_ns: bootTime_ns() + SECOND_NS });
      if (mode === "kernel") return write(0);
      generation = last;
      bump();
    },
    forgetNextHops,
    setRouteMtu(mtu) {
      if (readConfig(store).route_mtu !== mtu) changeConfig(store, { route_mtu: mtu });
    },
    setSharing(shares) {
      const shares_ways = Number(shares);
      if (readConfig(store).shares_ways !== shares_ways) changeConfig(store, { shares_ways });
    },
    setDevices: writeDevices,
    restrictDevices(flags) {
      const both = [...held()].map(([index, old]) => [index, old & (flags.get(index) ?? 0)] as const);
      writeDevices(new Map(both));
    },
    facts: () => ({ mode: generation === 0 ? "kernel" : "direct", generation, bumps }),
    close() {
      if (later !== null) clearTimeout(later);
    },
  };
};
