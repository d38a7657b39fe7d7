// Opens the dataplane that a configuration asks for, and says in words why that cannot be.
import { existsSync } from "node:fs";
import { linkPins } from "../dataplane/bpf/attach.ts";
import { type BpfDataplane, type BpfOptions, openBpfDataplane } from "../dataplane/bpf/bpf.ts";
import { deviceKind } from "../dataplane/bpf/device.ts";
import { countEntries, readCounters, readForwards } from "../dataplane/bpf/inspect.ts";
import type { MapName, MapStore } from "../dataplane/bpf/mapstore.ts";
import { peerNetns } from "../dataplane/bpf/netns.ts";
import { linksDirectory, pinDirectory } from "../dataplane/bpf/pins.ts";
import { readSnatUse, type SnatUse } from "../dataplane/bpf/snat.ts";
import type { StaleCounts } from "../dataplane/bpf/stale.ts";
import { interfaceIndex } from "../dataplane/bpf/system/interface.ts";
import type { Observer } from "../dataplane/iptables/iptables.ts";
import { InputError, isInputError, isRefusedError, messageOf, RefusedError } from "../lib/errors.ts";
import { bpfObjectDirectory } from "../lib/paths.ts";
import type { AgentDataplane } from "./agent.ts";
import type { Config } from "./config.ts";
import { type ExpiryFacts, startExpiry } from "./expiry.ts";
import { startForwarding } from "./forwarding.ts";
import { chooseDevices, choosePodDevices, type DeviceFacts, hasIPv6, readHost } from "./host.ts";
import type { Log } from "./log.ts";
import { watchMachine } from "./machine-watch.ts";
import type { Facts, ForwardingMetrics } from "./metrics.ts";
import { findObstacles, obstacleMark } from "./obstacles.ts";
import { openIptables } from "./rules.ts";
import { startSnatWatch } from "./snat-watch.ts";
import { openUserspace } from "./userspace.ts";

/** What an agent or a command drives, and what there is to tell of it. */
export interface Opened {
  readonly dataplane: AgentDataplane;
  /** For metrics; nothing where there are no maps. */
  readonly maps: Facts["maps"];
  readonly packets: Facts["packets"];
  readonly counted?: Facts["counted"];
  readonly staleSockets?: () => StaleCounts | null;
  /** What expires; absent where nothing does. */
  readonly connections?: () => ExpiryFacts | null;
  readonly snat?: () => SnatUse;
  /** By which way packets go on; absent where there is no choice. */
  readonly forwarding?: () => ForwardingMetrics;
  /** How often it wants to be checked. */
  readonly audit_ms: number;
}

/** Throws RefusedError: not root, something missing in the system, a lock that is taken. Nothing is attached then. */
export const openDataplane = (config: Config, log: Log, observer?: Observer): Opened => {
  requireRoot("program the kernel");
  switch (config.dataplane) {
    case "bpf":
      return openBpf(config, log);
    case "iptables":
      return openIptables(config, log, observer);
    case "userspace":
      return openUserspace(config, log);
  }
};

const AUDIT_MAPS_MS = 60_000;

