// Which probes a cluster is asked: every source kind at every address and port that a Service names, and at some that
// none does. A choice of them takes turns among the kinds of questions, so that rare ones are asked as often as others.
import { type Address, familyOf } from "../../src/model/address.ts";
import type { Service } from "../../src/model/snapshot.ts";
import { isOfService } from "../../src/model/verdict.ts";
import { readAddress } from "../lib/addresses.ts";
import type { Transport } from "../lib/host/protocol.ts";
import { isNode } from "../lib/network.ts";
import { shuffled } from "../lib/random.ts";
import { type Case, caseOf } from "./differences.ts";
import { AGENT_NODES, nodeAddresses, type Probe, placeOf, type World } from "./world.ts";

/**
 * Everywhere a probe can come from: a pod that is an endpoint now and then, a node, the outside. A node without an agent
 * and its pod are the outside as well.
 */
export const SOURCES = ["pod1a", "pod1b", "pod2a", "pod2b", "node1", "node2", "pod3a", "node3", "client"] as const;

/** A port at which nothing listens anywhere, and that no Service names. */
const UNLISTED = 81;

interface Target {
  readonly address: Address;
  readonly port: number;
  readonly transport: Transport;
}

/** Every probe there is for a cluster. */
export const everyProbe = (world: World): readonly Probe[] =>
  targetsOf(world).flatMap((target) => SOURCES.flatMap((from) => waysToAsk(world, from, target)));

const targetsOf = (world: World): readonly Target[] => {
  const addresses = AGENT_NODES.flatMap((node) => nodeAddresses(placeOf(world.places, node)));
  const targets = [...world.snapshot.services.values()].flatMap((service): readonly Target[] => [
    ...vipsOf(service).flatMap((address) => [
      ...numbersOf(service).flatMap((port) => bothTransports(address, port)),
      { address, port: UNLISTED, transport: "TCP" as const },
    ]),
    ...service.ports.flatMap(({ nodePort }) =>
      nodePort === null ? [] : [...addresses, "127.0.0.1"].flatMap((ip) => bothTransports(readAddress(ip), nodePort)),
    ),
  ]);
  return [...new Map(targets.map((target) => [JSON.stringify(target), target])).values()];
};

const vipsOf = ({ clusterIPs, externalIPs, loadBalancerIPs }: Service): readonly Address[] => [
  ...clusterIPs,
  ...externalIPs,
  ...loadBalancerIPs,
];

const numbersOf = ({ ports }: Service): readonly number[] => [...new Set(ports.map(({ port }) => port))];

const bothTransports = (address: Address, port: number): readonly Target[] => [
  { address, port, transport: "TCP" },
  { address, port, transport: "UDP" },
];

const waysToAsk = (world: World, from: string, target: Target): readonly Probe[] => {
  const plain: Probe = { from, bound: "no", connected: true, mapped: false, sharedPort: false, ...target };
  const place = placeOf(world.places, from);
  const ways: Probe[] = [plain];
  if (target.transport === "UDP") ways.push({ ...plain, connected: false });
  if (target.address !== "127.0.0.1") {
    // A UDP server on the same node would answer from the address that it answers to.
    if (from === "client" || (isNode(place) && target.transport === "TCP")) ways.push({ ...plain, bound: "other" });
    if (place.node !== null) ways.push({ ...plain, bound: "own" });
    ways.push({ ...plain, sharedPort: true });
  }
  if (familyOf(target.address) === "IPv4" && target.address !== "127.0.0.1") ways.push({ ...plain, mapped: true });
  return ways;
};

/** Probes looked at for a choice: a big cluster has ten times as many, of the same kinds. */
const LOOKED_AT = 6000;

/** `most` cases of a cluster; `random` gives numbers below 1. */
export const chooseCases = (world: World, most: number, random: () => number): readonly Case[] => {
  const cases = shuffled(everyProbe(world), random)
    .slice(0, LOOKED_AT)
    .map((probe) => caseOf(world, probe));
  const kinds = shuffled([...Map.groupBy(cases, (one) => kindOf(world, one)).values()], random);
  const chosen: Case[] = [];
  for (let turn = 0; chosen.length < most && kinds.some((list) => turn < list.length); turn++)
    chosen.push(...kinds.flatMap((list) => list[turn] ?? []).slice(0, most - chosen.length));
  return chosen;
};

/** What makes two probes different questions: who asks how, what is there, what comes of it. */
const kindOf = (world: World, { probe, meaning, answers, differences }: Case): string => {
  const { verdict } = meaning;
  const where = !isOfService(verdict) ? verdict.kind : `${verdict.frontend.kind} ${verdict.scope}`;
  return [
    probe.sharedPort,
    placeOf(world.places, probe.from).node === null ? "outside" : probe.from.startsWith("pod") ? "pod" : "node",
    meaning.handler === probe.from || probe.from.startsWith(`pod${meaning.handler?.slice(4)}`),
    probe.transport,
    familyOf(probe.address),
    where,
    verdict.kind === "forward" ? verdict.affinity_timeout_s > 0 : verdict.kind,
    answers.bpf.kind,
    differences.join(),
  ].join(" ");
};

/** `TCP pod1a -> [fd00::1]:80, connected`. */
export const formatProbe = ({
  from,
  bound,
  transport,
  connected,
  mapped,
  sharedPort,
  address,
  port,
}: Probe): string => {
  const words = [
    transport === "UDP" && !connected ? "unconnected" : "",
    bound === "no" ? "" : `bound to its ${bound} address`,
    mapped ? "by an IPv6 socket" : "",
    sharedPort ? "from a port that others share" : "",
  ].filter(Boolean);
  const to = address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`;
  return `${transport} ${from} -> ${to}${words.length === 0 ? "" : ` (${words.join(", ")})`}`;
};
