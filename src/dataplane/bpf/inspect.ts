// Readers of what the programs write: counters, statistics of backends, flows, affinity. They walk whole maps, so they
// are for a command or a scrape, not for a packet.
import type { Address } from "../../model/address.ts";
import type * as abi from "./abi.gen.ts";
import { device_flag, flow_flag, flow_kind, forward, forwarding, hook, maps, reason, way } from "./abi.gen.ts";
import { decode } from "./codec.ts";
import type { MapName, MapStore } from "./mapstore.ts";
import { type ConnectionState, stateOf } from "./states.ts";
import { backendIdsEnd, protoName, readConfig } from "./tables.ts";

export interface Counter {
  /** `sock`, `tc_ingress`, … */
  readonly hook: string;
  /** `new_flow`, …: as in model/reason.ts. */
  readonly reason: string;
  readonly count: number;
}

/** Summed over all CPUs; those that never counted are left out. */
export const readCounters = (store: MapStore): readonly Counter[] => {
  const perHook = maps.counters.max_entries / hook.HOOKS;
  const counters: Counter[] = [];
  for (const [key, value] of store.entries("counters")) {
    const index = decode("u32", key);
    const count = sumOfCpus(value);
    const [hookNumber, reasonNumber] = [Math.floor(index / perHook), index % perHook];
    counters.push({ hook: hookName(hookNumber), reason: reasonName(reasonNumber), count });
  }
  return counters;
};

/** `HOOK_TC_INGRESS: 1` → 1: `tc_ingress`. The number of names itself (`HOOKS`) is no name. */
const namesByNumber = (names: Readonly<Record<string, number>>, prefix: string): Map<number, string> =>
  new Map(
    Object.entries(names)
      .filter(([name]) => name.startsWith(prefix))
      .map(([name, number]) => [number, name.slice(prefix.length).toLowerCase()]),
  );

const hooks = namesByNumber(hook, "HOOK_");
const reasons = namesByNumber(reason, "REASON_");

/** `tc_ingress`; a number that this version has no name for is itself. */
export const hookName = (number: number): string => hooks.get(number) ?? String(number);
export const reasonName = (number: number): string => reasons.get(number) ?? String(number);

const sumOfCpus = (value: Uint8Array): number => {
  const view = new DataView(value.buffer, value.byteOffset, value.byteLength);
  let sum = 0n;
  for (let offset = 0; offset < value.byteLength; offset += 8) sum += view.getBigUint64(offset, true);
  return Number(sum);
};

export type BackendStats = abi.BackendStats;

/** By backend_id; those that never had a flow are left out. */
export const readBackendStats = (store: MapStore): ReadonlyMap<number, BackendStats> => {
  const stats = new Map<number, BackendStats>();
  for (const [key, value] of store.entries("backend_stats", backendIdsEnd(readConfig(store)))) {
    stats.set(decode("u32", key), decode("backend_stats", value));
  }
  return stats;
};

export interface FlowRecord {
  /** `DNAT`, `SNAT`, `UNDO_SNAT`, `UNDO_DNAT`: what is done to a packet of this direction. */
  readonly kind: string;
  readonly protocol: string;
  readonly from: { readonly address: Address; readonly port: number };
  readonly to: { readonly address: Address; readonly port: number };
  /** Written over the destination (DNAT, UNDO_SNAT) or the source (SNAT, UNDO_DNAT). */
  readonly rewrite: { readonly address: Address; readonly port: number };
  readonly service_id: number;
  readonly backend_id: number;
  readonly generation: number;
  /** Written over the other side by the other hook; null: nothing is. */
  readonly far: { readonly address: Address; readonly port: number } | null;
  /** Written over the client's port, where its own was taken; 0: nothing is. */
  readonly client_port: number;
  /** Where its packets go on without being routed; null: nothing is known, or only the kernel knows. */
  readonly next_hop: NextHopRecord | null;
  /** Of its connection; null: the flow belongs to none. */
  readonly state: ConnectionState | null;
  /** CLOCK_BOOTTIME. */
  readonly created_ns: bigint;
  readonly last_seen_ns: bigint;
}

