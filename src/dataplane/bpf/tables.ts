// What the maps hold, as typed rows, one table per map: decoded from any MapStore, and as stable text. What the rows
// mean to a Service is in readback.ts.
import { type Address, familyOf, formatHostPort, makePrefix, type Prefix, splitPrefix } from "../../model/address.ts";
import type { Protocol } from "../../model/snapshot.ts";
import type * as abi from "./abi.gen.ts";
import {
  backend_flag,
  backend_state,
  family,
  frontend_address_flag,
  frontend_flag,
  node_address_flag,
  scope,
  service_flag,
} from "./abi.gen.ts";
import { decode, encode } from "./codec.ts";
import type { MapStore } from "./mapstore.ts";
import { encodeByState, NONE_BY_STATE } from "./states.ts";

export interface Row<K, V> {
  readonly key: K;
  readonly value: V;
}

export interface Tables {
  readonly services: ReadonlyMap<number, abi.Service>;
  readonly frontends: readonly Row<abi.FrontendKey, abi.Frontend>[];
  readonly nodeports: readonly Row<abi.NodeportKey, abi.Frontend>[];
  /** Follows from frontends and node_addresses. */
  readonly frontend_addresses: ReadonlyMap<Address, abi.FrontendAddress>;
  /** backend_id by slot number, up to the last slot that a frontend or NodePort points at. */
  readonly slots: readonly number[];
  /** By backend_id: those that somebody holds, and those that keep the generation of their last holder (state NONE). */
  readonly backends: ReadonlyMap<number, abi.Backend>;
  readonly source_ranges: readonly Row<abi.SourceRangeKey, abi.SourceRange>[];
  readonly node_addresses: ReadonlyMap<Address, abi.NodeAddress>;
  readonly config: abi.Config;
}

export const readTables = (store: MapStore): Tables => {
  const frontends = rows(store, "frontends", "frontend_key", "frontend");
  const nodeports = rows(store, "nodeports", "nodeport_key", "frontend");
  const config = readConfig(store);
  return {
    services: new Map(pairs(rows(store, "services", "u32", "service"))),
    frontends,
    nodeports,
    frontend_addresses: new Map(pairs(rows(store, "frontend_addresses", "addr", "frontend_address"))),
    slots: readSlots(store, [...frontends, ...nodeports]),
    backends: readBackends(store, config),
    source_ranges: rows(store, "source_ranges", "source_range_key", "source_range"),
    node_addresses: new Map(pairs(rows(store, "node_addresses", "addr", "node_address"))),
    config,
  };
};

const rows = <K extends keyof abi.Records, V extends keyof abi.Records>(
  store: MapStore,
  map: Parameters<MapStore["entries"]>[0],
  key: K,
  value: V,
): Row<abi.Records[K], abi.Records[V]>[] =>
  Array.from(store.entries(map), ([k, v]) => ({ key: decode(key, k), value: decode(value, v) }));

const pairs = <K, V>(of: readonly Row<K, V>[]): (readonly [K, V])[] => of.map(({ key, value }) => [key, value]);

/** Slots that nothing points at are not read: the map is large and dense at its start. */
const readSlots = (store: MapStore, pointers: readonly Row<unknown, abi.Frontend>[]): number[] => {
  const pointed = pointers.reduce((end, { value }) => Math.max(end, value.slot_base + value.slot_count), 0);
  const end = Math.min(pointed, store.capacity("slots"));
  const slots = new Array<number>(end).fill(0);
  for (const [key, value] of store.entries("slots", end)) slots[u32(key)] = u32(value);
  return slots;
};

const readBackends = (store: MapStore, config: abi.Config): Map<number, abi.Backend> => {
  const backends = new Map<number, abi.Backend>();
  for (const [key, value] of store.entries("backends", backendIdsEnd(config)))
    backends.set(u32(key), decode("backend", value));
  return backends;
};

/** Where `backends` and `backend_stats` may stop to be read; undefined: not known. */
export const backendIdsEnd = (config: abi.Config): number | undefined =>
  config.backend_ids_end === 0 ? undefined : config.backend_ids_end;

