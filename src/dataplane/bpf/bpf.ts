// The bpf dataplane: takes the lock, loads the objects over the pinned maps, attaches the programs, and writes Desired
// into the maps. close() leaves everything attached and pinned; resetBpf() (reset.ts) takes all of it away.
import { randomInt } from "node:crypto";
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { InputError, messageOf, RefusedError } from "../../lib/errors.ts";
import type { Desired } from "../../model/desired.ts";
import type { Applied, Dataplane } from "../dataplane.ts";
import type { Obstacle } from "../obstacle.ts";
import { forwarding as forwardingNumbers, maps, socket_lb } from "./abi.gen.ts";
import { type Attachment, checkSocketHooksFree } from "./attach.ts";
import { type CapacityError, isCapacityError } from "./capacity.ts";
import { decode, encode, sizeOf } from "./codec.ts";
import { hasUnseenFlows, makeKnown } from "./conntrack.ts";
import { deviceAddresses, deviceKind, type Header } from "./device.ts";
import { type Expired, type ExpiryOptions, expireFlows } from "./expiry.ts";
import type { Fitness } from "./fitness.ts";
import { createForwarding, type Forwarding, type ForwardingFacts, type ForwardingMode } from "./forwarding.ts";
import { createHooks, type HookOptions, type Hooks, type Log } from "./hooks.ts";
import { takeLock } from "./lock.ts";
import type { MapName, MapStore } from "./mapstore.ts";
import { createKernelStore, openPinnedMaps } from "./pinned.ts";
import { linksDirectory, mapPin, mapsDirectory, pinDirectory } from "./pins.ts";
import { hasConntrack, hasKernelContext, probeKernel } from "./probe.ts";
import { TableProgrammer } from "./programmer.ts";
import { tablesToDesired } from "./readback.ts";
import { leastRouteMtu } from "./route-mtu.ts";
import { isRoutedByPorts } from "./rules.ts";
import { createServed, type Served } from "./served.ts";
import { createStaleSockets, type StaleCounts, type StaleSockets } from "./stale.ts";
import { type ByState, encodeByState, expendablesFor } from "./states.ts";
import { isSystemError } from "./system/errors.ts";
import { closeFd, openPinned } from "./system/file.ts";
import { interfaceIndex } from "./system/interface.ts";
import { mapInfo } from "./system/map.ts";
import { netnsCookie } from "./system/namespace.ts";
import { type LoadedObject, loadObject } from "./system/object.ts";
import { changeConfig, NO_ADDRESS, readConfig, readTables } from "./tables.ts";
import { createTcpPeers } from "./tcp-peers.ts";
import { createUnhooked } from "./unhooked.ts";
import { createXdp, type Xdp, type XdpDevice, type XdpMode, type XdpTarget, xdpNumber } from "./xdp.ts";

export type { Fitness } from "./fitness.ts";
export type { ForwardingFacts, ForwardingMode } from "./forwarding.ts";
export type { Log } from "./hooks.ts";
export { pinDirectory } from "./pins.ts";
export { resetBpf } from "./reset.ts";

export interface BpfOptions extends HookOptions {
  /** A directory on a BPF file system, made when it is missing: /sys/fs/bpf/beeline. */
  readonly bpffs: string;
  readonly xdp: XdpMode;
  /** Where the compiled objects are. */
  readonly objects: string;
  /** Entries by map, for maps that are not pinned yet. */
  readonly maxEntries: Readonly<Partial<Record<MapName, number>>>;
  /** First and last source port that SNAT may take. */
  readonly snatPorts: { readonly min: number; readonly max: number };
  /** How long a connection may be silent, by its state. */
  readonly timeouts_s: ByState;
  readonly ipv4: boolean;
  readonly ipv6: boolean;
  /** Whose sockets are translated: by `others` everybody's but those of the pods behind podDevices. `cgroup` is null when it is
   * nobody's. */
  readonly socketLB: keyof typeof SOCKET_LB;
  /** What the programs can do: with `kernel` they route nothing themselves. With `auto` as before us, until somebody says. */
  readonly forwarding: "auto" | ForwardingMode;
}

