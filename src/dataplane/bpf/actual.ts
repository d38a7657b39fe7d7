// What the kernel holds, remembered: who holds which id, which frontend points at which run. Recovered from the tables,
// then kept up by plan(). It is thrown away and recovered again whenever a write failed, so it never guesses.
import { type Address, formatHostPort, type Prefix } from "../../model/address.ts";
import { type DesiredService, type NodeAddress, type ServicePortKey, servicePortKey } from "../../model/desired.ts";
import type { Protocol } from "../../model/snapshot.ts";
import type * as abi from "./abi.gen.ts";
import { backend_state, frontend_flag } from "./abi.gen.ts";
import { encode } from "./codec.ts";
import { createGenerationIds, createIds, type GenerationIds, type Ids } from "./ids.ts";
import type { MapName } from "./mapstore.ts";
import { createRuns, type Run, type Runs } from "./runs.ts";
import { frontendText, nodeportText, protoNumbers, type Row, sourceRangePrefix, type Tables } from "./tables.ts";

/** What one service_id holds in the tables. */
export interface Holding {
  readonly service_id: number;
  /** null: rows that belong to no service that has a name; the next prune removes them. */
  readonly key: ServicePortKey | null;
  row: abi.Service | null;
  /** The value that all of it was written from; null: not known, or something was held back. */
  from: DesiredService | null;
  /** By `address:port`. */
  readonly backends: Map<string, HeldBackend>;
  /** Texts of the rows it owns in `frontends` and `nodeports`. */
  readonly frontends: Set<string>;
  readonly ranges: Map<Prefix, Row<abi.SourceRangeKey, abi.SourceRange>>;
}

export interface HeldBackend {
  readonly backend_id: number;
  readonly row: abi.Backend;
}

export interface HeldFrontend {
  readonly map: "frontends" | "nodeports";
  /** Whose row this is in frontend_addresses; null: a NodePort's. */
  readonly address: Address | null;
  readonly key: Uint8Array;
  readonly value: abi.Frontend;
  /** null: no slots, or slots that overlap another's (somebody else wrote there). */
  readonly run: Run | null;
  readonly owner: Holding;
}

/** An address of frontends. */
export interface HeldAddress {
  /** Rows of `frontends` that have it, and those of them that are ClusterIPs. */
  rows: number;
  clusterIPs: number;
  /** What frontend_addresses says; null: nothing. */
  flags: number | null;
}

export interface Actual {
  readonly holdings: Map<number, Holding>;
  readonly byKey: Map<ServicePortKey, Holding>;
  readonly frontends: Map<string, HeldFrontend>;
  readonly addresses: Map<Address, HeldAddress>;
  /** Addresses of which frontend_addresses may have to say something else. */
  readonly unsettled: Set<Address>;
  readonly node_addresses: Map<Address, abi.NodeAddress>;
  /** The value that node_addresses and config were written from. */
  nodeAddressesFrom: readonly NodeAddress[] | null;
  config: abi.Config;
  readonly service_ids: Ids;
  readonly backend_ids: GenerationIds;
  readonly runs: Runs;
  /** Free entries by hash map. */
  readonly room: Record<RoomName, number>;
}

export type RoomName = "services" | "frontends" | "nodeports" | "source_ranges" | "node_addresses";

export const recover = (tables: Tables, capacity: (map: MapName) => number): Actual => {
  const actual: Actual = {
    holdings: new Map(),
    byKey: new Map(),
    frontends: new Map(),
    addresses: new Map(
      [...tables.frontend_addresses].map(([address, { flags }]) => [address, { rows: 0, clusterIPs: 0, flags }]),
    ),
    unsettled: new Set(tables.frontend_addresses.keys()),
    node_addresses: new Map(tables.node_addresses),
    nodeAddressesFrom: null,
    config: tables.config,
    service_ids: createIds(capacity("services")),
    backend_ids: createGenerationIds(capacity("backends") - 1),
    runs: createRuns(capacity("slots")),
    room: {
      services: capacity("services") - tables.services.size,
      frontends: capacity("frontends") - tables.frontends.length,
      nodeports: capacity("nodeports") - tables.nodeports.length,
      source_ranges: capacity("source_ranges") - tables.source_ranges.length,
      node_addresses: capacity("node_addresses") - tables.node_addresses.size,
    },
  };
  recoverServices(actual, tables);
  recoverBackends(actual, tables);
  recoverFrontends(actual, tables);
  for (const row of tables.source_ranges) {
    holdingOf(actual, row.key.service_id).ranges.set(sourceRangePrefix(row.key), row);
  }
  return actual;
};

