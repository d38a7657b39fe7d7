// `beeline status`: is an agent there, what is attached, how full the maps are, what happened to packets.
import { readFileSync, statSync } from "node:fs";
import { linkPins } from "../dataplane/bpf/attach.ts";
import {
  type Counter,
  countEntries,
  type DeviceFlag,
  type ForwardCount,
  type ForwardingRecord,
  readCounters,
  readForwarding,
  readForwards,
} from "../dataplane/bpf/inspect.ts";
import type { MapStore } from "../dataplane/bpf/mapstore.ts";
import { type LinkPin, linkPinName, linksDirectory, pinDirectory, type Role } from "../dataplane/bpf/pins.ts";
import { readSnatUse, type SnatUse } from "../dataplane/bpf/snat.ts";
import { closeFd, openPinned } from "../dataplane/bpf/system/file.ts";
import { interfaceIndex, interfaceName } from "../dataplane/bpf/system/interface.ts";
import { linkInfo } from "../dataplane/bpf/system/link.ts";
import { readXdp, type XdpRecord } from "../dataplane/bpf/xdp.ts";
import { type Obstacle, obstacleText } from "../dataplane/obstacle.ts";
import { columns, count, list } from "../lib/text.ts";
import { formatHostPort } from "../model/address.ts";
import type { NodeAddress } from "../model/desired.ts";
import { type Direction, meaningOf, type PacketVerdict } from "../model/reason.ts";
import type { Run } from "./command.ts";
import { readHeld } from "./held.ts";
import { type MapUse, mapTable, readMapUse } from "./maps.ts";
import { obstaclesHere } from "./obstacles.ts";
import { withPinnedMaps } from "./pinned.ts";
import { type Report, show } from "./report.ts";

export const status: Run = (args, io) =>
  show(args, io, () => withPinnedMaps(args, async (store, bpffs) => statusReport(await readStatus(store, bpffs))));

export interface Status {
  readonly pins: string;
  /** Process id of the agent, null: none holds the pins. */
  readonly agent: number | null;
  readonly hooks: readonly Hook[];
  /** Network namespaces of pods whose sockets the hooks leave alone. */
  readonly unhookedNetns: number;
  readonly forwarding: ForwardingStatus;
  readonly counts: {
    readonly servicePorts: number;
    readonly frontends: number;
    readonly backends: number;
    readonly draining: number;
  };
  readonly nodeAddresses: readonly NodeAddress[];
  readonly snat: SnatUse;
  readonly maps: readonly MapUse[];
  readonly packets: readonly Happened[];
}

interface ForwardingStatus extends Omit<ForwardingRecord, "devices"> {
  /** What may refuse or change packets, where auto chose the kernel for it: as it is now. */
  readonly obstacles: readonly Obstacle[];
  readonly devices: readonly { readonly index: number; readonly name: string; readonly flags: readonly DeviceFlag[] }[];
  readonly packets: readonly ForwardCount[];
  readonly xdp: XdpRecord;
}

interface Happened extends Counter {
  /** null: a newer program's reason. */
  readonly verdict: PacketVerdict | null;
  /** null: of no connection of ours, or either way. */
  readonly direction: Direction | null;
}

interface Hook {
  /** `connect4`, `tcx ingress`, `clsact egress`, `xdp`. */
  readonly hook: string;
  /** A device's name, or `cgroup`. */
  readonly target: string;
  /** What a device is served for; null: it is no device. */
  readonly role: Role | null;
  /** False: somebody detached it, or the device is gone. */
  readonly attached: boolean;
}

const readStatus = async (store: MapStore, bpffs: string): Promise<Status> => {
  const { desired } = readHeld(store);
  const services = [...desired.services.values()];
  const backends = services.flatMap((s) => s.backends);
  const pins = pinDirectory(bpffs);
  return {
    pins,
    agent: lockHolder(bpffs),
    hooks: readHooks(linksDirectory(pins)),
    unhookedNetns: countEntries(store, "unhooked_netns"),
    forwarding: await readForwardingStatus(store, linksDirectory(pins)),
    counts: {
      servicePorts: services.length,
      frontends: services.reduce((sum, s) => sum + s.frontends.length, 0),
      backends: backends.length,
      draining: backends.filter((b) => b.state === "draining").length,
    },
    nodeAddresses: desired.nodeAddresses,
    snat: readSnatUse(store),
    maps: readMapUse(store),
    packets: readCounters(store).map(({ hook, reason, count }) => {
      const meaning = meaningOf(hook, reason);
      return { hook, verdict: meaning?.verdict ?? null, direction: meaning?.direction ?? null, reason, count };
    }),
  };
};

