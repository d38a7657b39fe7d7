// Where a Snapshot comes from: manifest files or a cluster. Both keep one up to date and say when it changed.
import type { Problem, Snapshot } from "../model/snapshot.ts";

export interface Source {
  /** For people: `manifests in examples/`, `cluster https://10.0.0.1:6443`. */
  readonly description: string;
  /** What is known now; the same value until something changes. */
  snapshot(): Snapshot;
  /** Whether everything there is has been seen once. Nothing may be pruned before. */
  synced(): boolean;
  /** What is not used, now. */
  problems(): readonly Problem[];
  /** Tells the objects' owners what else is not used: a cluster gets Events, files have nobody to tell. */
  recordProblems(problems: readonly Problem[]): void;
  close(): Promise<void>;
}

/** Called from a timer or a stream, never before the call that made the source has returned. */
export interface SourceHandlers {
  /** The snapshot differs from the one before; the first call says that the source has synced. */
  changed(): void;
  log(level: "info" | "warn" | "error", message: string, fields?: object): void;
}
