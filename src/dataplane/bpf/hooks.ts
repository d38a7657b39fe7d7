// Which programs are on which hooks while an agent runs: attached when there is something to serve, kept up with devices
// that come and go, repaired when somebody detached them. Each failure is named, and the rest goes on.
import { messageOf } from "../../lib/errors.ts";
import {
  type Attachment,
  attachClsact,
  attachSocketHook,
  attachTcx,
  type DeviceHook,
  DIRECTIONS,
  type Direction,
  detach,
  linkPins,
  pinnedPrograms,
  programOf,
  type Role,
  SOCKET_HOOK_ORDER,
} from "./attach.ts";
import { deviceType, type Header, headerOf } from "./device.ts";
import { linksDirectory } from "./pins.ts";
import { hasTcx } from "./probe.ts";
import { removeOtherVersions } from "./reset.ts";
import { interfaceIndex } from "./system/interface.ts";
import type { LoadedObject } from "./system/object.ts";
import { programInfo } from "./system/program.ts";
import type { TcpPeers } from "./tcp-peers.ts";
import type { Unhooked } from "./unhooked.ts";

export type Log = (level: "info" | "warn" | "error", message: string, fields?: object) => void;

export interface HookOptions {
  readonly bpffs: string;
  /** null: no socket hooks. */
  readonly cgroup: string | null;
  /** By which traffic comes in from outside. */
  readonly devices: readonly string[];
  /** The node's ends of pods' devices, where what their sockets send is translated packet by packet. */
  readonly podDevices: readonly string[];
  readonly attach: "auto" | "tcx" | "clsact";
  readonly log: Log;
}

export interface Objects {
  /** For devices whose packets start so. */
  readonly tc: (header: Header) => LoadedObject;
  /** Those that have been loaded so far. */
  readonly loaded: () => readonly LoadedObject[];
  readonly sock: LoadedObject | null;
}

export interface Hooks {
  /** Once; later calls do nothing. */
  attach(): void;
  /** `peers`: devices with a pod at their other end, whose replies are undone there where nothing else is. */
  setDevices(devices: readonly string[], podDevices: readonly string[], peers: readonly string[]): void;
  attachments(): readonly Attachment[];
  /** Ids of all programs that are, or may be, on devices, an agent's before us among them. */
  programIds(): ReadonlySet<number>;
}

export const createHooks = (
  options: HookOptions,
  directory: string,
  objects: Objects,
  unhooked: Unhooked,
  tcpPeers: TcpPeers,
): Hooks => {
  const { log, cgroup } = options;
  const links = linksDirectory(directory);
  const useTcx = options.attach === "tcx" || (options.attach === "auto" && hasTcx());
  const before = pinnedPrograms(links);
  const namedMissing = new Set<string>();
  let wanted = rolesOf(options.devices, options.podDevices, []);
  let isAttached = false;
  let sockets: readonly Attachment[] = [];
  let devices: readonly Attachment[] = [];

  const attach = (): void => {
    if (isAttached) return;
    sockets = attachSockets();
    devices = attachDevices();
    isAttached = true;
    removeOtherVersions(options);
  };

  const attachSockets = (): Attachment[] => {
    const { sock } = objects;
    if (sock !== null && cgroup !== null) {
      return SOCKET_HOOK_ORDER.map((hook) => {
        const { attachment, anew } = attachSocketHook(links, hook, cgroup, sock.program(`sock_${hook}`));
        if (anew && hook === "release") tcpPeers.forgetAll();
        return attachment;
      });
    }
    const left = linkPins(links).filter((held) => held.kind === "cgroup");
    for (const held of left) detach(links, held);
    if (left.length > 0) tcpPeers.forgetAll();
    return [];
  };

  /** A pod has its sockets' hooks or its device's, at every moment. */
  const attachDevices = (): Attachment[] => {
    unhooked.keep(podDevicesOf(wanted));
    const attached = [...wanted].flatMap(([device, role]) =>
      directionsOf(role).flatMap((direction) => attachDevice({ device, role, direction }) ?? []),
    );
    const kind = useTcx ? "tcx" : "clsact";
    for (const held of linkPins(links)) {
      if (held.kind === "cgroup" || held.kind === "xdp") continue;
      const stays = held.kind === kind || !attached.some((one) => one.target === held.device);
      if (wanted.get(held.device) !== held.role || interfaceIndex(held.device) === null || !stays) detach(links, held);
    }
    const isServed = (device: string): boolean =>
      attached.filter((one) => one.target === device).length === DIRECTIONS.length;
    unhooked.set(podDevicesOf(wanted).filter(isServed));
    return attached;
  };

  const attachDevice = (hook: DeviceHook): Attachment | null => {
    const { device } = hook;
    try {
      const program = objects.tc(headerOf(deviceType(device))).program(programOf(hook));
      const attached = (useTcx ? attachTcx : attachClsact)(links, hook, program);
      if (attached !== null) namedMissing.delete(device);
      else if (!namedMissing.has(device)) {
        namedMissing.add(device);
        log("warn", `Device ${device} is not there: nothing is attached to it`);
      }
      return attached;
    } catch (error) {
      log("error", `Cannot attach ${programOf(hook)} to ${device}`, { error: messageOf(error) });
      return null;
    }
  };

  const setDevices = (next: readonly string[], podDevices: readonly string[], peers: readonly string[]): void => {
    wanted = rolesOf(next, podDevices, peers);
    if (!isAttached) return;
    try {
      sockets = attachSockets();
    } catch (error) {
      log("error", messageOf(error));
    }
    devices = attachDevices();
  };

  return {
    attach,
    setDevices,
    attachments: () => [...sockets, ...devices],
    programIds: () => new Set([...before, ...objects.loaded().flatMap(programIdsOf)]),
  };
};

const podDevicesOf = (roles: ReadonlyMap<string, Role>): string[] =>
  [...roles].filter(([, role]) => role === "pod").map(([device]) => device);

/** A device that is several is the node's: what comes in there may be from anywhere. A pod's own program undoes replies, too. */
const rolesOf = (
  devices: readonly string[],
  podDevices: readonly string[],
  peers: readonly string[],
): ReadonlyMap<string, Role> =>
  new Map([
    ...peers.map((name) => [name, "reply"] as const),
    ...podDevices.map((name) => [name, "pod"] as const),
    ...devices.map((name) => [name, "node"] as const),
  ]);

const directionsOf = (role: Role): readonly Direction[] => (role === "reply" ? ["ingress"] : DIRECTIONS);

const programIdsOf = (object: LoadedObject): number[] =>
  object.programs.map((name) => programInfo(object.program(name)).id);
