// What of an `nft -j list ruleset` may refuse or change forwarded packets; iptables-nft's tables are among them. Pure.
import { isKubeProxyChain, type Obstacle, type WalkedRule, walk } from "../obstacle.ts";
import { fieldsOf, itemsIn, listOf, type Statement, statementsOf, textOf } from "./ruleset.ts";

/** Families whose chains forwarded packets of Services pass: not those of bridges and ARP, where nothing is direct. */
const FAMILIES: readonly string[] = ["ip", "ip6", "inet", "netdev"];
const HOOKS: readonly string[] = ["prerouting", "forward", "postrouting", "ingress", "egress"];

/** Throws InputError when it is no listing of nft's. */
export const obstaclesInRuleset = (texts: readonly string[], name: string): readonly Obstacle[] => {
  const tables = new Map<string, NftTable>();
  for (const item of texts.flatMap((text) => itemsIn(text, name))) take(tables, fieldsOf(item));
  return [...tables].flatMap(([title, table]) => obstaclesIn(`nftables ${title}`, table));
};

interface NftTable {
  readonly chains: Map<string, { readonly rules: WalkedRule[] }>;
  readonly bases: { readonly name: string; readonly isNat: boolean; readonly policy: string }[];
  /** Rules by chain, until the maps that they name are known. */
  readonly rules: {
    readonly chain: string;
    readonly statements: readonly Statement[];
    readonly comment: string | null;
  }[];
  /** Verdict maps. */
  readonly maps: Map<string, readonly unknown[]>;
}

const take = (tables: Map<string, NftTable>, item: Readonly<Record<string, unknown>>): void => {
  for (const [kind, value] of Object.entries(item)) {
    const fields = fieldsOf(value);
    const [family, tableName, chainName] = [textOf(fields.family), textOf(fields.table), textOf(fields.name)];
    if (family === null || tableName === null || !FAMILIES.includes(family) || tableName === "kube-proxy") continue;
    const title = `${family} ${tableName}`;
    const table: NftTable = tables.get(title) ?? { chains: new Map(), bases: [], rules: [], maps: new Map() };
    tables.set(title, table);
    if (kind === "chain" && chainName !== null) takeChain(table, chainName, fields);
    if (kind === "map" && chainName !== null) table.maps.set(chainName, listOf(fields.elem));
    if (kind === "rule") {
      const statements = listOf(fields.expr).flatMap(statementsOf);
      table.rules.push({ chain: textOf(fields.chain) ?? "", statements, comment: textOf(fields.comment) });
    }
  }
};

const takeChain = (table: NftTable, name: string, fields: Readonly<Record<string, unknown>>): void => {
  table.chains.set(name, { rules: [] });
  if (!HOOKS.includes(textOf(fields.hook) ?? "")) return;
  table.bases.push({ name, isNat: fields.type === "nat", policy: textOf(fields.policy) ?? "accept" });
};

const obstaclesIn = (where: string, table: NftTable): readonly Obstacle[] =>
  [false, true].flatMap((isNat) => {
    const bases = table.bases.filter((base) => base.isNat === isNat);
    const chains = new Map([...table.chains.keys()].map((name) => [name, { rules: [] as WalkedRule[] }]));
    for (const rule of table.rules) chains.get(rule.chain)?.rules.push(ruleOf(rule, table.maps, isNat));
    const names = bases.map(({ name }) => name);
    const closed = bases.filter(({ policy }) => policy !== "accept");
    return [
      ...closed.map(({ name, policy }) => ({ where: `${where}, chain ${name}`, what: `policy ${policy}` })),
      ...walk(names, chains, isKubeProxyChain).map(({ chain, text }) => ({
        where: `${where}, chain ${chain}`,
        what: text,
      })),
    ];
  });

/** Statements that say which packets, or only look at them. */
const HARMLESS: ReadonlySet<string> = new Set([
  ...[
    "match",
    "counter",
    "log",
    "limit",
    "quota",
    "ct count",
    "last",
    "accept",
    "return",
    "continue",
    "notrack",
    "comment",
  ],
]);
/** In chains of type nat, which see the first packet of a connection alone: translating it, and what helps to decide that. */
const HARMLESS_IN_NAT: ReadonlySet<string> = new Set([...HARMLESS, "snat", "dnat", "masquerade", "redirect", "mangle"]);
/** iptables-nft's own targets; CT and NOTRACK say how connections are tracked. */
const HARMLESS_TARGETS: ReadonlySet<string> = new Set(["LOG", "NFLOG", "TRACE", "CT", "NOTRACK"]);

const ruleOf = (
  { statements, comment }: Pick<NftTable["rules"][number], "statements" | "comment">,
  maps: ReadonlyMap<string, readonly unknown[]>,
  isNat: boolean,
): WalkedRule => {
  const does = statements.map((statement) => meaningOf(statement, maps, isNat));
  const words = statements.flatMap(({ word, value }) =>
    word === "match" || word === "counter" ? [] : wordOf(word, value),
  );
  return {
    text: [words.join(", "), ...(comment === null ? [] : [`"${comment}"`])].join(" "),
    matters: does.some(({ matters }) => matters),
    targets: does.flatMap(({ targets }) => targets),
  };
};

interface Meaning {
  readonly matters: boolean;
  readonly targets: readonly string[];
}

const meaningOf = (
  { word, value }: Statement,
  maps: ReadonlyMap<string, readonly unknown[]>,
  isNat: boolean,
): Meaning => {
  const none: readonly string[] = [];
  switch (word) {
    case "jump":
    case "goto": {
      const target = textOf(fieldsOf(value).target);
      return { matters: target === null, targets: target === null ? none : [target] };
    }
    case "vmap": {
      const { data } = fieldsOf(value);
      const elements = typeof data === "string" ? maps.get(data.replace(/^@/, "")) : listOf(fieldsOf(data).set);
      if (elements === undefined) return { matters: true, targets: none };
      const each = elements.map((pair) =>
        statementsOf(listOf(pair)[1]).map((verdict) => meaningOf(verdict, maps, isNat)),
      );
      return { matters: each.flat().some((m) => m.matters), targets: each.flat().flatMap((m) => m.targets) };
    }
    case "xt": {
      const { type, name } = fieldsOf(value);
      const isHarmless = type === "match" || (type === "target" && (isNat || HARMLESS_TARGETS.has(textOf(name) ?? "")));
      return { matters: !isHarmless, targets: none };
    }
    default:
      return { matters: !(isNat ? HARMLESS_IN_NAT : HARMLESS).has(word), targets: none };
  }
};

/** `drop`, `set mark`, `MARK`. */
const wordOf = (word: string, value: unknown): readonly string[] => {
  if (word === "xt") {
    const { type, name } = fieldsOf(value);
    return type === "match" ? [] : [textOf(name) ?? "an extension of iptables"];
  }
  const key = word === "mangle" ? Object.keys(fieldsOf(fieldsOf(value).key)) : [];
  return [word === "mangle" ? `sets ${key.join(" ")}` : word];
};
