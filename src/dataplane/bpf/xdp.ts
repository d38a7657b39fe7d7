// Native XDP on the node's devices: which have our program, and why the others have not. A device whose driver has none, or
// that somebody else's program is on, goes without: tc serves it all the same. Never the generic hook, and never a pod's veth.
import { readdirSync } from "node:fs";
import { messageOf, RefusedError } from "../../lib/errors.ts";
import { xdp_wanted } from "./abi.gen.ts";
import { attachXdp, detach, linkPins } from "./attach.ts";
import { deviceKind, deviceType } from "./device.ts";
import type { Log } from "./hooks.ts";
import type { MapStore } from "./mapstore.ts";
import { isAbiHash, linkPinName, linksDirectory } from "./pins.ts";
import { isSystemError } from "./system/errors.ts";
import { closeFd, openPinned } from "./system/file.ts";
import { interfaceDriver, interfaceIndex, interfaceMac } from "./system/interface.ts";
import { linkInfo } from "./system/link.ts";
import { type XdpPrograms, xdpPrograms, xdpRefusal } from "./system/native-xdp.ts";
import type { LoadedObject } from "./system/object.ts";
import { readConfig } from "./tables.ts";

/** auto: wherever the driver can. required: an agent whose devices cannot all have it does not start. */
export type XdpMode = "auto" | "off" | "required";

/** What the program is loaded for: it looks at what is sent to this device, and to nobody else behind it. */
export interface XdpTarget {
  readonly ifindex: number;
  readonly mac: Uint8Array;
}

export interface XdpDevice {
  readonly device: string;
  /** null: our program is on it. */
  readonly why_not: string | null;
}

export interface Xdp {
  /**
   * These devices have our program from now on, as far as they can, and no others; with a reason why not (`why`) none that
   * has not got it yet. Says in the log what is news. Never throws.
   */
  set(devices: readonly string[], why: string | null): void;
  /** Throws RefusedError when one of them must have it and cannot; then none has it that had not before. */
  require(devices: readonly string[]): void;
  /** As of the last set(). */
  devices(): readonly XdpDevice[];
  /** Those that have it. */
  native(): readonly string[];
  close(): void;
}

export interface XdpOptions {
  readonly mode: XdpMode;
  /**
   * There may soon be no reason any more why not: a program that is on a device stays there, and lets everything pass.
   * Many a driver loses packets whenever one comes or goes.
   */
  readonly stays: boolean;
  readonly bpffs: string;
  readonly links: string;
  readonly load: (target: XdpTarget) => LoadedObject;
  readonly log: Log;
}

export const createXdp = ({ mode, stays, bpffs, links, load, log }: XdpOptions): Xdp => {
  /** By device; another one takes its place when the device has another index or address. */
  const objects = new Map<string, { readonly target: string; readonly object: LoadedObject }>();
  let found: readonly XdpDevice[] = [];

  const native = (): readonly string[] => found.flatMap(({ device, why_not }) => (why_not === null ? [device] : []));

  const programFor = (device: string, target: XdpTarget): number => {
    const wanted = `${target.ifindex} ${target.mac}`;
    const held = objects.get(device);
    if (held?.target === wanted) return held.object.program("xdp_forward");
    const object = load(target);
    objects.set(device, { target: wanted, object });
    held?.object.close();
    return object.program("xdp_forward");
  };

  /** null: it is attached. */
  const attach = (device: string): string | null => {
    const [ifindex, mac] = [interfaceIndex(device), interfaceMac(device)];
    const never = whyNever(device, mode);
    if (never !== null) return never;
    if (ifindex === null || mac === null) return "there is no such device";
    const program = programFor(device, { ifindex, mac });
    try {
      attachXdp(links, otherLinks(bpffs, links), { device, ifindex }, program);
      return null;
    } catch (error) {
      if (!isSystemError(error)) throw error;
      return whyRefused(device, ifindex, program) ?? error.message;
    }
  };

  const detachOthers = (devices: readonly string[]): void => {
    for (const held of linkPins(links)) {
      if (held.kind === "xdp" && !devices.includes(held.device)) detach(links, held);
    }
  };

  const unloadOthers = (devices: readonly string[]): void => {
    for (const [device, { object }] of objects) {
      if (devices.includes(device)) continue;
      objects.delete(device);
      object.close();
    }
  };

  const tryAll = (devices: readonly string[], why: string | null): readonly XdpDevice[] =>
    devices.map((device) => {
      try {
        if (mode === "off") return { device, why_not: "bpf.xdp is off" };
        const isToBeOn = why === null || (stays && isOn(links, device));
        return { device, why_not: isToBeOn ? attach(device) : why };
      } catch (error) {
        return { device, why_not: messageOf(error) };
      }
    });

  const say = (before: readonly XdpDevice[], now: readonly XdpDevice[]): void => {
    for (const { device, why_not } of now) {
      const known = before.find((one) => one.device === device);
      if (known !== undefined && known.why_not === why_not) continue;
      if (why_not === null) log("info", `XDP is on ${device}`);
      else if (mode !== "off") log(levelOf(device, mode), `No XDP on ${device}: ${why_not}`);
    }
  };

  return {
    set(devices, why) {
      const before = found;
      found = tryAll(devices, why);
      detachOthers(native());
      unloadOthers(devices);
      say(before, found);
    },
    require(devices) {
      if (mode !== "required") return;
      const held = linkPins(links).flatMap((pin) => (pin.kind === "xdp" ? [pin.device] : []));
      const lacking = tryAll(
        devices.filter((device) => whyNever(device, mode) === null),
        null,
      ).filter(({ why_not }) => why_not !== null);
      if (lacking.length === 0) return;
      detachOthers(held);
      const named = lacking.map(({ device, why_not }) => `${device}: ${why_not}`).join("; ");
      throw new RefusedError(`bpf.xdp is required, and native XDP cannot be had: ${named}`);
    },
    devices: () => found,
    native,
    close: () => unloadOthers([]),
  };
};