const readForwardingStatus = async (store: MapStore, links: string): Promise<ForwardingStatus> => {
  const record = readForwarding(store);
  const obstacles = record.wanted === "auto" && record.mode === "kernel" ? await obstaclesHere(links) : [];
  const devices = record.devices.map((one) => ({ ...one, name: interfaceName(one.index) ?? `#${one.index}` }));
  return { ...record, obstacles, devices, packets: readForwards(store), xdp: readXdp(store, links) };
};

/** The agent holds a lock on its pins as long as it lives; /proc/locks says who, without touching it. */
export const lockHolder = (directory: string): number | null => {
  const { dev, ino } = statSync(directory);
  const [major, minor] = [(dev >> 8) & 0xfff, (dev & 0xff) | ((dev >> 12) & 0xfff00)];
  const place = `${[major, minor].map((n) => n.toString(16).padStart(2, "0")).join(":")}:${ino}`;
  return findLock(readFileSync("/proc/locks", "utf8"), place);
};

/** Process id of the holder of a FLOCK at `major:minor:inode`, in a text like /proc/locks. Lines with -> only wait. */
export const findLock = (locks: string, place: string): number | null => {
  const words = locks.split("\n").map((line) => line.trim().split(/\s+/));
  const held = words.find((w) => w[1] === "FLOCK" && w[5] === place);
  const pid = Number(held?.[4]);
  return pid > 0 ? pid : null;
};

export const readHooks = (links: string): readonly Hook[] =>
  linkPins(links)
    .map((held) => ({ ...nameOf(held), attached: isAttached(links, held) }))
    .sort((a, b) => (`${a.target} ${a.hook}` < `${b.target} ${b.hook}` ? -1 : 1));

const nameOf = (held: LinkPin): Pick<Hook, "hook" | "target" | "role"> => {
  if (held.kind === "cgroup") return { hook: held.hook, target: "cgroup", role: null };
  const hook = held.kind === "xdp" ? "xdp" : `${held.kind} ${held.direction}`;
  return { hook, target: held.device, role: held.role };
};

const isAttached = (links: string, held: LinkPin): boolean => {
  if (held.kind === "clsact") return interfaceIndex(held.device) !== null;
  const link = openPinned(`${links}/${linkPinName(held)}`);
  try {
    const { target } = linkInfo(link);
    return held.kind === "cgroup" ? target !== 0 : target === interfaceIndex(held.device);
  } finally {
    closeFd(link);
  }
};

export const statusReport = (status: Status): Report => ({
  kind: "Status",
  fields: { ...status },
  text: ({ headers, wide, paint }) => {
    const { counts } = status;
    const facts = [
      ["Pins:", status.pins],
      [
        "Agent:",
        status.agent === null ? "not running (what is attached works on)" : `running, process ${status.agent}`,
      ],
      ["Sockets:", socketText(status)],
      ["Devices:", deviceText(status.hooks, ["node"])],
      ["Pod devices:", deviceText(status.hooks, ["pod", "reply"])],
      ["Forwarding:", forwardingText(status)],
      ["XDP:", xdpText(status.forwarding.xdp)],
      ["Services:", `${count(counts.servicePorts, "service port")}, ${count(counts.frontends, "frontend")}`],
      ["Backends:", `${counts.backends - counts.draining} active, ${counts.draining} draining`],
      ["Node addresses:", status.nodeAddresses.map(addressText).join(", ") || "none"],
      ["SNAT ports:", snatText(status.snat)],
    ];
    const packets = columns(
      headers ? ["HOOK", "VERDICT", "DIRECTION", "REASON", "COUNT", ...(wide ? ["MEANING"] : [])] : null,
      status.packets.map(({ hook, verdict, direction, reason, count }) => [
        ...[hook, verdict ?? "-", direction ?? "-", reason, String(count)],
        ...(wide ? [meaningOf(hook, reason)?.text ?? "-"] : []),
      ]),
    );
    const maps = status.maps.filter((m) => wide || m.used !== null);
    const forwards = forwardTable(status.forwarding.packets, headers);
    const tables = [
      columns(null, facts),
      mapTable(maps, headers, wide),
      packets,
      ...(forwards === "" ? [] : [forwards]),
    ];
    const text = tables.join("\n");
    return text.replace(/^Agent: +not running.*$/m, (line) => paint("yellow", line));
  },
});

