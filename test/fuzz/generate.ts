// Random packets: of every kind, right ones; of connections that are there; and those changed at random.
import {
  buildError,
  buildFrame,
  ETHERNET,
  type FrameOptions,
  parseFrame,
  splitFrame,
  type Transport,
  tagFrame,
} from "../lib/packet.ts";
import { type Model, UNSEEN } from "./model.ts";
import type { Random } from "./random.ts";
import { CLIENT_PORTS, type End, NODE_PORT, PLACES, type Places, PROGRAMS, type Program } from "./world.ts";

export interface Packet {
  readonly program: Program;
  readonly frame: Uint8Array;
  /** Several segments in one, as offloads make them. */
  readonly gso?: boolean;
}

/** A frontend, by its number in the world, loses a backend or gets back all it had. */
export interface Change {
  readonly change: "retire" | "restore";
  readonly frontend: number;
}

/** Routes change, or all packets go by the kernel from now on: 0. */
export interface Reroute {
  readonly generation: number;
}

export type Step = Packet | Change | Reroute;

type Connection = Model["connections"][number];

/** One packet, or the fragments of one. `seen`: frames that came out of programs lately. */
export const generate = (
  random: Random,
  model: Model,
  seen: readonly Uint8Array[],
  frontends: number,
): readonly Step[] => {
  if (random.chance(0.03)) return [{ change: random.pick(["retire", "restore"]), frontend: random.below(frontends) }];
  if (random.chance(0.02)) return [{ generation: random.below(4) }];
  const places = random.pick(PLACES);
  const connection = model.connections.length > 0 ? random.pick(model.connections) : null;
  const step = pickKind(random, places, connection, seen);
  const frame = random.chance(0.1) ? tag(random, step.frame) : step.frame;
  if (random.chance(0.12)) return split(random, { ...step, frame });
  if (random.chance(0.04)) return [{ ...step, frame: random.chance(0.5) ? withoutLength(frame) : frame, gso: true }];
  return [{ ...step, frame: random.chance(0.35) ? mutate(random, frame) : frame }];
};

const pickKind = (
  random: Random,
  places: Places,
  connection: Connection | null,
  seen: readonly Uint8Array[],
): Packet => {
  const kind = random.below(100);
  if (kind < 25 || connection === null) return fromClient(random, places);
  if (kind < 75) return ofConnection(random, connection);
  if (kind < 92) return error(random, connection, seen);
  if (kind < 96 && seen.length > 0) return { program: random.pick(PROGRAMS), frame: random.pick(seen) };
  return noise(random, places);
};

// ---- right packets -------------------------------------------------------------------------------------------------

const PORTS = [80, 80, 53, 54, 55, 56, 57, NODE_PORT, 81] as const;

const fromClient = (random: Random, places: Places): Packet => {
  const { clients, vips, pods, remotes, node, loopback } = places;
  const program: Program = random.chance(0.6) ? "tc_ingress" : random.pick(PROGRAMS);
  const client = random.pick(program === "tc_ingress" ? [...clients, ...remotes] : [...pods, ...clients]);
  const from = { address: random.chance(0.03) ? loopback : client, port: random.pick(CLIENT_PORTS) };
  const asked = random.chance(0.03) ? loopback : random.pick([...vips, ...vips, node]);
  const to = { address: asked, port: random.pick(PORTS) };
  const proto = random.chance(0.05)
    ? random.pick(["SCTP", "ICMP", "ICMPv6"] as const)
    : random.pick(["TCP", "UDP"] as const);
  return { program, frame: build(random, [from, to], proto, random.chance(0.5) ? { flags: "S" } : {}) };
};

type Ends = readonly [from: End, to: End];

/** A packet of each direction, at the hook where it belongs, as the hook before made it; and what it becomes there. */
const waysOf = (c: Connection): readonly (readonly [Program, Ends, Ends])[] => {
  const inner = { address: c.client.address, port: c.inner === UNSEEN ? c.client.port : c.inner };
  const atEgress: readonly (readonly [Program, Ends, Ends])[] = [
    ["tc_egress", [inner, c.backend], [c.node ?? inner, c.backend]],
    ["tc_egress", [c.backend, inner], [c.vip, c.client]],
  ];
  return [
    ["tc_ingress", [c.client, c.vip], [inner, c.backend]],
    ...(c.inner === UNSEEN ? [] : atEgress),
    ...(c.backend.local
      ? (["tc_pod_reply", "tc_pod_ingress"] as const).map(
          (program) => [program, [c.backend, inner], [c.vip, c.client]] as const,
        )
      : []),
    ...(c.node === null ? [] : [["tc_ingress", [c.backend, c.node], [c.backend, inner]] as const]),
  ];
};

