// Ethernet frames as values, for tests: built from a description, read back with every checksum computed anew. Written
// from the RFCs and independent of the C, so that the two cannot share a mistake.
import { type Address, addressFromBytes, addressToBytes, familyOf } from "../../src/model/address.ts";

export type Transport = "TCP" | "UDP" | "SCTP" | "ICMP" | "ICMPv6";

export interface FrameOptions {
  readonly from: string;
  readonly to: string;
  readonly sport?: number;
  readonly dport?: number;
  readonly proto?: Transport;
  /** Letters of "FSRPAU"; default "A". */
  readonly flags?: string;
  /** TCP; default 1000. */
  readonly seq?: number;
  /** TCP; default 0. */
  readonly ack?: number;
  readonly payload?: Uint8Array | string;
  readonly ttl?: number;
  /** IPv4 options: a multiple of 4 bytes. */
  readonly options?: Uint8Array;
  /** IPv6 extension headers between the fixed header and the transport header: [type, bytes]. */
  readonly extensions?: readonly (readonly [type: number, bytes: Uint8Array])[];
  /** IPv4: flags and fragment offset field. */
  readonly fragment?: number;
  /** Overrides the right transport checksum. */
  readonly checksum?: number;
  readonly destination_mac?: Uint8Array;
  /** ICMP: default an echo request. The payload follows the eight bytes of the header. */
  readonly icmp?: readonly [type: number, code: number];
}

export interface Frame {
  readonly source_mac: string;
  readonly destination_mac: string;
  readonly from: Address;
  readonly to: Address;
  readonly ttl: number;
  readonly tos: number;
  readonly proto: number;
  readonly sport: number;
  readonly dport: number;
  /** TCP flags as letters, "" for others. */
  readonly flags: string;
  readonly checksum: number;
  /** Bytes after the transport header (TCP, UDP) or after the ICMP type, code and checksum. */
  readonly payload: Uint8Array;
  /** ICMP type and code. */
  readonly icmp: readonly [type: number, code: number] | null;
  /** Is the IPv4 header checksum right? True for IPv6. */
  readonly ip_checksum_ok: boolean;
  /** Is the transport checksum right? Null for a UDP datagram that has none. */
  readonly checksum_ok: boolean | null;
}

export const protocolNumber: Readonly<Record<Transport, number>> = { TCP: 6, UDP: 17, SCTP: 132, ICMP: 1, ICMPv6: 58 };
export const ETHERNET = 14;

/** The node's own device has the MAC 0: that of the loopback device BPF_PROG_TEST_RUN uses, so that it is for us. */
const SOURCE_MAC = Uint8Array.of(2, 0, 0, 0, 0, 1);
const FLAGS = "FSRPAU";

const bytesOf = (payload: Uint8Array | string): Uint8Array =>
  typeof payload === "string" ? new TextEncoder().encode(payload) : payload;

/** RFC 1071: one's complement sum of 16-bit words, an odd byte padded with zero. */
export const internetSum = (...parts: readonly Uint8Array[]): number => {
  let sum = 0;
  for (const part of parts) {
    for (let i = 0; i < part.length; i += 2) sum += ((part[i] ?? 0) << 8) | (part[i + 1] ?? 0);
  }
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return sum;
};

const wireAddress = (address: Address): Uint8Array => {
  const bytes = addressToBytes(address);
  return familyOf(address) === "IPv4" ? bytes.slice(12) : bytes;
};

const pseudoHeader = (from: Uint8Array, to: Uint8Array, proto: number, length: number): Uint8Array => {
  const tail = new Uint8Array(from.length === 4 ? 4 : 8);
  const view = new DataView(tail.buffer);
  if (from.length === 4) {
    view.setUint8(1, proto);
    view.setUint16(2, length);
  } else {
    view.setUint32(0, length);
    view.setUint8(7, proto);
  }
  return Uint8Array.of(...from, ...to, ...tail);
};

const checksumAt = (proto: number): number | null =>
  proto === 6 ? 16 : proto === 17 ? 6 : proto === 1 || proto === 58 ? 2 : null;