export interface NextHopRecord {
  /** Into a pod, or out by a device. */
  readonly way: "peer" | "wire";
  /** Interface index. */
  readonly device: number;
  readonly mac: string;
  readonly mtu: number;
  /** Nothing has changed since it was found. Else it is found anew for the next packet. */
  readonly isCurrent: boolean;
}

const nextHopOf = ({ next_hop }: abi.Flow, generation: number): NextHopRecord | null => {
  const { ifindex, dmac, mtu } = next_hop;
  if (next_hop.way === way.WAY_KERNEL) return null;
  return {
    way: next_hop.way === way.WAY_PEER ? "peer" : "wire",
    device: ifindex,
    mac: dmac.map((byte) => byte.toString(16).padStart(2, "0")).join(":"),
    mtu,
    isCurrent: next_hop.generation === generation,
  };
};

/** In no order. */
export const readFlows = (store: MapStore): readonly FlowRecord[] => {
  const kinds = namesByNumber(flow_kind, "FLOW_");
  const all = Array.from(store.entries("flows"), ([k, v]) => [decode("flow_key", k), decode("flow", v)] as const);
  const stateIn = stateFinder(all);
  const generation = readConfig(store).next_hop_generation;
  return all.map(([key, flow]): FlowRecord => {
    return {
      kind: (kinds.get(flow.kind) ?? String(flow.kind)).toUpperCase(),
      protocol: protoName(key.proto),
      from: { address: key.src_addr, port: key.src_port },
      to: { address: key.dst_addr, port: key.dst_port },
      rewrite: { address: flow.addr, port: flow.port },
      service_id: flow.service_id,
      backend_id: flow.backend_id,
      generation: flow.generation,
      far: flow.far_port === 0 ? null : { address: flow.far_addr, port: flow.far_port },
      client_port: flow.client_port,
      next_hop: nextHopOf(flow, generation),
      state: stateIn(key, flow),
      created_ns: flow.created_ns,
      last_seen_ns: flow.last_seen_ns,
    };
  });
};

interface End {
  readonly address: Address;
  readonly port: number;
}

/** Its FLOW_DNAT has the state of a connection, or the one flow that there is; the others lead there, as in expire_flows. */
const stateFinder = (all: readonly (readonly [abi.FlowKey, abi.Flow])[]) => {
  const text = (outward: number, proto: number, from: End, to: End): string =>
    `${outward} ${proto} ${from.address} ${from.port} ${to.address} ${to.port}`;
  const source = (key: abi.FlowKey): End => ({ address: key.src_addr, port: key.src_port });
  const destination = (key: abi.FlowKey): End => ({ address: key.dst_addr, port: key.dst_port });
  const translation = (flow: abi.Flow): End => ({ address: flow.addr, port: flow.port });
  const byKey = new Map(
    all.map((entry) => [text(entry[0].outward, entry[0].proto, source(entry[0]), destination(entry[0])), entry]),
  );
  const undoOf = (key: abi.FlowKey, flow: abi.Flow) => {
    if (flow.kind === flow_kind.FLOW_UNDO_DNAT) return [key, flow] as const;
    const backend = flow.kind === flow_kind.FLOW_SNAT ? destination(key) : source(key);
    const client = flow.kind === flow_kind.FLOW_SNAT ? source(key) : translation(flow);
    return byKey.get(text(1, key.proto, backend, client));
  };
  const headOf = (key: abi.FlowKey, flow: abi.Flow): abi.Flow | undefined => {
    if (flow.kind === flow_kind.FLOW_DNAT) return flow;
    const [undoKey, undo] = undoOf(key, flow) ?? [];
    if (undoKey === undefined || undo === undefined) return undefined;
    if ((undo.flags & flow_flag.FLOW_ALONE) !== 0) return undo;
    const client = { address: undoKey.dst_addr, port: undo.client_port || undoKey.dst_port };
    return byKey.get(text(0, key.proto, client, translation(undo)))?.[1];
  };
  return (key: abi.FlowKey, flow: abi.Flow): ConnectionState | null => {
    const head = headOf(key, flow);
    return head === undefined ? null : stateOf(key.proto, head.flags);
  };
};