/** `direct (auto: nothing here may refuse packets), out by eth0, into 12 pods`. */
const forwardingText = ({ agent, forwarding: { mode, wanted, obstacles, devices } }: Status): string => {
  const names = (flag: DeviceFlag): string[] => devices.flatMap((one) => (one.flags.includes(flag) ? [one.name] : []));
  const [wire, peer] = [names("wire"), names("peer")];
  const [first, ...more] = obstacles.map(obstacleText);
  const others = more.length === 0 ? "" : `; ${more.length} more: \`beeline doctor\``;
  const undecided = agent === null ? "no agent decides" : "not decided yet";
  const kernelReason = first === undefined ? undecided : `${first}${others}`;
  if (wanted !== "auto") return [`${mode} (as configured)`, ...(mode === "kernel" ? [] : where(wire, peer))].join(", ");
  if (mode === "kernel") return `kernel (auto: ${kernelReason})`;
  return ["direct (auto: nothing here may refuse packets)", ...where(wire, peer)].join(", ");
};

/** Empty where nothing was ever sent on directly, or could have been. */
const forwardTable = (packets: readonly ForwardCount[], headers: boolean): string =>
  packets.length === 0
    ? ""
    : columns(
        headers ? ["HOOK", "WAY", "HOW", "COUNT"] : null,
        packets.map(({ hook, isDirect, how, count }) => [hook, isDirect ? "direct" : "kernel", how, String(count)]),
      );

const where = (wire: readonly string[], peer: readonly string[]): string[] => [
  wire.length === 0 ? "out by no device" : `out by ${nameDevices(wire)}`,
  `into ${count(peer.length, "pod")}`,
];

/** `on eth0; not on eth1: another's program 4711 is on it`. */
const xdpText = ({ wanted, devices }: XdpRecord): string => {
  if (wanted === "off") return "off (as configured)";
  const native = devices.flatMap(({ device, why_not }) => (why_not === null ? [device] : []));
  const others = Map.groupBy(
    devices.filter(({ why_not }) => why_not !== null),
    ({ why_not }) => why_not,
  );
  const words = [...others].map(([why, group]) => `not on ${nameDevices(group.map(({ device }) => device))}: ${why}`);
  return [...(native.length === 0 ? [] : [`on ${nameDevices(native)}`]), ...words].join("; ") || "on no device";
};

/** Those that are near their limit, else the fullest. */
const snatText = ({ min, max, ports, destinations }: SnatUse): string => {
  const near = destinations.filter((one) => one.nearLimit);
  const shown = near.length > 0 ? near : destinations.slice(0, 1);
  const words = shown.map(
    ({ address, port, protocol, taken, nearLimit }) =>
      `${nearLimit ? "NEAR ITS LIMIT: " : "fullest "}${formatHostPort(address, port)}/${protocol} with ${taken} taken`,
  );
  return [`${min}-${max}, ${ports} towards each backend`, ...(words.length === 0 ? ["none taken"] : words)].join(", ");
};

const socketText = ({ hooks, unhookedNetns }: Status): string => {
  const sockets = hooks.filter((h) => h.role === null);
  const lost = sockets.filter((h) => !h.attached).map((h) => h.hook);
  if (sockets.length === 0) return "none";
  return [
    count(sockets.length - lost.length, "hook"),
    ...(unhookedNetns === 0 ? [] : [`not for ${count(unhookedNetns, "network namespace")}`]),
    ...(lost.length === 0 ? [] : [`detached: ${list(lost)}`]),
  ].join(", ");
};

/** Devices with the same hooks stand together; of very many their number. */
const deviceText = (hooks: readonly Hook[], roles: readonly (Role | null)[]): string => {
  const devices = Map.groupBy(
    hooks.filter((h) => roles.includes(h.role)),
    ({ target }) => target,
  );
  const byWords = Map.groupBy(devices, ([, own]) =>
    own.map(({ hook, attached }) => `${hook}${attached ? "" : " detached"}`).join(", "),
  );
  return (
    [...byWords].map(([words, group]) => `${nameDevices(group.map(([name]) => name))} (${words})`).join("; ") || "none"
  );
};

const MANY_DEVICES = 8;

const nameDevices = (names: readonly string[]): string =>
  names.length > MANY_DEVICES ? count(names.length, "device") : names.join(", ");

const addressText = ({ address, loopback, primary, nodePorts }: NodeAddress): string => {
  const notes = [
    ...(primary ? ["primary"] : []),
    ...(loopback ? ["loopback"] : []),
    ...(nodePorts ? [] : ["no NodePorts"]),
  ];
  return notes.length === 0 ? address : `${address} (${notes.join(", ")})`;
};