const transportOf = ({ proto }: Connection): Transport => (proto === 6 ? "TCP" : "UDP");

const ofConnection = (random: Random, connection: Connection): Packet => {
  const [program, ends, becomes] = random.pick(waysOf(connection));
  return { program, frame: build(random, ends, transportOf(connection), { becomes }) };
};

const FLAGS = ["S", "A", "A", "A", "PA", "SA", "FA", "R", "FSRPAU", ""] as const;

const build = (
  random: Random,
  [from, to]: Ends,
  proto: Transport,
  { flags, becomes }: { readonly flags?: string; readonly becomes?: Ends } = {},
): Uint8Array => {
  const v6 = from.address.includes(":");
  const options: FrameOptions = {
    ...namesOf([from, to]),
    proto,
    flags: flags ?? random.pick(FLAGS),
    payload: random.bytes(random.chance(0.03) ? random.below(2000) : random.below(40)),
    ttl: random.below(256),
    ...(v6
      ? { extensions: extensionsOf(random) }
      : { options: random.bytes(random.chance(0.2) ? 4 * random.below(11) : 0) }),
    ...(random.chance(0.02) ? { destination_mac: random.bytes(6) } : {}),
    ...(random.chance(0.3) ? { icmp: [random.below(20), random.below(4)] as const } : {}),
  };
  if (becomes !== undefined && random.chance(0.08)) return withZeroChecksum(random, options, becomes);
  return buildFrame({
    ...options,
    ...(random.chance(0.1) ? { checksum: random.pick([0, 0xffff, random.below(65536)]) } : {}),
  });
};

const namesOf = ([from, to]: Ends) => ({ from: from.address, sport: from.port, to: to.address, dport: to.port });

/** One whose checksum, once it is translated, comes out as 0: which UDP writes as 0xffff. */
const withZeroChecksum = (random: Random, options: FrameOptions, becomes: Ends): Uint8Array => {
  const payload = Uint8Array.of(...random.bytes(2 * random.below(16)), 0, 0);
  const { checksum } = parseFrame(buildFrame({ ...options, ...namesOf(becomes), payload }));
  payload.set([checksum >> 8, checksum & 255], payload.length - 2);
  return buildFrame({ ...options, payload });
};

const extensionsOf = (random: Random): readonly (readonly [number, Uint8Array])[] => {
  if (!random.chance(0.25)) return [];
  return Array.from({ length: random.below(6) }, () => {
    const type = random.pick([0, 43, 44, 60, 60]);
    const bytes = random.bytes(type === 44 ? 8 : 8 * (1 + random.below(3)));
    if (type !== 44) bytes[1] = bytes.length / 8 - 1;
    if (type === 43) bytes[3] = random.chance(0.8) ? 0 : 1;
    if (type === 44 && random.chance(0.6)) bytes.set([0, random.below(2)], 2);
    return [type, bytes] as const;
  });
};

// ---- ICMP errors ---------------------------------------------------------------------------------------------------

const ERRORS: Readonly<Record<4 | 6, readonly (readonly [number, number])[]>> = {
  4: [
    [3, 1],
    [3, 3],
    [3, 4],
    [11, 0],
    [12, 0],
    [5, 1],
  ],
  6: [
    [1, 4],
    [2, 0],
    [3, 0],
    [4, 1],
    [137, 0],
  ],
};

/** About a packet of a connection, as somebody on its way would send it, or about anything. */
const error = (random: Random, connection: Connection, seen: readonly Uint8Array[]): Packet => {
  const [program, [from, to], [from2, to2]] = random.pick(waysOf(connection));
  // What answers a packet of this direction at this hook quotes one of the other direction.
  let quoted = build(random, [to, from], transportOf(connection), { becomes: [to2, from2] });
  if (seen.length > 0 && random.chance(0.1)) quoted = random.pick(seen);
  if (random.chance(0.15)) quoted = mutate(random, quoted);
  const v6 = to.address.includes(":");
  const places = random.pick(PLACES.filter((p) => p.node.includes(":") === v6));
  const sender = random.chance(0.5) ? from.address : random.pick([places.router, places.node]);
  const whole = Math.max(0, quoted.length - ETHERNET);
  const size = random.chance(0.5) ? whole : random.below(whole + 1);
  const icmp = random.pick(ERRORS[v6 ? 6 : 4]);
  const wrong = random.chance(0.1) ? { checksum: random.below(65536) } : {};
  const more = v6 ? { extensions: extensionsOf(random) } : { options: random.bytes(random.chance(0.1) ? 8 : 0) };
  return { program, frame: buildError({ from: sender, to: to.address, icmp, ...wrong, ...more }, quoted, size) };
};

// ---- others --------------------------------------------------------------------------------------------------------