export interface BpfDataplane extends Dataplane {
  readonly store: MapStore;
  apply(desired: Desired, options: { readonly prune: boolean }): Applied;
  /** Attaches to new devices, lets go of the others, and repairs what somebody detached anywhere, from the cgroup too.
   * What fails is named in the log, and the rest goes on. */
  setDevices(devices: readonly string[], podDevices: readonly string[]): void;
  /** Which devices are fit for direct forwarding may have changed. Never throws. */
  lookAtDevices(): void;
  /** By which way packets go on from now on. */
  setForwarding(mode: ForwardingMode): void;
  /** What flows remember of their next hops may be wrong. */
  forgetNextHops(): void;
  /** Routes state other MTUs. Never throws. */
  readRouteMtu(): void;
  /** Ports may have a part in routing now, or none any more. Never throws. */
  readSharing(): void;
  /** What of others' on this node's devices packets would pass by that are sent on directly. Throws SystemError. */
  obstacles(): readonly Obstacle[];
  forwarding(): ForwardingFacts & { readonly devices: readonly Fitness[] };
  attachments(): readonly Attachment[];
  /** Node devices, and why XDP is not on them. */
  xdp(): readonly XdpDevice[];
  /** Entries in use of the maps that are written from Desired; costs nothing. (flows, affinity: countEntries().) */
  pressure(): Readonly<Record<string, { readonly used: number; readonly capacity: number }>>;
  /** Removes connections that have been silent for too long. */
  expire(options: ExpiryOptions): Expired;
  /** UDP sockets that were connected to removed backends; null: nobody looks for them. */
  staleSockets(): StaleCounts | null;
  /** The next apply reads the maps again and repairs what somebody else changed. */
  forget(): void;
}

/**
 * Adopts what is pinned: ids, flows and links live on. With a map that is new, programs attach only after the
 * first pruning apply: what is attached already goes on with the maps it has until there is something to take over with.
 * Throws RefusedError that names what is missing or taken, InputError for options that cannot be; nothing is attached then.
 */
export const openBpfDataplane = (options: BpfOptions): BpfDataplane => {
  checkOptions(options);
  checkKernel(options);
  const directory = pinDirectory(options.bpffs);
  mkdirSync(options.bpffs, { recursive: true, mode: 0o700 });
  const lock = takeLock(options.bpffs);
  const objects: LoadedObject[] = [];
  let l3: LoadedObject | null = null; // only nodes with such devices need it
  try {
    if (options.cgroup !== null) checkSocketHooksFree(options.cgroup);
    mkdirSync(mapsDirectory(directory), { recursive: true, mode: 0o700 });
    mkdirSync(linksDirectory(directory), { recursive: true, mode: 0o700 });
    const adopted = (Object.keys(maps) as MapName[]).every((map) => existsSync(mapPin(directory, map)));
    const neverHeld = !existsSync(mapPin(directory, "backends"));
    const hasForwarded = adopted && isForwarding(directory);
    const canForward = options.forwarding !== "kernel" || hasForwarded;
    const loading = { ...options, direct: canForward };
    const maxEntries = sizesToUse(directory, options);
    const tc = load(loading, "tc", directory, maxEntries);
    objects.push(tc);
    const sock = options.cgroup === null ? null : load(loading, "sock", directory, maxEntries);
    if (sock !== null) objects.push(sock);
    const stale = sock === null ? null : openStaleSockets(loading, directory, maxEntries, objects);
    const expiry = load(loading, "expiry", directory, maxEntries);
    objects.push(expiry);
    const store = createKernelStore((map) => tc.map(map));
    writeConfig(store, options, neverHeld);
    const forwarding = createForwarding(store);
    readRouteMtu(forwarding, options.log);
    readSharing(forwarding, options.log);
    writeTunnels(store, options.devices);
    const tcFor = (header: Header): LoadedObject => {
      if (header === "ethernet") return tc;
      const known = l3 ?? load(loading, "tc", directory, maxEntries, header);
      if (l3 === null) objects.push(known);
      l3 = known;
      return known;
    };
    const unhooked = createUnhooked(store, options.socketLB === "others", options.log);
    const tcObjects = (): LoadedObject[] => [tc, ...(l3 === null ? [] : [l3])];
    const tcpPeers = createTcpPeers(store);
    const hooks = createHooks(options, directory, { tc: tcFor, loaded: tcObjects, sock }, unhooked, tcpPeers);
    const xdp = createXdp({
      mode: options.xdp,
      stays: options.forwarding === "auto",
      bpffs: options.bpffs,
      links: linksDirectory(directory),
      load: (target) => load(loading, "xdp", directory, maxEntries, "ethernet", target),
      log: options.log,
    });
    const served = createServed({
      options,
      hooks,
      xdp,
      forwarding,
      canForward,
      hasForwarded,
      tellConntrack: () => tellConntrack(store, options.log),
      prepare: (devices) => writeTunnels(store, devices),
    });
    if (options.forwarding !== "kernel") xdp.require(options.devices);
    if (options.forwarding !== "auto") served.setMode(options.forwarding);
    if (adopted) served.attach();
    return dataplane(store, hooks, { expiry, stale, forwarding, served, xdp, log: options.log }, () => {
      forwarding.close();
      xdp.close();
      for (const object of objects) object.close();
      lock.release();
    });
  } catch (error) {
    for (const object of objects) object.close();
    lock.release();
    throw error;
  }
};

