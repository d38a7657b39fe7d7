// What a cluster means in the lab: a Desired for each node that runs an agent, and for every probe what evaluate()
// answers at the node that handles it. Which node that is, is the lab's topology, and all that is known here beside it.
import { type Compiled, compile } from "../../src/compile/compile.ts";
import { evaluate } from "../../src/compile/evaluate.ts";
import { parseObject } from "../../src/k8s/parse.ts";
import { ObjectStore } from "../../src/k8s/store.ts";
import type { Address } from "../../src/model/address.ts";
import type { Desired } from "../../src/model/desired.ts";
import type { Snapshot } from "../../src/model/snapshot.ts";
import type { Packet, Verdict } from "../../src/model/verdict.ts";
import { readAddress, readPrefix } from "../lib/addresses.ts";
import type { Transport } from "../lib/host/protocol.ts";
import { CLIENT_OTHER, isNode, type Place } from "../lib/network.ts";
import { EVERYWHERE, type V, VIP_ROUTES } from "./objects.ts";

/** Nodes with an agent. The lab's other nodes only carry endpoints. */
export const AGENT_NODES = ["node1", "node2"] as const;

export interface World {
  readonly places: readonly Place[];
  readonly nodePortAddresses: NodePortAddresses;
  /** bpf.socketLB of the bpf lab: whether pods are translated in their system calls, or at their devices. */
  readonly socketLB: SocketLB;
  /** Of any node; Services and slices are the same for all. */
  readonly snapshot: Snapshot;
  readonly compiled: ReadonlyMap<string, Compiled>;
}

export type SocketLB = "all" | "host";

/** As in a configuration file. */
export type NodePortAddresses = readonly string[] | "primary";

/** One way to ask: from where, how, for what. */
export interface Probe {
  /** Name of a place. */
  readonly from: string;
  /** The address that the socket is bound to: its own, or the other one that the client and nodes have. */
  readonly bound: "no" | "own" | "other";
  readonly transport: Transport;
  /** UDP: over a connected socket, which hears of refusals. */
  readonly connected: boolean;
  /** IPv4 through an IPv6 socket. */
  readonly mapped: boolean;
  /**
   * One local port for all such probes of a place, one after another: frontends that share a backend meet there. Over
   * UDP one for those that its own node answers, and one for the others.
   */
  readonly sharedPort: boolean;
  readonly address: Address;
  readonly port: number;
}

/** evaluate()'s answer, and where it applies. */
export interface Meaning {
  readonly verdict: Verdict;
  /** The node that decides; null: nobody on the way is an agent's. */
  readonly handler: string | null;
  /** As the handler sees it. */
  readonly packet: Packet;
}

export const makeWorld = (
  objects: readonly object[],
  places: readonly Place[],
  nodePortAddresses: NodePortAddresses = [],
  socketLB: SocketLB = "all",
): World => {
  const prefixes = nodePortAddresses === "primary" ? nodePortAddresses : nodePortAddresses.map(readPrefix);
  const compiled = new Map<string, Compiled>();
  let snapshot: Snapshot = { services: new Map(), slices: new Map(), node: null };
  for (const nodeName of AGENT_NODES) {
    const store = new ObjectStore(nodeName);
    for (const object of objects) {
      const { parsed, problems } = parseObject(object);
      store.upsert(parsed, problems);
    }
    snapshot = store.snapshot();
    const localAddresses = ["127.0.0.1", "::1", ...nodeAddresses(placeOf(places, nodeName))].map(readAddress);
    compiled.set(nodeName, compile(snapshot, { nodeName, localAddresses, nodePortAddresses: prefixes }));
  }
  return { places, nodePortAddresses, socketLB, snapshot, compiled };
};

export const desiredOf = (world: World, node: string): Desired => {
  const compiled = world.compiled.get(node);
  if (compiled === undefined) throw new Error(`${node} runs no agent`);
  return compiled.desired;
};

/** The sender's node decides; where the destination is no frontend for it, the node that the packet is routed to does. */
export const meaningOf = (world: World, probe: Probe): Meaning => {
  const source = placeOf(world.places, probe.from);
  const to = { address: probe.address, port: probe.port, protocol: probe.transport };
  const address = sourceAddress(source, probe);
  if (AGENT_NODES.some((node) => node === source.node)) {
    const place = isNode(source) ? ("node" as const) : ("pod" as const);
    const packet: Packet = { from: { place, address }, to };
    const verdict = evaluate(desiredOf(world, source.node ?? ""), packet);
    if (verdict.kind !== "pass") return { verdict, handler: source.node, packet };
    if (probe.address === "127.0.0.1") return { verdict, handler: null, packet };
  }
  const packet: Packet = { from: { place: "outside", address }, to };
  const handler = entryNode(world.places, source, probe.address);
  if (handler === null || !AGENT_NODES.some((node) => node === handler))
    return { verdict: { kind: "pass", reason: "not a frontend" }, handler: null, packet };
  return { verdict: evaluate(desiredOf(world, handler), packet), handler, packet };
};

/** The node that the wire sends a load balancer's or an external address to; null: it is none. */
export const routeOf = (address: string): string | null =>
  VIP_ROUTES.find(([prefix]) => address.startsWith(prefix.replace(/(0\.0\/16|:\/64)$/, "")))?.[1] ?? null;

/** The addresses of a node: its Node object names the first of each family; the others are never chosen as a source. */
export const nodeAddresses = ({ name, v4, v6 }: Place): readonly string[] => [
  v4,
  v6,
  secondAddress(v4),
  secondAddress(v6),
  ...(AGENT_NODES.some((node) => node === name) ? [EVERYWHERE.v4, EVERYWHERE.v6] : []),
];

/** `192.168.0.1` → `192.168.0.101`, `fd00:192::1` → `fd00:192::101`. */
export const secondAddress = (address: string): string => address.replace(/(\d)$/, "10$1");

/** The node that the wire, or a neighbour, sends a packet for this address to; null: it is lost. */
const entryNode = (places: readonly Place[], source: Place, address: Address): string | null => {
  const nodes = places.filter((place) => isNode(place) && nodeAddresses(place).includes(address));
  const own = nodes.find(({ name }) => name === source.node);
  if (own !== undefined) return own.name;
  const routed = routeOf(address);
  if (routed !== null) return routed;
  if (nodes[0] !== undefined) return nodes[0].name;
  // ClusterIPs are routed from outside only: between nodes nobody knows them.
  return source.node === null && /^(172\.30\.|fd00:172:30::)/.test(address) ? "node1" : null;
};

/** The address that a packet of this probe carries when it is sent (127.0.0.1 for a node's own loopback). */
export const sourceAddress = (source: Place, { address, bound }: Pick<Probe, "address" | "bound">): Address => {
  if (address === "127.0.0.1") return address;
  const v: V = address.includes(":") ? "v6" : "v4";
  if (bound !== "other") return readAddress(source[v]);
  return readAddress(isNode(source) ? secondAddress(source[v]) : CLIENT_OTHER[v]);
};

export const placeOf = (places: readonly Place[], name: string): Place => {
  const place = places.find((one) => one.name === name);
  if (place === undefined) throw new Error(`The lab has no ${name}`);
  return place;
};