const openBpf = (config: Config, log: Log): Opened => {
  const dataplane = openBpfMaps(config, log);
  const use = remember(
    () => useOf(dataplane.store, ["fragments", "parked_fragments", "affinity", "tcp_peers"]),
    60_000,
  );
  const capacity = dataplane.store.capacity("flows");
  const expiry = startExpiry({
    expire: (options) => dataplane.expire(options),
    capacity,
    log,
    now_ms: () => performance.now(),
  });
  const { min, max } = config.bpf.snatPorts;
  const snat = startSnatWatch({
    read: () => readSnatUse(dataplane.store),
    flows: () => expiry.facts()?.entries ?? null,
    ports: max - min + 1,
    log,
  });
  const forwarding = startForwarding({
    wanted: config.bpf.forwarding,
    set: (mode) => dataplane.setForwarding(mode),
    find: async () => [...dataplane.obstacles(), ...(await findObstacles())],
    mark: () => JSON.stringify([dataplane.obstacles(), obstacleMark()]),
    log,
  });
  const changes = watchMachine(dataplane, forwarding, log);
  const close = (): void => {
    changes.close();
    forwarding.close();
    snat.close();
    expiry.close();
    dataplane.close();
  };
  return {
    dataplane: { ...dataplane, hearDevices: changes.hearDevices, close },
    forwarding: () => {
      const { mode, bumps, devices } = dataplane.forwarding();
      const unfit = devices.filter(({ why }) => why !== null).length;
      const obstacles = forwarding.obstacles()?.length ?? null;
      return { mode, bumps, unfit, obstacles, packets: readForwards(dataplane.store), xdp: dataplane.xdp() };
    },
    maps: () => ({ ...dataplane.pressure(), flows: { used: expiry.facts()?.entries ?? 0, capacity }, ...use() }),
    packets: () => readCounters(dataplane.store),
    connections: () => expiry.facts(),
    snat: remember(() => readSnatUse(dataplane.store), 60_000),
    staleSockets: () => dataplane.staleSockets(),
    audit_ms: AUDIT_MAPS_MS,
  };
};

const openBpfMaps = (config: Config, log: Log): BpfDataplane => {
  if (config.bpf.socketLB !== "off" && config.bpf.cgroupPath === null) {
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
const devicesAtStart = ({ bpf }: Config): Pick<BpfOptions, "devices" | "podDevices"> => {
  const host = readHost(deviceFacts);
  const links = linksDirectory(pinDirectory(bpf.pinPath));
  const held = existsSync(links) ? linkPins(links) : [];
  const served = held.flatMap((pin) => (pin.kind === "cgroup" || pin.role !== "node" ? [] : [pin.device]));
  const chosen = chooseDevices(host, bpf.devices, []);
  const devices = bpf.devices.length > 0 ? chosen : [...new Set([...chosen, ...served])].sort();
  return { devices, podDevices: choosePodDevices(host, bpf, devices) };
};

/** Of a device of this network namespace. */
export const deviceFacts = (name: string): DeviceFacts => {
  const [index, kind] = [interfaceIndex(name), deviceKind(name)];
  return { index, kind, peerNetns: index === null || kind !== "veth" ? null : peerNetns(index) };
};

const bpfOptions = (config: Config, devices: Pick<BpfOptions, "devices" | "podDevices">, log: Log): BpfOptions => {
  const { bpf } = config;
  const { backends, frontends } = bpf.mapSizes;
  return {
    bpffs: bpf.pinPath,
    objects: objectDirectory(),
    cgroup: bpf.socketLB === "off" ? null : bpf.cgroupPath,
    socketLB: bpf.socketLB === "all" && bpf.podDevices !== null ? "others" : bpf.socketLB,
    ...devices,
    attach: bpf.attach,
    xdp: bpf.xdp,
    maxEntries: {
      ...bpf.mapSizes,
      ...(backends === undefined ? {} : { backend_stats: backends }),
      ...(frontends === undefined ? {} : { frontend_addresses: frontends }),
    },
    snatPorts: bpf.snatPorts,
    timeouts_s: bpf.timeouts_s,
    forwarding: bpf.forwarding,
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

/** By walking the maps, which costs: not for every scrape. */
const useOf = (store: MapStore, names: readonly MapName[]) =>
  Object.fromEntries(names.map((map) => [map, { used: countEntries(store, map), capacity: store.capacity(map) }]));

/** Answers what `ask` answered, for so long. */
const remember = <T>(ask: () => T, for_ms: number): (() => T) => {
  let known: { readonly answer: T; readonly at_ms: number } | null = null;
  return () => {
    const now_ms = performance.now();
    if (known === null || now_ms - known.at_ms >= for_ms) known = { answer: ask(), at_ms: now_ms };
    return known.answer;
  };
};