/** Packets are sent on directly, or were, of connections that the programs have yet to make known to conntrack. */
const isForwarding = (directory: string): boolean => {
  const store = openPinnedMaps(directory);
  try {
    return readConfig(store).next_hop_generation !== 0 || hasUnseenFlows(store);
  } finally {
    store.close();
  }
};

const tellConntrack = (store: MapStore, log: Log): void => {
  if (!hasConntrack()) return;
  try {
    const connections = makeKnown(store);
    if (connections > 0) log("info", "Told conntrack of connections that were sent on directly", { connections });
  } catch (error) {
    log(
      "warn",
      "Cannot tell conntrack of connections that were sent on directly: rules that drop what is INVALID may slow them down",
      {
        error: messageOf(error),
      },
    );
  }
};

/** A connect() that chose a backend just before it was removed may take this long to be seen as connected. */
const LATE_CONNECT_MS = 500;

interface Helpers {
  readonly expiry: LoadedObject;
  readonly stale: StaleSockets | null;
  readonly forwarding: Forwarding;
  readonly served: Served;
  readonly xdp: Xdp;
  readonly log: Log;
}

const readRouteMtu = (forwarding: Forwarding, log: Log): void => {
  try {
    forwarding.setRouteMtu(leastRouteMtu());
  } catch (error) {
    log("error", "Cannot read the MTU that routes state", { error: messageOf(error) });
  }
};

/** What cannot be read is doubted: then every flow asks for itself. */
const readSharing = (forwarding: Forwarding, log: Log): void => {
  try {
    forwarding.setSharing(!isRoutedByPorts());
  } catch (error) {
    log("error", "Cannot read by what routes are chosen", { error: messageOf(error) });
    forwarding.setSharing(false);
  }
};

const dataplane = (
  store: MapStore,
  hooks: Hooks,
  { expiry, stale, forwarding, served, xdp, log }: Helpers,
  closeObjects: () => void,
): BpfDataplane => {
  const programmer = new TableProgrammer(store, { now_ns: () => process.hrtime.bigint() });
  let mayBeStale = true; // an agent before us may have died between removing backends and this
  let later: NodeJS.Timeout | undefined;
  const destroyStale = (): void => {
    if (stale === null || !mayBeStale) return;
    mayBeStale = false;
    stale.destroy();
    clearTimeout(later);
    later = setTimeout(() => stale.destroy(), LATE_CONNECT_MS).unref();
  };
  return {
    name: "bpf",
    store,
    apply(desired, { prune }) {
      const applied = applyWhatFits(() => programmer.apply(desired, { prune }));
      if (prune) served.attach();
      mayBeStale ||= isCapacityError(applied) || (applied.removed.backends ?? 0) > 0;
      destroyStale();
      if (isCapacityError(applied)) throw applied;
      return applied;
    },
    readBack: () => tablesToDesired(readTables(store)),
    setDevices: (devices, podDevices) => served.set(devices, podDevices),
    lookAtDevices: () => served.look(),
    setForwarding: (mode) => served.setMode(mode),
    forgetNextHops: () => forwarding.forgetNextHops(),
    readRouteMtu: () => readRouteMtu(forwarding, log),
    readSharing: () => readSharing(forwarding, log),
    obstacles: () => served.obstacles(),
    forwarding: () => ({ ...forwarding.facts(), devices: served.fitness() }),
    attachments: () => hooks.attachments(),
    xdp: () => xdp.devices(),
    pressure: () =>
      Object.fromEntries(
        Object.entries(programmer.used()).map(([map, used]) => [
          map,
          { used, capacity: store.capacity(map as MapName) },
        ]),
      ),
    expire: (options) => expireFlows(expiry, options),
    staleSockets: () => stale?.counts() ?? null,
    forget: () => programmer.forget(),
    close() {
      clearTimeout(later);
      stale?.close();
      closeObjects();
    },
  };
};

