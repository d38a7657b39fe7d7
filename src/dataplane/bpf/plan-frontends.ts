// Frontends and NodePorts of one service: runs of slots for their lists of backends, then the one write that moves each.
import type * as abi from "./abi.gen.ts";
import { countAddress, type HeldFrontend, type Holding } from "./actual.ts";
import { encode } from "./codec.ts";
import { type Draft, NOTHING } from "./draft.ts";
import type { Numbered } from "./plan-backends.ts";
import { backendText, type FrontendRow } from "./rows.ts";
import type { Run } from "./runs.ts";

/** A run for every list of backends that some row points at, by the list's text; or how many slots it takes for
 * the one that has no room. */
export const placeRuns = (
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
export const planFrontends = (
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
  const { map, text, address, key } = row;
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
    countAddress(actual, address, old.value, -1);
  }
  actual.frontends.set(text, { map, address, key, value, run, owner });
  countAddress(actual, address, value, 1);
  owner.frontends.add(text);
};

/** Called once, after every service: only then is it known what moved to another one. */
export const dropUnwanted = (draft: Draft): void => {
  const { actual, changes } = draft;
  for (const { text, owner } of draft.unwanted) {
    const held = actual.frontends.get(text);
    if (held?.owner !== owner) continue; // it moved to another service
    const drop = held.map === "frontends" ? changes.drop_frontends : changes.drop_nodeports;
    drop.push({ key: held.key, value: NOTHING });
    if (held.run !== null) draft.releasedRuns.push(held.run);
    actual.frontends.delete(text);
    owner.frontends.delete(text);
    countAddress(actual, held.address, held.value, -1);
  }
};

const sameFrontend = (a: abi.Frontend, b: abi.Frontend): boolean =>
  a.service_id === b.service_id &&
  a.slot_base === b.slot_base &&
  a.slot_count === b.slot_count &&
  a.affinity_timeout_s === b.affinity_timeout_s &&
  a.flags === b.flags;
