// The intended differences of docs/semantics.md, each as what bpf and what kube-proxy's rules answer where it applies.
// Both answers are asserted: a difference that is gone is found like a new one.
import { evaluate } from "../../src/compile/evaluate.ts";
import { type Address, familyOf, prefixContains } from "../../src/model/address.ts";
import type { Desired, DesiredService } from "../../src/model/desired.ts";
import { servicePortKey } from "../../src/model/desired.ts";
import { isOfService } from "../../src/model/verdict.ts";
import { readAddress } from "../lib/addresses.ts";
import { isNode, type Place } from "../lib/network.ts";
import {
  type Asked,
  type DataplaneName,
  type Expected,
  failed,
  isByPacket,
  isFromNode,
  isFromPod,
  nodeSource,
  ownSource,
  plainAnswer,
  REFUSED,
  refusedByIcmp,
  SILENT,
} from "./expected.ts";
import { userspaceAnswer } from "./userspace-expected.ts";
import {
  AGENT_NODES,
  desiredOf,
  type Meaning,
  meaningOf,
  nodeAddresses,
  type Probe,
  placeOf,
  routeOf,
  type World,
} from "./world.ts";

export type Answers = Readonly<Record<DataplaneName, Expected>>;

/** A probe with all that is known of it. */
export interface Case {
  readonly probe: Probe;
  readonly meaning: Meaning;
  readonly answers: Answers;
  /** Names of the differences that apply between bpf and iptables. */
  readonly differences: readonly string[];
  /** Name of the difference of the userspace proxy that applies (userspace-expected.ts); null: none. */
  readonly userspaceDifference: string | null;
}

/** What applies to a probe: the answers as they are with the difference, or null where it does not apply. */
interface Difference {
  /** `1 source kept`: the number in docs/semantics.md. */
  readonly name: string;
  apply(asked: Asked, answers: Answers): Partial<Answers> | null;
}

export const caseOf = (world: World, probe: Probe): Case => {
  const meaning = meaningOf(world, probe);
  const plain = plainAnswer(world, probe, meaning);
  const asked: Asked = { world, probe, meaning };
  const { userspace, userspaceDifference } = userspaceAnswer(asked, plain);
  let answers: Answers = { bpf: plain, iptables: plain, userspace };
  const names: string[] = [];
  for (const { name, apply } of DIFFERENCES) {
    const changed = apply(asked, answers);
    if (changed === null) continue;
    answers = { ...answers, ...changed };
    names.push(name);
  }
  return { probe, meaning, answers, differences: names, userspaceDifference };
};