const transport = (o: FrameOptions, proto: number): Uint8Array => {
  const payload = bytesOf(o.payload ?? "");
  const size = proto === 6 ? 20 : proto === 132 ? 12 : 8;
  const bytes = new Uint8Array(size + payload.length);
  bytes.set(payload, size);
  const view = new DataView(bytes.buffer);
  if (proto === 1 || proto === 58) {
    const [type, code] = o.icmp ?? [proto === 1 ? 8 : 128, 0];
    view.setUint8(0, type);
    view.setUint8(1, code);
    return bytes;
  }
  view.setUint16(0, o.sport ?? 40000);
  view.setUint16(2, o.dport ?? 80);
  if (proto === 17) view.setUint16(4, bytes.length);
  if (proto === 6) {
    view.setUint32(4, o.seq ?? 1000);
    view.setUint32(8, o.ack ?? 0);
    view.setUint8(12, 5 << 4);
    view.setUint8(
      13,
      [...(o.flags ?? "A")].reduce((bits, letter) => bits | (1 << FLAGS.indexOf(letter)), 0),
    );
    view.setUint16(14, 64240);
  }
  return bytes;
};

const setChecksum = (bytes: Uint8Array, o: FrameOptions, proto: number): void => {
  const at = checksumAt(proto);
  if (at === null) return;
  const pseudo = proto === 1 ? new Uint8Array() : pseudoHeaderOf(o, proto, bytes.length);
  const right = ~internetSum(pseudo, bytes) & 0xffff;
  new DataView(bytes.buffer).setUint16(at, o.checksum ?? (proto === 17 && right === 0 ? 0xffff : right));
};

const pseudoHeaderOf = (o: FrameOptions, proto: number, length: number): Uint8Array =>
  pseudoHeader(wireAddress(o.from as Address), wireAddress(o.to as Address), proto, length);

const ipv4Header = (o: FrameOptions, proto: number, length: number): Uint8Array => {
  const options = o.options ?? new Uint8Array();
  const bytes = new Uint8Array(20 + options.length);
  const view = new DataView(bytes.buffer);
  view.setUint8(0, 0x40 | (bytes.length / 4));
  view.setUint16(2, bytes.length + length);
  view.setUint16(4, 0x1234);
  view.setUint16(6, o.fragment ?? 0);
  view.setUint8(8, o.ttl ?? 64);
  view.setUint8(9, proto);
  bytes.set(wireAddress(o.from as Address), 12);
  bytes.set(wireAddress(o.to as Address), 16);
  bytes.set(options, 20);
  view.setUint16(10, ~internetSum(bytes) & 0xffff);
  return bytes;
};

const ipv6Header = (o: FrameOptions, proto: number, length: number): Uint8Array => {
  const extensions = o.extensions ?? [];
  const chain = extensions.map(([, bytes], i) => {
    const copy = bytes.slice();
    copy[0] = extensions[i + 1]?.[0] ?? proto;
    return copy;
  });
  const chained = chain.reduce((sum, bytes) => sum + bytes.length, 0);
  const header = new Uint8Array(40);
  const view = new DataView(header.buffer);
  view.setUint8(0, 0x60);
  view.setUint16(4, chained + length);
  view.setUint8(6, extensions[0]?.[0] ?? proto);
  view.setUint8(7, o.ttl ?? 64);
  header.set(wireAddress(o.from as Address), 8);
  header.set(wireAddress(o.to as Address), 24);
  return Uint8Array.of(...header, ...chain.flatMap((bytes) => [...bytes]));
};

/** A frame for this node, right in every length and checksum unless told otherwise. */
export const buildFrame = (o: FrameOptions): Uint8Array => {
  const v4 = familyOf(o.from as Address) === "IPv4";
  const proto = protocolNumber[o.proto ?? "TCP"];
  const payload = transport(o, proto);
  setChecksum(payload, o, proto);
  const header = (v4 ? ipv4Header : ipv6Header)(o, proto, payload.length);
  const type = v4 ? [0x08, 0x00] : [0x86, 0xdd];
  return Uint8Array.of(...(o.destination_mac ?? new Uint8Array(6)), ...SOURCE_MAC, ...type, ...header, ...payload);
};

