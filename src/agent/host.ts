// What this machine is like right now, in the network namespace of this process: its addresses and the devices that
// traffic for services comes in by. Read from /proc/self/net, which (unlike /sys/class/net) follows the namespace.
import { readFileSync } from "node:fs";
import { networkInterfaces } from "node:os";
import type { DeviceKind } from "../dataplane/bpf/device.ts";
import { type Address, parseAddress } from "../model/address.ts";
import type { Config } from "./config.ts";

export interface HostView {
  /** All devices but lo. Another device may come to have the same name; it has another index. */
  readonly devices: readonly ({ readonly name: string } & DeviceFacts)[];
  /** Devices of the default routes of both families. */
  readonly defaultRoutes: readonly string[];
  /** Every address of a device that is up, loopback included, link-local IPv6 left out; sorted. */
  readonly addresses: readonly { readonly device: string; readonly address: Address }[];
}

export interface DeviceFacts {
  /** null: not asked for, or gone meanwhile. */
  readonly index: number | null;
  readonly kind: DeviceKind;
  /** Of a veth whose other end is in another network namespace: this one's number for that one. */
  readonly peerNetns: number | null;
}

/** `ask` says what devices are, where that matters. */
export const readHost = (
  ask: (name: string) => DeviceFacts = () => ({ index: null, kind: "other", peerNetns: null }),
): HostView => ({
  devices: parseDevices(readProc("dev")).map((name) => ({ name, ...ask(name) })),
  defaultRoutes: [...new Set([...parseRoutes4(readProc("route")), ...parseRoutes6(readProc("ipv6_route"))])].sort(),
  addresses: readAddresses(),
});

/** IPv6 has been switched off in a kernel without this file. */
export const hasIPv6 = (): boolean => readProc("if_inet6") !== "";

const readProc = (name: string): string => {
  try {
    return readFileSync(`/proc/self/net/${name}`, "utf8");
  } catch {
    return "";
  }
};

const readAddresses = (): HostView["addresses"] =>
  Object.entries(networkInterfaces())
    .flatMap(([label, addresses]) =>
      (addresses ?? []).map((a) => ({ device: label.split(":")[0] ?? label, address: parseAddress(a.address) })),
    )
    .filter((a): a is { device: string; address: Address } => a.address !== null && !isLinkLocal(a.address))
    .sort((a, b) => (`${a.device} ${a.address}` < `${b.device} ${b.address}` ? -1 : 1));

/** Those of IPv6 mean nothing without their device, and every pod's device brings one. */
const isLinkLocal = (address: Address): boolean => /^fe[89ab].:/.test(address);

export const parseDevices = (text: string): string[] =>
  [...text.matchAll(/^\s*(\S+):/gm)].map((match) => match[1] ?? "").filter((name) => name !== "" && name !== "lo");

/** Columns: Iface Destination Gateway Flags RefCnt Use Metric Mask … */
export const parseRoutes4 = (text: string): string[] =>
  text
    .split("\n")
    .map((line) => line.split(/\s+/))
    .filter((c) => c[1] === "00000000" && c[7] === "00000000")
    .map((c) => c[0] ?? "");

/** Columns: destination, its length, source, its length, next hop, metric, references, use, flags, device. */
export const parseRoutes6 = (text: string): string[] =>
  text
    .split("\n")
    .map((line) => line.trim().split(/\s+/))
    .filter((c) => c[1] === "00" && /^0{32}$/.test(c[0] ?? "") && c[9] !== undefined && c[9] !== "lo")
    .map((c) => c[9] ?? "");

/**
 * The devices by which traffic comes in from outside, or leaves for pods of other nodes: those that match a pattern (`*`
 * and `?`), or without patterns those that carry a default route or one of the Node's addresses, and tunnels with an
 * address. Never lo. Sorted.
 */
export const chooseDevices = (
  host: HostView,
  patterns: readonly string[],
  nodeAddresses: readonly Address[],
): readonly string[] => {
  const tests = patterns.map(globToRegExp);
  const carriers = host.addresses.filter((a) => nodeAddresses.includes(a.address)).map((a) => a.device);
  const withAddress = host.addresses.map((a) => a.device);
  const isWanted = ({ name, kind }: HostView["devices"][number]): boolean =>
    patterns.length > 0
      ? tests.some((test) => test.test(name))
      : host.defaultRoutes.includes(name) ||
        carriers.includes(name) ||
        (kind === "tunnel" && withAddress.includes(name));
  return host.devices
    .filter(isWanted)
    .map(({ name }) => name)
    .sort();
};

/**
 * The node's ends of pods' devices where packets are translated: those that match a pattern; without patterns (null)
 * every veth where pods' sockets are not translated, else none. Never one of `devices`. Sorted.
 */
export const choosePodDevices = (
  host: HostView,
  { podDevices, socketLB }: Pick<Config["bpf"], "podDevices" | "socketLB">,
  devices: readonly string[],
): readonly string[] => {
  const tests = podDevices?.map(globToRegExp);
  const isWanted = ({ name, kind }: HostView["devices"][number]): boolean =>
    tests === undefined ? socketLB !== "all" && kind === "veth" : tests.some((test) => test.test(name));
  return host.devices
    .filter((device) => isWanted(device) && !devices.includes(device.name))
    .map(({ name }) => name)
    .sort();
};

const globToRegExp = (pattern: string): RegExp => {
  const escaped = pattern.replace(/[.+^${}()|[\]\\]/g, "\\$&");
  return new RegExp(`^${escaped.replaceAll("*", ".*").replaceAll("?", ".")}$`);
};