export const addHolding = (actual: Actual, service_id: number, key: ServicePortKey | null): Holding => {
  const holding: Holding = {
    service_id,
    key,
    row: null,
    from: null,
    backends: new Map(),
    frontends: new Set(),
    ranges: new Map(),
  };
  actual.holdings.set(service_id, holding);
  if (key !== null) actual.byKey.set(key, holding);
  return holding;
};

/** Of two ids with one name the lower keeps it. */
const recoverServices = (actual: Actual, tables: Tables): void => {
  for (const [service_id, row] of [...tables.services].sort(([a], [b]) => a - b)) {
    const key = keyOf(row);
    const holding = addHolding(actual, service_id, key !== null && actual.byKey.has(key) ? null : key);
    holding.row = row;
    actual.service_ids.adopt(service_id);
  }
};

const keyOf = (row: abi.Service): ServicePortKey | null => {
  const protocol = protocolOf(row.proto);
  return protocol && servicePortKey({ namespace: row.namespace, name: row.name, port: row.port_name, protocol });
};

export const protocolOf = (proto: number): Protocol | null => {
  const found = Object.entries(protoNumbers).find(([, number]) => number === proto);
  return found === undefined ? null : (found[0] as Protocol);
};

const holdingOf = (actual: Actual, service_id: number): Holding => {
  const found = actual.holdings.get(service_id);
  if (found !== undefined) return found;
  actual.service_ids.adopt(service_id);
  return addHolding(actual, service_id, null);
};

const recoverBackends = (actual: Actual, tables: Tables): void => {
  for (const [backend_id, row] of [...tables.backends].sort(([a], [b]) => a - b)) {
    const held = row.state !== backend_state.BACKEND_NONE;
    actual.backend_ids.adopt(backend_id, row.generation, held);
    if (!held) continue;
    const { backends } = holdingOf(actual, row.service_id);
    const text = formatHostPort(row.addr, row.port);
    backends.set(backends.has(text) ? `${text} again as ${backend_id}` : text, { backend_id, row });
  }
};

const recoverFrontends = (actual: Actual, tables: Tables): void => {
  const adopt = (
    map: HeldFrontend["map"],
    text: string,
    address: Address | null,
    key: Uint8Array,
    value: abi.Frontend,
  ): void => {
    const { slot_base, slot_count } = value;
    const owner = holdingOf(actual, value.service_id);
    const run =
      slot_count === 0 ? null : actual.runs.adopt(slot_base, tables.slots.slice(slot_base, slot_base + slot_count));
    owner.frontends.add(text);
    actual.frontends.set(text, { map, address, key, value, run, owner });
    countAddress(actual, address, value, 1);
  };
  for (const { key, value } of tables.frontends)
    adopt("frontends", frontendText(key), key.addr, encode("frontend_key", key), value);
  for (const { key, value } of tables.nodeports)
    adopt("nodeports", nodeportText(key), null, encode("nodeport_key", key), value);
};

/** A row of `frontends` comes (1) or goes (-1). */
export const countAddress = (actual: Actual, address: Address | null, value: abi.Frontend, change: 1 | -1): void => {
  if (address === null) return;
  const held = actual.addresses.get(address) ?? { rows: 0, clusterIPs: 0, flags: null };
  held.rows += change;
  if ((value.flags & frontend_flag.FRONTEND_CLUSTER_IP) !== 0) held.clusterIPs += change;
  actual.addresses.set(address, held);
  actual.unsettled.add(address);
};
