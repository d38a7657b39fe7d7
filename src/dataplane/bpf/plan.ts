// Desired against what the kernel holds: the changes, by phase of the write order. Pure: it writes nothing, and what it
// notes in `actual` is only true once every change has been written; after a failed write throw `actual` away.
import { type Address, type Family, familyOf, type Prefix } from "../../model/address.ts";
import type { Desired, DesiredService, NodeAddress, ServicePortKey } from "../../model/desired.ts";
import type * as abi from "./abi.gen.ts";
import { backend_flag, backend_state, node_address_flag } from "./abi.gen.ts";
import { type Actual, addHolding, type HeldBackend, type HeldFrontend, type Holding, type RoomName } from "./actual.ts";
import { encode } from "./codec.ts";
import { type Changes, noChanges } from "./order.ts";
import {
  type BackendRow,
  backendRows,
  backendText,
  type FrontendRow,
  frontendRows,
  rangeRows,
  serviceRow,
} from "./rows.ts";
import type { Run } from "./runs.ts";
import { NO_ADDRESS } from "./tables.ts";

export interface Plan {
  readonly changes: Changes;
  /** Services that could not be planned; what the kernel has of them stays as it is. */
  readonly refused: readonly Refused[];
  /** To be called when everything has been written: ids and slots that were given up become free. */
  finish(now_ns: bigint): void;
}

export interface Refused {
  readonly service: ServicePortKey | null;
  /** Entries it adds, by map without room for them; empty: `reason` says what is wrong with it. */
  readonly needs: Readonly<Partial<Record<RoomName | "backends" | "slots", number>>>;
  readonly reason: string;
}

interface Draft {
  readonly actual: Actual;
  readonly prune: boolean;
  readonly now_ns: bigint;
  readonly changes: Changes;
  readonly refused: Refused[];
  readonly releasedRuns: Run[];
  readonly releasedBackends: number[];
  readonly releasedServices: number[];
  /** Rows that their owner no longer wants; another service may have taken them over meanwhile. */
  readonly unwanted: { readonly text: string; readonly owner: Holding }[];
}

export const plan = (actual: Actual, desired: Desired, options: { prune: boolean; now_ns: bigint }): Plan => {
  const draft: Draft = {
    actual,
    ...options,
    changes: noChanges(),
    refused: [],
    releasedRuns: [],
    releasedBackends: [],
    releasedServices: [],
    unwanted: [],
  };
  planNodeAddresses(draft, desired.nodeAddresses);
  // By name, so that ids do not depend on the order in which services were heard of.
  const changed = [...desired.services].filter(([key, service]) => actual.byKey.get(key)?.from !== service);
  for (const [key, service] of changed.sort(([a], [b]) => (a < b ? -1 : 1))) planService(draft, key, service);
  if (options.prune) planGone(draft, desired);
  dropUnwanted(draft);
  planConfig(draft, desired.nodeAddresses);
  return { changes: draft.changes, refused: draft.refused, finish: (now_ns) => finish(draft, now_ns) };
};

const finish = (draft: Draft, now_ns: bigint): void => {
  const { room } = draft.actual;
  const { changes } = draft;
  room.services += changes.forget_services.length;
  room.frontends += changes.drop_frontends.length;
  room.nodeports += changes.drop_nodeports.length;
  room.source_ranges += changes.drop_source_ranges.length;
  room.node_addresses += changes.drop_node_addresses.length;
  for (const run of draft.releasedRuns) draft.actual.runs.release(run, now_ns);
  for (const id of draft.releasedBackends) draft.actual.backend_ids.release(id);
  for (const id of draft.releasedServices) draft.actual.service_ids.release(id);
};

// ---- one service -------------------------------------------------------------------------------------------------

