// Programs on hooks: a cgroup's socket hooks by links, a device's tc hooks by tcx links or clsact filters, its native XDP
// by a link. What is attached is pinned below links/, so it outlives the process; a restart swaps the program in place, and no packet sees a gap.
import { readdirSync, statSync, unlinkSync } from "node:fs";
import { dirname } from "node:path";
import { RefusedError } from "../../lib/errors.ts";
import { type Direction, type LinkPin, linkPinName, parseLinkPin, type Role } from "./pins.ts";
import { cgroupMounts } from "./probe.ts";
import { clsactAttach, clsactDetach, clsactQuery } from "./system/clsact.ts";
import { isSystemError } from "./system/errors.ts";
import { closeFd, openDirectory, openPinned, pin } from "./system/file.ts";
import { interfaceIndex } from "./system/interface.ts";
import { type AttachType, linkCreate, linkDetach, linkInfo, linkUpdate, queryPrograms } from "./system/link.ts";
import { xdpLinkCreate } from "./system/native-xdp.ts";
import { programInfo } from "./system/program.ts";

/** One program on one hook. */
export interface Attachment {
  /** `cgroup/connect4`, `tcx/ingress`, `clsact/egress`, `xdp`. */
  readonly hook: string;
  /** The cgroup's path or the device's name. */
  readonly target: string;
  readonly program: string;
}

export type { Direction, Role } from "./pins.ts";
export const DIRECTIONS: readonly Direction[] = ["ingress", "egress"];

/** Name of the hook to its attach type; the program is `sock_<hook>`. */
export const SOCKET_HOOKS = {
  connect4: "cgroup_inet4_connect",
  connect6: "cgroup_inet6_connect",
  sendmsg4: "cgroup_udp4_sendmsg",
  sendmsg6: "cgroup_udp6_sendmsg",
  recvmsg4: "cgroup_udp4_recvmsg",
  recvmsg6: "cgroup_udp6_recvmsg",
  getpeername4: "cgroup_inet4_getpeername",
  getpeername6: "cgroup_inet6_getpeername",
  release: "cgroup_inet_sock_release",
} as const satisfies Readonly<Record<string, AttachType>>;

export type SocketHook = keyof typeof SOCKET_HOOKS;

/** In the order in which they are attached: replies are understood before anything is translated. */
export const SOCKET_HOOK_ORDER: readonly SocketHook[] = [
  "release",
  "getpeername4",
  "getpeername6",
  "recvmsg4",
  "recvmsg6",
  "sendmsg4",
  "sendmsg6",
  "connect4",
  "connect6",
];

// ---- cgroups -----------------------------------------------------------------------------------------------------

/** `anew`: until now no program of ours was there. */
export const attachSocketHook = (
  links: string,
  hook: SocketHook,
  cgroup: string,
  program: number,
): { readonly attachment: Attachment; readonly anew: boolean } => {
  const target = openDirectory(cgroup);
  const attachment = { hook: `cgroup/${hook}`, target: cgroup, program: `sock_${hook}` };
  try {
    const inode = statSync(cgroup).ino % 2 ** 32;
    const create = (): number => linkCreate(program, target, SOCKET_HOOKS[hook]);
    return { attachment, anew: replaceLink(links, { kind: "cgroup", hook }, inode, program, create) };
  } catch (cause) {
    throw new RefusedError(`Cannot attach sock_${hook} to cgroup ${cgroup}`, { cause });
  } finally {
    closeFd(target);
  }
};

const BPF_F_ALLOW_MULTI = 2;

/**
 * Throws RefusedError when somebody holds one of the hooks for himself: then the kernel refuses (EPERM) every other
 * program on this cgroup, and, below an exclusive one, in all of its children.
 */
export const checkSocketHooksFree = (cgroup: string): void => {
  for (const path of upToRoot(cgroup)) {
    const target = openDirectory(path);
    try {
      for (const [hook, type] of Object.entries(SOCKET_HOOKS)) {
        const { flags, program_ids } = queryPrograms(target, type);
        const shared = path === cgroup ? (flags & BPF_F_ALLOW_MULTI) !== 0 : flags !== 0;
        if (program_ids.length === 0 || shared) continue;
        throw new RefusedError(
          `Cannot attach sock_${hook} to cgroup ${cgroup}: program ${program_ids.join(", ")} holds cgroup/${hook} of ` +
            `${path} for itself (\`bpftool cgroup detach ${path} cgroup_${hook === "release" ? "inet_sock_release" : hook} ` +
            `id ${program_ids[0]}\` takes it away)`,
        );
      }
    } finally {
      closeFd(target);
    }
  }
};

