// `beeline maps`: how full every BPF map is, or the entries of one as they are.
import { maps, type Records } from "../dataplane/bpf/abi.gen.ts";
import { decode } from "../dataplane/bpf/codec.ts";
import { sumEventCounts } from "../dataplane/bpf/events.ts";
import { countEntries } from "../dataplane/bpf/inspect.ts";
import type { MapName, MapStore } from "../dataplane/bpf/mapstore.ts";
import { readTables } from "../dataplane/bpf/tables.ts";
import { InputError } from "../lib/errors.ts";
import { hint } from "../lib/suggest.ts";
import { columns } from "../lib/text.ts";
import type { Run } from "./command.ts";
import { withPinnedMaps } from "./pinned.ts";
import { type Report, show } from "./report.ts";

export const mapsCommand: Run = (args, io) => {
  const name = args.name === undefined ? null : mapNamed(args.name);
  return show(args, io, () =>
    withPinnedMaps(args, (store) => (name === null ? mapListReport(store) : mapReport(store, name))),
  );
};

const NAMES = Object.keys(maps) as MapName[];

const mapNamed = (name: string): MapName => {
  const found = NAMES.find((known) => known === name);
  if (found === "sockets") throw new InputError("Map sockets lives in the sockets themselves; it cannot be listed");
  if (found !== undefined) return found;
  throw new InputError(`Unknown map ${name}${hint(name, NAMES)}; there are ${NAMES.join(", ")}`);
};

const TYPES: Readonly<Record<number, string>> = {
  1: "hash",
  2: "array",
  6: "per-CPU array",
  9: "LRU hash",
  11: "LPM trie",
  24: "socket storage",
};

export interface MapUse {
  readonly map: MapName;
  readonly type: string;
  /** null: entries are not used up one by one. */
  readonly used: number | null;
  /** null: as many as there are sockets. */
  readonly capacity: number | null;
}

export const readMapUse = (store: MapStore): readonly MapUse[] => {
  const tables = readTables(store);
  const used: Readonly<Partial<Record<MapName, number>>> = {
    services: tables.services.size,
    frontends: tables.frontends.length,
    nodeports: tables.nodeports.length,
    slots: slotsPointedAt([...tables.frontends, ...tables.nodeports].map((row) => row.value)),
    backends: [...tables.backends.values()].filter((row) => row.state !== 0).length,
    frontend_addresses: tables.frontend_addresses.size,
    source_ranges: tables.source_ranges.length,
    node_addresses: tables.node_addresses.size,
    affinity: countEntries(store, "affinity"),
    flows: countEntries(store, "flows"),
    fragments: countEntries(store, "fragments"),
    parked_fragments: countEntries(store, "parked_fragments"),
    tcp_peers: countEntries(store, "tcp_peers"),
    devices: countEntries(store, "devices"),
    unhooked_netns: countEntries(store, "unhooked_netns"),
  };
  return NAMES.map((map) => ({
    map,
    type: TYPES[maps[map].type] ?? String(maps[map].type),
    used: used[map] ?? null,
    capacity: map === "sockets" ? null : store.capacity(map),
  }));
};

/** Runs are shared, so the same slots are pointed at many times. */
const slotsPointedAt = (pointers: readonly { readonly slot_base: number; readonly slot_count: number }[]): number => {
  const runs = new Map<number, number>();
  for (const { slot_base, slot_count } of pointers) {
    runs.set(slot_base, Math.max(runs.get(slot_base) ?? 0, slot_count));
  }
  return [...runs.values()].reduce((sum, count) => sum + count, 0);
};

export const mapListReport = (store: MapStore): Report => {
  const items = readMapUse(store);
  return {
    kind: "MapList",
    fields: { items },
    text: ({ headers, wide }) => mapTable(items, headers, wide),
  };
};

export const mapTable = (items: readonly MapUse[], headers: boolean, wide: boolean): string =>
  columns(
    headers ? ["MAP", "USED", "CAPACITY", "FULL", ...(wide ? ["TYPE", "KEY", "VALUE"] : [])] : null,
    items.map(({ map, type, used, capacity }) => [
      map,
      used === null ? "-" : String(used),
      capacity === null ? "-" : String(capacity),
      used === null || capacity === null ? "-" : `${((100 * used) / capacity).toFixed(1)}%`,
      ...(wide ? [type, maps[map].key, maps[map].value] : []),
    ]),
  );

export const mapReport = (store: MapStore, map: MapName): Report => {
  const { key, value } = maps[map] as { readonly key: keyof Records; readonly value: keyof Records };
  const dense = maps[map].type === 2 || maps[map].type === 6;
  const items = Array.from(store.entries(map))
    .filter(([, v]) => !dense || v.some((byte) => byte !== 0))
    .map(([k, v]) => ({ key: decode(key, k), value: sumsOfCpus[map]?.(v) ?? decode(value, v) }));
  return {
    kind: "MapEntryList",
    fields: { map, items },
    text: ({ headers }) =>
      columns(
        headers ? ["KEY", "VALUE"] : null,
        items.map((entry) => [recordText(entry.key), recordText(entry.value)]).sort(byKey),
      ),
  };
};

/** Numbers by size, structs by text. */
const byKey = ([a = ""]: readonly string[], [b = ""]: readonly string[]): number =>
  Number(a) - Number(b) || (a < b ? -1 : 1);

/** Per-CPU maps. */
const sumsOfCpus: Readonly<Partial<Record<MapName, (perCpu: Uint8Array) => unknown>>> = {
  counters: (perCpu) => sumOfCpus(perCpu),
  forwards: (perCpu) => sumOfCpus(perCpu),
  event_budgets: sumEventCounts,
};

const sumOfCpus = (value: Uint8Array): bigint => {
  const view = new DataView(value.buffer, value.byteOffset, value.byteLength);
  let sum = 0n;
  for (let offset = 0; offset < value.byteLength; offset += 8) sum += view.getBigUint64(offset, true);
  return sum;
};

/** `addr=10.96.0.10 port=80 proto=6`: a struct's fields by their C names, padding left out. */
const recordText = (record: unknown): string =>
  typeof record === "object" && record !== null
    ? Object.entries(record)
        .filter(([name]) => !name.startsWith("pad"))
        .map(([name, value]) => `${name}=${Array.isArray(value) ? JSON.stringify(value) : String(value)}`)
        .join(" ")
    : String(record);