/** In the order in which they are applied. */
export const DIFFERENCES: readonly Difference[] = [
  {
    // Who is here does not have to be told: bpf changes the source where a packet leaves the node, and what the node
    // itself serves to others never passes kube-proxy's POSTROUTING.
    name: "1 source kept for an endpoint that does not say where it runs",
    apply: ({ world, probe, meaning }, { bpf, iptables }) => {
      if (bpf.kind !== "reached" || iptables.kind !== "reached") return null;
      const { handler } = meaning;
      const own = ownSource(world, probe);
      // A packet leaves the node, in a way, by the device of a pod that has programs.
      const here = (server: string): boolean => {
        const place = placeOf(world.places, placeNameOf(server));
        return place.node === handler && (world.socketLB === "all" || isNode(place));
      };
      const kept = whereSeen(bpf, (server, source) => (here(server) ? own : source));
      if (kept === null) return null;
      const inside = (server: string): boolean => placeNameOf(server) === handler;
      return { bpf: kept, iptables: whereSeen(iptables, (s, source) => (inside(s) ? own : source)) ?? iptables };
    },
  },
  {
    name: "1 source kept",
    apply: ({ world, probe, meaning }, { iptables }) => {
      if (iptables.kind !== "reached" || !kubeProxyMasquerades(meaning)) return null;
      const node = nodeSource(world, meaning.handler, probe);
      const toItself = (server: string): boolean =>
        placeNameOf(server) === meaning.handler && meaning.packet.from.place !== "node";
      const servers = whereSeen(iptables, (server, source) => (toItself(server) ? source : node));
      return servers === null ? null : { iptables: servers };
    },
  },
  {
    name: "1 source kept, but not from a port that has asked such an endpoint by SNAT before",
    apply: (asked, { bpf }) => {
      const seen = seenFromSharedPort(asked, bpf);
      return seen === null ? null : { bpf: seen };
    },
  },
  {
    name: "2 hairpin keeps its address",
    apply: ({ world, probe, meaning }, { bpf, iptables }) => {
      if (bpf.kind !== "reached" || iptables.kind !== "reached" || !isFromPod(world, probe)) return null;
      const own = (server: string): boolean => server.startsWith(`${probe.from}:`);
      const node = nodeSource(world, meaning.handler, probe);
      const masqueraded = (reached: Reached) => whereSeen(reached, (server, source) => (own(server) ? node : source));
      const [seenByBpf, seenByRules] = [isByPacket(world, probe) ? masqueraded(bpf) : null, masqueraded(iptables)];
      if (seenByBpf === null && seenByRules === null) return null;
      return { bpf: seenByBpf ?? bpf, iptables: seenByRules ?? iptables };
    },
  },
  {
    name: "3 answers at once: no endpoints",
    apply: ({ world, probe, meaning }) => {
      if (meaning.verdict.kind !== "reject" || meaning.verdict.scope !== "internal") return null;
      if (leavesTheNode(world, probe, meaning)) return null;
      const bpf = isByPacket(world, probe) ? refusedByIcmp(probe) : REFUSED;
      return different({ bpf, iptables: kubeProxyRefuses(world, probe, meaning) });
    },
  },
  {
    name: "17 the node itself is refused as well",
    apply: ({ world, probe, meaning }) =>
      meaning.verdict.kind === "reject" && leavesTheNode(world, probe, meaning)
        ? { bpf: REFUSED, iptables: AFTER_LEAVING }
        : null,
  },
  {
    name: "3 answers at once: no local endpoints",
    apply: ({ world, probe, meaning }) => {
      const { verdict } = meaning;
      if (verdict.kind !== "drop" || verdict.reason !== "no local endpoints" || verdict.scope !== "internal")
        return null;
      if (isByPacket(world, probe)) return null;
      return { bpf: failed("EHOSTUNREACH"), iptables: droppedOnTheWayOut(world, probe) };
    },
  },
  {
    name: "6 source ranges at the socket",
    apply: ({ world, probe, meaning }) => {
      const { verdict } = meaning;
      if (verdict.kind !== "drop" || verdict.reason !== "not in source ranges" || verdict.scope !== "internal")
        return null;
      if (isByPacket(world, probe)) return null;
      const unbound = isFromPod(world, probe) && probe.bound === "no";
      const bpf = unbound ? openAnswer(world, probe, meaning) : failed("EPERM");
      return { bpf, iptables: droppedOnTheWayOut(world, probe) };
    },
  },
  {
    name: "6 source ranges at the socket: the node by any of its addresses",
    apply: ({ world, probe, meaning }) => {
      const { verdict, handler, packet } = meaning;
      if (!isOfService(verdict) || !verdict.frontend.restricted || packet.from.place !== "node") return null;
      if (verdict.kind === "drop" && verdict.reason === "not in source ranges") return null;
      const ranges = desiredOf(world, handler ?? "").services.get(servicePortKey(verdict.service))?.sourceRanges ?? [];
      if (ranges.some((range) => prefixContains(range, packet.from.address))) return null;
      const judgedAsItIs = probe.bound === "no" ? {} : { bpf: failed("EPERM") };
      if (verdict.kind === "reject") return probe.bound === "no" ? null : judgedAsItIs;
      return { ...judgedAsItIs, iptables: droppedOnTheWayOut(world, probe) };
    },
  },
  {
    name: "7 who is in no source range is dropped, endpoints or not",
    apply: ({ world, probe, meaning }) => {
      const { verdict } = meaning;
      if (verdict.kind !== "drop" || verdict.reason !== "not in source ranges") return null;
      if (verdict.frontend.internal.kind !== "reject") return null;
      return different({ iptables: kubeProxyRefuses(world, probe, meaning) });
    },
  },
  {
    name: "18 a refusal goes back to the neighbour that the packet came from",
    apply: ({ world, probe, meaning }) => {
      const { verdict } = meaning;
      if (verdict.kind !== "reject" || verdict.scope !== "external" || !comesByTheWire(world, probe, meaning))
        return null;
      return refusedByIcmp(probe) === SILENT ? null : { bpf: SILENT };
    },
  },
  {
    name: "19 an address that is closed hides the NodePort behind it",
    apply: ({ world, probe, meaning }, { iptables }) => {
      const { verdict } = meaning;
      if (!isOfService(verdict) || verdict.kind === "forward" || verdict.frontend.address === null) return null;
      if (!namesNodePort(world, probe.port)) return null;
      const behind = caseOf(withoutAddress(world, probe.address), probe);
      if (behind.meaning.verdict.kind === "pass") return null;
      // Another node's NodePort: what this node refuses or drops on the way out never comes there.
      const leaves = verdict.kind === "reject" && leavesTheNode(world, probe, meaning);
      if (behind.meaning.handler !== meaning.handler && !leaves) return null;
      const other = behind.answers.iptables;
      if (other.kind === "reached" || iptables.kind === "reached") return { iptables: other };
      return { iptables: failed(...iptables.codes, ...other.codes) }; // whichever Service's rule comes first
    },
  },
  {
    name: "16 a NodePort is refused where it would be served",
    apply: ({ world, probe, meaning }) =>
      meaning.verdict.kind === "pass" && closedNodePort(world, probe, meaning) ? { iptables: SILENT } : null,
  },
  {
    name: "20 a VIP's unlisted port is refused",
    apply: ({ world, probe, meaning: { verdict } }) => {
      if (verdict.kind !== "unlisted") return null;
      // By the wire, which knows no way to a pod (difference 18).
      if (verdict.scope === "external") return { bpf: isFromPod(world, probe) ? SILENT : refusedByIcmp(probe) };
      if (isByPacket(world, probe)) return { bpf: refusedByIcmp(probe) };
      const passes = probe.transport === "UDP" && probe.connected; // only connected: nothing has been sent
      return { bpf: passes ? AFTER_LEAVING : REFUSED };
    },
  },
];

