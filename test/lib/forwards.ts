// How the packets of a node that programs run on went on, by what the programs have counted.
import { forward, hook, maps } from "../../src/dataplane/bpf/abi.gen.ts";
import { openPinnedMaps } from "../../src/dataplane/bpf/pinned.ts";
import { pinDirectory } from "../../src/dataplane/bpf/pins.ts";

export interface Forwards {
  /** Sent on by a program, into a pod or out by a device. */
  readonly direct: number;
  /** Of those, without an skb. */
  readonly xdp: number;
  /** Left to the kernel's routing, though config asks for a next hop. */
  readonly doubted: number;
}

const DIRECT: readonly number[] = [forward.FORWARD_PEER, forward.FORWARD_WIRE, forward.FORWARD_NEIGHBOUR];

export const readForwards = (bpffs: string): Forwards => {
  const store = openPinnedMaps(pinDirectory(bpffs));
  const perHook = maps.forwards.max_entries / hook.HOOKS;
  const sum = { direct: 0, xdp: 0, doubted: 0 };
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
