// iptables rules read back into a Desired: kube-proxy's own, or ours, which are the same. What is not understood is named;
// what rules cannot say (reading.ts has the list) is left open. Pure.
import { EXPRESSIBLE, type Reading } from "../../compile/reading.ts";
import { type Address, type Family, familyOf } from "../../model/address.ts";
import type { NodeAddress } from "../../model/desired.ts";
import type { Problem } from "../../model/snapshot.ts";
import { desiredOf, type Entry } from "../entries.ts";
import { FamilyReader } from "./family.ts";
import { type Chain, parseRuleset, type Table } from "./parse.ts";

/** What iptables-save printed, or a restore input. One text may hold both families, or several tables of one. */
export interface SavedText {
  readonly text: string;
  /** In problems: the file, or the command that printed it. */
  readonly name: string;
  /** Where nothing in the text tells; null: IPv4. */
  readonly family: Family | null;
}

export interface ReadbackOptions {
  /** For people, see Reading. */
  readonly from: string;
  /** Of the node that the rules are from; null: unknown, so where NodePorts answer is, too. */
  readonly localAddresses: readonly Address[] | null;
}

export const readIptables = (texts: readonly SavedText[], options: ReadbackOptions): Reading => {
  const problems: Problem[] = [];
  const tables = texts.flatMap((saved) => {
    const ruleset = parseRuleset(saved.text, saved.name);
    problems.push(...ruleset.problems);
    return withFamily(ruleset.tables, saved);
  });
  const readers = (["IPv4", "IPv6"] as const)
    .map((family) =>
      readFamily(
        tables.filter((table) => table.family === family),
        family,
      ),
    )
    .filter((reader) => reader !== null);
  for (const reader of readers) problems.push(...reader.problems);
  const others = foreignChains(tables);
  if (others.length > 0) problems.push({ object: "iptables", path: "", message: othersText(others) });
  if (readers.length === 0)
    problems.push({ object: "iptables", path: "", message: "no nat table: nothing to compare" });
  const addresses = nodeAddressesOf(readers, options.localAddresses);
  return {
    source: "iptables",
    from: options.from,
    desired: desiredOf(
      readers.flatMap((reader): readonly Entry[] => reader.entries),
      addresses ?? [],
      new Map(readers.flatMap((reader) => [...reader.healthChecks])),
    ),
    expresses: {
      ...EXPRESSIBLE.iptables,
      families: readers.map(({ family }) => family),
      refusals: readers.every(({ hasFilter }) => hasFilter),
      healthChecks: readers.every(({ hasFilter }) => hasFilter),
      nodeAddresses: addresses === null ? "none" : "listed",
    },
    contested: new Set(readers.flatMap((reader) => [...reader.contested])),
    unreached: readers.flatMap((reader) => reader.unreached),
    problems,
  };
};

interface Placed extends Table {
  readonly object: string;
  readonly family: Family;
}

/** A table that does not tell is of the family of its neighbour: the one before, unless that has such a table already. */
const withFamily = (tables: readonly Table[], { family, name }: SavedText): readonly Placed[] => {
  const seen = new Set<string>();
  let last = family;
  return tables.map((table, i) => {
    const next = tables.slice(i).find((one) => one.family !== null)?.family ?? null;
    const near = last === null || seen.has(`${last} ${table.name}`) ? (next ?? last) : last;
    last = table.family ?? near ?? "IPv4";
    seen.add(`${last} ${table.name}`);
    return { ...table, object: name, family: last };
  });
};

/** null: there is no nat table, so nothing can be said of the family. */
const readFamily = (tables: readonly Placed[], family: Family): FamilyReader | null => {
  const nat = merge(tables, "nat");
  return nat === null ? null : new FamilyReader(family, nat, merge(tables, "filter"), tables[0]?.object ?? "iptables");
};

const merge = (tables: readonly Placed[], name: string): ReadonlyMap<string, Chain> | null => {
  const meant = tables.filter((table) => table.name === name);
  if (meant.length === 0) return null;
  const chains = new Map<string, Chain>();
  for (const chain of meant.flatMap((table) => [...table.chains.values()])) {
    const known = chains.get(chain.name);
    chains.set(
      chain.name,
      known === undefined
        ? chain
        : { ...known, declared: known.declared || chain.declared, rules: [...known.rules, ...chain.rules] },
    );
  }
  return chains;
};

// ---- chains of others ----------------------------------------------------------------------------------------------

const BUILT_IN = new Set(["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"]);

const foreignChains = (tables: readonly Placed[]): readonly string[] => {
  const names = tables.filter(({ name }) => name === "nat" || name === "filter").flatMap((t) => [...t.chains.keys()]);
  return [...new Set(names)].filter((name) => !BUILT_IN.has(name) && !name.startsWith("KUBE-")).sort();
};

const othersText = (names: readonly string[]): string => {
  const shown = names.slice(0, 3).join(", ");
  return names.length <= 3
    ? `not looked at, since they are not kube-proxy's: the chains ${shown}`
    : `not looked at, since they are not kube-proxy's: ${names.length} chains (${shown}, …)`;
};

// ---- where NodePorts answer ----------------------------------------------------------------------------------------

/** null: at local addresses that we do not know. */
const nodeAddressesOf = (
  readers: readonly FamilyReader[],
  local: readonly Address[] | null,
): readonly NodeAddress[] | null => {
  const found = new Set<Address>();
  for (const { family, nodePortPlaces } of readers) {
    for (const place of nodePortPlaces) {
      if (place.kind === "address") found.add(place.address);
      else if (local === null) return null;
      else
        for (const address of local)
          if (familyOf(address) === family && !isExcepted(address, place)) found.add(address);
    }
  }
  return [...found].map((address) => ({
    address,
    loopback: address.startsWith("127."),
    primary: false,
    nodePorts: true,
  }));
};

/** Link-local IPv6 addresses mean nothing without their interface. */
const isExcepted = (address: Address, { loopback }: { readonly loopback: boolean }): boolean =>
  address === "::1" || /^fe[89ab]/.test(address) || (!loopback && address.startsWith("127."));
