// Where things are pinned, by name: <bpffs>/<ABI hash>/maps/<map> and links/<hook>@<target>. Only names; who pins what is
// in bpf.ts and attach.ts.
import { ABI_HASH, type rings } from "./abi.gen.ts";
import type { MapName } from "./mapstore.ts";

/** Of this version's map layout. Another layout has another directory, so two versions never share a map. */
export const pinDirectory = (bpffs: string): string => `${bpffs}/${ABI_HASH}`;

export const isAbiHash = (name: string): boolean => /^[0-9a-f]{12}$/.test(name);

export const mapsDirectory = (directory: string): string => `${directory}/maps`;
export const mapPin = (directory: string, map: MapName | keyof typeof rings): string =>
  `${mapsDirectory(directory)}/${map}`;
export const linksDirectory = (directory: string): string => `${directory}/links`;

export type Direction = "ingress" | "egress";

/** What a device is served for: traffic from outside, a pod whose sockets are not translated, or only what a pod replies. */
export type Role = "node" | "pod" | "reply";

/** What a pin below links/ stands for. */
export type LinkPin =
  /** A link to a cgroup: `connect4@cgroup`. */
  | { readonly kind: "cgroup"; readonly hook: string }
  /** A link to a device: `tcx_ingress@eth0`; `tcx_ingress@veth1@pod` and `@reply` where it is a pod's. */
  | { readonly kind: "tcx"; readonly direction: Direction; readonly device: string; readonly role: Role }
  /** A program that a clsact filter runs: `clsact_ingress@eth0@100@4711` with the filter's priority and the program's id. */
  | {
      readonly kind: "clsact";
      readonly direction: Direction;
      readonly device: string;
      readonly role: Role;
      readonly priority: number;
      readonly program_id: number;
    }
  /** A link to a device's native XDP: `xdp@eth0`. */
  | { readonly kind: "xdp"; readonly device: string; readonly role: "node" };

export const linkPinName = (pin: LinkPin): string => {
  switch (pin.kind) {
    case "cgroup":
      return `${pin.hook}@cgroup`;
    case "tcx":
      return `tcx_${pin.direction}@${escapeName(pin.device)}${roleSuffix(pin.role)}`;
    case "clsact":
      return `clsact_${pin.direction}@${escapeName(pin.device)}@${pin.priority}@${pin.program_id}${roleSuffix(pin.role)}`;
    case "xdp":
      return `xdp@${escapeName(pin.device)}`;
  }
};

const roleSuffix = (role: Role): string => (role === "node" ? "" : `@${role}`);

/** null: not a name of ours. */
export const parseLinkPin = (name: string): LinkPin | null => {
  const [hook = "", target = "", ...rest] = name.split("@");
  const role = (["pod", "reply"] as const).find((one) => one === rest.at(-1)) ?? "node";
  const [priority, program_id] = rest;
  const direction = hook.endsWith("_ingress") ? "ingress" : "egress";
  if (hook === "xdp") return { kind: "xdp", device: unescapeName(target), role: "node" };
  if (target === "cgroup" && !hook.includes("cls") && !hook.startsWith("tcx_")) return { kind: "cgroup", hook };
  if (hook === `tcx_${direction}`) return { kind: "tcx", direction, device: unescapeName(target), role };
  if (hook !== `clsact_${direction}` || priority === undefined || program_id === undefined) return null;
  const device = unescapeName(target);
  return { kind: "clsact", direction, device, role, priority: Number(priority), program_id: Number(program_id) };
};

/** A device's name may hold anything but `/` and white space; bpffs refuses dots, and `@` is ours. */
const escapeName = (name: string): string => name.replaceAll("%", "%25").replaceAll(".", "%2E").replaceAll("@", "%40");
const unescapeName = (text: string): string => decodeURIComponent(text);
