// What iptables rules count by nfacct, kube-proxy's two counters: made where the machine has them, read for metrics.
import { isRefusedError, messageOf } from "../../lib/errors.ts";
import { ensureCounter, listCounters } from "./command.ts";
import { COUNTERS, INVALID_DROPPED, LOCALHOST_ACCEPTED } from "./names.ts";

export interface PacketCounts {
  /** Dropped in KUBE-FORWARD. */
  readonly invalidDropped: number;
  /** First packets to NodePorts at 127.0.0.1. */
  readonly localhostAccepted: number;
}

/** Makes both; null: they are there, else why they cannot be. */
export const ensureCounters = (): string | null => {
  try {
    for (const name of COUNTERS) ensureCounter(name);
    return null;
  } catch (error) {
    return messageOf(error);
  }
};

/** null: there are none. */
export const readCounts = (): PacketCounts | null => {
  try {
    return parseCounts(listCounters());
  } catch (error) {
    if (isRefusedError(error)) return null;
    throw error;
  }
};

/** `{ pkts = 00000000000000000007, bytes = 00000000000000000420 } = NAME;` a line. */
const parseCounts = (listing: string): PacketCounts | null => {
  const lines = listing.matchAll(/^\{ pkts = (\d+), bytes = \d+ \} = (\S+);$/gm);
  const found = new Map([...lines].map(([, packets, name]) => [name, Number(packets)]));
  const [invalidDropped, localhostAccepted] = [found.get(INVALID_DROPPED), found.get(LOCALHOST_ACCEPTED)];
  return invalidDropped === undefined || localhostAccepted === undefined ? null : { invalidDropped, localhostAccepted };
};
