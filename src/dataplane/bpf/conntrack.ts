// The kernel's connection tracking, where packets of connections go by the kernel that were sent on directly before: it has seen
// little or nothing of them. The programs make a connection known there (bpf/conntrack.h); the rest is a setting, and a question.
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { messageOf } from "../../lib/errors.ts";
import { flow_kind, layouts } from "./abi.gen.ts";
import type { Log } from "./hooks.ts";
import type { MapStore } from "./mapstore.ts";
import { readConfig } from "./tables.ts";

/** Of this network namespace; not there where conntrack is not loaded. */
const LIBERAL = "/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal";

/**
 * TCP packets outside the window that conntrack knows are not INVALID any more, which policies drop. It cannot know the window of
 * a connection that it has not seen from the start, and one that it knew has gone on without it. Nobody can say so of single ones.
 */
export const acceptUnseen = (log: Log): void => {
  try {
    if (!existsSync(LIBERAL) || readFileSync(LIBERAL, "utf8").trim() !== "0") return;
    writeFileSync(LIBERAL, "1");
    log("info", "Set net.netfilter.nf_conntrack_tcp_be_liberal to 1: conntrack has not seen what was sent on directly");
  } catch (error) {
    log(
      "warn",
      "Cannot set net.netfilter.nf_conntrack_tcp_be_liberal: where rules drop what is INVALID, open connections may stall",
      {
        error: messageOf(error),
      },
    );
  }
};

/** Whether packets of connections were sent on directly that may be unknown to conntrack, as far as the programs know. */
export const hasUnseenFlows = (store: MapStore): boolean => {
  const { forwarding_since_ns } = readConfig(store);
  for (const [, bytes] of store.entries("flows")) {
    const flow = new DataView(bytes.buffer, bytes.byteOffset);
    if (flow.getBigUint64(CREATED, true) >= forwarding_since_ns || flow.getUint8(KIND) === flow_kind.FLOW_SNAT)
      continue;
    if (flow.getBigUint64(STATE, true) !== ACQUAINTED) return true;
  }
  return false;
};

/** In bpf/direct.h. */
const ACQUAINTED = 2n << 24n;

/** Many flows are looked at for little of each. */
type Layout = { readonly fields: readonly { readonly name: string; readonly offset: number }[] };
const offsetIn = ({ fields }: Layout, field: string): number => fields.find(({ name }) => name === field)?.offset ?? 0;
const [CREATED, KIND] = [offsetIn(layouts.flow, "created_ns"), offsetIn(layouts.flow, "kind")];
const STATE = offsetIn(layouts.flow, "next_hop") + offsetIn(layouts.next_hop, "mtu");