/** How translated packets went on, summed over all CPUs; `FORWARD_*` by its name. */
export interface ForwardCount {
  readonly hook: string;
  /** Without the kernel's routing; else the kernel routed it, though it need not have: for the reason `how`. */
  readonly isDirect: boolean;
  /** `peer`, `wire`, `neighbour`; `next_hop`, `hop_limit`, … */
  readonly how: string;
  readonly count: number;
}

export const readForwards = (store: MapStore): readonly ForwardCount[] => {
  const perHook = maps.forwards.max_entries / hook.HOOKS;
  return Array.from(store.entries("forwards"), ([key, value]) => {
    const index = decode("u32", key);
    const how = forwards.get(index % perHook) ?? String(index % perHook);
    return {
      hook: hookName(Math.floor(index / perHook)),
      isDirect: DIRECT.includes(how),
      how,
      count: sumOfCpus(value),
    };
  });
};

const forwards = namesByNumber(forward, "FORWARD_");
const DIRECT: readonly string[] = ["peer", "wire", "neighbour"];

/** By which way packets go on, and what by which device. */
export interface ForwardingRecord {
  readonly mode: "direct" | "kernel";
  /** What the agent was told. */
  readonly wanted: "auto" | "direct" | "kernel";
  /** 0: kernel. */
  readonly generation: number;
  readonly devices: readonly { readonly index: number; readonly flags: readonly DeviceFlag[] }[];
}

export type DeviceFlag = "peer" | "wire" | "xdp" | "strict";

export const readForwarding = (store: MapStore): ForwardingRecord => {
  const config = readConfig(store);
  const generation = config.next_hop_generation;
  return {
    mode: generation === 0 ? "kernel" : "direct",
    wanted: WANTED[config.forwarding] ?? "kernel",
    generation,
    devices: Array.from(store.entries("devices"), ([key, value]) => ({
      index: decode("u32", key),
      flags: deviceFlags(decode("device", value).flags),
    })).sort((a, b) => a.index - b.index),
  };
};

const WANTED: Readonly<Record<number, ForwardingRecord["wanted"]>> = {
  [forwarding.FORWARDING_KERNEL]: "kernel",
  [forwarding.FORWARDING_DIRECT]: "direct",
  [forwarding.FORWARDING_AUTO]: "auto",
};

const deviceFlags = (flags: number): readonly DeviceFlag[] =>
  (["peer", "wire", "xdp", "strict"] as const).filter((name) => (flags & DEVICE_FLAGS[name]) !== 0);

const DEVICE_FLAGS: Readonly<Record<DeviceFlag, number>> = {
  peer: device_flag.DEVICE_PEER,
  wire: device_flag.DEVICE_WIRE,
  xdp: device_flag.DEVICE_XDP,
  strict: device_flag.DEVICE_STRICT,
};

export interface AffinityRecord {
  /** An address; `netns 4026531840` for sockets, which are known by the cookie of their network namespace. */
  readonly client: string;
  readonly service_id: number;
  readonly backend_id: number;
  readonly generation: number;
  /** CLOCK_BOOTTIME. */
  readonly last_used_ns: bigint;
}

/** In no order. */
export const readAffinity = (store: MapStore): readonly AffinityRecord[] =>
  Array.from(store.entries("affinity"), ([k, v]): AffinityRecord => {
    const key = decode("affinity_key", k);
    return { client: clientText(k, key.client), service_id: key.service_id, ...decode("affinity", v) };
  });

/** {0xffffffff, family, cookie} is no address that a client has. */
const clientText = (key: Uint8Array, client: Address): string => {
  const view = new DataView(key.buffer, key.byteOffset, key.byteLength);
  return view.getUint32(0) === 0xffffffff ? `netns ${view.getBigUint64(8, true)}` : client;
};

/** Entries of a hash map, by walking it: not for a map that is large and asked for often. */
export const countEntries = (store: MapStore, map: MapName): number => {
  let count = 0;
  for (const _ of store.entries(map)) count++;
  return count;
};
