// How the packets of a node that programs run on went on, by what the programs have counted.
import assert from "node:assert/strict";
import { forward, hook, maps } from "../../src/dataplane/bpf/abi.gen.ts";
import { readCounters } from "../../src/dataplane/bpf/inspect.ts";
import { openPinnedMaps } from "../../src/dataplane/bpf/pinned.ts";
import { pinDirectory } from "../../src/dataplane/bpf/pins.ts";
import type { Forwarding } from "./forwarding.ts";

export interface Forwards {
  /** Sent on by tc, into a pod or out by a device. */
  readonly direct: number;
  /** Sent on by XDP. */
  readonly xdp: number;
  /** Left to the kernel's routing, though config asks for a next hop. */
  readonly doubted: number;
}

const DIRECT: readonly number[] = [forward.FORWARD_PEER, forward.FORWARD_WIRE, forward.FORWARD_NEIGHBOUR];

export const NO_FORWARDS: Forwards = { direct: 0, xdp: 0, doubted: 0 };

export const addForwards = (a: Forwards, b: Forwards, sign: 1 | -1 = 1): Forwards => ({
  direct: a.direct + sign * b.direct,
  xdp: a.xdp + sign * b.xdp,
  doubted: a.doubted + sign * b.doubted,
});

/** Of all nodes that pin there, so far. */
export const readForwards = (bpffs: readonly string[]): Forwards =>
  bpffs.map(readNode).reduce((sum, one) => addForwards(sum, one), NO_FORWARDS);

/** Throws where packets went on in a way in which they should not. What was drawn at random may have sent none at all. */
export const assertNoOtherWay = (forwarding: Forwarding, forwards: Forwards): void => {
  if (forwarding === "kernel") assert.deepEqual(forwards, NO_FORWARDS);
  if (forwarding !== "xdp") assert.equal(forwards.xdp, 0, describe(forwarding, forwards));
};

/** Throws there, and where none went on in a way in which they should. */
export const assertForwards = (forwarding: Forwarding, forwards: Forwards, hasRemote = true): void => {
  assertNoOtherWay(forwarding, forwards);
  assert.ok(forwarding === "kernel" || forwards.direct > 0, describe(forwarding, forwards));
  assert.equal(forwards.xdp > 0, forwarding === "xdp" && hasRemote, describe(forwarding, forwards));
};

const describe = (forwarding: Forwarding, { direct, xdp, doubted }: Forwards): string =>
  `forwarding: ${forwarding}: ${direct} sent on by tc, ${xdp} by XDP, ${doubted} left to the kernel`;

const readNode = (bpffs: string): Forwards => {
  const store = openPinnedMaps(pinDirectory(bpffs));
  const perHook = maps.forwards.max_entries / hook.HOOKS;
  const sum = { ...NO_FORWARDS };
  try {
    for (const [key, value] of store.entries("forwards")) {
      const index = new DataView(key.buffer, key.byteOffset).getUint32(0, true);
      if (Math.floor(index / perHook) === hook.HOOK_XDP) continue; // it counts nothing but what it sends on, by reason
      sum[DIRECT.includes(index % perHook) ? "direct" : "doubted"] += sumOfCpus(value);
    }
    for (const counter of readCounters(store)) if (counter.hook === "xdp") sum.xdp += Number(counter.count);
    return sum;
  } finally {
    store.close();
  }
};

const sumOfCpus = (value: Uint8Array): number => {
  const view = new DataView(value.buffer, value.byteOffset, value.byteLength);
  const counts = Array.from({ length: value.length / 8 }, (_, cpu) => Number(view.getBigUint64(8 * cpu, true)));
  return counts.reduce((sum, one) => sum + one, 0);
};
