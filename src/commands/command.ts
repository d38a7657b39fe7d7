// What a command is, and what it may use of the world. The table of them all is commands.ts.

import type { Flags } from "../agent/config.ts";
import type { BenchFlags } from "../bench/choice.ts";

/** Where a command reads from and writes to; the process's own, or a test's. */
export interface Io {
  /** Data. */
  out(text: string): void;
  /** Diagnostics. */
  err(text: string): void;
  /** stdout is a terminal. */
  readonly terminal: boolean;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Aborted by SIGINT and SIGTERM. */
  readonly signal: AbortSignal;
  /** beeline's. */
  readonly version: string;
}

export type Format = "table" | "wide" | "json" | "yaml";

/** Every option and positional of every command, as yargs hands them over. */
export interface Args extends Flags, BenchFlags {
  readonly output?: Format | undefined;
  readonly watch?: boolean | undefined;
  readonly noHeaders?: boolean | undefined;
  readonly noColor?: boolean | undefined;
  readonly filename?: readonly string[] | undefined;
  readonly name?: string | undefined;
  readonly source?: string | undefined;
  readonly destination?: string | undefined;
  readonly from?: "pod" | "node" | "outside" | undefined;
  readonly to?: "bpf" | "iptables" | undefined;
  readonly kubeProxy?: boolean | undefined;
  readonly strict?: boolean | undefined;
  readonly left?: readonly string[] | undefined;
  readonly against?: readonly string[] | undefined;
  readonly observe?: boolean | undefined;
  readonly drops?: boolean | undefined;
  readonly service?: string | undefined;
  readonly reason?: readonly string[] | undefined;
  readonly address?: string | undefined;
  readonly count?: number | undefined;
  readonly rate?: number | undefined;
  readonly save?: string | undefined;
  readonly report?: string | undefined;
  readonly results?: readonly string[] | undefined;
  readonly compare?: boolean | undefined;
  readonly tolerance?: number | undefined;
  readonly shell?: "bash" | "zsh" | undefined;
}

/** Answers the exit code: 0 fine, 1 the answer is no. Throws InputError (2) and RefusedError (3). */
export type Run = (args: Args, io: Io) => number | Promise<number>;

export interface Option {
  readonly describe: string;
  readonly type: "string" | "boolean" | "number";
  readonly alias?: string;
  readonly choices?: readonly string[];
  /** May be given several times. */
  readonly array?: true;
  readonly demandOption?: true;
}

export interface Command {
  /** As yargs reads it: `services [name]`. */
  readonly usage: string;
  readonly summary: string;
  readonly examples: readonly (readonly [line: string, what: string])[];
  readonly positionals?: Readonly<Record<string, Option>>;
  readonly options: Readonly<Record<string, Option>>;
  /** Loads what only this command needs. */
  readonly load: () => Promise<Run>;
}