const noise = (random: Random, places: Places): Packet => {
  const head = buildFrame({ from: random.pick(places.clients), to: random.pick(places.vips) });
  const frame = Uint8Array.of(...head.slice(0, ETHERNET + random.below(24)), ...random.bytes(random.below(120)));
  return { program: random.pick(PROGRAMS), frame };
};

const tag = (random: Random, frame: Uint8Array): Uint8Array =>
  tagFrame(frame, ...Array.from({ length: 1 + random.below(3) }, () => random.pick([0x8100, 0x88a8] as const)));

/** Fragments, mostly in order. Those of a frame with VLAN tags or extension headers are made of something else: as good. */
const split = (random: Random, { program, frame }: Packet): readonly Packet[] => {
  const hasHeader =
    frame.length >= ETHERNET + 40 && (frame[12] === 0x86 || (frame[12] === 0x08 && (frame[ETHERNET] ?? 0) % 16 >= 5));
  if (!hasHeader) return [{ program, frame }];
  const parts = splitFrame(frame, 8 * (1 + random.below(6)), random.below(4)).slice(0, 6);
  if (parts.length === 0) return [{ program, frame }];
  const [one, two] = [random.below(parts.length), random.below(parts.length)];
  const steps = parts.map((part) => ({ program, frame: random.chance(0.05) ? mutate(random, part) : part }));
  if (random.chance(0.3)) [steps[one], steps[two]] = [steps[two] as Packet, steps[one] as Packet];
  return steps;
};

// ---- changed at random ---------------------------------------------------------------------------------------------

/** As BIG TCP, whose length does not fit. */
const withoutLength = (frame: Uint8Array): Uint8Array => changed(frame, ETHERNET + (frame[12] === 0x08 ? 2 : 4), 0, 0);

type Mutation = (random: Random, frame: Uint8Array) => Uint8Array;

/** Most of it where the headers are. */
const place = (random: Random, frame: Uint8Array): number =>
  random.below(random.chance(0.8) ? Math.min(frame.length, 90) : frame.length);

const changed = (frame: Uint8Array, at: number, ...bytes: readonly number[]): Uint8Array => {
  const copy = frame.slice();
  for (const [i, byte] of bytes.entries()) if (at + i < copy.length) copy[at + i] = byte;
  return copy;
};

const MUTATIONS: readonly Mutation[] = [
  function flipBit(random, frame) {
    const at = place(random, frame);
    return changed(frame, at, (frame[at] ?? 0) ^ (1 << random.below(8)));
  },
  function anyByte(random, frame) {
    return changed(frame, place(random, frame), random.pick([0, 1, 255, random.below(256)]));
  },
  function anyWord(random, frame) {
    const value = random.pick([0, 1, 0x7fff, 0xffff, frame.length - ETHERNET, random.below(65536)]);
    return changed(frame, place(random, frame), value >> 8, value & 255);
  },
  function cut(random, frame) {
    return frame.slice(0, Math.max(ETHERNET, random.below(frame.length + 1)));
  },
  function pad(random, frame) {
    return Uint8Array.of(...frame, ...random.bytes(random.below(60)));
  },
  function lieAboutLength(random, frame) {
    const at = ETHERNET + (frame[12] === 0x08 ? 2 : 4);
    const right = ((frame[at] ?? 0) << 8) | (frame[at + 1] ?? 0);
    const lie = Math.max(0, Math.min(65535, right + random.below(41) - 20));
    return changed(frame, at, lie >> 8, lie & 255);
  },
  function otherHeaderLength(random, frame) {
    return changed(frame, ETHERNET, random.below(256));
  },
  function otherProtocol(random, frame) {
    const at = ETHERNET + (frame[12] === 0x08 ? 9 : 6);
    return changed(frame, at, random.pick([0, 1, 4, 6, 17, 41, 43, 44, 47, 50, 51, 58, 59, 60, 132, 135]));
  },
  function fragmentBits(random, frame) {
    return changed(frame, ETHERNET + 6, random.pick([0x00, 0x20, 0x40, 0x80, 0x1f, 0x3f]), random.pick([0, 0, 1, 255]));
  },
  function copyWithin(random, frame) {
    const copy = frame.slice();
    copy.copyWithin(place(random, frame), place(random, frame), place(random, frame));
    return copy;
  },
  function otherEtherType(random, frame) {
    return changed(
      frame,
      12,
      ...random.pick([
        [0x08, 0x00],
        [0x86, 0xdd],
        [0x81, 0x00],
        [0x08, 0x06],
      ] as const),
    );
  },
];

const mutate: Mutation = (random, frame) => {
  let mutated = frame;
  do {
    mutated = random.pick(MUTATIONS)(random, mutated);
  } while (random.chance(0.4));
  return mutated;
};
