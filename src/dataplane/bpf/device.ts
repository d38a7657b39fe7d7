// What the kernel says of a device: how its packets start, and what drives it.
import { networkInterfaces } from "node:os";
import { RefusedError } from "../../lib/errors.ts";
import { type Address, type Family, familyOf, parseAddress } from "../../model/address.ts";
import { interfaceDriver, interfaceType } from "./system/interface.ts";

/** What stands first in a packet of a device. */
export type Header = "ethernet" | "ip";

export type DeviceKind =
  /** The node's end of a pod's device, usually. */
  | "veth"
  /** By which packets leave in other packets: an overlay, WireGuard. */
  | "tunnel"
  | "other";

/** ARPHRD_* of linux/if_arp.h, as dev_is_mac_header_xmit() sorts them. */
const ETHERNET: readonly number[] = [1 /* ETHER */, 772 /* LOOPBACK */];
const IP: readonly number[] = [
  ...[512 /* PPP */, 519 /* RAWIP */, 768 /* TUNNEL */, 769 /* TUNNEL6 */, 776 /* SIT */],
  ...[778 /* IPGRE */, 823 /* IP6GRE */, 0xfffe /* NONE: WireGuard, tun */, 0xffff /* VOID */],
];

/** Throws RefusedError for a device of another make, such as InfiniBand. */
export const headerOf = (type: number): Header => {
  if (ETHERNET.includes(type)) return "ethernet";
  if (IP.includes(type)) return "ip";
  throw new RefusedError(`its packets start neither with Ethernet nor with IP (link type ${type})`);
};

/** ARPHRD_*; Ethernet's where there is no such device. */
export const deviceType = (name: string): number => interfaceType(name) ?? 1;

const OVERLAYS = ["vxlan", "geneve", "bareudp", "wireguard"];

export const deviceKind = (name: string): DeviceKind => {
  const driver = interfaceDriver(name) ?? "";
  if (driver === "veth") return "veth";
  return OVERLAYS.includes(driver) || IP.includes(deviceType(name)) ? "tunnel" : "other";
};

/** The device's first address of each family, if it is up; none is link-local. */
export const deviceAddresses = (name: string): Readonly<Partial<Record<Family, Address>>> => {
  const addresses = (networkInterfaces()[name] ?? [])
    .map(({ address }) => parseAddress(address))
    .filter((address) => address !== null)
    .filter((address) => !/^fe[89ab].:/.test(address));
  const first = (family: Family) => addresses.find((address) => familyOf(address) === family);
  const [v4, v6] = [first("IPv4"), first("IPv6")];
  return { ...(v4 === undefined ? {} : { IPv4: v4 }), ...(v6 === undefined ? {} : { IPv6: v6 }) };
};
