// What each program may do with a packet, by what went through before and nothing else: no map is read. A model of
// connections, learned from the packets that opened them; whatever else happens is a Violation.
import { reason as reasonNumbers } from "../../src/dataplane/bpf/abi.gen.ts";
import { type Address, addressToBytes } from "../../src/model/address.ts";
import { type Meaning, meaningOf, type PacketVerdict } from "../../src/model/reason.ts";
import { MACS, routeTo } from "../lib/crossing.ts";
import type { Outcome } from "../lib/datapath.ts";
import { ETHERNET, parseFrame } from "../lib/packet.ts";
import { changedChecksum, checksumsOf } from "./checksums.ts";
import {
  type Dissection,
  dissect,
  type Ends,
  type Icmp,
  type IpPacket,
  type LaterFragment,
  type WithPorts,
} from "./dissect.ts";
import type { Packet } from "./generate.ts";
import { type Backend, type End, type Frontend, PLACES, type Program, type World } from "./world.ts";

export class Violation extends Error {
  override readonly name = "Violation";
}

interface Connection {
  readonly proto: number;
  readonly client: End;
  readonly vip: End;
  readonly backend: Backend;
  /** The client's port between the hooks; UNSEEN while a program has sent all its packets on, and it need not be its own. */
  inner: number;
  readonly needsSnat: boolean;
  /** As the backend sees the client; null: not seen yet. */
  node: End | null;
  /** A FIN or RST has been seen. */
  closing: boolean;
  /** Its VIP is the backend itself: the client asks it by its own address, too. */
  readonly beside: boolean;
  /** One packet has been seen: the client's next one chooses again, and finds the same backend as long as the run is the same. */
  alone: boolean;
}

/** One rewrite of one direction of a connection. */
interface Step {
  readonly connection: Connection;
  readonly kind: "to backend" | "from node" | "to client" | "from vip";
}

interface Translation {
  readonly side: "source" | "destination";
  readonly to: End;
  /** Over the port of the other side; null: it stays. */
  readonly other: number | null;
}

type Reason = string;

/** As bpf/types.h has it. */
const PARKED_PER_DATAGRAM = 8;
const PARKED_MAX_BYTES = 2048;
/** Of the crossing's devices. */
const MTU = 1500;

export const UNSEEN = -1;

const VERDICTS = {
  passed: "pass",
  translated: "pass",
  held: "drop",
  answered: "send back",
  refused: "send back",
  dropped: "drop",
} as const satisfies Record<PacketVerdict, Outcome["verdict"]>;

export class Model {
  readonly #world: World;
  #connections: Connection[] = [];
  /** The first one of each datagram that was translated, or was for an address of ours, by hook and key. */
  readonly #fragments = new Map<string, WithPorts>();
  /** Datagrams of which fragments were parked: how many. */
  readonly #parked = new Map<string, number>();
  /** By service and client, of frontends with affinity. */
  readonly #affinity = new Map<string, Backend>();
  /** By service and five-tuple: the same packet finds the same backend in the same run. */
  readonly #chosen = new Map<string, Backend>();

  constructor(world: World) {
    this.#world = world;
  }

  /** Connections that packets may be made for. */
  get connections(): readonly Connection[] {
    return this.#connections;
  }

  /** Throws Violation when this is not what should have become of the frame; learns from it. */
  judge(packet: Packet, outcome: Outcome): void {
    const { program, frame, gso = false } = packet;
    const reason = outcome.reason.slice("REASON_".length).toLowerCase();
    const hook = program === "tc_egress" ? "tc_egress" : "tc_ingress";
    const meaning = meaningOf(hook, reason);
    if (meaning === null) throw new Violation(`${reason} has no meaning`);
    const verdict = VERDICTS[meaning.verdict];
    if (outcome.verdict !== verdict) throw new Violation(`${reason}, which is ${meaning.verdict}: ${outcome.verdict}`);
    const found = dissect(frame, gso);
    this.#checkEvents(meaning, reason, found);
    switch (meaning.verdict) {
      case "passed":
        if (!same(frame, outcome.frame)) throw new Violation(`${reason}, and the frame is changed`);
        break;
      case "refused":
        checkRefusal(frame, outcome.frame, found, reason === "protocol");
        break;
      case "answered":
        checkEcho(frame, outcome.frame, found);
        break;
      case "held":
      case "dropped":
      case "translated":
    }
    this.#judgeReason(packet, outcome, found, reason);
  }

