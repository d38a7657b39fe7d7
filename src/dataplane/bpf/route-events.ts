// Hears from the kernel (rtnetlink) what may send a packet another way than a flow remembers: routes, rules, neighbours,
// links, addresses. And what may change which devices are fit for what: links, qdiscs and filters.

import { mtuIn } from "./route-mtu.ts";
import { attributesIn, hearNetlink, type Message, netlinkList } from "./system/netlink.ts";

export interface RouteEvents {
  /** A next hop that is remembered may be wrong now. */
  readonly ways: boolean;
  /** Devices, their addresses, or what is attached to them, are not what they were. */
  readonly devices: boolean;
  /** There are other IP rules. */
  readonly rules: boolean;
  /** Of a route that states its MTU. */
  readonly mtus: boolean;
}

/** `heard` is called within milliseconds, once for what came together. */
export const hearRoutes = (heard: (events: RouteEvents) => void): { close(): void } => {
  const neighbours = new Neighbours();
  const socket = hearNetlink("route", GROUPS, (messages) => {
    if (messages === null) neighbours.read();
    const events = messages === null ? EVERYTHING : eventsIn(messages, neighbours);
    if (events.ways || events.devices) heard(events);
  });
  try {
    neighbours.read(); // after the socket hears: nothing is missed between
  } catch (error) {
    socket.close();
    throw error;
  }
  return socket;
};

/** RTNLGRP_* of linux/rtnetlink.h. */
const GROUPS: readonly number[] = [
  ...[1 /* LINK */, 3 /* NEIGH */, 4 /* TC */],
  ...[5 /* IPV4_IFADDR */, 7 /* IPV4_ROUTE */, 8 /* IPV4_RULE */],
  ...[9 /* IPV6_IFADDR */, 11 /* IPV6_ROUTE */, 19 /* IPV6_RULE */],
  ...[24 /* IPV4_NETCONF: forwarding is on, or off */, 25 /* IPV6_NETCONF */, 32 /* NEXTHOP */],
];

const NOTHING: RouteEvents = { ways: false, devices: false, rules: false, mtus: false };
/** Some announcements are lost. */
const EVERYTHING: RouteEvents = { ways: true, devices: true, rules: true, mtus: true };

const WAYS: RouteEvents = { ...NOTHING, ways: true };
const DEVICES: RouteEvents = { ...NOTHING, devices: true };

/** What each type of message (RTM_*) may have changed; of neighbours what they say decides. */
const MEANING: Readonly<Record<number, RouteEvents>> = {
  ...{ 16: { ...WAYS, devices: true }, 17: { ...WAYS, devices: true } }, // NEWLINK, DELLINK
  ...{ 20: { ...WAYS, devices: true }, 21: { ...WAYS, devices: true } }, // NEWADDR, DELADDR
  ...{ 24: WAYS, 25: WAYS }, // NEWROUTE, DELROUTE
  ...{ 32: { ...WAYS, rules: true }, 33: { ...WAYS, rules: true } }, // NEWRULE, DELRULE
  ...{ 36: DEVICES, 37: DEVICES, 44: DEVICES, 45: DEVICES }, // NEWQDISC, DELQDISC, NEWTFILTER, DELTFILTER
  ...{ 80: WAYS, 81: WAYS, 104: WAYS, 105: WAYS }, // NEWNETCONF, DELNETCONF, NEWNEXTHOP, DELNEXTHOP
};

const ROUTES: readonly number[] = [24, 25]; // NEWROUTE, DELROUTE

const [RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH] = [28, 29, 30];

export const eventsIn = (messages: readonly Message[], neighbours: Neighbours): RouteEvents =>
  messages.reduce((sum, message) => {
    const isNeighbour = message.type === RTM_NEWNEIGH || message.type === RTM_DELNEIGH;
    const one = isNeighbour ? (neighbours.take(message) ? WAYS : NOTHING) : (MEANING[message.type] ?? NOTHING);
    return {
      ways: sum.ways || one.ways,
      devices: sum.devices || one.devices,
      rules: sum.rules || one.rules,
      mtus: sum.mtus || (ROUTES.includes(message.type) && mtuIn(message.body) !== null),
    };
  }, NOTHING);

/**
 * Which address has which MAC. A neighbour in use goes round REACHABLE, STALE, DELAY and PROBE for ever; only another MAC, or
 * none, is news.
 */
export class Neighbours {
  readonly #macs = new Map<string, string>();

  /** What the kernel holds now. Throws SystemError. */
  read(): void {
    const header = new Uint8Array(12); // struct ndmsg
    this.#macs.clear();
    for (const message of netlinkList("route", RTM_GETNEIGH, header)) this.take(message);
  }

  /** True: the address has come to have another MAC, or none, or one at last. */
  take({ type, body }: Message): boolean {
    const neighbour = neighbourIn(body);
    if (neighbour === null) return false;
    const { key, mac } = neighbour;
    const before = this.#macs.get(key);
    if (type === RTM_DELNEIGH || mac === null) return this.#macs.delete(key);
    this.#macs.set(key, mac);
    return before !== mac;
  }
}

const NUD_VALID = 0x80 | 0x40 | 0x10 | 0x08 | 0x04 | 0x02; // PERMANENT, NOARP, PROBE, DELAY, STALE, REACHABLE
const [NDA_DST, NDA_LLADDR] = [1, 2];

/** struct ndmsg {u8 family, pad; u16 pad; s32 ifindex; u16 state; u8 flags, type} and attributes. `mac` null: not known. */
const neighbourIn = (body: Uint8Array): { readonly key: string; readonly mac: string | null } | null => {
  if (body.length < 12) return null;
  const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
  const AF_BRIDGE = 7; // a bridge's own table
  if (view.getUint8(0) === AF_BRIDGE) return null;
  const attributes = attributesIn(body.subarray(12));
  const hex = (bytes: Uint8Array | undefined): string => Buffer.from(bytes ?? []).toString("hex");
  const isValid = (view.getUint16(8, true) & NUD_VALID) !== 0;
  const key = `${view.getInt32(4, true)} ${hex(attributes.get(NDA_DST))}`;
  return { key, mac: isValid ? hex(attributes.get(NDA_LLADDR)) : null };
};
