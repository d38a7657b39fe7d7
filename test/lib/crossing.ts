// Where a node lies between its pods and the wire: the devices, routes and neighbours that its kernel has, and that
// programs find when they look up a next hop themselves.
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { interfaceIndex } from "../../src/dataplane/bpf/system/interface.ts";
import type { Address } from "../../src/model/address.ts";
import { enterNetworkNamespace } from "./socket.ts";

export const NODE_V4 = "192.168.0.1" as Address;
export const NODE_V6 = "fd00:168::1" as Address;

/** `pod`: the node's end of the device of every pod there is. */
export type DeviceName = "wire" | "pod";
const DEVICES: readonly DeviceName[] = ["wire", "pod"];

/** Nobody's else, not by chance either. */
export const MACS: Readonly<Record<DeviceName, Uint8Array>> = {
  wire: Uint8Array.of(0xd6, 0x1b, 0x8e, 0x5d, 0x73, 1),
  pod: Uint8Array.of(0xd6, 0x1b, 0x8e, 0x5d, 0x73, 2),
};

interface Route {
  readonly prefixes: readonly string[];
  readonly via: readonly string[];
  readonly device: DeviceName;
  /** Whose MAC address frames are sent to. */
  readonly mac: Uint8Array;
}

/** The last one is for everybody else. */
const ROUTES: readonly Route[] = [
  {
    prefixes: ["10.1.0.0/16", "fd00:1::/64"],
    via: ["10.1.255.254", "fd00:1::fffe"],
    device: "pod",
    mac: Uint8Array.of(2, 0, 0, 0, 2, 1),
  },
  {
    prefixes: ["10.2.0.0/16", "fd00:2::/64"],
    via: ["192.168.0.2", "fd00:168::2"],
    device: "wire",
    mac: Uint8Array.of(2, 0, 0, 0, 2, 2),
  },
  {
    prefixes: ["default", "default"],
    via: ["192.168.0.254", "fd00:168::fe"],
    device: "wire",
    mac: Uint8Array.of(2, 0, 0, 0, 2, 3),
  },
];

export const routeTo = (address: Address): Route => {
  const beginnings = ["10.1.", "fd00:1::", "10.2.", "fd00:2::"];
  const found = beginnings.findIndex((beginning) => address.startsWith(beginning));
  const route = ROUTES[found === -1 ? 2 : found >> 1];
  if (route === undefined) throw new Error(`No route to ${address}`);
  return route;
};

/** Their interface indices, once this process has entered the namespace. */
export type Crossing = Readonly<Record<DeviceName, number>>;

let entered: Crossing | undefined;

/** Makes the namespace when it is asked for first; from then on this process is in it. */
export const enterCrossing = (): Crossing => {
  entered ??= make();
  return entered;
};

const make = (): Crossing => {
  enterNetworkNamespace([]);
  for (const setting of ["ipv4/ip_forward", "ipv6/conf/all/forwarding"]) writeFileSync(`/proc/sys/net/${setting}`, "1");
  execFileSync("ip", ["-batch", "-"], { input: [...DEVICES.flatMap(device), ...ROUTES.flatMap(route)].join("\n") });
  const [wire, pod] = DEVICES.map((name) => interfaceIndex(name) ?? 0);
  return { wire: wire ?? 0, pod: pod ?? 0 };
};

const device = (name: DeviceName): readonly string[] => [
  `link add ${name} address ${macText(MACS[name])} type veth peer name far-${name}`,
  `link set far-${name} up`,
  `link set ${name} up`,
  ...(name === "wire" ? [`addr add ${NODE_V4}/24 dev wire`, `addr add ${NODE_V6}/64 dev wire nodad`] : []),
];

const route = ({ prefixes, via, device, mac }: Route): readonly string[] =>
  via.flatMap((gateway, i) => [
    `neigh add ${gateway} lladdr ${macText(mac)} nud permanent dev ${device}`,
    `route add ${prefixes[i]} via ${gateway} dev ${device} onlink`,
  ]);

const macText = (mac: Uint8Array): string => [...mac].map((byte) => byte.toString(16).padStart(2, "0")).join(":");