// ---- without an agent ----------------------------------------------------------------------------------------------

const NUMBERS = {
  auto: xdp_wanted.XDP_WANTED_AUTO,
  off: xdp_wanted.XDP_WANTED_OFF,
  required: xdp_wanted.XDP_WANTED_REQUIRED,
} as const;

/** As in config. */
export const xdpNumber = (mode: XdpMode): number => NUMBERS[mode];

export interface XdpRecord {
  /** What the agent was told. */
  readonly wanted: XdpMode;
  /** Node devices. */
  readonly devices: readonly XdpDevice[];
}

/** What is attached now, and why not, as far as that can be told without asking the driver, which would attach it. */
export const readXdp = (store: MapStore, links: string): XdpRecord => {
  const config = readConfig(store);
  const wanted = (["auto", "off", "required"] as const).find((mode) => NUMBERS[mode] === config.xdp) ?? "auto";
  const served = linkPins(links).flatMap((pin) => (pin.kind !== "cgroup" && pin.role === "node" ? [pin.device] : []));
  const why =
    wanted === "off" ? "bpf.xdp is off" : config.next_hop_generation === 0 ? "packets go on by the kernel" : null;
  const devices = [...new Set(served)].sort();
  return {
    wanted,
    devices: devices.map((device) => {
      const isOurs = isOn(links, device);
      return { device, why_not: isOurs ? null : (why ?? whyNever(device, wanted) ?? whyNotOn(device)) };
    }),
  };
};

const isOn = (links: string, device: string): boolean => {
  try {
    const link = openPinned(`${links}/${linkPinName({ kind: "xdp", device, role: "node" })}`);
    try {
      return linkInfo(link).target === interfaceIndex(device);
    } finally {
      closeFd(link);
    }
  } catch (error) {
    if (isSystemError(error)) return false; // none is pinned
    throw error;
  }
};

const whyNotOn = (device: string): string => {
  const ifindex = interfaceIndex(device);
  if (ifindex === null) return "there is no such device";
  return (
    whoseProgram(device, xdpPrograms(ifindex)) ??
    `its driver, ${driverOf(device)}, refuses it (the agent's log has its words), or nobody has asked it yet`
  );
};

// ---- why not -------------------------------------------------------------------------------------------------------

/** Links of versions with another map layout. */
const otherLinks = (bpffs: string, links: string): readonly string[] =>
  readdirSync(bpffs)
    .filter(isAbiHash)
    .map((name) => linksDirectory(`${bpffs}/${name}`))
    .filter((other) => other !== links);

/** Of a device that is not even asked. A tunnel has no driver that could, and is no reason not to start. */
const whyNever = (device: string, mode: XdpMode): string | null => {
  if (deviceType(device) !== 1) return "its packets do not start with Ethernet";
  if (deviceKind(device) === "tunnel") return "it is a tunnel";
  if (mode === "auto" && deviceKind(device) === "veth") {
    return "it is a veth, where XDP costs more than it saves, and loses packets unless the other end has a program too";
  }
  return null;
};

/** What is worse on a device because XDP is on it; null: nothing that is known. */
export const xdpDrawback = (device: string): string | null => {
  switch (interfaceDriver(device)) {
    case "veth":
      return (
        "a veth: what XDP sends is lost unless its other end has an XDP program, and checksums are wrong unless " +
        "`ethtool -K … tx off` was done there"
      );
    case "virtio_net":
      return "of a virtual machine: it puts large packets together no longer, so bulk TCP to this node itself is slower";
    default:
      return null;
  }
};

/** Who is in the way, or what the driver says. */
const whyRefused = (device: string, ifindex: number, program: number): string | null => {
  const others = whoseProgram(device, xdpPrograms(ifindex));
  if (others !== null) return others;
  const said = xdpRefusal(program, ifindex);
  return said === null ? null : `its driver, ${driverOf(device)}, refuses: ${said}`;
};

const whoseProgram = (device: string, { native, generic, offloaded }: XdpPrograms): string | null => {
  const [id, where] = native !== 0 ? [native, ""] : generic !== 0 ? [generic, "generic"] : [offloaded, "offload"];
  if (id === 0) return null;
  return (
    `another's program ${id} is on it (\`bpftool prog show id ${id}\` says what it is, ` +
    `\`ip link set dev ${device} xdp${where} off\` takes it away unless a link holds it)`
  );
};

const driverOf = (device: string): string => interfaceDriver(device) ?? "which has no name";

/** That a driver cannot is how it is; that a program is required and is not there is not. */
const levelOf = (device: string, mode: XdpMode): "info" | "error" =>
  mode === "required" && whyNever(device, mode) === null ? "error" : "info";