  // ---- what may happen -----------------------------------------------------------------------------------------------

  #judgeReason(packet: Packet, outcome: Outcome, found: Dissection, reason: Reason): void {
    const { program, frame } = packet;
    const allow = (...reasons: readonly Reason[]): void => {
      if (!reasons.includes(reason)) throw new Violation(`${reason}, not ${reasons.join(" or ")}`);
    };
    const inward = program !== "tc_egress";
    const answered = found.what === "ports" && program.startsWith("tc_pod") ? this.#stepOf(false, found) : null;
    const mayBeAnswer = program === "tc_pod_reply" || (found.what === "ports" && this.#stepOf(true, found) === null);
    if (outcome.direct && answered?.kind === "from vip" && mayBeAnswer && found.what === "ports") {
      allow("reply");
      this.#checkTranslated(packet, outcome, found, answered);
      return this.#follow(false, found, answered);
    }
    if (program === "tc_pod_reply") return allow("not_ours");
    if (reason === "reply" || reason === "icmp_error")
      this.#reveal(inward, found, dissect(outcome.frame, true), outcome.direct);
    // To another station's MAC: the node's device has 0. A pod's device hears nobody else.
    if (program === "tc_ingress" && frame.subarray(0, 6).some((byte) => byte !== 0)) return allow("not_ours");
    const refuses = (address: Address | undefined): boolean =>
      address !== undefined && this.#world.refuses(address, program);
    switch (found.what) {
      case "nothing":
        if (refuses(found.packet?.dst)) return allow("protocol", "unreadable", "reply_failed");
        return allow("not_ours", "malformed");
      case "later": {
        const first = this.#fragments.get(fragmentKey(inward, found));
        const step = first === undefined ? null : this.#stepOf(inward, first);
        if (step === null && this.#mustPark(inward, found)) return this.#park(found, allow);
        if (step === null && refuses(found.dst)) return allow(...ofFragment(found));
        if (step === null) return allow("fragment", "not_ours");
        allow(reasonOf(step));
        return this.#checkTranslated(packet, outcome, found, step);
      }
      case "icmp": {
        const step = this.#stepOfQuoted(inward, found);
        if (step === null && refuses(found.dst)) return allow(...ofMessage(frame, found));
        if (step === null) return allow("not_ours", ...(found.quoted === null ? ["malformed"] : []));
        allow("icmp_error");
        return this.#checkTranslated(packet, outcome, found, step);
      }
      case "ports": {
        if (this.#comesAgain(inward, found)) return allow("reordered");
        const step = this.#stepOf(inward, found);
        if (step === null) return this.#judgeOpening(packet, outcome, found, reason);
        if (this.#mustStartAnew(step, found) || (mayStartAnew(step, found) && reason !== "established")) {
          this.#connections = this.#connections.filter((c) => c !== step.connection);
          return this.#judgeOpening(packet, outcome, found, reason);
        }
        allow(reasonOf(step));
        this.#checkTranslated(packet, outcome, found, step);
        this.#follow(inward, found, step);
      }
    }
  }

  #judgeOpening(packet: Packet, outcome: Outcome, found: WithPorts, reason: Reason): void {
    const { program } = packet;
    const expected = this.#openings(program, found);
    if (!expected.includes(reason)) throw new Violation(`${reason}, not ${expected.join(" or ")}`);
    if (reason === "established") return this.#resume(packet, outcome, found);
    if (reason !== "new_flow") return;
    const connection = this.#newConnection(program, outcome, found);
    const step: Step = { connection, kind: "to backend" };
    this.#checkTranslated(packet, outcome, found, step);
    const isReplaced = (c: Connection): boolean =>
      isSame(c, connection) && (!c.alone || (isEnd(c.backend, connection.backend) && c.inner === connection.inner));
    this.#connections = this.#connections.filter((c) => !isReplaced(c));
    this.#connections.push(connection);
    this.#follow(true, found, step);
  }

  /** The client's second packet before any answer. */
  #resume(packet: Packet, outcome: Outcome, found: WithPorts): void {
    const now = dissect(outcome.frame, true);
    const connection = this.#aloneFor(found).find(
      (c) => now.what === "ports" && isEnd(c.backend, { address: now.dst, port: now.dport }) && c.inner === now.sport,
    );
    if (connection === undefined) throw new Violation("established, but to where no connection of this client goes");
    const step: Step = { connection, kind: "to backend" };
    this.#checkTranslated(packet, outcome, found, step);
    connection.alone = false;
    this.#follow(true, found, step);
  }

  #aloneFor({ proto, src, sport, dst, dport }: WithPorts): readonly Connection[] {
    const [client, vip] = [
      { address: src, port: sport },
      { address: dst, port: dport },
    ];
    return this.#connections.filter(
      (c) => c.alone && c.proto === proto && isEnd(c.client, client) && isEnd(c.vip, vip),
    );
  }

  /** What a packet without a flow may come to. */
  #openings(program: Program, found: WithPorts): readonly Reason[] {
    const { src, dst, dport, proto } = found;
    const frontend = this.#world.frontendAt(dst, dport, proto);
    if (program === "tc_egress") {
      return !this.#world.options.socketLB && frontend !== null ? ["not_handled"] : ["not_ours"];
    }
    if (isLoopback(src) || isLoopback(dst)) return ["loopback"];
    if (src === dst && (frontend !== null || this.#world.refuses(dst, program))) return ["from_itself"];
    if (frontend === null && this.#world.refuses(dst, program)) {
      const refusal = proto === 132 ? "protocol" : "unlisted_port";
      return mayBeTold(found) ? [refusal] : ["reply_failed"];
    }
    if (frontend === null) return this.#holderBeside(found) === undefined ? ["not_ours"] : ["new_flow", "not_ours"];
    if (frontend.clients !== null && !frontend.clients.includes(src)) return ["source_range"];
    if (frontend.backends.length === 0) {
      if (frontend.without === "drop") return ["no_local_endpoints"];
      return mayBeTold(found) ? ["no_endpoints"] : ["reply_failed"];
    }
    const isKnown = this.#aloneFor(found).some((c) =>
      frontend.backends.some((b) => b.id === c.backend.id && b.generation === c.backend.generation),
    );
    return ["new_flow", ...(isKnown ? ["established"] : []), ...this.#exhaustions(frontend, found)];
  }

  /** The connection that replies to a packet, which is for no frontend, would be taken for. */
  #holderBeside({ src, sport, dst, dport, proto, opens }: WithPorts): Connection | undefined {
    if (proto !== 6 || !opens) return undefined;
    const backend = { address: dst, port: dport };
    return this.#connections.find(
      (c) =>
        c.proto === 6 && isEnd(c.backend, backend) && c.client.address === src && [sport, UNSEEN].includes(c.inner),
    );
  }

  /** Only where others hold what would be needed. */
  #exhaustions(frontend: Frontend, { proto }: WithPorts): readonly Reason[] {
    const { min, max } = this.#world.snatPorts;
    const isFull = frontend.backends.some(
      (backend) =>
        this.#connections.filter((c) => c.needsSnat && c.proto === proto && c.backend.address === backend.address)
          .length >
        max - min,
    );
    return isFull ? ["snat_exhausted"] : [];
  }

  /** From the packet that opened it, and what became of that. */
  #newConnection(program: Program, { frame, direct }: Outcome, found: WithPorts): Connection {
    const { proto, src, dst, sport, dport } = found;
    const frontend = this.#world.frontendAt(dst, dport, proto);
    const now = dissect(frame, true);
    if (now.what !== "ports") throw new Violation("A translated packet that cannot be read");
    const backend =
      frontend === null
        ? this.#holderBeside(found)?.backend
        : frontend.backends.find((b) => b.address === now.dst && b.port === now.dport);
    if (backend === undefined) throw new Violation(`To ${now.dst} port ${now.dport}, no backend of the frontend`);
    if (frontend === null) {
      // nothing was chosen
    } else if (frontend.affinity) keep(this.#affinity, `${frontend.service_id} ${src}`, backend);
    else keep(this.#chosen, `${frontend.service_id} ${tuple(found)}`, backend);
    const needsSnat = program === "tc_pod_ingress" ? src === backend.address : !backend.local;
    const connection: Connection = {
      proto,
      client: { address: src, port: sport },
      vip: { address: dst, port: dport },
      backend,
      inner: now.sport,
      needsSnat,
      node: null,
      closing: false,
      beside: frontend === null,
      alone: frontend !== null && !needsSnat && found.fragment === null,
    };
    if (direct && needsSnat) connection.inner = this.#isFree(connection) ? sport : UNSEEN;
    else this.#checkInner(connection);
    return connection;
  }

  /** Nobody else's packets at egress are, or may be, those that this one's would be with the client's own port. */
  #isFree(connection: Connection): boolean {
    const { client, backend, proto } = connection;
    const mayHold = (c: Connection): boolean =>
      c.inner === UNSEEN && c.proto === proto && c.client.address === client.address && isEnd(c.backend, backend);
    return (
      !isEnd(client, backend) &&
      this.#holdersOf(connection, client.port).length === 0 &&
      !this.#connections.some((c) => !isSame(c, connection) && mayHold(c))
    );
  }

  #holdersOf(connection: Connection, port: number): readonly Connection[] {
    const keys = keysAtEgress({ ...connection, inner: port });
    return this.#connections.filter((c) => !isSame(c, connection) && keysAtEgress(c).some((key) => keys.includes(key)));
  }

  /** Its packets at egress, of either direction, are nobody else's; the client's own port stays where it can. */
  #checkInner(connection: Connection): void {
    const { client, inner } = connection;
    const holders = this.#holdersOf(connection, inner);
    if (holders.some((c) => !c.closing)) throw new Violation(`Client port ${inner} is another connection's`);
    if (inner !== client.port && this.#isFree(connection)) {
      throw new Violation(`Client port ${inner} instead of ${client.port}, which was free`);
    }
  }

  /** Remembers what a packet that followed a step says of the connection. */
  #follow(inward: boolean, found: WithPorts, step: Step): void {
    const { connection, kind } = step;
    const hasHead = (): boolean => this.#connections.some((c) => isSame(c, connection) && !c.alone);
    if (kind === "from vip" && connection.alone && !hasHead()) connection.alone = false;
    if (found.closes) step.connection.closing = true;
    if (found.fragment !== null) this.#fragments.set(fragmentKey(inward, found), found);
  }

  // ---- fragments before their first one ------------------------------------------------------------------------------

  #isPutInOrder(inward: boolean, { proto, dst }: WithPorts | LaterFragment): boolean {
    return inward && (proto === 6 || proto === 17) && this.#world.isOurs(dst);
  }

  #mustPark(inward: boolean, found: LaterFragment): boolean {
    const key = fragmentKey(inward, found);
    return (
      this.#isPutInOrder(inward, found) &&
      !this.#fragments.has(key) &&
      (this.#parked.get(key) ?? 0) < PARKED_PER_DATAGRAM &&
      found.end - found.l3 <= PARKED_MAX_BYTES
    );
  }

  #park(found: LaterFragment, allow: (reason: Reason) => void): void {
    allow("parked");
    const key = fragmentKey(true, found);
    this.#parked.set(key, (this.#parked.get(key) ?? 0) + 1);
  }

  /** A first one that others wait for: then nothing becomes of this one, and it is known from now on. */
  #comesAgain(inward: boolean, found: WithPorts): boolean {
    if (found.fragment === null || !this.#isPutInOrder(inward, found)) return false;
    const key = fragmentKey(inward, found);
    this.#fragments.set(key, found);
    return this.#parked.delete(key);
  }

  /** Its backend is gone: UDP, which has no end, leaves it at once, TCP when the client begins again. */
  #mustStartAnew({ connection, kind }: Step, packet: WithPorts): boolean {
    const { vip, proto, backend, beside } = connection;
    if (beside || kind !== "to backend" || (proto === 6 && !packet.opens)) return false;
    const frontend = this.#world.frontendAt(vip.address, vip.port, proto);
    return !frontend?.backends.some((b) => b.id === backend.id && b.generation === backend.generation);
  }

  /** A frontend's backends are others from now on: of those that stayed, only affinity is still worth something. */
  changed({ service_id, backends }: Frontend): void {
    for (const key of this.#chosen.keys()) if (key.startsWith(`${service_id} `)) this.#chosen.delete(key);
    for (const [key, { id, generation }] of this.#affinity) {
      const stayed = backends.some((b) => b.id === id && b.generation === generation);
      if (key.startsWith(`${service_id} `) && !stayed) this.#affinity.delete(key);
    }
  }

  // ---- which connection ----------------------------------------------------------------------------------------------

  #stepOf(inward: boolean, packet: Ends & { readonly sport: number; readonly dport: number }): Step | null {
    const from = { address: packet.src, port: packet.sport };
    const to = { address: packet.dst, port: packet.dport };
    for (const connection of this.#connections) {
      if (connection.proto !== packet.proto) continue;
      const { client, vip, backend, node, needsSnat } = connection;
      const inner = { address: client.address, port: connection.inner };
      if (inward && !connection.alone && isEnd(from, client) && isEnd(to, vip))
        return { connection, kind: "to backend" };
      if (inward && node !== null && isEnd(from, backend) && isEnd(to, node)) return { connection, kind: "to client" };
      if (!inward && needsSnat && isEnd(from, inner) && isEnd(to, backend)) return { connection, kind: "from node" };
      if (!inward && isEnd(from, backend) && isEnd(to, inner)) return { connection, kind: "from vip" };
    }
    return null;
  }

  /** An error goes the way of a reply to what it quotes. */
  #stepOfQuoted(inward: boolean, { quoted, dst }: Icmp): Step | null {
    if (quoted === null || quoted.src !== dst) return null;
    const { src, sport, dport } = quoted;
    return this.#stepOf(inward, { ...quoted, src: quoted.dst, dst: src, sport: dport, dport: sport });
  }

  #translationOf({ connection, kind }: Step, frame: Uint8Array): Translation {
    const { client, vip, backend, inner } = connection;
    const isOther = inner !== client.port;
    switch (kind) {
      case "to backend":
        return { side: "destination", to: backend, other: isOther ? inner : null };
      case "to client":
        return { side: "destination", to: { address: client.address, port: inner }, other: null };
      case "from vip":
        return { side: "source", to: vip, other: isOther ? client.port : null };
      case "from node":
        connection.node ??= this.#learnNode(connection, frame);
        return { side: "source", to: connection.node, other: null };
    }
  }

  /** The port that SNAT took, from the first packet that shows it: one of the range, and nobody else's. */
  #learnNode({ proto, backend }: Connection, frame: Uint8Array): End {
    const found = dissect(frame, true);
    const port = found.what === "ports" ? found.sport : found.what === "icmp" ? (found.quoted?.dport ?? 0) : 0;
    const { min, max } = this.#world.snatPorts;
    if (port < min || port > max) throw new Violation(`SNAT port ${port} is outside ${min}-${max}`);
    const taken = this.#connections.some(
      (c) => c.proto === proto && isEnd(c.backend, backend) && c.node?.port === port,
    );
    if (taken) throw new Violation(`SNAT port ${port} is another connection's`);
    return { address: nodeOf(backend.address), port };
  }

  /** From the first packet that the kernel has routed. */
  #learnInner({ connection, kind }: Step, after: Dissection): void {
    if (connection.inner !== UNSEEN) return;
    const ends = after.what === "icmp" ? after.quoted : after.what === "ports" ? after : null;
    if (ends === null) return;
    const isOfClient = (kind === "to backend") !== (after.what === "icmp");
    connection.inner = isOfClient ? ends.sport : ends.dport;
    this.#checkInner(connection);
  }

  /** A reply that meets a SNAT port by chance, before anything that left from it was seen: now the port is known. */
  #reveal(inward: boolean, before: Dissection, after: Dissection, direct: boolean): void {
    const [asked, answered] = [replyIn(before), replyIn(after)];
    if (!inward || asked === null || answered === null || asked.to.address !== nodeOf(asked.to.address)) return;
    const isTo = ({ client, vip, inner }: Connection): boolean =>
      direct
        ? isEnd(client, answered.to) && isEnd(vip, answered.from)
        : client.address === answered.to.address && [answered.to.port, UNSEEN].includes(inner);
    const connection = this.#connections.find(
      (c) => c.needsSnat && c.node === null && c.proto === asked.proto && isEnd(c.backend, asked.from) && isTo(c),
    );
    const { min, max } = this.#world.snatPorts;
    if (connection !== undefined && asked.to.port >= min && asked.to.port <= max) connection.node = asked.to;
  }

  // ---- what became of the frame --------------------------------------------------------------------------------------

  /** Byte for byte what the step writes, and nothing else; checksums with the error they had. */
  #checkTranslated(packet: Packet, outcome: Outcome, found: WithPorts | LaterFragment | Icmp, step: Step): void {
    if (outcome.direct) return this.#checkSent(packet, outcome, found, step);
    this.#learnInner(step, dissect(outcome.frame, true));
    const [before, after] = [packet.frame, outcome.frame];
    const expected = before.slice();
    const isPortUnseen = found.what === "later" && step.kind === "from node" && step.connection.node === null;
    const translation: Translation = isPortUnseen
      ? { side: "source", to: { address: nodeOf(found.src), port: 0 }, other: null }
      : this.#translationOf(step, after);
    for (const { at, bytes } of writesOf(found, translation)) expected.set(bytes, at);
    sameBut(expected, after, before, found);
  }

  /** The same of both hooks together, and of the kernel between them: one hop less to live, the next hop's MAC addresses. */
  #checkSent(
    packet: Packet,
    { frame: after, forward }: Outcome,
    found: WithPorts | LaterFragment | Icmp,
    step: Step,
  ): void {
    const before = packet.frame;
    if (!this.#world.sends) throw new Violation("Sent on, and all packets are to go by the kernel");
    const reason = found.what === "ports" ? whyByKernel(packet, found, step) : `it is ${found.what}`;
    if (reason !== null || found.what !== "ports") throw new Violation(`Sent on, though ${reason}`);
    const expected = before.slice();
    for (const translation of this.#translationsOf(step, after))
      for (const { at, bytes } of writesOf(found, translation)) expected.set(bytes, at);
    const hops = found.l3 + (found.family === 4 ? 8 : 7);
    expected[hops] = (expected[hops] ?? 0) - 1;
    const { client, backend } = step.connection;
    const { device, mac } = routeTo(step.kind === "to backend" ? backend.address : client.address);
    if ((forward === "FORWARD_PEER") !== (device === "pod")) throw new Violation(`${forward} to ${device}`);
    if (forward !== "FORWARD_NEIGHBOUR") expected.set([...mac, ...MACS[device]]);
    sameBut(expected, after, before, found);
  }

  /** Of both sides. */
  #translationsOf(step: Step, after: Uint8Array): readonly Translation[] {
    const { connection, kind } = step;
    const { client, vip, inner, needsSnat } = connection;
    switch (kind) {
      case "to backend": {
        const from = needsSnat
          ? this.#translationOf({ connection, kind: "from node" }, after)
          : ({ side: "source", to: { address: client.address, port: inner }, other: null } as const);
        return [this.#translationOf(step, after), from];
      }
      case "to client":
        return [
          { side: "destination", to: client, other: null },
          { side: "source", to: vip, other: null },
        ];
      case "from vip":
        return [this.#translationOf(step, after)];
      case "from node":
        throw new Violation("Sent on where it leaves");
    }
  }

  /** Each refusal and drop is told once, with the packet as it came. */
  #checkEvents(meaning: Meaning, reason: Reason, found: Dissection): void {
    const events = this.#world.datapath.events();
    const isTold = meaning.verdict === "refused" || meaning.verdict === "dropped";
    if (events.length !== (isTold ? 1 : 0)) throw new Violation(`${reason}: ${events.length} events`);
    const [event] = events;
    if (event === undefined) return;
    const said = Object.entries(reasonNumbers).find(([, number]) => number === event.reason)?.[0];
    if (said?.toLowerCase() !== `reason_${reason}`) throw new Violation(`The event of ${reason} says ${said}`);
    if (found.what !== "ports") return;
    const { key } = event;
    const told = tuple({
      ...found,
      src: key.src_addr,
      dst: key.dst_addr,
      sport: key.src_port,
      dport: key.dst_port,
      proto: key.proto,
    });
    if (told !== tuple(found)) throw new Violation(`The event tells of ${told}, the packet is ${tuple(found)}`);
    const places = PLACES.find((p) => p.loopback === found.dst); // a NodePort answers there, too, though not to a wire
    const asked = this.#world.frontendAt(places?.node ?? found.dst, found.dport, found.proto);
    const service = asked?.service_id ?? 0;
    if (event.service_id !== service)
      throw new Violation(`The event names service ${event.service_id}, not ${service}`);
  }
}

const same = (a: Uint8Array, b: Uint8Array): boolean => a.length === b.length && a.every((byte, i) => byte === b[i]);

const isEnd = (a: End, b: End): boolean => a.address === b.address && a.port === b.port;

const isSame = (a: Connection, b: Connection): boolean =>
  a.proto === b.proto && isEnd(a.client, b.client) && isEnd(a.vip, b.vip);

const tuple = (packet: Ends & { readonly sport: number; readonly dport: number }): string =>
  `${packet.proto} ${packet.src} ${packet.sport} ${packet.dst} ${packet.dport}`;

const nodeOf = (address: Address): Address => {
  const places = PLACES.find((p) => p.node.includes(":") === address.includes(":"));
  if (places === undefined) throw new Error(`No places for ${address}`);
  return places.node;
};

/** The reply that a packet is, or that an error goes the way of. */
const replyIn = (found: Dissection): { readonly proto: number; readonly from: End; readonly to: End } | null => {
  if (found.what === "ports") {
    const { proto, src, sport, dst, dport } = found;
    return { proto, from: { address: src, port: sport }, to: { address: dst, port: dport } };
  }
  if (found.what !== "icmp" || found.quoted === null) return null;
  const { proto, src, sport, dst, dport } = found.quoted;
  return { proto, from: { address: dst, port: dport }, to: { address: src, port: sport } };
};

const keysAtEgress = ({ proto, client, backend, inner, needsSnat }: Connection): readonly string[] => {
  const [from, to] = [`${client.address} ${inner}`, `${backend.address} ${backend.port}`];
  return [`${proto} ${to} ${from}`, ...(needsSnat ? [`${proto} ${from} ${to}`] : [])];
};

/** A packet that only the kernel can route, or must; null: it need not. */
const whyByKernel = (packet: Packet, found: WithPorts, { connection, kind }: Step): string | null => {
  const { frame, program, gso = false } = packet;
  const { family, l3, l4, end, fragment } = found;
  if (l3 !== ETHERNET) return "it has a VLAN tag";
  if (l4 !== l3 + (family === 4 ? 20 : 40)) return "it has options or extension headers";
  if (fragment !== null) return "it is a fragment";
  if ((frame[l3 + (family === 4 ? 8 : 7)] ?? 0) <= 1) return "it has no hop to live";
  const isHairpin = kind !== "from vip" && connection.needsSnat && connection.backend.local;
  if (isHairpin && program !== "tc_ingress") return "a pod asks itself";
  return end - l3 > MTU && !gso ? "it is too large" : null;
};

const reasonOf = ({ kind }: Step): Reason => (kind === "to backend" || kind === "from node" ? "established" : "reply");

/** A client may begin again on a connection that was closed. */
const mayStartAnew = ({ connection, kind }: Step, packet: WithPorts): boolean =>
  kind === "to backend" && (connection.closing || connection.beside) && packet.opens;

const keep = (memory: Map<string, Backend>, key: string, now: Backend): void => {
  const before = memory.get(key) ?? now;
  if (before.id !== now.id) throw new Violation(`${key} was sent to ${before.address}, and now to ${now.address}`);
  memory.set(key, now);
};

const fragmentKey = (inward: boolean, { src, dst, fragment, proto, family }: LaterFragment | WithPorts): string =>
  `${inward} ${src} ${dst} ${fragment} ${family === 4 ? proto : ""}`;

const isLoopback = (address: Address): boolean => address === "::1" || address.startsWith("127.");

/** The kernel makes no room behind a VLAN tag. */
const mayBeTold = ({ l3, src }: IpPacket): boolean => l3 === ETHERNET && isOneHost(src);

const isOneHost = (address: Address): boolean => {
  const bytes = addressToBytes(address);
  if (address.includes(":")) return address !== "::" && bytes[0] !== 0xff;
  return address !== "0.0.0.0" && (bytes[12] ?? 0) < 0xe0;
};

/** The bytes that a translation writes; checksums are looked at apart. */
const writesOf = (found: WithPorts | LaterFragment | Icmp, { side, to, other }: Translation) => {
  const writes = [addressWrite(found.family, found.l3, side, to)];
  if (found.what === "ports") writes.push(...portWrites(found.l4, side, to, other));
  if (found.what === "icmp" && found.quoted !== null) {
    const opposite = side === "source" ? "destination" : "source";
    writes.push(addressWrite(found.family, found.quoted.l3, opposite, to));
    writes.push(...portWrites(found.quoted.l4, opposite, to, other));
  }
  return writes;
};

interface Write {
  readonly at: number;
  readonly bytes: Uint8Array;
}

const addressWrite = (family: 4 | 6, l3: number, side: Translation["side"], to: End): Write => {
  const bytes = addressToBytes(to.address).slice(family === 4 ? 12 : 0);
  const source = l3 + (family === 4 ? 12 : 8);
  return { at: side === "source" ? source : source + bytes.length, bytes };
};

const portWrites = (l4: number, side: Translation["side"], to: End, other: number | null): readonly Write[] => {
  const port = (number: number): Uint8Array => Uint8Array.of(number >> 8, number & 255);
  const [own, opposite] = side === "source" ? [l4, l4 + 2] : [l4 + 2, l4];
  return [{ at: own, bytes: port(to.port) }, ...(other === null ? [] : [{ at: opposite, bytes: port(other) }])];
};

// ---- answers of a VIP ----------------------------------------------------------------------------------------------

const [ICMP, ICMPV6, ECHO, ECHO_V6, ECHO_REPLY, ECHO_REPLY_V6] = [1, 58, 8, 128, 0, 129] as const;

const ofFragment = ({ family, proto, src, dst }: LaterFragment): readonly Reason[] => {
  if (proto !== (family === 4 ? ICMP : ICMPV6)) return ["early_fragment"];
  if (src === dst) return ["from_itself"];
  return [isOneHost(src) && !isLoopback(src) ? "echo" : "reply_failed"];
};

const ofMessage = (frame: Uint8Array, { family, l4, end, src, dst }: Icmp): readonly Reason[] => {
  if (src === dst) return ["from_itself"];
  if (!isOneHost(src) || isLoopback(src)) return ["reply_failed"];
  return [l4 + 8 <= end && frame[l4] === (family === 4 ? ECHO : ECHO_V6) ? "echo" : "stray_icmp"];
};

/** An ICMP error from the address that was asked to the client, quoting what it sent. */
const checkRefusal = (before: Uint8Array, after: Uint8Array, found: Dissection, isProtocol: boolean): void => {
  const packet = found.what === "nothing" ? found.packet : found;
  if (packet === null || packet.end === null || !mayBeTold(packet)) throw new Violation("Refused what cannot be");
  const answer = parseFrame(after);
  const v4 = packet.family === 4;
  const is = (what: string, seen: unknown, wanted: unknown): void => {
    if (String(seen) !== String(wanted)) throw new Violation(`The refusal's ${what} is ${seen}, not ${wanted}`);
  };
  const port = v4 ? [3, 3] : [1, 4];
  const protocol = v4 ? [3, 2] : [4, 1];
  is("destination", answer.to, packet.src);
  is("source", answer.from, packet.dst);
  is("ICMP type and code", answer.icmp, isProtocol ? protocol : port);
  is("IP checksum", answer.ip_checksum_ok, true);
  is("ICMP checksum", answer.checksum_ok, true);
  const room = v4 ? 576 - 28 : 1280 - 48;
  const quoted = before.slice(packet.l3, Math.min(packet.end, packet.l3 + room));
  is("quote", answer.payload.slice(4), quoted);
  is("length", after.length, ETHERNET + (v4 ? 28 : 48) + quoted.length);
};

/** The same packet turned round, with a new time to live and no options; a request is a reply now. */
const checkEcho = (before: Uint8Array, after: Uint8Array, found: Dissection): void => {
  if (found.what !== "icmp" && found.what !== "later") throw new Violation("An answer to no ping");
  const { family, l3, l4 } = found;
  const size = family === 4 ? 4 : 16;
  const source = l3 + (family === 4 ? 12 : 8);
  const expected = before.slice();
  const swap = (one: number, other: number, bytes: number): void => {
    expected.set(before.subarray(other, other + bytes), one);
    expected.set(before.subarray(one, one + bytes), other);
  };
  swap(0, 6, 6);
  swap(source, source + size, size);
  expected[l3 + (family === 4 ? 8 : 7)] = 64;
  if (family === 4) expected.fill(1, l3 + 20, l4);
  if (found.what === "icmp") expected[l4] = family === 4 ? ECHO_REPLY : ECHO_REPLY_V6;
  sameBut(expected, after, before, found);
};

/** Byte for byte, and each checksum with the error that it had. */
const sameBut = (expected: Uint8Array, after: Uint8Array, before: Uint8Array, found: Dissection): void => {
  if (after.length !== before.length) throw new Violation(`${before.length} bytes became ${after.length}`);
  const fields = checksumsOf(before, found).flatMap(({ at }) => [at, at + 1]);
  const at = expected.findIndex((byte, i) => byte !== after[i] && !fields.includes(i));
  if (at !== -1) throw new Violation(`Byte ${at} is ${after[at]}, not ${expected[at]}`);
  const wrong = changedChecksum(before, after, found);
  if (wrong !== null) throw new Violation(wrong);
};
