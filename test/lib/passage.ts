// A frame's whole way through a node: by one device in, past the hooks, and out by another, routed by the kernel in between
// unless a program has sent it on itself. What leaves is the same whichever way it went.
import { type Address, addressFromBytes } from "../../src/model/address.ts";
import { type DeviceName, MACS, routeTo } from "./crossing.ts";
import type { Datapath, Outcome, ReasonName } from "./datapath.ts";
import { ETHERNET } from "./packet.ts";

export interface Passage {
  readonly verdict: Outcome["verdict"];
  /** What the first hook said that knew the packet; none: not ours. */
  readonly reason: ReasonName;
  /** Of every hook, in order. */
  readonly reasons: readonly ReasonName[];
  /** As it leaves, routed; where it does not, as the last hook left it. */
  readonly frame: Uint8Array;
  /** Did a program send it on? */
  readonly direct: boolean;
}

export const through = (datapath: Datapath, frame: Uint8Array, from: DeviceName = "wire"): Passage => {
  const outcomes: Outcome[] = [];
  const passage = (last: Uint8Array): Passage => {
    const reasons = outcomes.map(({ reason }) => reason);
    const { verdict = "pass", direct = false } = outcomes.at(-1) ?? {};
    const reason = reasons.find((one) => one !== "REASON_NOT_OURS") ?? "REASON_NOT_OURS";
    return { verdict, reason, reasons, frame: last, direct };
  };
  /** What it is after a hook; null: it went no further. */
  const hook = (outcome: Outcome): Uint8Array | null => {
    outcomes.push(outcome);
    return outcome.verdict === "pass" && !outcome.direct ? outcome.frame : null;
  };
  const enter = (): Uint8Array | null => {
    if (from === "wire") return hook(datapath.ingress(frame));
    return datapath.forwardsReplies ? hook(datapath.podReply(frame)) : frame;
  };
  const entered = enter();
  const sent = outcomes.at(-1);
  if (entered === null) return passage(sent?.direct ? addressed(sent.frame) : (sent?.frame ?? frame));
  const routed = addressed(countedDown(entered));
  const left = routeTo(destinationOf(routed)).device === "wire" ? hook(datapath.egress(routed)) : routed;
  return passage(left === null ? (outcomes.at(-1)?.frame ?? routed) : addressed(left));
};

/** Behind the Ethernet header and its VLAN tags. */
const l3Of = (frame: Uint8Array): number => {
  let at = ETHERNET;
  while (["129,0", "136,168"].includes(frame.slice(at - 2, at).join())) at += 4;
  return at;
};

const isIPv4 = (frame: Uint8Array): boolean => (frame[l3Of(frame)] ?? 0) >> 4 === 4;

const destinationOf = (frame: Uint8Array): Address => {
  const at = l3Of(frame) + (isIPv4(frame) ? 16 : 24);
  if (!isIPv4(frame)) return addressFromBytes(frame.slice(at, at + 16));
  return [...frame.slice(at, at + 4)].join(".") as Address;
};

/** With the MAC addresses of its next hop. */
const addressed = (frame: Uint8Array): Uint8Array => {
  const { device, mac } = routeTo(destinationOf(frame));
  return Uint8Array.of(...mac, ...MACS[device], ...frame.slice(12));
};

/** One hop less to live. RFC 1141: one less in the upper byte of a word is one more, end-around, in the checksum. */
const countedDown = (frame: Uint8Array): Uint8Array => {
  const [routed, l3] = [frame.slice(), l3Of(frame)];
  const hops = l3 + (isIPv4(frame) ? 8 : 7);
  if ((routed[hops] ?? 0) <= 1) throw new Error(`A kernel routes no packet with ${routed[hops]} hops to live`);
  routed[hops] = (routed[hops] ?? 0) - 1;
  if (!isIPv4(frame)) return routed;
  const view = new DataView(routed.buffer);
  const sum = view.getUint16(l3 + 10) + 0x100;
  view.setUint16(l3 + 10, sum >= 0xffff ? sum - 0xffff : sum); // as the kernel has it: never 0xffff
  return routed;
};
