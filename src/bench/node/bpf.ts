// beeline's own dataplane, programmed by its planner and attached as the agent does it: to the client's cgroup for socket
// hooks, to the node's devices for tc. Its own counters say what it translated.
import { wholeReading } from "../../compile/reading.ts";
import { type BpfDataplane, openBpfDataplane } from "../../dataplane/bpf/bpf.ts";
import { readCounters } from "../../dataplane/bpf/inspect.ts";
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

/** Words of the counters: whose hook it is, and which reasons mean "translated towards a backend". */
const TRANSLATED = ["new_flow", "established"];

export const openBpfNode = (hook: "sock" | "tc_ingress", place: BpfPlace): NodeSide => {
  const dataplane = openBpfDataplane({
    bpffs: place.bpffs,
    objects: bpfObjectDirectory(),
    cgroup: hook === "sock" ? place.cgroup : null,
    devices: hook === "sock" ? [] : [UPLINK, WIRE],
    podDevices: [],
    socketLB: "all",
    forwarding: "kernel",
    attach: "auto",
    xdp: "off",
    maxEntries: sizesFor(place.services),
    snatPorts: { min: 10_000, max: 19_999 },
    timeouts_s: DEFAULT_TIMEOUTS_S,
    ipv4: true,
    ipv6: false,
    log: (level, message, fields) => {
      if (level === "error") throw new Error(`${message} ${JSON.stringify(fields ?? {})}`);
    },
  });
  let start = 0;
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
      start = countTranslated(dataplane, hook);
    },
    carried: () => ({
      counter: `${hook === "sock" ? "calls" : "packets"} that beeline's ${hook} counted as sent to a backend`,
      counted: countTranslated(dataplane, hook) - start,
      intruder: otherHook(dataplane, hook) ?? trackingIntruder(),
    }),
    close: () => dataplane.close(),
  };
};

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

const countTranslated = ({ store }: BpfDataplane, hook: string): number =>
  readCounters(store)
    .filter((counter) => counter.hook === hook && TRANSLATED.includes(counter.reason))
    .reduce((sum, { count }) => sum + count, 0);

/** Each mode attaches to hooks of one kind; what another one counts would be somebody else's work. */
const otherHook = ({ store }: BpfDataplane, hook: string): string | null => {
  const other = readCounters(store).find(
    (counter) => !counter.hook.startsWith(hook.slice(0, 2)) && TRANSLATED.includes(counter.reason) && counter.count > 0,
  );
  return other === undefined ? null : `beeline's ${other.hook} translated ${other.count} packets as well`;
};
