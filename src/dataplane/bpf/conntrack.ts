// The kernel's connection tracking, where packets of connections begin to go by the kernel that were sent on directly: it has seen
// little or nothing of them. The programs make a connection known there before its next packet (bpf/conntrack.h), TCP and UDP;
// what they cannot say is said here, of TCP.
import { type Address, addressToBytes, familyOf } from "../../model/address.ts";
import { type Flow, type FlowKey, flow_flag, flow_kind, flow_state, layouts } from "./abi.gen.ts";
import { decode } from "./codec.ts";
import type { MapStore } from "./mapstore.ts";
import { SystemError } from "./system/errors.ts";
import { closeFd } from "./system/file.ts";
import { netlinkRequest, openNetlink } from "./system/netlink.ts";
import { readConfig } from "./tables.ts";

/**
 * Every open TCP connection from before the way changed is known to conntrack, in either direction, and none of its packets is
 * outside of a window, which conntrack would call INVALID, and policies drop: it has not seen how the window is scaled, or that
 * the connection has gone on without it. Answers of how many that is true now. Throws SystemError.
 */
export const makeKnown = (store: MapStore): number => {
  const { forwarding_since_ns, timeout_s } = readConfig(store);
  const silent_s = timeout_s[flow_state.STATE_TCP_ESTABLISHED] ?? 0;
  const netlink = openNetlink("netfilter");
  let known = 0;
  try {
    for (const [key, bytes] of store.entries("flows")) {
      if (!isHead(bytes) || createdIn(bytes) >= forwarding_since_ns) continue;
      const [at, flow] = [decode("flow_key", key), decode("flow", bytes)];
      if (at.proto !== IPPROTO_TCP || (flow.flags & OVER) !== 0) continue;
      const errno = netlinkRequest(netlink, connectionRequest(at, flow, silent_s));
      if (errno !== 0) throw new SystemError("Cannot make a connection known to conntrack", errno);
      known++;
    }
    return known;
  } finally {
    closeFd(netlink);
  }
};

/** Whether packets of connections were sent on directly that may be unknown to conntrack, as far as the programs know. */
export const hasUnseenFlows = (store: MapStore): boolean => {
  const { forwarding_since_ns } = readConfig(store);
  if (forwarding_since_ns === 0n) return false; // the way has never changed: no need to look at every flow at each start
  for (const [, bytes] of store.entries("flows")) {
    if (createdIn(bytes) >= forwarding_since_ns || kindIn(bytes) === flow_kind.FLOW_SNAT) continue;
    if (viewOf(bytes).getBigUint64(STATE, true) !== ACQUAINTED) return true;
  }
  return false;
};

const IPPROTO_TCP = 6;
const OVER = flow_flag.FLOW_CLIENT_FIN | flow_flag.FLOW_BACKEND_FIN | flow_flag.FLOW_RESET;

// ---- of many flows, little of each -----------------------------------------------------------------------------------

/** In bpf/direct.h. */
const ACQUAINTED = 2n << 24n;

type Layout = { readonly fields: readonly { readonly name: string; readonly offset: number }[] };
const offsetIn = ({ fields }: Layout, field: string): number => fields.find(({ name }) => name === field)?.offset ?? 0;
const [CREATED, KIND] = [offsetIn(layouts.flow, "created_ns"), offsetIn(layouts.flow, "kind")];
const STATE = offsetIn(layouts.flow, "next_hop") + offsetIn(layouts.next_hop, "mtu");

const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
const createdIn = (flow: Uint8Array): bigint => viewOf(flow).getBigUint64(CREATED, true);
const kindIn = (flow: Uint8Array): number => viewOf(flow).getUint8(KIND);
const isHead = (flow: Uint8Array): boolean => kindIn(flow) === flow_kind.FLOW_DNAT;

// ---- ctnetlink -------------------------------------------------------------------------------------------------------

