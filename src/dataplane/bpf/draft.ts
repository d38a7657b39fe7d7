// A plan while it is being made: what the kernel holds, the changes so far, and what becomes free once they are written.
import type { ServicePortKey } from "../../model/desired.ts";
import type { Actual, Holding, RoomName } from "./actual.ts";
import { type Changes, noChanges } from "./order.ts";
import type { Run } from "./runs.ts";

export interface Refused {
  readonly service: ServicePortKey | null;
  /** Entries it adds, by map without room for them; empty: `reason` says what is wrong with it. */
  readonly needs: Readonly<Partial<Record<RoomName | "backends" | "slots", number>>>;
  readonly reason: string;
}

export interface Draft {
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

export const createDraft = (actual: Actual, options: { readonly prune: boolean; readonly now_ns: bigint }): Draft => ({
  actual,
  ...options,
  changes: noChanges(),
  refused: [],
  releasedRuns: [],
  releasedBackends: [],
  releasedServices: [],
  unwanted: [],
});

export const refuse = (draft: Draft, service: ServicePortKey | null, needs: Refused["needs"], reason = ""): void =>
  void draft.refused.push({ service, needs, reason });

/** The value of a change that removes. */
export const NOTHING = new Uint8Array(0);
