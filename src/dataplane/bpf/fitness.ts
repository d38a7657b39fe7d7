// Which devices a packet may be sent on by without the kernel's routing, and why others are not fit. A device is not fit
// where something that belongs to it would be passed over: a qdisc, a filter, a program of somebody else's, a bridge.
import { readFileSync } from "node:fs";
import type { Obstacle } from "../obstacle.ts";
import { device_flag } from "./abi.gen.ts";
import { CLSACT_HANDLE, CLSACT_PRIORITIES } from "./attach.ts";
import { headerOf } from "./device.ts";
import { type Link, type Qdisc, readFilters, readLinks, readQdiscs } from "./links.ts";
import { clsactQuery } from "./system/clsact.ts";
import { isSystemError } from "./system/errors.ts";
import { queryPrograms } from "./system/link.ts";

export interface Fitness {
  readonly index: number;
  readonly name: string;
  /** DEVICE_PEER or DEVICE_WIRE, if it is fit; and DEVICE_STRICT. */
  readonly flags: number;
  /** Why it is not fit; null: it is. */
  readonly why: string | null;
}

/** Of the node's devices and of every veth that leads into another network namespace. `ours`: ids of our own programs. */
export const readFitness = (nodeDevices: readonly string[], ours: ReadonlySet<number>): readonly Fitness[] => {
  const qdiscs = Map.groupBy(readQdiscs(), ({ device }) => device);
  return readLinks().flatMap((link): Fitness[] => {
    const isNode = nodeDevices.includes(link.name);
    if (!isNode && (link.kind !== "veth" || link.peerNetns === null)) return [];
    const flags = isNode ? device_flag.DEVICE_WIRE : device_flag.DEVICE_PEER;
    const why = isNode
      ? unfitWire(link)
      : (unfitPeer(link, qdiscs.get(link.index) ?? []) ?? foreignProgram(link, qdiscs.get(link.index) ?? [], ours));
    const strict = isStrict(link.name) ? device_flag.DEVICE_STRICT : 0;
    return [{ index: link.index, name: link.name, flags: (why === null ? flags : 0) | strict, why }];
  });
};

/** Does the kernel refuse IPv4 packets from where no route by this device leads? The stricter of two settings holds. */
const isStrict = (name: string): boolean => Math.max(rpFilter("all"), rpFilter(name)) === 1;

const rpFilter = (name: string): number => {
  try {
    return Number(readFileSync(`/proc/sys/net/ipv4/conf/${name}/rp_filter`, "utf8"));
  } catch {
    return 0; // the device is gone
  }
};

/** Kinds by which an Ethernet frame can be sent as it is; hardware has none. */
const WIRES: readonly (string | null)[] = [null, "veth", "bond", "team", "vlan", "macvlan"];

const unfitWire = ({ kind, type, master }: Link): string | null => {
  if (!WIRES.includes(kind)) return `it is of kind ${kind}`;
  if (!isEthernet(type)) return "its packets have no Ethernet header";
  return master === null ? null : "it is part of another device";
};

const isEthernet = (type: number): boolean => {
  try {
    return headerOf(type) === "ethernet";
  } catch {
    return false; // InfiniBand and the like
  }
};

/** Passed over on the way into the pod: the qdisc. A bridge has its own opinion of where packets go. */
const unfitPeer = ({ master }: Link, qdiscs: readonly Qdisc[]): string | null => {
  if (master !== null) return "it is part of a bridge, or another device";
  const shaper = qdiscs.find(({ isRoot, kind }) => isRoot && kind !== "noqueue");
  return shaper === undefined ? null : `qdisc ${shaper.kind} is on it`;
};

/** Somebody else's programs on node devices: packets that are sent on by ours would not come to them. */
export const foreignObstacles = (nodeDevices: readonly string[], ours: ReadonlySet<number>): readonly Obstacle[] => {
  const qdiscs = Map.groupBy(readQdiscs(), ({ device }) => device);
  return readLinks()
    .filter(({ name }) => nodeDevices.includes(name))
    .flatMap((link) => {
      const what = foreignProgram(link, qdiscs.get(link.index) ?? [], ours);
      return what === null ? [] : [{ where: `device ${link.name}`, what }];
    });
};

/** A tc program or filter of somebody else's; those before ours and behind it would both see less than they do now. */
const foreignProgram = (
  { index }: Pick<Link, "index">,
  qdiscs: readonly Qdisc[],
  ours: ReadonlySet<number>,
): string | null => {
  const hasFilters = qdiscs.some(({ kind }) => kind === "clsact" || kind === "ingress");
  for (const direction of ["ingress", "egress"] as const) {
    const program = tcxPrograms(index, `tcx_${direction}`).find((id) => !ours.has(id));
    if (program !== undefined) return `program ${program} of another is at its tcx ${direction}`;
    const filter = (hasFilters ? readFilters(index, direction) : []).find(
      ({ kind, handle, priority }) =>
        kind !== "bpf" ||
        handle !== CLSACT_HANDLE ||
        !CLSACT_PRIORITIES.includes(priority) ||
        !ours.has(clsactQuery(index, direction, handle, priority) ?? 0),
    );
    if (filter !== undefined) return `filter ${filter.kind} (preference ${filter.priority}) is at its tc ${direction}`;
  }
  return null;
};

/** None where the kernel has no tcx. */
const tcxPrograms = (index: number, hook: "tcx_ingress" | "tcx_egress"): readonly number[] => {
  try {
    return queryPrograms(index, hook).program_ids;
  } catch (error) {
    if (isSystemError(error)) return [];
    throw error;
  }
};
