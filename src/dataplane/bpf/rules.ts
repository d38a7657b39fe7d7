// IP rules and IPsec policies of this network namespace: what decides about a forwarded packet beside its destination.
import { readFileSync } from "node:fs";
import type { Obstacle } from "../obstacle.ts";
import { EINVAL, isSystemError } from "./system/errors.ts";
import { attributesIn, type Message, netlinkList, netlinkTell, textIn, u32In } from "./system/netlink.ts";

/** IP rules beyond the three that every kernel has: local, main, default. Throws SystemError. */
export const ruleObstacles = (): readonly Obstacle[] => {
  const [RTM_GETRULE, AF_INET, AF_INET6] = [34, 2, 10];
  return [AF_INET, AF_INET6].flatMap((family) => {
    const header = new Uint8Array(12); // struct fib_rule_hdr
    header[0] = family;
    const rules = netlinkList("route", RTM_GETRULE, header).filter((rule) => !isDefaultRule(rule));
    return rules.map((rule) => ({ where: `IP rules (${family === AF_INET ? "IPv4" : "IPv6"})`, what: ruleText(rule) }));
  });
};

const [FRA_IIFNAME, FRA_PRIORITY, FRA_FWMARK, FRA_TABLE, FRA_SUPPRESS] = [3, 6, 10, 15, 14];
const [FRA_OIFNAME, FRA_PAD, FRA_L3MDEV, FRA_PROTOCOL] = [17, 18, 19, 21];

/** Tables by the priority of the rule that every kernel has for them. */
const DEFAULTS: ReadonlyMap<number, number> = new Map([
  [0, 255],
  [32766, 254],
  [32767, 253],
]);

/** struct fib_rule_hdr {u8 family, dst_len, src_len, tos, table, res1, res2, action; u32 flags} and attributes. */
export const isDefaultRule = ({ body }: Message): boolean => {
  const [FR_ACT_TO_TBL, NONE, FIB_RULE_INVERT] = [1, 0xffff_ffff, 2];
  const [, dst_len = 0, src_len = 0, tos = 0, , , , action = 0, flags = 0] = body;
  const { priority, table, attributes } = fieldsOf(body);
  const plain = [FRA_PRIORITY, FRA_TABLE, FRA_PROTOCOL, FRA_PAD];
  return (
    dst_len + src_len + tos === 0 &&
    action === FR_ACT_TO_TBL &&
    (flags & FIB_RULE_INVERT) === 0 &&
    DEFAULTS.get(priority) === table &&
    [...attributes].every(([name, value]) => plain.includes(name) || (name === FRA_SUPPRESS && u32In(value) === NONE))
  );
};

/** `priority 100, fwmark 0x1, table 100`. */
export const ruleText = ({ body }: Message): string => {
  const { priority, table, attributes } = fieldsOf(body);
  const [, dst_len = 0, src_len = 0] = body;
  const mark = u32In(attributes.get(FRA_FWMARK));
  const [iif, oif] = [FRA_IIFNAME, FRA_OIFNAME].map((name) => textIn(attributes.get(name)));
  return [
    `priority ${priority}`,
    ...(src_len > 0 ? [`from a prefix of ${src_len} bits`] : []),
    ...(dst_len > 0 ? [`to a prefix of ${dst_len} bits`] : []),
    ...(iif == null ? [] : [`iif ${iif}`]),
    ...(oif == null ? [] : [`oif ${oif}`]),
    ...(mark === null ? [] : [`fwmark 0x${mark.toString(16)}`]),
    ...(attributes.has(FRA_L3MDEV) ? ["l3mdev"] : [`table ${table}`]),
  ].join(", ");
};

const fieldsOf = (body: Uint8Array) => {
  const attributes = attributesIn(body.subarray(12));
  return {
    attributes,
    priority: u32In(attributes.get(FRA_PRIORITY)) ?? 0,
    table: u32In(attributes.get(FRA_TABLE)) ?? body[4] ?? 0,
  };
};

/**
 * Whether packets of one source to one destination may have different next hops: by IP rules, or where routes with several
 * next hops choose among them by ports (fib_multipath_hash_policy). Throws SystemError.
 */
export const isRoutedByPorts = (): boolean =>
  HASH_POLICIES.some((path) => hashPolicy(path) !== BY_ADDRESSES) || ruleObstacles().length > 0;

const HASH_POLICIES = ["ipv4", "ipv6"].map((family) => `/proc/sys/net/${family}/fib_multipath_hash_policy`);
const BY_ADDRESSES = "0";

/** A kernel without multipath routes, or without the family, has no such setting. */
const hashPolicy = (path: string): string => {
  try {
    return readFileSync(path, "utf8").trim();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return BY_ADDRESSES;
    throw error;
  }
};

/** IPsec policies; a kernel without IPsec has none. */
export const xfrmObstacles = (): readonly Obstacle[] => {
  const [XFRM_MSG_GETSPDINFO, XFRMA_SPD_INFO] = [0x25, 1];
  let answer: readonly Message[];
  try {
    answer = netlinkTell("xfrm", XFRM_MSG_GETSPDINFO, new Uint8Array(4));
  } catch (error) {
    if (isSystemError(error, EPROTONOSUPPORT)) return [];
    throw error;
  }
  // struct xfrmu_spdinfo {u32 in, out, forward, …}
  const info = attributesIn(answer[0]?.body.subarray(4) ?? new Uint8Array()).get(XFRMA_SPD_INFO);
  const [into = 0, out = 0, forward = 0] = [0, 4, 8].map((at) => u32In(info?.subarray(at)) ?? 0);
  const policies = into + out + forward;
  return policies === 0
    ? []
    : [{ where: "IPsec (xfrm)", what: `policies: ${into} in, ${out} out, ${forward} forward` }];
};

const EPROTONOSUPPORT = 93;

/** Another number after each change of nf_tables' rules; up to 1: there was none ever. null: this kernel has no nf_tables. */
export const nftGeneration = (): number | null => {
  const [NFT_MSG_GETGEN, NFTA_GEN_ID] = [(10 << 8) | 16, 1];
  let answer: readonly Message[];
  try {
    answer = netlinkTell("netfilter", NFT_MSG_GETGEN, new Uint8Array(4)); // struct nfgenmsg
  } catch (error) {
    if (isSystemError(error, EINVAL) || isSystemError(error, EPROTONOSUPPORT)) return null;
    throw error;
  }
  const id = attributesIn(answer[0]?.body.subarray(4) ?? new Uint8Array()).get(NFTA_GEN_ID);
  return id === undefined ? null : new DataView(id.buffer, id.byteOffset).getUint32(0); // big-endian
};