/** All of a service's rows, or none: what does not fit or cannot be encoded is refused before anything is noted. */
const planService = (draft: Draft, key: ServicePortKey, service: DesiredService): void => {
  const { actual } = draft;
  const held = actual.byKey.get(key);
  const wanted = {
    service: serviceRow(service),
    backends: backendRows(service),
    frontends: frontendRows(service),
    ranges: [...rangeRows(0, service.sourceRanges).keys()],
  };
  const lacking = needsWithoutRoom(actual, held, wanted);
  if (Object.keys(lacking).length > 0) return refuse(draft, key, lacking);
  let serviceBytes: Uint8Array;
  try {
    serviceBytes = encode("service", wanted.service);
  } catch (error) {
    return refuse(draft, key, {}, error instanceof Error ? error.message : String(error));
  }
  const taken: number[] = [];
  const backends = numberBackends(actual, held, wanted.backends, taken);
  const runs = placeRuns(draft, backends, wanted.frontends);
  if (typeof runs === "number") {
    for (const id of taken) actual.backend_ids.release(id);
    return refuse(draft, key, { slots: runs });
  }
  const holding = held ?? addHolding(actual, takeServiceId(actual), key);
  if (held === undefined) actual.room.services--;
  if (holding.row === null || !sameService(holding.row, wanted.service)) {
    draft.changes.name_services.push({ key: encode("u32", holding.service_id), value: serviceBytes });
    holding.row = wanted.service;
  }
  const keptFrontends = planFrontends(draft, holding, wanted.frontends, backends, runs);
  const keptBackends = planBackends(draft, holding, wanted.backends, backends);
  const keptRanges = planRanges(draft, holding, rangeRows(holding.service_id, service.sourceRanges));
  holding.from = keptFrontends || keptBackends || keptRanges ? null : service;
};

const refuse = (draft: Draft, service: ServicePortKey | null, needs: Refused["needs"], reason = ""): void =>
  void draft.refused.push({ service, needs, reason });

/** An id is free whenever a row is: both are as many as the map has entries. */
const takeServiceId = (actual: Actual): number => {
  const id = actual.service_ids.take();
  if (id === null) throw new Error("services has room but no free service_id");
  return id;
};

interface Wanted {
  readonly service: abi.Service;
  readonly backends: ReadonlyMap<string, BackendRow>;
  readonly frontends: readonly FrontendRow[];
  readonly ranges: readonly Prefix[];
}

/** What a service adds to maps that have no room for it (slots aside). What it gives up is free only after the apply. */
const needsWithoutRoom = (actual: Actual, held: Holding | undefined, wanted: Wanted): Refused["needs"] => {
  const added = (map: "frontends" | "nodeports"): number =>
    wanted.frontends.filter((row) => row.map === map && !actual.frontends.has(row.text)).length;
  const needs: readonly (readonly [RoomName | "backends", number, number])[] = [
    ["services", held === undefined ? 1 : 0, actual.room.services],
    ["frontends", added("frontends"), actual.room.frontends],
    ["nodeports", added("nodeports"), actual.room.nodeports],
    ["source_ranges", countNew(wanted.ranges, held?.ranges), actual.room.source_ranges],
    ["backends", countNew(wanted.backends.keys(), held?.backends), actual.backend_ids.free()],
  ];
  return Object.fromEntries(needs.filter(([, need, free]) => need > free).map(([map, need]) => [map, need]));
};

const countNew = <K>(wanted: Iterable<K>, held: ReadonlyMap<K, unknown> | undefined): number =>
  [...wanted].filter((key) => !held?.has(key)).length;

// ---- backends ----------------------------------------------------------------------------------------------------

interface Numbered {
  readonly backend_id: number;
  readonly generation: number;
}

/** Ids by `address:port`; the new ones are also put into `taken`. */
const numberBackends = (
  actual: Actual,
  held: Holding | undefined,
  wanted: ReadonlyMap<string, BackendRow>,
  taken: number[],
): Map<string, Numbered> => {
  const numbered = new Map<string, Numbered>();
  for (const text of wanted.keys()) {
    const old = held?.backends.get(text);
    if (old !== undefined) {
      numbered.set(text, { backend_id: old.backend_id, generation: old.row.generation });
      continue;
    }
    const next = actual.backend_ids.take();
    if (next === null) throw new Error("backends has room but no free backend_id");
    taken.push(next.id);
    numbered.set(text, { backend_id: next.id, generation: next.generation });
  }
  return numbered;
};

