// A frame taken apart by the RFCs and by what docs/dataplane.md says of limits; written without a look at the C. Where a
// frame makes no sense, or is of no interest, that is all that is said of it.
import { type Address, addressFromBytes } from "../../src/model/address.ts";

export interface Ends {
  readonly family: 4 | 6;
  readonly proto: number;
  readonly src: Address;
  readonly dst: Address;
}

interface Located extends Ends {
  /** Offsets in the frame: of the IP header, of what it carries (behind extension headers), of the packet's end. */
  readonly l3: number;
  readonly l4: number;
  readonly end: number;
}

export interface WithPorts extends Located {
  readonly what: "ports";
  readonly sport: number;
  readonly dport: number;
  /** TCP: SYN without ACK; FIN or RST. */
  readonly opens: boolean;
  readonly closes: boolean;
  /** A first fragment: identification of its datagram. */
  readonly fragment: number | null;
}

export interface LaterFragment extends Located {
  readonly what: "later";
  readonly fragment: number;
}

/** An ICMP message; `quoted` is the packet in an error, as far as it can be told. */
export interface Icmp extends Located {
  readonly what: "icmp";
  readonly quoted: Quoted | null;
}

export interface Quoted extends Ends {
  readonly l3: number;
  readonly l4: number;
  readonly sport: number;
  readonly dport: number;
}

/** No IP, no ports, lengths that contradict, or beyond the limits. `packet`: what its IP header says, where there is one. */
export interface Nothing {
  readonly what: "nothing";
  readonly packet: IpPacket | null;
}

export interface IpPacket {
  readonly family: 4 | 6;
  readonly src: Address;
  readonly dst: Address;
  readonly l3: number;
  /** null: it says something that cannot be. */
  readonly end: number | null;
}

export type Dissection = WithPorts | LaterFragment | Icmp | Nothing;

const [ICMP, TCP, UDP, ICMPV6, SCTP] = [1, 6, 17, 58, 132] as const;
/** Bytes of the transport headers that are read. */
const LEAST: ReadonlyMap<number, number> = new Map([
  [TCP, 20],
  [UDP, 8],
  [SCTP, 4],
]);
const EXTENSIONS = { hop: 0, routing: 43, fragment: 44, destination: 60 } as const;
const MOST_EXTENSIONS = 4;
const LAST_L4 = 192;
const MOST_TAGS = 2;

/** `gso`: a packet of offloads, which may be too long for its length field: that says 0 then. */
export const dissect = (frame: Uint8Array, gso = false): Dissection => {
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
  const l3 = behindTags(view);
  const family = l3 === null ? null : familyAt(view, l3);
  if (l3 === null || family === null) return { what: "nothing", packet: null };
  const packet = readIp(view, l3, family, gso);
  return readWhole(view, packet) ?? { what: "nothing", packet };
};

/** By the Ethernet type; null: no IP, or no room for its header. */
const familyAt = (view: DataView, l3: number): 4 | 6 | null => {
  const type = view.getUint16(l3 - 2);
  if (type === 0x0800 && l3 + 20 <= view.byteLength) return 4;
  return type === 0x86dd && l3 + 40 <= view.byteLength ? 6 : null;
};

const readIp = (view: DataView, l3: number, family: 4 | 6, gso: boolean): IpPacket => {
  const [at, size] = family === 4 ? [l3 + 12, 4] : [l3 + 8, 16];
  const [src, dst] = [addressAt(view, at, family), addressAt(view, at + size, family)];
  return { family, src, dst, l3, end: (family === 4 ? endOfIpv4 : endOfIpv6)(view, l3, gso) };
};

const readWhole = (view: DataView, { end, ...ip }: IpPacket): Exclude<Dissection, Nothing> | null => {
  if (end === null) return null;
  const { l3, family } = ip;
  const carried = family === 4 ? readIpv4(view, l3) : readChain(view, l3 + 40, view.getUint8(l3 + 6), end);
  if (carried === null) return null;
  const { fragment, ...rest } = carried;
  const located = { ...ip, ...rest, end };
  if (fragment !== null && fragment.offset > 0) return { what: "later", ...located, fragment: fragment.id };
  if (located.proto === (family === 4 ? ICMP : ICMPV6)) {
    return { what: "icmp", ...located, quoted: readQuoted(view, located) };
  }
  return readPorts(view, located, fragment?.id ?? null);
};

/** Offset of the IP header; null: there are too many tags, or no room. */
const behindTags = (view: DataView): number | null => {
  let offset = 14;
  for (let tags = 0; view.byteLength >= offset; tags++) {
    if (![0x8100, 0x88a8].includes(view.getUint16(offset - 2))) return offset;
    if (tags === MOST_TAGS) return null;
    offset += 4;
  }
  return null;
};

interface Carried {
  readonly l4: number;
  readonly proto: number;
  /** null: whole. */
  readonly fragment: { readonly id: number; readonly offset: number } | null;
}

const addressAt = (view: DataView, at: number, family: 4 | 6): Address => {
  const bytes = new Uint8Array(view.buffer, view.byteOffset + at, family === 4 ? 4 : 16);
  return addressFromBytes(family === 6 ? bytes : Uint8Array.of(...new Array<number>(10).fill(0), 255, 255, ...bytes));
};

