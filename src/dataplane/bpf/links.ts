// The devices of this network namespace as rtnetlink lists them, with the qdiscs and filters on them: all of them in one
// question each.
import { attributesIn, type Message, netlinkList, textIn, u32In } from "./system/netlink.ts";

export interface Link {
  readonly index: number;
  readonly name: string;
  readonly isUp: boolean;
  /** ARPHRD_*. */
  readonly type: number;
  /** `veth`, `bond`, `bridge`; null: it has none, as hardware. */
  readonly kind: string | null;
  /** Index of the device that it is a part of (bridge, bond, VRF). */
  readonly master: number | null;
  /** Where its other end is, if in another network namespace: this one's number for that one. */
  readonly peerNetns: number | null;
}

/** All but lo. Throws SystemError. */
export const readLinks = (): readonly Link[] => {
  const [RTM_GETLINK, RTEXT_FILTER_SKIP_STATS] = [18, 8];
  const question = new Uint8Array(24); // struct ifinfomsg, and IFLA_EXT_MASK
  const view = new DataView(question.buffer);
  view.setUint16(16, 8, true);
  view.setUint16(18, 29, true);
  view.setUint32(20, RTEXT_FILTER_SKIP_STATS, true);
  return netlinkList("route", RTM_GETLINK, question).flatMap((message) => linkIn(message) ?? []);
};

const ARPHRD_LOOPBACK = 772;

/** struct ifinfomsg {u8 family, pad; u16 type; s32 index; u32 flags, change} and attributes. null: lo. */
const linkIn = ({ body }: Message): Link | null => {
  const [IFLA_IFNAME, IFLA_MASTER, IFLA_LINKINFO, IFLA_LINK_NETNSID] = [3, 10, 18, 37];
  const [IFLA_INFO_KIND, IFF_UP] = [1, 1];
  const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
  const attributes = attributesIn(body.subarray(16));
  const type = view.getUint16(2, true);
  if (type === ARPHRD_LOOPBACK) return null;
  return {
    index: view.getInt32(4, true),
    name: textIn(attributes.get(IFLA_IFNAME)) ?? "",
    isUp: (view.getUint32(8, true) & IFF_UP) !== 0,
    type,
    kind: textIn(attributesIn(attributes.get(IFLA_LINKINFO) ?? new Uint8Array()).get(IFLA_INFO_KIND)),
    master: u32In(attributes.get(IFLA_MASTER)),
    peerNetns: u32In(attributes.get(IFLA_LINK_NETNSID)),
  };
};

// ---- tc --------------------------------------------------------------------------------------------------------------

export interface Qdisc {
  readonly device: number;
  /** `noqueue`, `tbf`, `clsact`, `ingress`. */
  readonly kind: string;
  readonly isRoot: boolean;
}

const TC_H_ROOT = 0xffff_ffff;

/** Of every device. Throws SystemError. */
export const readQdiscs = (): readonly Qdisc[] => {
  const RTM_GETQDISC = 38;
  return netlinkList("route", RTM_GETQDISC, tcMessage(0, 0)).map(({ body }) => ({
    device: tcField(body, 4),
    kind: textIn(attributesIn(body.subarray(20)).get(TCA_KIND)) ?? "",
    isRoot: tcField(body, 12) === TC_H_ROOT,
  }));
};

export interface Filter {
  /** `bpf`, `matchall`, `flower`. */
  readonly kind: string;
  readonly priority: number;
  readonly handle: number;
}

/** Of a device that has a clsact or ingress qdisc. Throws SystemError. */
export const readFilters = (device: number, direction: "ingress" | "egress"): readonly Filter[] => {
  const RTM_GETTFILTER = 46;
  const parents = { ingress: 0xffff_fff2, egress: 0xffff_fff3 } as const;
  return netlinkList("route", RTM_GETTFILTER, tcMessage(device, parents[direction]))
    .map(({ body }) => ({
      kind: textIn(attributesIn(body.subarray(20)).get(TCA_KIND)) ?? "",
      priority: tcField(body, 16) >>> 16,
      handle: tcField(body, 8),
    }))
    .filter(({ handle }) => handle !== 0); // what stands for all filters of a priority
};

const TCA_KIND = 1;

/** struct tcmsg {u8 family, pad; u16 pad; s32 ifindex; u32 handle, parent, info}. */
const tcMessage = (device: number, parent: number): Uint8Array => {
  const view = new DataView(new ArrayBuffer(20));
  view.setInt32(4, device, true);
  view.setUint32(12, parent, true);
  return new Uint8Array(view.buffer);
};

const tcField = (body: Uint8Array, offset: number): number =>
  new DataView(body.buffer, body.byteOffset, body.byteLength).getUint32(offset, true);