/** True: something is kept that is not wanted. */
const planBackends = (
  draft: Draft,
  holding: Holding,
  wanted: ReadonlyMap<string, BackendRow>,
  numbered: ReadonlyMap<string, Numbered>,
): boolean => {
  let kept = false;
  for (const [text, { backend_id, generation }] of numbered) {
    const want = wanted.get(text);
    if (want === undefined) continue;
    const final: abi.Backend = { ...want, generation, service_id: holding.service_id };
    const old = holding.backends.get(text)?.row;
    const raised = old === undefined ? final : raise(old, final);
    if (old === undefined || !sameBackend(old, raised)) writeBackend(draft.changes.raise_backends, backend_id, raised);
    const lowers = !sameBackend(raised, final);
    if (lowers && draft.prune) writeBackend(draft.changes.lower_backends, backend_id, final);
    kept ||= lowers && !draft.prune;
    holding.backends.set(text, { backend_id, row: draft.prune ? final : raised });
  }
  for (const [text, backend] of [...holding.backends]) {
    if (numbered.has(text)) continue;
    if (draft.prune) retire(draft, holding, text, backend);
    else kept = true;
  }
  return kept;
};

const writeBackend = (into: Changes["raise_backends"], backend_id: number, row: abi.Backend): void =>
  void into.push({ key: encode("u32", backend_id), value: encode("backend", row) });

const IN_RUNS = backend_flag.BACKEND_IN_CLUSTER | backend_flag.BACKEND_IN_LOCAL;

/** The new row without taking anything away: the old frontends still point at it until the commit. */
const raise = (old: abi.Backend, final: abi.Backend): abi.Backend => ({
  ...final,
  state: old.state === backend_state.BACKEND_ACTIVE ? backend_state.BACKEND_ACTIVE : final.state,
  flags: final.flags | (old.flags & IN_RUNS),
});

const retire = (draft: Draft, holding: Holding, text: string, { backend_id, row }: HeldBackend): void => {
  const nobody = { addr: NO_ADDRESS, port: 0, proto: 0, state: backend_state.BACKEND_NONE, service_id: 0, flags: 0 };
  writeBackend(draft.changes.lower_backends, backend_id, { ...nobody, generation: row.generation });
  draft.releasedBackends.push(backend_id);
  holding.backends.delete(text);
};

// ---- frontends ---------------------------------------------------------------------------------------------------

/** A run for every list of backends that some row points at, by the list's text; or how many slots it takes for
 * the one that has no room. */
const placeRuns = (
  draft: Draft,
  numbered: ReadonlyMap<string, Numbered>,
  rows: readonly FrontendRow[],
): Map<string, Run> | number => {
  const { runs } = draft.actual;
  const placed = new Map<string, Run>();
  const fresh: Run[] = [];
  for (const row of rows) {
    const ids = idsOf(row, numbered);
    const text = ids.join();
    if (ids.length === 0 || placed.has(text)) continue;
    const found = runs.place(ids, draft.now_ns);
    if (found === null) {
      for (const run of placed.values()) runs.release(run, draft.now_ns);
      for (const run of fresh) runs.discard(run);
      return ids.length;
    }
    // Held from now until the end: the next list may take the room of runs that have rested, and not of this one; and a
    // run that in the end no frontend points at goes to rest like any other.
    runs.hold(found.run);
    if (found.fresh) fresh.push(found.run);
    placed.set(text, found.run);
  }
  for (const run of fresh) {
    for (const [i, id] of run.backend_ids.entries()) {
      draft.changes.fill_slots.push({ key: encode("u32", run.base + i), value: encode("u32", id) });
    }
  }
  draft.releasedRuns.push(...placed.values());
  return placed;
};

const idsOf = (row: FrontendRow, numbered: ReadonlyMap<string, Numbered>): number[] =>
  row.backends.map((backend) => {
    const found = numbered.get(backendText(backend));
    if (found === undefined) throw new Error(`${row.text} chooses ${backendText(backend)}, which is no backend of it`);
    return found.backend_id;
  });

/** True: something is kept that is not wanted. */
const planFrontends = (
  draft: Draft,
  holding: Holding,
  rows: readonly FrontendRow[],
  numbered: ReadonlyMap<string, Numbered>,
  placed: ReadonlyMap<string, Run>,
): boolean => {
  const { actual } = draft;
  let kept = false;
  for (const row of rows) {
    const run = placed.get(idsOf(row, numbered).join()) ?? null;
    const old = actual.frontends.get(row.text);
    if (!draft.prune && old !== undefined && takesAway(old, run)) kept = true;
    else pointFrontend(draft, holding, row, old, run);
  }
  const wanted = new Set(rows.map((row) => row.text));
  for (const text of holding.frontends) {
    if (wanted.has(text)) continue;
    if (draft.prune) draft.unwanted.push({ text, owner: holding });
    else kept = true;
  }
  return kept;
};

