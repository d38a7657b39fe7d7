// One local port, used again and again: walks of a client over frontends that share backends, and over the backends'
// own addresses. Each step is a new connection or datagram from the same port, so that what a dataplane remembers of one
// flow meets the next: a port that is free again, two VIPs of one backend, a NodePort and then the pod itself.
import { familyOf } from "../../src/model/address.ts";
import { readAddress } from "../lib/addresses.ts";
import type { Forwarding } from "../lib/forwarding.ts";
import type { Answer } from "../lib/host/protocol.ts";
import { shuffled } from "../lib/random.ts";
import { nextPort, tryOf } from "./ask.ts";
import { BACKENDS, TARGET_PORTS } from "./cluster.ts";
import { type Case, caseOf, seenFromSharedPort } from "./differences.ts";
import { complaint, type Expected, formatExpected, isByPacket, ownSource } from "./expected.ts";
import type { Labs } from "./labs.ts";
import { everyProbe, formatProbe } from "./probes.ts";
import { type Probe, placeOf, type World } from "./world.ts";

export interface WalkOptions {
  /** Places that walk, each with a port of its own for every family and transport. */
  readonly clients: readonly string[];
  readonly steps: number;
  /** How bpf forwards: each for its share of the steps, in this order. */
  readonly forwardings: readonly Forwarding[];
  readonly random: () => number;
}

export interface Walked {
  steps: number;
  readonly complaints: string[];
}

/** Every lab walks the same walks. */
export const walkAll = async (labs: Labs, world: World, options: WalkOptions): Promise<Walked> => {
  const { clients, forwardings, steps } = options;
  const walks = clients
    .flatMap((from) => walksOf(world, from, options))
    .map((walk) => ({ walk, ports: new Map([...labs.labs.keys()].map((name) => [name, nextPort()])) }));
  const walked: Walked = { steps: 0, complaints: [] };
  const leg = Math.ceil(steps / forwardings.length);
  for (const [turn, forwarding] of forwardings.entries()) {
    await labs.forward(forwarding);
    for (const [name, lab] of labs.labs) {
      if (name === "userspace") continue; // its own sockets make connections of their own
      const wrong = await Promise.all(
        walks.map(async ({ walk, ports }) => {
          const tries = walk.slice(turn * leg, (turn + 1) * leg).map(({ one, serverCloses }) => ({
            ...tryOf(lab, one.probe, one.answers[name], 1),
            localPort: ports.get(name) ?? 0,
            serverCloses,
          }));
          const host = await lab.host(walk[0]?.one.probe.from ?? "");
          const [answers = []] = await host.tryAll([tries]);
          walked.steps += answers.length;
          return answers.flatMap((answer, i) => complaintOf(name, walk, turn * leg + i, answer));
        }),
      );
      walked.complaints.push(...wrong.flat());
    }
  }
  return walked;
};

interface Step {
  readonly one: Case;
  readonly serverCloses: boolean;
}

/**
 * One walk for each family and transport, over UDP one for each place: bpf does not part what is translated on its way from
 * what the same port asks a pod itself, or elsewhere (docs/dataplane.md). A random choice of targets, each asked several times. */
const walksOf = (world: World, from: string, { steps, random }: WalkOptions): readonly (readonly Step[])[] => {
  const served = everyProbe(world)
    .filter((probe) => probe.from === from && probe.sharedPort && probe.bound === "no")
    .map((probe) => caseOf(world, probe))
    .filter(({ answers: { bpf, iptables } }) => isSteady(bpf) && isSteady(iptables));
  return [...Map.groupBy([...served, ...directCases(world, from)], (one) => kindOf(world, one)).values()].map(
    (cases) => {
      const some = shuffled(cases, random).slice(0, TARGETS);
      return Array.from({ length: steps }, () => ({
        one: some[Math.floor(random() * some.length)] as Case,
        serverCloses: random() < 0.5,
      }));
    },
  );
};

const kindOf = (world: World, { probe, meaning }: Case): string =>
  [probe.transport, familyOf(probe.address), probe.transport === "UDP" ? translatedAt(world, probe, meaning) : ""].join(
    " ",
  );

/** On its way; where nobody translates it there, or its socket is translated, nowhere. */
const translatedAt = (world: World, probe: Probe, { verdict, packet }: Case["meaning"]): string => {
  if (verdict.kind === "pass") return "";
  if (packet.from.place === "outside") return "another node";
  return isByPacket(world, probe) ? "its device" : "";
};

const TARGETS = 8;

const isSteady = (expected: Expected): boolean => expected.kind === "reached" && !expected.sticky;

/** Nobody translates these: a pod or node by its own address, from inside. */
const directCases = (world: World, from: string): readonly Case[] =>
  BACKENDS.filter((name) => name !== from && isInside(world, name) && isInside(world, from)).flatMap((name) =>
    (["v4", "v6"] as const).flatMap((family) =>
      (["TCP", "UDP"] as const).flatMap((transport) =>
        TARGET_PORTS.map((port): Case => {
          const how = { bound: "no", connected: true, mapped: false, sharedPort: true } as const;
          const address = readAddress(placeOf(world.places, name)[family]);
          const probe: Probe = { from, transport, address, port, ...how };
          const servers = new Map([[`${name}:${port}`, ownSource(world, probe)]]);
          const reached: Expected = { kind: "reached", sticky: false, servers };
          const one = caseOf(world, probe);
          const bpf = seenFromSharedPort({ world, probe, meaning: one.meaning }, reached) ?? reached;
          return { ...one, answers: { bpf, iptables: reached, userspace: reached } };
        }),
      ),
    ),
  );

/** The outside has no route to pods. */
const isInside = (world: World, name: string): boolean => placeOf(world.places, name).node !== null;

const complaintOf = (name: "bpf" | "iptables", walk: readonly Step[], i: number, answer: Answer): readonly string[] => {
  const one = walk[i]?.one;
  if (one === undefined) return [];
  const wrong = complaint(one.probe, one.answers[name], [answer]);
  if (wrong === null) return [];
  const before = walk.slice(0, i).map(({ one: { probe }, serverCloses }) => {
    const end = probe.transport === "TCP" && serverCloses ? " (closed by the server)" : "";
    return `    after ${formatProbe(probe)}${end}`;
  });
  const expected = formatExpected(one.answers[name]);
  return [[`${name}: ${formatProbe(one.probe)}: ${wrong} instead of ${expected}`, ...before.slice(-6)].join("\n")];
};
