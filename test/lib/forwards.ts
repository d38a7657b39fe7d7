// How the packets of a node that programs run on went on, by what the programs have counted.
import assert from "node:assert/strict";
import { forward, hook, maps } from "../../src/dataplane/bpf/abi.gen.ts";
import { openPinnedMaps } from "../../src/dataplane/bpf/pinned.ts";
import { pinDirectory } from "../../src/dataplane/bpf/pins.ts";
import type { Forwarding } from "./forwarding.ts";

export interface Forwards {
  /** Sent on by a program, into a pod or out by a device. */
  readonly direct: number;
  /** Of those, without an skb. */
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

/** Throws where packets went on in a way in which they should not, or none in one in which they should. */
export const assertForwards = (forwarding: Forwarding, { direct, xdp, doubted }: Forwards): void => {
  const words = `forwarding: ${forwarding}: ${direct} directly, ${xdp} of them by XDP, ${doubted} left to the kernel`;
  assert.equal(direct > xdp, forwarding !== "kernel", words);
  assert.equal(xdp > 0, forwarding === "xdp", words);
  if (forwarding === "kernel") assert.equal(doubted, 0, words);
};

const readNode = (bpffs: string): Forwards => {
  const store = openPinnedMaps(pinDirectory(bpffs));
  const perHook = maps.forwards.max_entries / hook.HOOKS;
  const sum = { ...NO_FORWARDS };
  try {
    for (const [key, value] of store.entries("forwards")) {
      const index = new DataView(key.buffer, key.byteOffset).getUint32(0, true);
      const count = Number(perCpu(value).reduce((total, one) => total + one, 0n));
      const isDirect = DIRECT.includes(index % perHook);
      sum[isDirect ? "direct" : "doubted"] += count;
      if (isDirect && Math.floor(index / perHook) === hook.HOOK_XDP) sum.xdp += count;
    }
    return sum;
  } finally {
    store.close();
  }
};

const perCpu = (value: Uint8Array): readonly bigint[] => {
  const view = new DataView(value.buffer, value.byteOffset, value.byteLength);
  return Array.from({ length: value.length / 8 }, (_, cpu) => view.getBigUint64(8 * cpu, true));
};