/** Some backend that the row points at now would lose new flows. Another service's backends are other backends. */
const takesAway = (old: HeldFrontend, run: Run | null): boolean => {
  const ids = new Set(run?.backend_ids);
  return old.run?.backend_ids.some((id) => !ids.has(id)) ?? false;
};

const pointFrontend = (
  draft: Draft,
  owner: Holding,
  row: FrontendRow,
  old: HeldFrontend | undefined,
  run: Run | null,
): void => {
  const { actual, changes } = draft;
  const { map, text, key } = row;
  const value: abi.Frontend = {
    service_id: owner.service_id,
    slot_base: run?.base ?? 0,
    slot_count: run?.backend_ids.length ?? 0,
    affinity_timeout_s: row.affinity_timeout_s,
    flags: row.flags,
  };
  if (old !== undefined && old.run === run && sameFrontend(old.value, value)) return;
  const commit = map === "frontends" ? changes.point_frontends : changes.point_nodeports;
  commit.push({ key, value: encode("frontend", value) });
  if (run !== null) actual.runs.hold(run);
  if (old === undefined) actual.room[map]--;
  else {
    if (old.run !== null) draft.releasedRuns.push(old.run);
    old.owner.frontends.delete(text);
  }
  actual.frontends.set(text, { map, key, value, run, owner });
  owner.frontends.add(text);
};

const dropUnwanted = (draft: Draft): void => {
  const { actual, changes } = draft;
  for (const { text, owner } of draft.unwanted) {
    const held = actual.frontends.get(text);
    if (held?.owner !== owner) continue; // it moved to another service
    const drop = held.map === "frontends" ? changes.drop_frontends : changes.drop_nodeports;
    drop.push({ key: held.key, value: NOTHING });
    if (held.run !== null) draft.releasedRuns.push(held.run);
    actual.frontends.delete(text);
    owner.frontends.delete(text);
  }
};

const NOTHING = new Uint8Array(0);

// ---- source ranges -----------------------------------------------------------------------------------------------

/**
 * kube-proxy lets node → VIP pass when one of the node's own addresses is inside a range, because such a packet may carry
 * the VIP as its source. Here nothing is written for that: the programs ask the ranges with the node's address itself.
 * True: something is kept that is not wanted.
 */
const planRanges = (draft: Draft, holding: Holding, wanted: Holding["ranges"]): boolean => {
  const { actual, changes } = draft;
  let kept = false;
  for (const [prefix, row] of wanted) {
    const old = holding.ranges.get(prefix);
    if (old?.value.allow === row.value.allow) continue;
    const narrows = old !== undefined && row.value.allow === 0;
    if (narrows && !draft.prune) {
      kept = true;
      continue;
    }
    const phase = narrows ? changes.narrow_source_ranges : changes.add_source_ranges;
    phase.push({ key: encode("source_range_key", row.key), value: encode("source_range", row.value) });
    if (old === undefined) actual.room.source_ranges--;
    holding.ranges.set(prefix, row);
  }
  for (const prefix of inOrderOfRemoval(holding)) {
    if (wanted.has(prefix)) continue;
    if (draft.prune) dropRange(draft, holding, prefix);
    else kept = true;
  }
  return kept;
};

/** IPv6 first: an IPv4 row may be what keeps IPv4 clients out of an IPv6 range. */
const inOrderOfRemoval = ({ ranges }: Holding): Prefix[] => {
  const prefixes = [...ranges.keys()];
  return [
    ...prefixes.filter((prefix) => familyOf(prefix) === "IPv6"),
    ...prefixes.filter((prefix) => familyOf(prefix) === "IPv4"),
  ];
};

const dropRange = (draft: Draft, holding: Holding, prefix: Prefix): void => {
  const row = holding.ranges.get(prefix);
  if (row === undefined) return;
  draft.changes.drop_source_ranges.push({ key: encode("source_range_key", row.key), value: NOTHING });
  holding.ranges.delete(prefix);
};

