// What each dataplane has to answer to a probe: evaluate()'s answer as sockets see it, changed by the intended
// differences (differences.ts) that apply. And whether the answers of a lab are that.
import { familyOf } from "../../src/model/address.ts";
import type { Backend } from "../../src/model/desired.ts";
import { readAddress } from "../lib/addresses.ts";
import type { Answer } from "../lib/host/protocol.ts";
import { isNode, type Place } from "../lib/network.ts";
import { type Meaning, nodeAddresses, type Probe, placeOf, sourceAddress, type World } from "./world.ts";

export type DataplaneName = "bpf" | "iptables" | "userspace";

export type Expected =
  | {
      readonly kind: "reached";
      /** Server (`pod1a:8080`) to the address that it has to see as its client's. */
      readonly servers: ReadonlyMap<string, string>;
      readonly sticky: boolean;
      /** Likewise, to an address that is as right, where it depends on what the same port has asked before. */
      readonly orSeen?: ReadonlyMap<string, string>;
    }
  /** Nobody answers: one of these codes. */
  | { readonly kind: "failed"; readonly codes: readonly string[] };

/** A probe, and what it means in its world. */
export interface Asked {
  readonly world: World;
  readonly probe: Probe;
  readonly meaning: Meaning;
}

export const REFUSED = failed("ECONNREFUSED");
export const SILENT = failed("TIMEOUT");

export function failed(...codes: readonly string[]): Expected {
  return { kind: "failed", codes };
}

/** Refused by an ICMP message: a UDP socket that is not connected never hears of it. */
export const refusedByIcmp = ({ transport, connected }: Probe): Expected =>
  transport === "UDP" && !connected ? SILENT : REFUSED;

/** evaluate()'s answer as a socket sees it when packets are translated on their way. */
export const plainAnswer = (world: World, probe: Probe, { verdict, handler, packet }: Meaning): Expected => {
  switch (verdict.kind) {
    case "forward":
      return {
        kind: "reached",
        sticky: verdict.affinity_timeout_s > 0,
        servers: new Map(
          verdict.backends.map(({ backend, source }) => {
            const seen = source === "node" ? nodeSource(world, handler, probe) : ownSource(world, probe);
            return [serverOf(world.places, backend), seen];
          }),
        ),
      };
    case "reject":
      return refusedByIcmp(probe);
    case "drop":
      return SILENT;
    case "unlisted":
    case "pass":
      return isLocalAddress(world.places, packet.to.address) ? refusedByIcmp(probe) : LOST;
  }
};

/** For an address that nobody has: silence, or the end of a circle between wire and nodes (time to live exceeded). */
const LOST: Expected = failed("TIMEOUT", "EHOSTUNREACH");

const isLocalAddress = (places: readonly Place[], address: string): boolean =>
  address === "127.0.0.1" || places.some((place) => nodeAddresses(place).includes(address));

/** The client as its own sockets would show it: a node never shows its loopback address. */
export const ownSource = (world: World, { from, address, bound }: Probe): string => {
  const place = placeOf(world.places, from);
  return address === "127.0.0.1" ? place.v4 : sourceAddress(place, { address, bound });
};

export const nodeSource = (world: World, node: string | null, { address }: Probe): string => {
  const place = placeOf(world.places, node ?? "");
  return familyOf(address) === "IPv6" ? place.v6 : place.v4;
};

/** The name under which a backend answers. */
export const serverOf = (places: readonly Place[], { address, port }: Pick<Backend, "address" | "port">): string => {
  const place = places.find(({ v4, v6 }) => readAddress(v4) === address || readAddress(v6) === address);
  return `${place?.name ?? address}:${port}`;
};

/** Its socket is not translated in the system call: its packets are, on their way. */
export const isByPacket = (world: World, probe: Probe): boolean => world.socketLB === "host" && isFromPod(world, probe);

export const isFromNode = (world: World, { from }: Probe): boolean => isNode(placeOf(world.places, from));
export const isFromPod = (world: World, probe: Probe): boolean =>
  placeOf(world.places, probe.from).node !== null && !isFromNode(world, probe);

/** Every expected server has answered; nothing more is learnt by trying again. */
export const isComplete = (probe: Probe, expected: Expected, answers: readonly Answer[]): boolean => {
  if (expected.kind === "failed" || probe.sharedPort) return answers.length > 0;
  const seen = new Set(answers.map((answer) => (answer.ok ? answer.name : "")));
  return expected.sticky || [...expected.servers.keys()].every((name) => seen.has(name));
};

/** What is wrong with these answers, in words; null: nothing. */
export const complaint = (probe: Probe, expected: Expected, answers: readonly Answer[]): string | null => {
  for (const answer of answers) {
    const wrong = wrongAnswer(probe, expected, answer);
    if (wrong !== null) return wrong;
  }
  if (expected.kind === "failed") return null;
  const names = new Set(answers.map((answer) => (answer.ok ? answer.name : "")));
  if (expected.sticky && !probe.sharedPort)
    return names.size === 1 ? null : `${[...names].join(", ")} answered in turn: affinity was not kept`;
  if (probe.sharedPort) return null;
  const missing = [...expected.servers.keys()].filter((name) => !names.has(name));
  return missing.length === 0 ? null : `${missing.join(", ")} never answered in ${answers.length} tries`;
};

const wrongAnswer = (probe: Probe, expected: Expected, answer: Answer): string | null => {
  if (expected.kind === "failed") {
    if (answer.ok) return `${answer.name} answered, seeing ${answer.client}`;
    return expected.codes.includes(answer.code) ? null : answer.code;
  }
  if (!answer.ok) return answer.code;
  const source = expected.servers.get(answer.name);
  if (source === undefined) return `${answer.name} answered`;
  const seen = readAddress(answer.client);
  if (seen !== source && seen !== expected.orSeen?.get(answer.name)) return `${answer.name} saw ${answer.client}`;
  const peer = answer.peer.replace(/^::ffff:(?=\d+\.)/, "");
  if (peer !== probe.address || answer.peerPort !== probe.port)
    return `the client saw the answer come from ${answer.peer} port ${answer.peerPort}`;
  return null;
};

export const formatExpected = (expected: Expected): string => {
  if (expected.kind === "failed") return expected.codes.join(" or ");
  const servers = [...expected.servers]
    .map(([name, source]) => `${name} seeing ${[source, expected.orSeen?.get(name)].filter(Boolean).join(" or ")}`)
    .join(", ");
  return `${expected.sticky ? "one of " : ""}${servers}`;
};