/** The cgroup and its parents, up to where cgroup v2 is mounted. */
const upToRoot = (cgroup: string): string[] => {
  const roots = cgroupMounts();
  const paths = [cgroup];
  for (let path = cgroup; !roots.includes(path) && path !== "/" && path !== "."; ) {
    path = dirname(path);
    if (roots.some((root) => path === root || path.startsWith(`${root}/`))) paths.push(path);
  }
  return paths;
};

// ---- devices -----------------------------------------------------------------------------------------------------

/** One hook of a device, and what the device is served for. */
export interface DeviceHook {
  readonly device: string;
  readonly role: Role;
  readonly direction: Direction;
}

/** Only who comes in is asked differently: what goes to a pod is undone as what leaves the node is. */
export const programOf = ({ role, direction }: DeviceHook): string =>
  direction === "egress" ? "tc_egress" : INGRESS_PROGRAMS[role];

const INGRESS_PROGRAMS: Readonly<Record<Role, string>> = {
  node: "tc_ingress",
  pod: "tc_pod_ingress",
  reply: "tc_pod_reply",
};

/** null: there is no such device. */
export const attachTcx = (links: string, hook: DeviceHook, program: number): Attachment | null => {
  const { device, direction } = hook;
  const ifindex = interfaceIndex(device);
  if (ifindex === null) return null;
  replaceLink(links, { kind: "tcx", ...hook }, ifindex, program, () =>
    linkCreate(program, ifindex, `tcx_${direction}`),
  );
  return { hook: `tcx/${direction}`, target: device, program: programOf(hook) };
};

/** Filters of the same priority must be of the same kind, so each of ours has a priority of its own. */
export const CLSACT_HANDLE = 0xbee;
export const CLSACT_PRIORITIES: readonly number[] = Array.from({ length: 16 }, (_, i) => 0xbe0 + i);

/**
 * The filter whose program we pinned is replaced in place; without one, the first priority that is free is taken, never
 * one where a program of somebody else's runs. The new program is pinned before it is attached: after a crash between the
 * two, the filter is still known as ours.
 */
export const attachClsact = (links: string, hook: DeviceHook, program: number): Attachment | null => {
  const { device, direction } = hook;
  const ifindex = interfaceIndex(device);
  if (ifindex === null) return null;
  const pins = linkPins(links).filter(isClsactOf(device, direction));
  const runs = (priority: number): number | null => clsactQuery(ifindex, direction, CLSACT_HANDLE, priority);
  const ours = pins.find((held) => runs(held.priority) === held.program_id);
  const free = ours === undefined ? CLSACT_PRIORITIES.filter((priority) => runs(priority) === null) : [ours.priority];
  const attached = { hook: `clsact/${direction}`, target: device, program: programOf(hook) };
  const program_id = programInfo(program).id;
  if (ours?.program_id === program_id && ours.role === hook.role) return attached;
  let refusal: unknown = new Error(`priorities ${CLSACT_PRIORITIES[0]} to ${CLSACT_PRIORITIES.at(-1)} are all taken`);
  for (const priority of free) {
    const next = { kind: "clsact", ...hook, priority, program_id } as const;
    pinOnce(links, next, program);
    try {
      clsactAttach(ifindex, direction, program, CLSACT_HANDLE, priority);
    } catch (error) {
      refusal = error; // a filter of another kind has this priority
      if (ours === undefined) unpin(links, next);
      continue;
    }
    for (const old of pins) if (linkPinName(old) !== linkPinName(next)) unpin(links, old);
    return attached;
  }
  throw refusal;
};

type ClsactPin = Extract<LinkPin, { kind: "clsact" }>;

const isClsactOf =
  (device: string, direction: Direction) =>
  (held: LinkPin): held is ClsactPin =>
    held.kind === "clsact" && held.device === device && held.direction === direction;

