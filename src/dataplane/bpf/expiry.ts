// Runs the program that removes connections which have been silent for longer than their timeout (bpf/expiry.bpf.c).
import { decode, encode } from "./codec.ts";
import { type ByState, decodeByState, encodeByState, NONE_BY_STATE } from "./states.ts";
import type { LoadedObject } from "./system/object.ts";
import { runProgram } from "./system/program.ts";

export interface ExpiryOptions {
  /** Whatever is not established goes after so long at most; 0: by its timeout. */
  readonly most_s: number;
  /** Removes flows of no connection, and heals connections that lost one. Costs a few times as much. */
  readonly thorough: boolean;
}

/** Of one run. */
export interface Expired {
  /** Flows that are left. */
  readonly entries: number;
  readonly connections: ByState;
  /** Connections that had been silent for too long. */
  readonly expired: number;
  readonly healed: number;
  /** Flows of no connection. */
  readonly orphans: number;
}

/** Walks all flows in the kernel: about 60 ns each, during which this thread waits. */
export const expireFlows = (object: LoadedObject, { most_s, thorough }: ExpiryOptions): Expired => {
  const asked = { most_s, thorough: Number(thorough), entries: 0, expired: 0, healed: 0, orphans: 0 };
  const context = encode("expiry", { ...asked, connections: encodeByState(NONE_BY_STATE) });
  const answer = runProgram(object.program("expire_flows"), context);
  if (answer !== 0) throw new Error("Cannot expire flows: config has not been written");
  const { entries, expired, healed, orphans, connections } = decode("expiry", context);
  return { entries, expired, healed, orphans, connections: decodeByState(connections) };
};
