// beeline's own dataplane, programmed by its planner and attached as the agent does it: to the client's cgroup for socket
// hooks, to the node's devices for tc. Its own counters say what it translated.

import type { Log } from "../../agent/log.ts";
import { watchMachine } from "../../agent/machine-watch.ts";
import { wholeReading } from "../../compile/reading.ts";
import { type BpfDataplane, openBpfDataplane } from "../../dataplane/bpf/bpf.ts";
import { readCounters, readForwards } from "../../dataplane/bpf/inspect.ts";
import { DEFAULT_TIMEOUTS_S } from "../../dataplane/bpf/states.ts";
import { bpfObjectDirectory } from "../../lib/paths.ts";
import { UPLINK, WIRE } from "../lab/network.ts";
import { trackingIntruder } from "./conntrack.ts";
import type { NodeSide } from "./node.ts";

export interface BpfPlace {
  readonly bpffs: string;
  /** Of the client's processes. */
  readonly cgroup: string;
  readonly services: number;
}

/** Whatever is not established and has been silent for a second: as connection tracking is emptied for other modes. */
const FORGET = { most_s: 1, thorough: true } as const;

/** What of beeline a mode uses. */
export interface BpfParts {
  /** Where packets and calls are counted. */
  readonly hook: "sock" | "tc_ingress";
  readonly forwarding: "kernel" | "direct";
  readonly xdp: "required" | "off";
}

/** Words of the counters: which reasons mean "translated towards a backend". */
const TRANSLATED = ["new_flow", "established"];

export const openBpfNode = ({ hook, forwarding, xdp }: BpfParts, place: BpfPlace): NodeSide => {
  const log: Log = (level, message, fields) => {
    if (level === "error") throw new Error(`${message} ${JSON.stringify(fields ?? {})}`);
  };
  const dataplane = openBpfDataplane({
    bpffs: place.bpffs,
    objects: bpfObjectDirectory(),
    cgroup: hook === "sock" ? place.cgroup : null,
    devices: hook === "sock" ? [] : [UPLINK, WIRE],
    podDevices: [],
    socketLB: "all",
    forwarding,
    attach: "auto",
    xdp,
    maxEntries: sizesFor(place.services),
    snatPorts: { min: 10_000, max: 19_999 },
    timeouts_s: DEFAULT_TIMEOUTS_S,
    ipv4: true,
    ipv6: false,
    log,
  });
  // As the agent does it: flows find their next hops anew when this node changes.
  const noPolicy = { obstacles: () => null, look: async () => {}, close: () => {} };
  const watch = forwarding === "direct" ? watchMachine(dataplane, noPolicy, log) : null;
  const count = (): Counts => countsOf(dataplane);
  let start = count();
  return {
    async install(desired) {
      dataplane.apply(desired, { prune: true });
    },
    async change(_before, after) {
      dataplane.apply(after, { prune: true });
    },
    read: () => wholeReading("bpf", "this node", dataplane.readBack()),
    reset() {
      // The agent does it every few seconds; here it would fall into others' measurements.
      if (hook === "tc_ingress") dataplane.expire(FORGET);
      start = count();
    },
    carried: ({ service }) => {
      const now = count();
      // XDP sends on what needs no skb: local pods' packets pass it.
      const by = xdp === "required" && service === "remote" ? "xdp" : hook === "sock" ? "sock" : forwarding;
      return {
        counter: COUNTERS[by].text,
        counted: now[COUNTERS[by].count] - start[COUNTERS[by].count],
        intruder: intruderOf(now, { hook, forwarding, xdp }) ?? trackingIntruder(),
      };
    },
    close() {
      watch?.close();
      dataplane.close();
    },
  };
};

const COUNTERS = {
  sock: { text: "calls that beeline's sock counted as sent to a backend", count: "sock" },
  kernel: { text: "packets that beeline's tc_ingress counted as sent to a backend", count: "tc_ingress" },
  direct: { text: "packets that beeline's tc_ingress counted as sent on directly", count: "direct" },
  xdp: { text: "packets that beeline's xdp counted as sent to a backend", count: "xdp" },
} as const;

/** The defaults, where they are enough. */
const sizesFor = (services: number) =>
  services <= 20_000
    ? {}
    : {
        services: 2 * services,
        frontends: 3 * services,
        backends: 3 * services,
        backend_stats: 3 * services,
      };

/** Towards a backend since the maps were made, by hook; and of those at tc_ingress, sent on without the kernel's routing. */
type Counts = Readonly<Record<"sock" | "tc_ingress" | "xdp" | "direct", number>>;

const countsOf = ({ store }: BpfDataplane): Counts => {
  const translated = readCounters(store).filter(({ reason }) => TRANSLATED.includes(reason));
  const by = (hook: string): number => sumOf(translated.filter((counter) => counter.hook.startsWith(hook)));
  const direct = readForwards(store).filter(({ hook, isDirect }) => hook === "tc_ingress" && isDirect);
  return { sock: by("sock"), tc_ingress: by("tc_ingress"), xdp: by("xdp"), direct: sumOf(direct) };
};

const sumOf = (counts: readonly { readonly count: number }[]): number =>
  counts.reduce((sum, { count }) => sum + count, 0);

/** Each mode has hooks of its kinds and a way of forwarding; what else counts would be somebody else's work. */
const intruderOf = (counts: Counts, { hook, forwarding, xdp }: BpfParts): string | null => {
  const strange = [
    ...(hook === "sock" ? (["tc_ingress"] as const) : (["sock"] as const)),
    ...(forwarding === "direct" ? [] : (["direct"] as const)),
    ...(xdp === "required" ? [] : (["xdp"] as const)),
  ].find((what) => counts[what] > 0);
  return strange === undefined
    ? null
    : `this mode has nothing to do with ${counts[strange]} packets or calls of ${strange}`;
};
