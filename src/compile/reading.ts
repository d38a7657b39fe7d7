// What a source says of a node: a Desired, and what that source can say at all. iptables rules know no backend that
// only keeps its flows, IPVS knows no names: where one side is silent, a comparison is silent too (difference.ts).
import type { Family } from "../model/address.ts";
import type { Desired } from "../model/desired.ts";
import type { Problem } from "../model/snapshot.ts";

export type SourceKind = "desired" | "bpf" | "iptables" | "nftables" | "ipvs";

export interface Reading {
  readonly source: SourceKind;
  /** Where it was read, for people: `maps under /sys/fs/bpf/beeline`, `save.txt`. */
  readonly from: string;
  readonly desired: Desired;
  readonly expresses: Expressible;
  /** Addresses, by entranceKey(), that several services ask for, where the source shows that. */
  readonly contested: ReadonlySet<string>;
  /** What keeps traffic from reaching what has been read, one sentence each: `nothing jumps from PREROUTING …`. */
  readonly unreached: readonly string[];
  /** What could not be read, or is not as it should be; the rest was read. */
  readonly problems: readonly Problem[];
}

/**
 * `served`: known of a frontend that has backends, or drops because none is local; a frontend that refuses says
 * nothing of it, since kube-proxy writes no chain for it.
 */
export type Says = "always" | "served" | "never";

export interface Expressible {
  /** Frontends of the other families are not compared. */
  readonly families: readonly Family[];
  /** Whose frontend it is. Without: every frontend is a service of its own with an empty namespace. */
  readonly names: boolean;
  /** Whether an address outside the cluster is an external IP or a load balancer's. ClusterIP or not: see clusterIPs. */
  readonly externalKinds: Says;
  /** Whether an address is a ClusterIP. */
  readonly clusterIPs: boolean;
  /** Clients inside and outside are told apart. Without: `internal` and `external` are one value. */
  readonly scopes: boolean;
  /** Frontends without backends are there at all. */
  readonly refusals: boolean;
  /** Refused and dropped are told apart. */
  readonly drops: boolean;
  /** Traffic policies: `served` by the choices only. */
  readonly policies: Says;
  readonly sourceRanges: Says;
  /** A frontend's own address among its ranges is not meant: kube-proxy lets the node in with it. */
  readonly ownAddressInRanges: boolean;
  readonly affinity: Says;
  /** Which backends are local (where a policy is Local, the choice says it anyway). */
  readonly locality: boolean;
  /** Backends that get no new flows. */
  readonly draining: boolean;
  readonly healthChecks: boolean;
  /** Services that nobody can connect to. */
  readonly emptyServices: boolean;
  /** `port`: one frontend for all addresses of the node; `address`: one for each. */
  readonly nodePorts: "port" | "address";
  /** `listed`: where NodePorts answer; `all`: primary and loopback, too; `none`. */
  readonly nodeAddresses: "all" | "listed" | "none";
}

const EVERYTHING: Expressible = {
  families: ["IPv4", "IPv6"],
  names: true,
  externalKinds: "always",
  clusterIPs: true,
  scopes: true,
  refusals: true,
  drops: true,
  policies: "always",
  sourceRanges: "always",
  ownAddressInRanges: true,
  affinity: "always",
  locality: true,
  draining: true,
  healthChecks: true,
  emptyServices: true,
  nodePorts: "port",
  nodeAddresses: "all",
};

/** The rows of the table in docs/operations.md ("What each source can say"). */
export const EXPRESSIBLE: Readonly<Record<SourceKind, Expressible>> = {
  desired: EVERYTHING,
  bpf: EVERYTHING,
  iptables: {
    ...EVERYTHING,
    externalKinds: "served",
    policies: "served",
    sourceRanges: "served",
    ownAddressInRanges: false,
    affinity: "served",
    locality: false,
    draining: false,
    emptyServices: false,
    nodeAddresses: "listed",
  },
  nftables: {
    ...EVERYTHING,
    externalKinds: "never",
    policies: "served",
    ownAddressInRanges: false,
    affinity: "served",
    locality: false,
    draining: false,
    healthChecks: false,
    emptyServices: false,
    nodeAddresses: "listed",
  },
  ipvs: {
    ...EVERYTHING,
    names: false,
    externalKinds: "never",
    clusterIPs: false,
    scopes: false,
    drops: false,
    policies: "never",
    sourceRanges: "never",
    ownAddressInRanges: false,
    locality: false,
    draining: false,
    healthChecks: false,
    emptyServices: false,
    nodePorts: "address",
    nodeAddresses: "none",
  },
};

/** Of a Desired that holds everything: compiled, or decoded from maps. */
export const wholeReading = (
  source: "desired" | "bpf",
  from: string,
  desired: Desired,
  contested: ReadonlySet<string> = new Set(),
): Reading => ({ source, from, desired, expresses: EXPRESSIBLE[source], contested, unreached: [], problems: [] });

/** What nobody is told of a comparison, since one of the sides cannot say it. For people. */
export const silences = (knows: Expressible): readonly string[] => [
  ...(["IPv4", "IPv6"] as const).filter((family) => !knows.families.includes(family)),
  ...(knows.names ? [] : ["names of services"]),
  ...(knows.clusterIPs ? [] : ["kinds of frontends"]),
  ...(knows.scopes ? [] : ["clients inside and outside apart"]),
  ...(knows.refusals ? [] : ["frontends without endpoints"]),
  ...(knows.drops ? [] : ["refused and dropped apart"]),
  ...(knows.policies === "never" ? ["traffic policies"] : []),
  ...(knows.sourceRanges === "never" ? ["source ranges"] : []),
  ...(knows.locality ? [] : ["which backends are local"]),
  ...(knows.draining ? [] : ["backends that drain"]),
  ...(knows.healthChecks ? [] : ["health check ports"]),
  ...(knows.nodeAddresses === "none" ? ["where NodePorts answer"] : []),
];

/** What two sources can both say. */
export const bothExpress = (a: Expressible, b: Expressible): Expressible => ({
  families: a.families.filter((family) => b.families.includes(family)),
  names: a.names && b.names,
  externalKinds: less(a.externalKinds, b.externalKinds),
  clusterIPs: a.clusterIPs && b.clusterIPs,
  scopes: a.scopes && b.scopes,
  refusals: a.refusals && b.refusals,
  drops: a.drops && b.drops,
  policies: less(a.policies, b.policies),
  sourceRanges: less(a.sourceRanges, b.sourceRanges),
  ownAddressInRanges: a.ownAddressInRanges && b.ownAddressInRanges,
  affinity: less(a.affinity, b.affinity),
  locality: a.locality && b.locality,
  draining: a.draining && b.draining,
  healthChecks: a.healthChecks && b.healthChecks,
  emptyServices: a.emptyServices && b.emptyServices,
  nodePorts: a.nodePorts === "address" || b.nodePorts === "address" ? "address" : "port",
  nodeAddresses: ADDRESSES[Math.min(ADDRESSES.indexOf(a.nodeAddresses), ADDRESSES.indexOf(b.nodeAddresses))] ?? "none",
});

const SAYS: readonly Says[] = ["never", "served", "always"];
const ADDRESSES = ["none", "listed", "all"] as const;

const less = (a: Says, b: Says): Says => SAYS[Math.min(SAYS.indexOf(a), SAYS.indexOf(b))] ?? "never";