/** What does not fit comes back as a value: everything else has been written then, and may be attached. */
const applyWhatFits = (apply: () => Applied): Applied | CapacityError => {
  try {
    return apply();
  } catch (error) {
    if (isCapacityError(error)) return error;
    throw error;
  }
};

// ---- before anything is touched ----------------------------------------------------------------------------------

const checkOptions = ({ snatPorts: { min, max }, maxEntries, log }: BpfOptions): void => {
  checkExpendables(maxEntries);
  if (!Number.isInteger(min) || !Number.isInteger(max) || min < 1 || max > 65535 || min > max) {
    throw new InputError(`SNAT ports ${min}-${max} are no range of ports`);
  }
  const [first = 0, last = 0] = localPortRange();
  if (min <= last && first <= max) {
    log("warn", "SNAT ports overlap the ports that this node's own connections take: some of these may clash", {
      snatPorts: `${min}-${max}`,
      "net.ipv4.ip_local_port_range": `${first}-${last}`,
    });
  }
};

/** A flood may not crowd out what is established. */
const checkExpendables = ({ expendables, flows = maps.flows.max_entries }: Sizes): void => {
  if (expendables === undefined || 4 * expendables <= flows / 2) return;
  throw new InputError(
    `bpf.mapSizes.expendables: ${expendables} connections that give way may take ${4 * expendables} flows, more than half of ${flows}`,
  );
};

const localPortRange = (): number[] => {
  try {
    return readFileSync("/proc/sys/net/ipv4/ip_local_port_range", "utf8").trim().split(/\s+/).map(Number);
  } catch {
    return []; // no IPv4 here
  }
};

const checkKernel = ({ bpffs, cgroup, attach, log }: BpfOptions): void => {
  const lacking = probeKernel({ bpffs, cgroup }).filter((feature) => !feature.ok);
  const fatal = lacking.filter(({ feature, needed }) => needed || (feature === "tcx" && attach === "tcx"));
  if (fatal.length > 0) {
    const named = fatal.map(({ feature, detail }) => `${feature}: ${detail}`).join("; ");
    throw new RefusedError(`This system lacks what the bpf dataplane needs: ${named}`);
  }
  for (const { feature, detail } of lacking) log("info", `Goes without ${feature}`, { detail });
};

// ---- objects, maps, config ---------------------------------------------------------------------------------------

const SOCKET_LB = {
  all: socket_lb.SOCKET_LB_ALL,
  others: socket_lb.SOCKET_LB_OTHERS,
  host: socket_lb.SOCKET_LB_HOST,
  off: socket_lb.SOCKET_LB_OFF,
} as const;

const FORWARDING = {
  kernel: forwardingNumbers.FORWARDING_KERNEL,
  direct: forwardingNumbers.FORWARDING_DIRECT,
  auto: forwardingNumbers.FORWARDING_AUTO,
} as const;

const NO_TARGET: XdpTarget = { ifindex: 0, mac: new Uint8Array(6) };

interface LoadOptions extends BpfOptions {
  /** The programs can send packets on directly, and know of connections whose packets were. */
  readonly direct: boolean;
}

const load = (
  options: LoadOptions,
  name: "expiry" | "sock" | "stale" | "tc" | "xdp",
  directory: string,
  maxEntries: Sizes,
  header: Header = "ethernet",
  { ifindex, mac }: XdpTarget = NO_TARGET,
): LoadedObject => {
  const families = { ipv4: Number(options.ipv4), ipv6: Number(options.ipv6) };
  const constants = {
    ...families,
    backend_stats: 1,
    socket_lb: SOCKET_LB[options.socketLB],
    l3_device: Number(header === "ip"),
    conntrack: Number(hasConntrack()),
    kernel_context: Number(hasKernelContext()),
    direct: Number(options.direct),
    device: ifindex,
    device_mac: [...mac],
  };
  const path = `${options.objects}/${name}.bpf.o`;
  try {
    return loadObject(path, {
      pinDirectory: mapsDirectory(directory),
      maxEntries,
      options: encode("options", constants),
    });
  } catch (cause) {
    const log = isSystemError(cause) ? lastLines(cause.log, 5) : "";
    // libbpf's words when a pinned map has another type, key or value than ours.
    const foreign = log.includes("parameter mismatch")
      ? "\nA pinned map is none of ours: `beeline reset` removes it"
      : "";
    const message = `Cannot load the ${name} programs: ${messageOf(cause)}${log && `\n${log}`}${foreign}`;
    throw new RefusedError(message, { cause });
  }
};

