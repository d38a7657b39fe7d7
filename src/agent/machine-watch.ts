// Hears of changes of this machine and tells the parts of an agent that they concern: flows forget their next hops, devices
// are looked at, and so are the rules that may refuse packets.
import type { BpfDataplane } from "../dataplane/bpf/bpf.ts";
import { hearRoutes, type RouteEvents } from "../dataplane/bpf/route-events.ts";
import { messageOf } from "../lib/errors.ts";
import type { ForwardingWatch } from "./forwarding.ts";
import type { Log } from "./log.ts";

/** Long enough for the messages of one change, such as a new pod's device, to be one. */
const SETTLE_MS = 20;
/** What is announced to nobody: programs that others attach by tcx, settings of routing. */
const UNHEARD_MS = 3_000;

export interface MachineWatch {
  hearDevices(changed: () => void): void;
  close(): void;
}

/** Tells, within milliseconds, whom it concerns that routes, neighbours, rules or devices have changed. */
export const watchMachine = (dataplane: BpfDataplane, forwarding: ForwardingWatch, log: Log): MachineWatch => {
  let changed = (): void => {};
  let settling: NodeJS.Timeout | null = null;
  const look = (): void => {
    settling = null;
    dataplane.lookAtDevices();
    changed();
  };
  const heard = hearOrSay(log, (events) => {
    if (events.mtus) dataplane.readRouteMtu();
    if (events.rules) dataplane.readSharing();
    if (events.ways) dataplane.forgetNextHops();
    if (events.rules) void forwarding.look();
    if (events.devices) settling ??= setTimeout(look, SETTLE_MS);
  });
  const timer = setInterval(() => {
    dataplane.readSharing();
    dataplane.lookAtDevices();
  }, UNHEARD_MS);
  return {
    hearDevices(listener) {
      changed = listener;
    },
    close() {
      heard.close();
      clearInterval(timer);
      if (settling !== null) clearTimeout(settling);
    },
  };
};

/** Without announcements the programs notice changes by themselves, in seconds, and the agent by looking. */
const hearOrSay = (log: Log, heard: (events: RouteEvents) => void): { close(): void } => {
  try {
    return hearRoutes(heard);
  } catch (error) {
    log("error", "Cannot hear of changes of routes and devices: they are noticed late", { error: messageOf(error) });
    return { close: () => {} };
  }
};
