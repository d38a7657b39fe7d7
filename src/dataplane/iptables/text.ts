// Rules → the input of `iptables-restore --noflush --counters`, line by line as kube-proxy writes it. Pure.
import type { Table } from "./jumps.ts";
import type { Chain, Rules, TableRules } from "./rules.ts";

export interface RestoreOptions {
  /** Service chains in nat that nothing of ours uses any more. */
  readonly stale?: Stale;
  /** Whether a chain is written. What all share always is: a chain line empties the chain. Default: every one. */
  readonly writes?: (chain: Chain) => boolean;
}

export interface Stale {
  readonly removed: readonly string[];
  /** Still used by a stranger's rule, so that they are emptied only. */
  readonly emptied: readonly string[];
}

export const NOTHING_STALE: Stale = { removed: [], emptied: [] };

/** A chain that is not written keeps its rules; every other one holds exactly what is said here. */
export const restoreInput = (
  rules: Rules,
  { stale = NOTHING_STALE, writes = () => true }: RestoreOptions = {},
): string => tableText("filter", rules.filter, NOTHING_STALE, writes) + tableText("nat", rules.nat, stale, writes);

const tableText = (
  name: Table,
  { chains, rules }: TableRules,
  { removed, emptied }: Stale,
  writes: (chain: Chain) => boolean,
): string => {
  const lines = [
    `*${name}`,
    ...chains.filter(writes).map((chain) => chainLine(chain.name)),
    ...[...removed, ...emptied].map(chainLine),
    ...rules.filter(({ chain }) => writes(chain)).map(({ chain, text }) => `-A ${chain.name} ${text}`),
    ...removed.map((chain) => `-X ${chain}`),
    "COMMIT",
  ];
  return `${lines.join("\n")}\n`;
};

/** Makes chains that are not there, empty. */
export const makeChains = (table: Table, chains: readonly string[]): string =>
  `${[`*${table}`, ...chains.map(chainLine), "COMMIT"].join("\n")}\n`;

/** Makes the chain, or empties it. */
const chainLine = (name: string): string => `:${name} - [0:0]`;