/** Without it all else works: a kernel without BTF, say, still serves. */
const openStaleSockets = (
  options: LoadOptions,
  directory: string,
  maxEntries: Sizes,
  objects: LoadedObject[],
): StaleSockets | null => {
  try {
    const object = load(options, "stale", directory, maxEntries);
    objects.push(object);
    return createStaleSockets(object, options.log);
  } catch (error) {
    options.log("warn", "Connected UDP sockets keep sending to backends that are removed", { error: messageOf(error) });
    return null;
  }
};

const lastLines = (text: string, count: number): string => text.trimEnd().split("\n").slice(-count).join("\n");

type Sizes = Readonly<Partial<Record<MapName, number>>>;

/** A pinned map keeps its size, and what it holds; another size counts after a reset. */
const sizesToUse = (directory: string, { maxEntries, log }: BpfOptions): Sizes => {
  const sizes: Partial<Record<MapName, number>> = { expendables: expendablesFor(maxEntries.flows), ...maxEntries };
  for (const map of Object.keys(maps) as MapName[]) {
    const pinned = pinnedSize(mapPin(directory, map));
    if (pinned === null) continue;
    const wanted = maxEntries[map] ?? pinned;
    if (wanted !== pinned) {
      log("warn", `Map ${map} keeps its size: it is in use; another size counts after \`beeline reset\``, {
        entries: pinned,
        wanted,
      });
    }
    sizes[map] = pinned;
  }
  return sizes;
};

const pinnedSize = (path: string): number | null => {
  if (!existsSync(path)) return null;
  const fd = openPinned(path);
  try {
    return mapInfo(fd).max_entries;
  } finally {
    closeFd(fd);
  }
};

/**
 * Before any program runs. The seed stays, so that a client's hash finds the same backend after a restart. `neverHeld`: map
 * backends is new, so nobody need read all of it to know that it is empty (40 ms).
 */
const writeConfig = (store: MapStore, options: BpfOptions, neverHeld: boolean): void => {
  const { snatPorts, timeouts_s } = options;
  const key = encode("u32", 0);
  const held = decode("config", store.lookup("config", key) ?? new Uint8Array(sizeOf("config")));
  const config = {
    ...held, // the SNAT addresses are written from Desired
    host_netns_cookie: netnsCookie(),
    hash_seed: held.hash_seed === 0 ? randomInt(1, 2 ** 32) : held.hash_seed,
    backend_ids_end: neverHeld ? 1 : held.backend_ids_end,
    snat_port_min: snatPorts.min,
    snat_port_max: snatPorts.max,
    expendables: store.capacity("expendables"),
    tcp_peers: store.capacity("tcp_peers"),
    timeout_s: encodeByState(timeouts_s),
    forwarding: FORWARDING[options.forwarding],
    xdp: xdpNumber(options.xdp),
  };
  store.update("config", [[key, encode("config", config)]]);
};

/** What goes to backends behind these is to come from there. */
const writeTunnels = (store: MapStore, devices: readonly string[]): void => {
  const wanted = devices.flatMap((device): [string, Uint8Array][] => {
    const index = interfaceIndex(device);
    if (index === null || deviceKind(device) !== "tunnel") return [];
    const { IPv4 = NO_ADDRESS, IPv6 = NO_ADDRESS } = deviceAddresses(device);
    return [[String(index), encode("tunnel", { addr_v4: IPv4, addr_v6: IPv6 })]];
  });
  store.update(
    "tunnels",
    wanted.map(([index, row]) => [encode("u32", Number(index)), row]),
  );
  const gone = [...store.entries("tunnels")]
    .map(([key]) => key)
    .filter((key) => !wanted.some(([index]) => index === String(decode("u32", key))));
  store.delete("tunnels", gone);
  changeConfig(store, { has_tunnels: Number(wanted.length > 0) });
};