// ---- services that are gone, and node addresses ------------------------------------------------------------------

const planGone = (draft: Draft, desired: Desired): void => {
  const { actual, changes } = draft;
  for (const holding of [...actual.holdings.values()]) {
    if (holding.key !== null && desired.services.has(holding.key)) continue;
    for (const text of holding.frontends) draft.unwanted.push({ text, owner: holding });
    for (const [text, backend] of [...holding.backends]) retire(draft, holding, text, backend);
    for (const prefix of inOrderOfRemoval(holding)) dropRange(draft, holding, prefix);
    if (holding.row !== null) {
      changes.forget_services.push({ key: encode("u32", holding.service_id), value: NOTHING });
    }
    draft.releasedServices.push(holding.service_id);
    actual.holdings.delete(holding.service_id);
    if (holding.key !== null) actual.byKey.delete(holding.key);
  }
};

const planNodeAddresses = (draft: Draft, wanted: readonly NodeAddress[]): void => {
  const { actual, changes, prune } = draft;
  if (actual.nodeAddressesFrom === wanted) return;
  const rows = new Map<Address, abi.NodeAddress>(
    wanted
      .filter((node) => node.nodePorts)
      .map((node) => [node.address, { flags: node.loopback ? node_address_flag.NODE_ADDRESS_LOOPBACK : 0 }]),
  );
  const added = [...rows.keys()].filter((address) => !actual.node_addresses.has(address));
  const missing = added.length - actual.room.node_addresses;
  for (const address of missing > 0 ? added.slice(actual.room.node_addresses) : []) rows.delete(address);
  if (missing > 0) refuse(draft, null, { node_addresses: missing });
  for (const [address, row] of rows) {
    const old = actual.node_addresses.get(address);
    if (old?.flags === row.flags) continue;
    changes.add_node_addresses.push({ key: encode("addr", address), value: encode("node_address", row) });
    if (old === undefined) actual.room.node_addresses--;
    actual.node_addresses.set(address, row);
  }
  for (const address of prune ? [...actual.node_addresses.keys()] : []) {
    if (rows.has(address)) continue;
    changes.drop_node_addresses.push({ key: encode("addr", address), value: NOTHING });
    actual.node_addresses.delete(address);
  }
  actual.nodeAddressesFrom = prune && missing <= 0 ? wanted : null;
};

/** What follows from Desired: the primary addresses (without prune one that is not known (yet) stays), and the ids. */
const planConfig = (draft: Draft, nodeAddresses: readonly NodeAddress[]): void => {
  const { actual, prune } = draft;
  const primary = (family: Family, old: Address): Address => {
    const found = nodeAddresses.find((node) => node.primary && familyOf(node.address) === family);
    return found?.address ?? (prune ? NO_ADDRESS : old);
  };
  const held = actual.config;
  const config: abi.Config = {
    ...held,
    snat_addr_v4: primary("IPv4", held.snat_addr_v4),
    snat_addr_v6: primary("IPv6", held.snat_addr_v6),
    backend_ids_end: Math.max(held.backend_ids_end, Math.ceil(actual.backend_ids.end() / ID_STEP) * ID_STEP),
  };
  if (Object.entries(config).every(([name, value]) => held[name as keyof abi.Config] === value)) return;
  draft.changes.set_config.push({ key: encode("u32", 0), value: encode("config", config) });
  actual.config = config;
};

/** Rounded up, so that it is not written with every new backend. */
const ID_STEP = 256;

// ---- equal rows --------------------------------------------------------------------------------------------------

const sameService = (a: abi.Service, b: abi.Service): boolean =>
  a.flags === b.flags && a.affinity_timeout_s === b.affinity_timeout_s && a.health_check_port === b.health_check_port; // its name is what it was found by

const sameBackend = (a: abi.Backend, b: abi.Backend): boolean => a.state === b.state && a.flags === b.flags;

const sameFrontend = (a: abi.Frontend, b: abi.Frontend): boolean =>
  a.service_id === b.service_id &&
  a.slot_base === b.slot_base &&
  a.slot_count === b.slot_count &&
  a.affinity_timeout_s === b.affinity_timeout_s &&
  a.flags === b.flags;
