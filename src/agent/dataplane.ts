// Opens the dataplane that a configuration asks for, and says in words why that cannot be.
import { existsSync } from "node:fs";
import { linkPins } from "../dataplane/bpf/attach.ts";
import { type BpfDataplane, type BpfOptions, openBpfDataplane } from "../dataplane/bpf/bpf.ts";
import { linksDirectory, pinDirectory } from "../dataplane/bpf/pins.ts";
import { InputError, isInputError, isRefusedError, messageOf, RefusedError } from "../lib/errors.ts";
import { bpfObjectDirectory } from "../lib/paths.ts";
import type { Config } from "./config.ts";
import { chooseDevices, hasIPv6, readHost } from "./host.ts";
import type { Log } from "./log.ts";

/** Throws RefusedError: not root, something missing in the kernel, a lock that is taken. Nothing is attached then. */
export const openDataplane = (config: Config, log: Log): BpfDataplane => {
  requireRoot("program the kernel");
  if (config.bpf.socketLB && config.bpf.cgroupPath === null) {
    throw new RefusedError(
      "Cannot serve sockets: no cgroup v2 hierarchy is mounted (mount one, or name it by --cgroup)",
    );
  }
  try {
    return openBpfDataplane(bpfOptions(config, devicesAtStart(config), log));
  } catch (error) {
    if (isInputError(error) || isRefusedError(error)) throw error;
    throw new RefusedError(`Cannot open the dataplane: ${messageOf(error)}`, { cause: error });
  }
};

export const requireRoot = (purpose: string): void => {
  if (process.geteuid?.() === 0) return;
  throw new RefusedError(`Cannot ${purpose}: this needs root (or uid 0 with CAP_BPF and CAP_NET_ADMIN)`);
};

/**
 * Before the Node's addresses are known: what the host alone says, and what an agent before us served. Those stay
 * served until we know better, so that a restart takes nothing away.
 */
const devicesAtStart = ({ bpf }: Config): readonly string[] => {
  const host = readHost();
  const links = linksDirectory(pinDirectory(bpf.pinPath));
  const served = existsSync(links) ? linkPins(links).flatMap((pin) => (pin.kind === "cgroup" ? [] : [pin.device])) : [];
  const chosen = chooseDevices(host, bpf.devices, []);
  return bpf.devices.length > 0 ? chosen : [...new Set([...chosen, ...served])].sort();
};

const bpfOptions = (config: Config, devices: readonly string[], log: Log): BpfOptions => {
  const { bpf } = config;
  const { backends } = bpf.mapSizes;
  return {
    bpffs: bpf.pinPath,
    objects: objectDirectory(),
    cgroup: bpf.socketLB ? bpf.cgroupPath : null,
    devices,
    attach: bpf.attach,
    maxEntries: { ...bpf.mapSizes, ...(backends === undefined ? {} : { backend_stats: backends }) },
    snatPorts: bpf.snatPorts,
    ipv4: true,
    ipv6: hasIPv6(),
    log,
  };
};

const objectDirectory = (): string => {
  try {
    return bpfObjectDirectory();
  } catch (error) {
    throw new InputError(messageOf(error), { cause: error });
  }
};