const pinOnce = (links: string, held: LinkPin, fd: number): void => {
  const path = `${links}/${linkPinName(held)}`;
  unlinkIfThere(path);
  pin(fd, path);
};

/**
 * A device has one XDP program, so that of another version with another map layout makes room by being replaced: its link
 * (below one of `otherLinks`) becomes ours. Throws SystemError when the device has somebody else's, or the driver refuses.
 */
export const attachXdp = (
  links: string,
  otherLinks: readonly string[],
  { device, ifindex }: { readonly device: string; readonly ifindex: number },
  program: number,
): Attachment => {
  const held: LinkPin = { kind: "xdp", device, role: "node" };
  const name = linkPinName(held);
  const inherited = otherLinks.find((other) => updateLink(`${other}/${name}`, ifindex, program));
  if (inherited === undefined) replaceLink(links, held, ifindex, program, () => xdpLinkCreate(program, ifindex));
  else repin(`${inherited}/${name}`, `${links}/${name}`);
  return { hook: "xdp", target: device, program: "xdp_forward" };
};

const repin = (from: string, to: string): void => {
  const link = openPinned(from);
  try {
    unlinkIfThere(to);
    pin(link, to);
  } finally {
    closeFd(link);
  }
  unlinkIfThere(from);
};

// ---- what is pinned ----------------------------------------------------------------------------------------------

export const linkPins = (links: string): LinkPin[] =>
  readdirSync(links).flatMap((name) => {
    const held = parseLinkPin(name);
    return held === null ? [] : [held];
  });

/** Ids of the programs that are behind these pins. */
export const pinnedPrograms = (links: string): ReadonlySet<number> =>
  new Set(
    linkPins(links).flatMap((held) => {
      if (held.kind === "clsact") return [held.program_id];
      const link = openPinned(`${links}/${linkPinName(held)}`);
      try {
        return [linkInfo(link).program_id];
      } finally {
        closeFd(link);
      }
    }),
  );

/** Takes one attachment away; what is gone already is fine. */
export const detach = (links: string, held: LinkPin): void => {
  if (held.kind !== "clsact") endLink(`${links}/${linkPinName(held)}`);
  else {
    const ifindex = interfaceIndex(held.device);
    const runs = ifindex === null ? null : clsactQuery(ifindex, held.direction, CLSACT_HANDLE, held.priority);
    if (ifindex !== null && runs === held.program_id)
      clsactDetach(ifindex, held.direction, CLSACT_HANDLE, held.priority);
  }
  unpin(links, held);
};

/** A link also ends with its last pin, but some time after; by name it ends now, and the hook is free. */
const endLink = (path: string): void => {
  try {
    const link = openPinned(path);
    try {
      linkDetach(link);
    } finally {
      closeFd(link);
    }
  } catch (error) {
    if (!isSystemError(error)) throw error; // no link behind the pin, or detached already
  }
};

const unpin = (links: string, held: LinkPin): void => unlinkIfThere(`${links}/${linkPinName(held)}`);

export const unlinkIfThere = (path: string): void => {
  try {
    unlinkSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
  }
};

/**
 * Puts the new program into the pinned link when that is still attached to `target` (an inode's low 32 bits or an
 * interface index; 0 once the cgroup or device is gone or somebody detached it), else makes a new link and answers true.
 */
const replaceLink = (links: string, held: LinkPin, target: number, program: number, create: () => number): boolean => {
  const path = `${links}/${linkPinName(held)}`;
  if (updateLink(path, target, program)) return false;
  const link = create();
  try {
    unlinkIfThere(path);
    pin(link, path);
    return true;
  } finally {
    closeFd(link);
  }
};

const updateLink = (path: string, target: number, program: number): boolean => {
  let link: number;
  try {
    link = openPinned(path);
  } catch (error) {
    if (isSystemError(error)) return false; // no pin, or no link behind it
    throw error;
  }
  try {
    const info = linkInfo(link);
    if (info.target !== target) return false;
    if (info.program_id !== programInfo(program).id) linkUpdate(link, program);
    return true;
  } catch (error) {
    if (isSystemError(error)) return false; // detached meanwhile: a new link says why if that cannot be either
    throw error;
  } finally {
    closeFd(link);
  }
};