/** An ICMP or ICMPv6 error that quotes so many bytes of a frame's IP packet: default all. */
export const buildError = (
  o: Pick<FrameOptions, "from" | "to" | "icmp" | "checksum" | "options" | "extensions">,
  quoted: Uint8Array,
  size = quoted.length - ETHERNET,
): Uint8Array => {
  const proto = familyOf(o.from as Address) === "IPv4" ? "ICMP" : "ICMPv6";
  return buildFrame({ ...o, proto, payload: quoted.slice(ETHERNET, ETHERNET + size) });
};

/** The frame with VLAN tags in it, the outermost first. */
export const tagFrame = (frame: Uint8Array, ...types: readonly (0x8100 | 0x88a8)[]): Uint8Array =>
  Uint8Array.of(
    ...frame.slice(0, 12),
    ...types.flatMap((type, i) => [type >> 8, type & 0xff, 0x20, 5 + i]),
    ...frame.slice(12),
  );

/** The IP fragments of a frame, each with up to `size` (a multiple of 8) bytes of what the IP packet carries. */
export const splitFrame = (frame: Uint8Array, size: number, id: number): readonly Uint8Array[] => {
  const v4 = frame[12] === 0x08;
  const header = ETHERNET + (v4 ? ((frame[ETHERNET] ?? 0) & 15) * 4 : 40);
  const carried = frame.slice(header);
  const parts = Array.from({ length: Math.ceil(carried.length / size) }, (_, i) =>
    carried.slice(i * size, (i + 1) * size),
  );
  return parts.map((part, i) => {
    const more = i < parts.length - 1;
    return v4 ? fragment4(frame.slice(0, header), part, id, i, size, more) : fragment6(frame, part, id, i, size, more);
  });
};

const fragment4 = (head: Uint8Array, part: Uint8Array, id: number, i: number, size: number, more: boolean) => {
  const view = new DataView(head.buffer);
  view.setUint16(ETHERNET + 2, head.length - ETHERNET + part.length);
  view.setUint16(ETHERNET + 4, id);
  view.setUint16(ETHERNET + 6, (more ? 0x2000 : 0) | ((i * size) / 8));
  view.setUint16(ETHERNET + 10, 0);
  view.setUint16(ETHERNET + 10, ~internetSum(head.slice(ETHERNET)) & 0xffff);
  return Uint8Array.of(...head, ...part);
};

const fragment6 = (frame: Uint8Array, part: Uint8Array, id: number, i: number, size: number, more: boolean) => {
  const head = Uint8Array.of(...frame.slice(0, ETHERNET + 40), ...new Uint8Array(8));
  const view = new DataView(head.buffer);
  view.setUint16(ETHERNET + 4, 8 + part.length);
  view.setUint8(ETHERNET + 40, frame[ETHERNET + 6] ?? 0);
  view.setUint8(ETHERNET + 6, 44);
  view.setUint16(ETHERNET + 42, (i * size) | (more ? 1 : 0));
  view.setUint32(ETHERNET + 44, id);
  return Uint8Array.of(...head, ...part);
};

/** The frame that the fragments are of. They must be in order and from the same address to the same one. */
export const joinFragments = (frames: readonly Uint8Array[]): Uint8Array => {
  const [first] = frames;
  if (first === undefined) throw new Error("No fragment to join");
  const v4 = first[12] === 0x08;
  const header = ETHERNET + (v4 ? ((first[ETHERNET] ?? 0) & 15) * 4 : 40);
  const addresses = (frame: Uint8Array): string => frame.slice(ETHERNET + (v4 ? 12 : 8), header).toString();
  for (const frame of frames) {
    if (addresses(frame) !== addresses(first)) throw new Error(`Fragments of two datagrams: ${addresses(frame)}`);
    if (v4 && internetSum(frame.slice(ETHERNET, header)) !== 0xffff) throw new Error("A wrong IP header checksum");
  }
  const carried = frames.flatMap((frame) => [...frame.slice(header + (v4 ? 0 : 8))]);
  const head = first.slice(0, header);
  const view = new DataView(head.buffer);
  view.setUint16(ETHERNET + (v4 ? 2 : 4), carried.length + (v4 ? header - ETHERNET : 0));
  if (!v4) view.setUint8(ETHERNET + 6, first[header] ?? 0);
  if (v4) {
    view.setUint16(ETHERNET + 6, 0);
    view.setUint16(ETHERNET + 10, 0);
    view.setUint16(ETHERNET + 10, ~internetSum(head.slice(ETHERNET)) & 0xffff);
  }
  return Uint8Array.of(...head, ...carried);
};