export const readConfig = (store: MapStore): abi.Config => {
  const value = store.lookup("config", new Uint8Array(4));
  return value === null ? emptyConfig : decode("config", value);
};

/** Writes these fields; whoever owns the others finds them as they were. */
export const changeConfig = (store: MapStore, fields: Partial<abi.Config>): void => {
  store.update("config", [[new Uint8Array(4), encode("config", { ...readConfig(store), ...fields })]]);
};

const u32 = (bytes: Uint8Array): number => new DataView(bytes.buffer, bytes.byteOffset, 4).getUint32(0, true);

/** The address that stands for none in a table. */
export const NO_ADDRESS = "::" as Address;

const emptyConfig: abi.Config = {
  snat_addr_v4: NO_ADDRESS,
  snat_addr_v6: NO_ADDRESS,
  host_netns_cookie: 0n,
  forwarding_since_ns: 0n,
  hash_seed: 0,
  snat_port_min: 0,
  snat_port_max: 0,
  backend_ids_end: 0,
  expendables: 0,
  tcp_peers: 0,
  timeout_s: encodeByState(NONE_BY_STATE),
  next_hop_generation: 0,
  has_tunnels: 0,
  shares_ways: 0,
  forwarding: 0,
  route_mtu: 0,
  xdp: 0,
};

// ---- keys and flags as text --------------------------------------------------------------------------------------

export const protoNumbers: Readonly<Record<Protocol, number>> = { TCP: 6, UDP: 17, SCTP: 132 };

/** `TCP`, or the number as text when it is none of ours. */
export const protoName = (proto: number): string =>
  Object.entries(protoNumbers).find(([, number]) => number === proto)?.[0] ?? String(proto);

/** `10.96.0.10:80/TCP internal`: the same text for the same key. */
export const frontendText = (key: abi.FrontendKey): string =>
  `${formatHostPort(key.addr, key.port)}/${protoName(key.proto)} ${scopeName(key.scope)}`;

/** `IPv4:30080/TCP internal`: never the text of a frontend. */
export const nodeportText = (key: abi.NodeportKey): string =>
  `${key.family === family.FAMILY_IPV6 ? "IPv6" : "IPv4"}:${key.port}/${protoName(key.proto)} ${scopeName(key.scope)}`;

const scopeName = (value: number): string => (value === scope.SCOPE_INTERNAL ? "internal" : "external");

/** An LPM key holds 32 bits of service_id, then the address as 128 bits. */
export const sourceRangeKey = (service_id: number, prefix: Prefix): abi.SourceRangeKey => {
  const { address, bits } = splitPrefix(prefix);
  return { prefixlen: 32 + (familyOf(address) === "IPv4" ? 96 : 0) + bits, service_id, addr: address };
};

export const sourceRangePrefix = (key: abi.SourceRangeKey): Prefix =>
  makePrefix(key.addr, key.prefixlen - 32 - (familyOf(key.addr) === "IPv4" ? 96 : 0));

/** `LOCAL,IN_CLUSTER`, or `-` for none: the names of an enum of bits, without their common prefix. */
const flagNames = (bits: number, names: Readonly<Record<string, number>>, prefix: string): string => {
  const set = Object.entries(names).filter(([, bit]) => (bits & bit) !== 0);
  return set.length === 0 ? "-" : set.map(([name]) => name.slice(prefix.length)).join(",");
};

const stateName = (state: number): string =>
  Object.entries(backend_state)
    .find(([, number]) => number === state)?.[0]
    .slice("BACKEND_".length) ?? String(state);

// ---- the dump ----------------------------------------------------------------------------------------------------

