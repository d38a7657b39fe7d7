// What `nft -j list ruleset` prints, as far as kube-proxy's own tables go: chains with their rules, sets and maps, and
// the few questions that are asked of them. Pure.

import { hostPrefix, prefixesOfRange } from "../../compile/ranges.ts";
import { InputError } from "../../lib/errors.ts";
import { type Address, type Family, type Prefix, parseAddress, parsePrefix } from "../../model/address.ts";

/** One family's table `kube-proxy`. */
export interface NftTable {
  readonly family: Family;
  readonly chains: ReadonlyMap<string, NftChain>;
  readonly sets: ReadonlyMap<string, NftSet>;
  /** Verdict maps, by name. */
  readonly maps: ReadonlyMap<string, readonly Element[]>;
}

export interface NftChain {
  /** Of a base chain: `prerouting`, `output`; else null. */
  readonly hook: string | null;
  /** Each a list of matches and what follows of them. */
  readonly rules: readonly (readonly Statement[])[];
}

export interface NftSet {
  readonly elements: readonly unknown[];
  /** Of its elements; 0: they stay. */
  readonly timeout_s: number;
}

/** `172.30.0.41 . tcp . 80 : goto service-…`. */
export interface Element {
  readonly key: readonly (string | number)[];
  readonly comment: string | null;
  readonly verdict: Verdict;
}

export type Verdict = { readonly kind: "goto"; readonly target: string } | { readonly kind: "drop" | "other" };

/** `{"match": …}`, `{"goto": {"target": …}}`: one word, and what belongs to it. */
export interface Statement {
  readonly word: string;
  readonly value: unknown;
}

const FAMILIES: ReadonlyMap<unknown, Family> = new Map([
  ["ip", "IPv4"],
  ["ip6", "IPv6"],
]);

/** Throws InputError when it is no listing of nft's. Tables of others are passed over. */
export const parseNftables = (texts: readonly string[], name: string): readonly NftTable[] => {
  const tables = new Map<Family, OpenTable>();
  for (const item of texts.flatMap((text) => itemsIn(text, name))) {
    for (const [kind, value] of Object.entries(fieldsOf(item))) {
      const fields = fieldsOf(value);
      const family = FAMILIES.get(fields.family);
      if (family === undefined || (kind === "table" ? fields.name : fields.table) !== "kube-proxy") continue;
      const table = tables.get(family) ?? { family, chains: new Map(), sets: new Map(), maps: new Map() };
      tables.set(family, table);
      take(table, kind, fields);
    }
  }
  return [...tables.values()];
};

interface OpenTable {
  readonly family: Family;
  readonly chains: Map<string, { hook: string | null; rules: (readonly Statement[])[] }>;
  readonly sets: Map<string, NftSet>;
  readonly maps: Map<string, readonly Element[]>;
}

export const itemsIn = (text: string, name: string): readonly unknown[] => {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (cause) {
    throw new InputError(`Cannot read ${name}: it is no JSON`, { cause });
  }
  const items = fieldsOf(parsed).nftables;
  if (!Array.isArray(items)) throw new InputError(`Cannot read ${name}: it is no listing of nft -j list ruleset`);
  return items;
};

const take = (table: OpenTable, kind: string, fields: Fields): void => {
  const name = textOf(fields.name) ?? "";
  const chain = (of: string) => {
    const known = table.chains.get(of) ?? { hook: null, rules: [] };
    table.chains.set(of, known);
    return known;
  };
  switch (kind) {
    case "chain":
      chain(name).hook = textOf(fields.hook);
      return;
    case "rule":
      chain(textOf(fields.chain) ?? "").rules.push(listOf(fields.expr).flatMap(statementsOf));
      return;
    case "set":
      table.sets.set(name, { elements: listOf(fields.elem), timeout_s: numberOf(fields.timeout) ?? 0 });
      return;
    case "map":
      if (fields.map === "verdict") table.maps.set(name, listOf(fields.elem).flatMap(elementOf));
      return;
  }
};

export const statementsOf = (value: unknown): readonly Statement[] =>
  Object.entries(fieldsOf(value)).map(([word, rest]) => ({ word, value: rest }));

/** `[key, verdict]`, where the key may be wrapped to carry a comment. */
const elementOf = (pair: unknown): readonly Element[] => {
  const [left, right] = listOf(pair);
  const wrapped = fieldsOf(fieldsOf(left).elem);
  const key = wrapped.val ?? left;
  const parts = listOf(fieldsOf(key).concat);
  const keys = (parts.length > 0 ? parts : [key]).filter((p) => typeof p === "string" || typeof p === "number");
  return keys.length === 0 ? [] : [{ key: keys, comment: textOf(wrapped.comment), verdict: verdictOf(right) }];
};

export const verdictOf = (value: unknown): Verdict => {
  const fields = fieldsOf(value);
  const target = textOf(fieldsOf(fields.goto ?? fields.jump).target);
  if (target !== null) return { kind: "goto", target };
  return { kind: "drop" in fields ? "drop" : "other" };
};

/** Addresses of a set or of the right side of a match: single ones, prefixes, ranges, sets of them. */
export const prefixesIn = (value: unknown): readonly Prefix[] => {
  if (typeof value === "string") {
    const address = parseAddress(value);
    return address === null ? [] : [hostPrefix(address)];
  }
  const fields = fieldsOf(value);
  if (Array.isArray(fields.set)) return fields.set.flatMap(prefixesIn);
  if (fields.elem !== undefined) return prefixesIn(fieldsOf(fields.elem).val);
  const prefix = fieldsOf(fields.prefix);
  if (fields.prefix !== undefined) return asList(parsePrefix(`${prefix.addr}/${prefix.len}`));
  const [first, last] = listOf(fields.range).map((end) => parseAddress(textOf(end) ?? ""));
  return first == null || last == null ? [] : prefixesOfRange(first, last);
};

const asList = <T>(value: T | null): readonly T[] => (value === null ? [] : [value]);

export const addressesIn = (set: NftSet): readonly Address[] =>
  set.elements.flatMap((element) =>
    asList(parseAddress(textOf(fieldsOf(fieldsOf(element).elem).val ?? element) ?? "")),
  );

// ---- JSON ----------------------------------------------------------------------------------------------------------

export type Fields = Readonly<Record<string, unknown>>;

export const fieldsOf = (value: unknown): Fields =>
  typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Fields) : {};

export const listOf = (value: unknown): readonly unknown[] => (Array.isArray(value) ? value : []);

export const textOf = (value: unknown): string | null => (typeof value === "string" ? value : null);

export const numberOf = (value: unknown): number | null => (typeof value === "number" ? value : null);