/** RFC 791. */
const endOfIpv4 = (view: DataView, l3: number, gso: boolean): number | null => {
  const header = (view.getUint8(l3) & 15) * 4;
  const length = view.getUint16(l3 + 2);
  const end = length === 0 && gso ? view.byteLength : l3 + length;
  const isSound = view.getUint8(l3) >> 4 === 4 && header >= 20 && end <= view.byteLength && l3 + header <= end;
  return isSound ? end : null;
};

/** RFC 8200. */
const endOfIpv6 = (view: DataView, l3: number, gso: boolean): number | null => {
  const payload = view.getUint16(l3 + 4);
  if (view.getUint8(l3) >> 4 !== 6 || (payload === 0 && !gso)) return null;
  const end = payload === 0 ? view.byteLength : l3 + 40 + payload;
  return end <= view.byteLength ? end : null;
};

const readIpv4 = (view: DataView, l3: number): Carried => {
  const bits = view.getUint16(l3 + 6) & 0x3fff;
  return {
    proto: view.getUint8(l3 + 9),
    l4: l3 + (view.getUint8(l3) & 15) * 4,
    fragment: bits === 0 ? null : { id: view.getUint16(l3 + 4), offset: bits & 0x1fff },
  };
};

const readChain = (view: DataView, start: number, first: number, end: number): Carried | null => {
  let [l4, proto] = [start, first];
  let fragment: Carried["fragment"] = null;
  for (let headers = 0; Object.values<number>(EXTENSIONS).includes(proto); headers++) {
    if (headers === MOST_EXTENSIONS || l4 + 8 > end) return null;
    if (proto === EXTENSIONS.routing && view.getUint8(l4 + 3) > 0) return null;
    if (proto === EXTENSIONS.fragment && fragment !== null) return null;
    if (proto === EXTENSIONS.fragment) {
      const bits = view.getUint16(l4 + 2);
      const offset = bits >> 3;
      // RFC 6946: an atomic fragment is whole.
      if ((bits & 0xfff9) !== 0) fragment = { id: view.getUint32(l4 + 4), offset };
      if (offset > 0) return { l4: l4 + 8, proto: view.getUint8(l4), fragment };
    }
    const size = proto === EXTENSIONS.fragment ? 8 : (view.getUint8(l4 + 1) + 1) * 8;
    proto = view.getUint8(l4);
    l4 += size;
    if (l4 > LAST_L4) return null;
  }
  return { l4, proto, fragment };
};

const readPorts = (view: DataView, packet: Located, fragment: number | null): WithPorts | null => {
  const { l4, end, proto } = packet;
  const least = LEAST.get(proto);
  if (least === undefined || l4 + least > end) return null;
  const flags = proto === TCP ? view.getUint8(l4 + 13) : 0;
  if (proto === TCP) {
    const header = (view.getUint8(l4 + 12) >> 4) * 4;
    if (header < 20 || l4 + header > end) return null;
  }
  const [FIN, SYN, RST, ACK] = [1, 2, 4, 16];
  return {
    what: "ports",
    ...packet,
    sport: view.getUint16(l4),
    dport: view.getUint16(l4 + 2),
    opens: (flags & (SYN | ACK)) === SYN,
    closes: (flags & (FIN | RST)) !== 0,
    fragment,
  };
};

/** RFC 792, RFC 4443: of the packet in question at least eight bytes of what IP carries. */
const readQuoted = (view: DataView, error: Located): Quoted | null => {
  const { l4, end, family } = error;
  const l3 = l4 + 8;
  if (l3 > end || l4 > LAST_L4) return null;
  const errors = family === 4 ? [3, 11, 12] : [1, 2, 3, 4];
  if (!errors.includes(view.getUint8(l4))) return null;
  const packet = family === 4 ? readQuotedIpv4(view, l3, end) : readQuotedIpv6(view, l3, end);
  if (packet === null || ![TCP, UDP, SCTP].some((proto) => proto === packet.proto)) return null;
  if (packet.l4 > LAST_L4 || packet.l4 + 8 > end) return null;
  return { ...packet, l3, sport: view.getUint16(packet.l4), dport: view.getUint16(packet.l4 + 2) };
};

const readQuotedIpv4 = (view: DataView, l3: number, end: number): (Ends & { readonly l4: number }) | null => {
  if (l3 + 20 > end) return null;
  const header = (view.getUint8(l3) & 15) * 4;
  if (view.getUint8(l3) >> 4 !== 4 || header < 20 || (view.getUint16(l3 + 6) & 0x1fff) !== 0) return null;
  return {
    family: 4,
    proto: view.getUint8(l3 + 9),
    src: addressAt(view, l3 + 12, 4),
    dst: addressAt(view, l3 + 16, 4),
    l4: l3 + header,
  };
};

const readQuotedIpv6 = (view: DataView, l3: number, end: number): (Ends & { readonly l4: number }) | null => {
  if (l3 + 40 > end || view.getUint8(l3) >> 4 !== 6) return null;
  const chain = readChain(view, l3 + 40, view.getUint8(l3 + 6), end);
  if (chain === null || (chain.fragment !== null && chain.fragment.offset > 0)) return null;
  const [src, dst] = [addressAt(view, l3 + 8, 6), addressAt(view, l3 + 24, 6)];
  return { family: 6, src, dst, l4: chain.l4, proto: chain.proto };
};