const macText = (bytes: Uint8Array): string => [...bytes].map((b) => b.toString(16).padStart(2, "0")).join(":");

const addressAt = (bytes: Uint8Array, at: number, v4: boolean): Address => {
  if (!v4) return addressFromBytes(bytes.slice(at, at + 16));
  return addressFromBytes(Uint8Array.of(...new Array<number>(10).fill(0), 0xff, 0xff, ...bytes.slice(at, at + 4)));
};

/** Offset of the transport header, and its protocol; walks IPv6 extension headers. */
const findTransport = (bytes: Uint8Array, v4: boolean): { at: number; proto: number } => {
  if (v4) return { at: ETHERNET + ((bytes[ETHERNET] ?? 0) & 15) * 4, proto: bytes[ETHERNET + 9] ?? 0 };
  let [at, proto] = [ETHERNET + 40, bytes[ETHERNET + 6] ?? 0];
  while ([0, 43, 44, 60].includes(proto)) {
    const size = proto === 44 ? 8 : ((bytes[at + 1] ?? 0) + 1) * 8;
    proto = bytes[at] ?? 0;
    at += size;
  }
  return { at, proto };
};

/** Reads an IPv4 or IPv6 frame. Trailing bytes beyond the IP packet (padding) are ignored. */
export const parseFrame = (bytes: Uint8Array): Frame => {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const v4 = view.getUint16(12) === 0x0800;
  if (!v4 && view.getUint16(12) !== 0x86dd) throw new Error(`Not IP: ethertype ${view.getUint16(12).toString(16)}`);
  const { at, proto } = findTransport(bytes, v4);
  const end = ETHERNET + (v4 ? view.getUint16(ETHERNET + 2) : 40 + view.getUint16(ETHERNET + 4));
  const header = bytes.slice(ETHERNET, at);
  const segment = bytes.slice(at, end);
  const icmp = proto === 1 || proto === 58;
  const addresses = ETHERNET + (v4 ? 12 : 8);
  const wire = v4 ? 4 : 16;
  const from = bytes.slice(addresses, addresses + wire);
  const to = bytes.slice(addresses + wire, addresses + 2 * wire);
  const checksum_at = checksumAt(proto);
  const checksum = checksum_at === null ? 0 : view.getUint16(at + checksum_at);
  const pseudo = proto === 1 ? new Uint8Array() : pseudoHeader(from, to, proto, segment.length);
  const none = checksum_at === null || (proto === 17 && checksum === 0);
  return {
    destination_mac: macText(bytes.slice(0, 6)),
    source_mac: macText(bytes.slice(6, 12)),
    from: addressAt(bytes, addresses, v4),
    to: addressAt(bytes, addresses + wire, v4),
    tos: v4 ? view.getUint8(ETHERNET + 1) : (view.getUint16(ETHERNET) >> 4) & 0xff,
    ttl: view.getUint8(ETHERNET + (v4 ? 8 : 7)),
    proto,
    sport: icmp ? 0 : view.getUint16(at),
    dport: icmp ? 0 : view.getUint16(at + 2),
    flags: proto === 6 ? [...FLAGS].filter((_, i) => view.getUint8(at + 13) & (1 << i)).join("") : "",
    checksum,
    payload: segment.slice(proto === 6 ? (view.getUint8(at + 12) >> 4) * 4 : icmp ? 4 : 8),
    icmp: icmp ? [view.getUint8(at), view.getUint8(at + 1)] : null,
    ip_checksum_ok: !v4 || internetSum(header) === 0xffff,
    checksum_ok: none ? null : internetSum(pseudo, segment) === 0xffff,
  };
};

/** `10.0.0.1:40000 > 10.96.0.1:80 A`: what a test compares at a glance. */
export const formatFrame = (bytes: Uint8Array): string => {
  const f = parseFrame(bytes);
  const port = (address: string, port: number): string =>
    f.icmp === null ? (address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`) : address;
  const what = f.icmp === null ? (f.proto === 17 ? "UDP" : f.flags) : `ICMP ${f.icmp.join("/")}`;
  return `${port(f.from, f.sport)} > ${port(f.to, f.dport)} ${what}`;
};