/** Stable text: tables and rows in a fixed order, one row a line, empty tables left out. Slots are shown as runs. */
export const formatTables = (tables: Tables): string => {
  const blocks: readonly (readonly [string, readonly string[]])[] = [
    ["services", byId(tables.services).map(([id, row]) => `${id} ${serviceText(row)}`)],
    ["frontends", tables.frontends.map(({ key, value }) => `${frontendText(key)} → ${pointerText(value)}`).sort()],
    ["nodeports", tables.nodeports.map(({ key, value }) => `${nodeportText(key)} → ${pointerText(value)}`).sort()],
    ["frontend_addresses", addressLines(tables.frontend_addresses, frontend_address_flag, "FRONTEND_ADDRESS_")],
    ["slots", runLines(tables)],
    ["backends", byId(tables.backends).map(([id, row]) => `${id} ${backendText(row)}`)],
    ["source_ranges", tables.source_ranges.map(sourceRangeText).sort()],
    ["node_addresses", addressLines(tables.node_addresses, node_address_flag, "NODE_ADDRESS_")],
    ["config", configLines(tables.config)],
  ];
  return blocks
    .filter(([, lines]) => lines.length > 0)
    .map(([name, lines]) => `${name}\n${lines.map((line) => `  ${line}\n`).join("")}`)
    .join("");
};

const byId = <V>(table: ReadonlyMap<number, V>): (readonly [number, V])[] => [...table].sort(([a], [b]) => a - b);

const serviceText = (row: abi.Service): string => {
  const port = row.port_name === "" ? "" : `:${row.port_name}`;
  const flags = flagNames(row.flags, service_flag, "SERVICE_");
  const check = row.health_check_port === 0 ? "" : ` health_check=${row.health_check_port}`;
  return `${row.namespace}/${row.name}${port}/${protoName(row.proto)} affinity=${row.affinity_timeout_s}s flags=${flags}${check}`;
};

const pointerText = (row: abi.Frontend): string => {
  const flags = flagNames(row.flags, frontend_flag, "FRONTEND_");
  const affinity = row.affinity_timeout_s === 0 ? "" : ` affinity=${row.affinity_timeout_s}s`;
  return `service ${row.service_id} slots ${row.slot_base}+${row.slot_count}${affinity} flags=${flags}`;
};

const backendText = (row: abi.Backend): string => {
  const generation = `generation=${row.generation}`;
  if (row.state === backend_state.BACKEND_NONE) return `NONE ${generation}`;
  const at = `${formatHostPort(row.addr, row.port)}/${protoName(row.proto)}`;
  const flags = flagNames(row.flags, backend_flag, "BACKEND_");
  return `${at} ${stateName(row.state)} service ${row.service_id} ${generation} flags=${flags}`;
};

const sourceRangeText = ({ key, value }: Row<abi.SourceRangeKey, abi.SourceRange>): string =>
  `service ${key.service_id} ${value.allow === 0 ? "not " : ""}${sourceRangePrefix(key)}`;

const addressLines = (
  table: ReadonlyMap<Address, { readonly flags: number }>,
  names: Readonly<Record<string, number>>,
  prefix: string,
): string[] =>
  [...table]
    .map(([address, { flags }]) => (flags === 0 ? address : `${address} ${flagNames(flags, names, prefix)}`))
    .sort();

const runLines = (tables: Tables): string[] => {
  const runs = new Map<number, Set<number>>();
  for (const { value } of [...tables.frontends, ...tables.nodeports]) {
    if (value.slot_count > 0) (runs.get(value.slot_base) ?? setNew(runs, value.slot_base)).add(value.slot_count);
  }
  return byId(runs).flatMap(([base, counts]) =>
    [...counts]
      .sort((a, b) => a - b)
      .map((count) => `${base}+${count} → ${tables.slots.slice(base, base + count).join(" ")}`),
  );
};

const setNew = (runs: Map<number, Set<number>>, base: number): Set<number> => {
  const counts = new Set<number>();
  runs.set(base, counts);
  return counts;
};

/** Only what follows from Desired: the rest differs from node to node. */
const configLines = (config: abi.Config): string[] =>
  (["snat_addr_v4", "snat_addr_v6"] as const)
    .filter((name) => config[name] !== NO_ADDRESS)
    .map((name) => `${name}=${config[name]}`);