type Reached = Extract<Expected, { kind: "reached" }>;

/**
 * Over TCP, of what another node, or nobody, translates: the node of a pod whose endpoint does not say where it runs may
 * have taken it for a remote one before, for the same client port, and goes on with SNAT. null: it cannot have.
 */
export const seenFromSharedPort = ({ world, probe, meaning }: Asked, bpf: Expected): Reached | null => {
  if (bpf.kind !== "reached" || !probe.sharedPort || probe.transport !== "TCP" || world.socketLB === "all") return null;
  const orSeen = [...bpf.servers.keys()].flatMap((server): (readonly [string, string])[] => {
    const place = placeOf(world.places, placeNameOf(server));
    const node = AGENT_NODES.find((name) => name === place.node);
    if (node === undefined || isNode(place) || node === meaning.handler) return [];
    if (node === placeOf(world.places, probe.from).node || !isTakenForRemote(world, node, place)) return [];
    return [[server, nodeSource(world, node, probe)]];
  });
  return orSeen.length === 0 ? null : { ...bpf, orSeen: new Map(orSeen) };
};

/** To the node on which it is. */
const isTakenForRemote = (world: World, node: string, { v4, v6 }: Place): boolean =>
  [...desiredOf(world, node).services.values()].some(({ frontends }) =>
    frontends.some(({ external }) =>
      external.kind === "backends"
        ? external.backends.some(({ address, local }) => !local && [v4, v6].map(readAddress).includes(address))
        : false,
    ),
  );

const namesNodePort = (world: World, port: number): boolean =>
  [...world.snapshot.services.values()].some(({ ports }) => ports.some(({ nodePort }) => nodePort === port));

/** The world in which nobody claims this address. */
const withoutAddress = (world: World, address: Address): World => {
  const compiled = [...world.compiled].map(([node, one]) => {
    const services = [...one.desired.services].map(([key, service]) => {
      const frontends = service.frontends.filter((frontend) => frontend.address !== address);
      return [key, { ...service, frontends }] as const;
    });
    return [node, { ...one, desired: { ...one.desired, services: new Map(services) } }] as const;
  });
  return { ...world, compiled: new Map(compiled) };
};

/** The wire brings it, and knows no way to the pod that sent it. */
const comesByTheWire = (world: World, probe: Probe, { handler }: Meaning): boolean =>
  isFromPod(world, probe) && placeOf(world.places, probe.from).node !== handler && routeOf(probe.address) !== null;

