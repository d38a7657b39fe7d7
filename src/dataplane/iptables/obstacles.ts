// What of an iptables-save text may refuse or change forwarded packets. Pure.
import { isKubeProxyChain, type Obstacle, type WalkedRule, walk } from "../obstacle.ts";

/** Chains by which a forwarded packet comes, by table. What nat does is decided with a connection's first packet, and it refuses none. */
const ENTRANCES: Readonly<Record<string, readonly string[]>> = {
  raw: ["PREROUTING"],
  mangle: ["PREROUTING", "FORWARD", "POSTROUTING"],
  filter: ["FORWARD"],
  security: ["FORWARD"],
};

/** These neither refuse nor change a packet; CT and NOTRACK say how connections are tracked. */
const HARMLESS: ReadonlySet<string> = new Set(["ACCEPT", "RETURN", "LOG", "NFLOG", "TRACE", "CT", "NOTRACK"]);

/** `name`: `iptables-legacy`, for people. */
export const obstaclesInSaved = (saved: string, name: string): readonly Obstacle[] =>
  tablesIn(saved).flatMap(({ table, chains, policies }) => {
    const entrances = ENTRANCES[table] ?? [];
    const where = (chain: string): string => `${name} ${table}, chain ${chain}`;
    const closed = entrances
      .filter((chain) => (policies.get(chain) ?? "ACCEPT") !== "ACCEPT")
      .map((chain) => ({ where: where(chain), what: `policy ${policies.get(chain)}` }));
    const rules = walk(entrances, chains, isKubeProxyChain);
    return [...closed, ...rules.map(({ chain, text }) => ({ where: where(chain), what: text }))];
  });

interface SavedTable {
  readonly table: string;
  readonly chains: Map<string, { readonly rules: WalkedRule[] }>;
  readonly policies: Map<string, string>;
}

const tablesIn = (saved: string): readonly SavedTable[] => {
  const tables: SavedTable[] = [];
  for (const line of saved.split("\n")) {
    const [, table] = /^\*(\S+)/.exec(line) ?? [];
    if (table !== undefined) tables.push({ table, chains: new Map(), policies: new Map() });
    const last = tables.at(-1);
    if (last === undefined) continue;
    const [, chain, policy = "-"] = /^:(\S+) (\S+)/.exec(line) ?? [];
    if (chain !== undefined) {
      last.chains.set(chain, { rules: [] });
      if (policy !== "-") last.policies.set(chain, policy);
    }
    const [, from = "", rest] = /^(?:\[\d+:\d+\] )?-A (\S+) ?(.*)$/.exec(line) ?? [];
    if (rest !== undefined) last.chains.get(from)?.rules.push(ruleOf(rest, (name) => last.chains.has(name)));
  }
  return tables;
};

/** A comment may say anything. */
const QUOTED = /"(?:[^"\\]|\\.)*"/g;

const ruleOf = (text: string, isChain: (name: string) => boolean): WalkedRule => {
  const [, target] = /(?:^| )-[jg] (\S+)/.exec(text.replace(QUOTED, '""')) ?? [];
  if (target === undefined) return { text, matters: false, targets: [] }; // counts
  return isChain(target)
    ? { text, matters: false, targets: [target] }
    : { text, matters: !HARMLESS.has(target), targets: [] };
};
