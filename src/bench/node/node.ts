// What a mode does on its node: takes the services, changes one, and counts what it carried. Runs inside the node's
// network namespace.

import type { Reading } from "../../compile/reading.ts";
import type { Desired } from "../../model/desired.ts";
import type { Asked } from "../cluster.ts";

/** Of the mode itself, since the last reset(). */
export interface Carried {
  /** What is counted, for people. */
  readonly counter: string;
  readonly counted: number;
  /** Something else on this node that could have carried traffic in its place; null: nothing. */
  readonly intruder: string | null;
}

export interface NodeSide {
  /** Writes every service. */
  install(desired: Desired): Promise<void>;
  /** Brings one change of one service into effect. */
  change(before: Desired, after: Desired): Promise<void>;
  /** What the kernel holds, for a comparison; null: nothing is programmed in this mode. */
  read(): Reading | null;
  /** Counting starts anew, in a state that every run of this mode starts from. */
  reset(asked: Asked): void;
  /** Of traffic to this service. */
  carried(asked: Asked): Carried;
  close(): void;
}
