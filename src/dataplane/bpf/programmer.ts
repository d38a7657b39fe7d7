// Makes a MapStore hold what Desired says: recovers what it holds, plans, writes in the order of order.ts. A failed write
// leaves nothing half-remembered: the next apply starts from what the store then holds.
import type { Desired } from "../../model/desired.ts";
import type { Applied } from "../dataplane.ts";
import { type Actual, recover } from "./actual.ts";
import { CapacityError } from "./capacity.ts";
import type { MapName, MapStore } from "./mapstore.ts";
import { type Changes, type Phase, type PhaseName, phases } from "./order.ts";
import { type Plan, plan } from "./plan.ts";
import { readConfig, readTables } from "./tables.ts";

export interface ProgrammerOptions {
  /** A clock that never goes back; runs rest by it. */
  now_ns(): bigint;
}

export class TableProgrammer {
  readonly #store: MapStore;
  readonly #options: ProgrammerOptions;
  #actual: Actual | null = null;
  /** A commit has been written, and no wait since: a program may still follow the old value of a frontend. */
  #oldValuesFollowed = false;

  constructor(store: MapStore, options: ProgrammerOptions) {
    this.#store = store;
    this.#options = options;
  }

  /**
   * Throws MapError when a write failed half-way, and CapacityError when some services do not fit or cannot be
   * programmed: then all the others are, and what the maps held of the refused ones is untouched.
   */
  apply(desired: Desired, options: { readonly prune: boolean }): Applied {
    const actual = this.#actual ?? this.#recover();
    this.#actual = null; // until every write is done
    actual.config = readConfig(this.#store); // not all of it is written from Desired
    let planned = this.#plan(actual, desired, options.prune);
    let applied = this.#write(planned);
    if (planned.refused.length > 0) {
      // What this apply freed, or what still rests, may be the room that was missing.
      this.#waitForPrograms();
      actual.runs.endRest();
      planned = this.#plan(actual, desired, options.prune);
      applied = sum(applied, this.#write(planned));
    }
    this.#actual = actual;
    if (planned.refused.length > 0) {
      throw new CapacityError(planned.refused, (map) => this.#store.capacity(map), this.used());
    }
    return applied;
  }

  /** Forgets what the store held: the next apply reads all of it again, and repairs what somebody else changed. */
  forget(): void {
    this.#actual = null;
  }

  /** Entries in use, of the maps that are written from Desired. Costs nothing; before the first apply it reads. */
  used(): Readonly<Partial<Record<MapName, number>>> {
    this.#actual ??= this.#recover();
    const { room, runs, backend_ids } = this.#actual;
    const hashes = Object.entries(room).map(([map, free]) => [map, this.#store.capacity(map as MapName) - free]);
    return {
      ...Object.fromEntries(hashes),
      slots: runs.used(),
      backends: this.#store.capacity("backends") - 1 - backend_ids.free(),
    };
  }

  #recover(): Actual {
    const actual = recover(readTables(this.#store), (map) => this.#store.capacity(map));
    // Slots that nothing points at were perhaps given up a moment ago, by us before a failure or by an agent before us.
    this.#waitForPrograms();
    return actual;
  }

  #waitForPrograms(): void {
    this.#store.waitForPrograms();
    this.#oldValuesFollowed = false;
  }

  #plan(actual: Actual, desired: Desired, prune: boolean): Plan {
    return plan(actual, desired, { prune, now_ns: this.#options.now_ns() });
  }

  #write({ changes, finish }: Plan): Applied {
    const written: Record<string, number> = {};
    const removed: Record<string, number> = {};
    for (const [name, phase] of Object.entries(phases) as [PhaseName, Phase][]) {
      const rows = changes[name];
      if (rows.length === 0) continue;
      if (phase.afterPrograms && this.#oldValuesFollowed) this.#waitForPrograms();
      this.#oldValuesFollowed ||= COMMITS.includes(phase.map);
      writeRows(this.#store, phase, rows);
      const counts = phase.does === "write" ? written : removed;
      counts[phase.map] = (counts[phase.map] ?? 0) + rows.length;
    }
    finish(this.#options.now_ns());
    return { written, removed };
  }
}

/** Maps whose old value a running program may still be following. */
const COMMITS: readonly MapName[] = ["frontends", "nodeports"];

const writeRows = (store: MapStore, phase: Phase, rows: Changes[PhaseName]): void => {
  if (phase.does !== "remove") {
    store.update(
      phase.map,
      rows.map(({ key, value }) => [key, value]),
    );
  } else {
    store.delete(
      phase.map,
      rows.map(({ key }) => key),
    );
  }
};

const sum = (a: Applied, b: Applied): Applied => {
  const add = (x: Readonly<Record<string, number>>, y: Readonly<Record<string, number>>): Record<string, number> => {
    const total = { ...x };
    for (const [map, count] of Object.entries(y)) total[map] = (total[map] ?? 0) + count;
    return total;
  };
  return { written: add(a.written, b.written), removed: add(a.removed, b.removed) };
};