interface Party {
  readonly address: Address;
  readonly port: number;
}

/** From linux/netfilter/nfnetlink_conntrack.h. */
const CTA = { tuple_orig: 1, tuple_reply: 2, status: 3, protoinfo: 4, timeout: 7 } as const;
const [SEEN_REPLY, ASSURED, CONFIRMED] = [2, 4, 8];
const [TCP_ESTABLISHED, BE_LIBERAL] = [3, 8];

/** As the kernel routes it, from the client to the backend. One that conntrack has already is changed. */
const connectionRequest = (at: FlowKey, head: Flow, silent_s: number): Uint8Array => {
  const [NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_NEW, REQUEST_ACK_CREATE] = [1, 0, 1 | 4 | 0x400];
  const [AF_INET, AF_INET6] = [2, 10];
  const client = { address: at.src_addr, port: head.client_port === 0 ? at.src_port : head.client_port };
  const backend = { address: head.addr, port: head.port };
  const liberal = Uint8Array.of(BE_LIBERAL, BE_LIBERAL); // struct nf_ct_tcp_flags {u8 flags, mask}
  const tcp = [attribute(1, Uint8Array.of(TCP_ESTABLISHED)), attribute(4, liberal), attribute(5, liberal)]; // CTA_PROTOINFO_TCP_*
  const body = join([
    Uint8Array.of(familyOf(backend.address) === "IPv4" ? AF_INET : AF_INET6, 0, 0, 0), // struct nfgenmsg
    nested(CTA.tuple_orig, tupleOf(client, backend)),
    nested(CTA.tuple_reply, tupleOf(backend, client)),
    attribute(CTA.status, be32(SEEN_REPLY | ASSURED | CONFIRMED)),
    attribute(CTA.timeout, be32(silent_s)),
    nested(CTA.protoinfo, [nested(1, tcp)]),
  ]);
  const header = new DataView(new ArrayBuffer(16)); // struct nlmsghdr
  header.setUint32(0, header.byteLength + body.length, true);
  header.setUint16(4, (NFNL_SUBSYS_CTNETLINK << 8) | IPCTNL_MSG_CT_NEW, true);
  header.setUint16(6, REQUEST_ACK_CREATE, true);
  return join([new Uint8Array(header.buffer), body]);
};

/** CTA_TUPLE_IP of CTA_IP_*, and CTA_TUPLE_PROTO of CTA_PROTO_*. */
const tupleOf = (from: Party, to: Party): readonly Uint8Array[] => {
  const isIPv4 = familyOf(from.address) === "IPv4";
  const bytesOf = (address: Address): Uint8Array => addressToBytes(address).subarray(isIPv4 ? 12 : 0);
  const source = isIPv4 ? 1 : 3;
  const ip = [attribute(source, bytesOf(from.address)), attribute(source + 1, bytesOf(to.address))];
  const proto = [attribute(1, Uint8Array.of(IPPROTO_TCP)), attribute(2, be16(from.port)), attribute(3, be16(to.port))];
  return [nested(1, ip), nested(2, proto)];
};

const NLA_F_NESTED = 0x8000;
const nested = (type: number, attributes: readonly Uint8Array[]): Uint8Array =>
  attribute(type | NLA_F_NESTED, join(attributes));

/** struct nlattr, padded to 4 bytes. */
const attribute = (type: number, value: Uint8Array): Uint8Array => {
  const padded = new Uint8Array((4 + value.length + 3) & ~3);
  const view = viewOf(padded);
  view.setUint16(0, 4 + value.length, true);
  view.setUint16(2, type, true);
  padded.set(value, 4);
  return padded;
};

const be16 = (value: number): Uint8Array => Uint8Array.of(value >> 8, value & 0xff);
const be32 = (value: number): Uint8Array => join([be16(value >>> 16), be16(value & 0xffff)]);

const join = (parts: readonly Uint8Array[]): Uint8Array => {
  const whole = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
};
