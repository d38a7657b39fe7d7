// Desired against what the kernel holds: the changes, by phase of the write order. Pure: it writes nothing, and what it
// notes in `actual` is only true once every change has been written; after a failed write throw `actual` away.
import type { Prefix } from "../../model/address.ts";
import type { Desired, DesiredService, ServicePortKey } from "../../model/desired.ts";
import type * as abi from "./abi.gen.ts";
import { type Actual, addHolding, type Holding, type RoomName } from "./actual.ts";
import { encode } from "./codec.ts";
import { createDraft, type Draft, NOTHING, type Refused, refuse } from "./draft.ts";
import type { Changes } from "./order.ts";
import { planFrontendAddresses } from "./plan-addresses.ts";
import { numberBackends, planBackends, retire } from "./plan-backends.ts";
import { dropUnwanted, placeRuns, planFrontends } from "./plan-frontends.ts";
import { planConfig, planNodeAddresses } from "./plan-node.ts";
import { dropRanges, planRanges } from "./plan-ranges.ts";
import { type BackendRow, backendRows, type FrontendRow, frontendRows, rangeRows, serviceRow } from "./rows.ts";

export interface Plan {
  readonly changes: Changes;
  /** Services that could not be planned; what the kernel has of them stays as it is. */
  readonly refused: readonly Refused[];
  /** To be called when everything has been written: ids and slots that were given up become free. */
  finish(now_ns: bigint): void;
}

export const plan = (actual: Actual, desired: Desired, options: { prune: boolean; now_ns: bigint }): Plan => {
  const draft = createDraft(actual, options);
  planNodeAddresses(draft, desired.nodeAddresses);
  // By name, so that ids do not depend on the order in which services were heard of.
  const changed = [...desired.services].filter(([key, service]) => actual.byKey.get(key)?.from !== service);
  for (const [key, service] of changed.sort(([a], [b]) => (a < b ? -1 : 1))) planService(draft, key, service);
  if (options.prune) planGone(draft, desired);
  dropUnwanted(draft);
  planFrontendAddresses(draft, desired.nodeAddresses);
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

const sameService = (a: abi.Service, b: abi.Service): boolean =>
  a.flags === b.flags && a.affinity_timeout_s === b.affinity_timeout_s && a.health_check_port === b.health_check_port; // its name is what it was found by

const planGone = (draft: Draft, desired: Desired): void => {
  const { actual, changes } = draft;
  for (const holding of [...actual.holdings.values()]) {
    if (holding.key !== null && desired.services.has(holding.key)) continue;
    for (const text of holding.frontends) draft.unwanted.push({ text, owner: holding });
    for (const [text, backend] of [...holding.backends]) retire(draft, holding, text, backend);
    dropRanges(draft, holding);
    if (holding.row !== null) {
      changes.forget_services.push({ key: encode("u32", holding.service_id), value: NOTHING });
    }
    draft.releasedServices.push(holding.service_id);
    actual.holdings.delete(holding.service_id);
    if (holding.key !== null) actual.byKey.delete(holding.key);
  }
};