/** A NodePort that drops clients from outside, asked at an address of the node that nodePortAddresses leaves out. */
const closedNodePort = (world: World, { address, port, transport, from }: Probe, meaning: Meaning): boolean => {
  const at = address === "127.0.0.1" ? from : (meaning.handler ?? from);
  const isOwn = address === "127.0.0.1" || nodeAddresses(placeOf(world.places, at)).includes(address);
  if (!isOwn || !AGENT_NODES.some((node) => node === at)) return false;
  const family = familyOf(address);
  return [...desiredOf(world, at).services.values()].some(
    ({ name, frontends }) =>
      name.protocol === transport &&
      frontends.some(
        (one) => one.kind === "NodePort" && one.family === family && one.port === port && one.external.kind === "drop",
      ),
  );
};

/** With clients seen otherwise; null where none is. */
const whereSeen = (reached: Reached, seen: (server: string, source: string) => string): Reached | null => {
  const servers = new Map([...reached.servers].map(([server, source]) => [server, seen(server, source)]));
  const same = [...servers].every(([server, source]) => reached.servers.get(server) === source);
  return same ? null : { ...reached, servers };
};

const placeNameOf = (server: string): string => server.slice(0, server.lastIndexOf(":"));

/** Null where both would answer the same. */
const different = (answers: Partial<Answers>): Partial<Answers> | null => {
  const { bpf, iptables } = answers;
  const same = bpf?.kind === "failed" && iptables?.kind === "failed" && bpf.codes.join() === iptables.codes.join();
  return same ? null : answers;
};

/**
 * kube-proxy's matrix of masqueraded traffic: at external addresses everything, but under policy Local only what the
 * node itself sends; at a ClusterIP what no pod of this node sends.
 */
const kubeProxyMasquerades = ({ verdict, packet }: Meaning): boolean => {
  if (!isOfService(verdict)) return false;
  const { place } = packet.from;
  if (verdict.frontend.kind === "ClusterIP") return place !== "pod";
  if (verdict.frontend.external.policy === "Cluster") return true;
  return place === "node";
};

/** kube-proxy refuses by ICMP; in OUTPUT, where the node itself is refused ClusterIPs, the system call fails as well. */
const kubeProxyRefuses = (world: World, probe: Probe, meaning: Meaning): Expected => {
  const { verdict, packet } = meaning;
  if (leavesTheNode(world, probe, meaning)) return AFTER_LEAVING;
  if (!isOfService(verdict) || packet.from.place !== "node" || verdict.frontend.kind !== "ClusterIP")
    return refusedByIcmp(probe);
  return probe.transport === "UDP" ? failed("EPERM", "ECONNREFUSED") : REFUSED;
};

/** What the node sends to an address that is not its own and no ClusterIP passes neither INPUT nor FORWARD here. */
const leavesTheNode = (world: World, probe: Probe, { verdict, packet }: Meaning): boolean => {
  if (!isOfService(verdict) || packet.from.place !== "node" || verdict.frontend.kind === "ClusterIP") return false;
  return ![...nodeAddresses(placeOf(world.places, probe.from)), "127.0.0.1"].includes(probe.address);
};

/** The next node refuses it; or the same node, to which its own packet came back, never answers. */
const AFTER_LEAVING = failed("TIMEOUT", "ECONNREFUSED", "EHOSTUNREACH");

/** Dropped in FORWARD is silence; in OUTPUT it is an error of the system call, which TCP takes for a lost packet. */
const droppedOnTheWayOut = (world: World, probe: Probe): Expected =>
  isFromNode(world, probe) && probe.transport === "UDP" ? failed("EPERM") : SILENT;

/** The answer as it would be without source ranges. */
const openAnswer = (world: World, probe: Probe, meaning: Meaning): Expected => {
  const { verdict, handler, packet } = meaning;
  if (!isOfService(verdict) || handler === null) return SILENT;
  const desired = desiredOf(world, handler);
  const key = servicePortKey(verdict.service);
  const service = desired.services.get(key);
  if (service === undefined) return SILENT;
  const opened: Desired = { ...desired, services: new Map(desired.services).set(key, withoutRanges(service)) };
  const open: Meaning = { verdict: evaluate(opened, packet), handler, packet };
  return open.verdict.kind === "reject" ? REFUSED : plainAnswer(world, probe, open);
};

const withoutRanges = (service: DesiredService): DesiredService => ({
  ...service,
  frontends: service.frontends.map((frontend) => ({ ...frontend, restricted: false })),
});
