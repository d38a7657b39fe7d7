// What iptables rules do to a packet, as data: text in (iptables-save's, or a restore input), every outcome out, each
// with its probability. Knows nothing of Services: it is the second opinion on what the rules mean.
import { type Address, familyOf, parseAddress, parsePrefix, prefixContains } from "../../src/model/address.ts";
import type { Protocol } from "../../src/model/snapshot.ts";

/** Rules by table, then chain. */
export type RuleTables = ReadonlyMap<string, ReadonlyMap<string, readonly RuleOption[][]>>;

export interface RuleOption {
  readonly name: string;
  readonly negated: boolean;
  readonly values: readonly string[];
}

export interface Machine {
  /** Of its interfaces. */
  readonly addresses: readonly Address[];
}

export interface RulePacket {
  /** The interface it came in by; null: the machine itself sends it. */
  readonly in: string | null;
  readonly source: Address;
  readonly destination: Address;
  readonly port: number;
  readonly protocol: Protocol;
}

export interface Outcome {
  readonly kind: "passed" | "rejected" | "dropped";
  /** Where it goes; null: where it was sent to. */
  readonly to: { readonly address: Address; readonly port: number } | null;
  readonly masqueraded: boolean;
  readonly probability: number;
}

/** A packet on its way; a rule that decides by chance makes two of one. */
interface Traveller extends RulePacket {
  readonly mark: number;
  readonly translated: boolean;
  readonly masqueraded: boolean;
  readonly probability: number;
}

type Fate = "ACCEPT" | "DROP" | "REJECT";

/** The first packet of a connection, which nobody remembers. Equal outcomes are one. */
export const trace = (tables: RuleTables, machine: Machine, packet: RulePacket): readonly Outcome[] => {
  const start: Traveller = { ...packet, mark: 0, translated: false, masqueraded: false, probability: 1 };
  const ways = packet.in === null ? ["OUTPUT"] : ["PREROUTING"];
  let travellers: readonly Traveller[] = [start];
  const outcomes: Outcome[] = [];
  const through = (table: string, chainOf: (t: Traveller) => string): void => {
    travellers = travellers.flatMap((traveller) =>
      run(tables, machine, table, chainOf(traveller), traveller).flatMap(({ fate, traveller: t }) => {
        if (fate === "ACCEPT") return [t];
        outcomes.push(outcomeOf(fate, t));
        return [];
      }),
    );
  };
  const isHere = (t: Traveller): boolean => machine.addresses.includes(t.destination);
  through("nat", () => ways[0] ?? "");
  if (packet.in === null) through("filter", () => "OUTPUT");
  else through("filter", (t) => (isHere(t) ? "INPUT" : "FORWARD"));
  // What the machine sends to itself leaves by lo, and comes in again.
  const leaving = travellers.filter((t) => packet.in === null || !isHere(t));
  const staying = travellers.filter((t) => packet.in !== null && isHere(t));
  travellers = leaving;
  through("nat", () => "POSTROUTING");
  const looping = packet.in === null ? travellers.filter(isHere) : [];
  const gone = travellers.filter((t) => !looping.includes(t));
  travellers = looping.map((t) => ({ ...t, in: "lo" }));
  through("filter", () => "INPUT");
  for (const t of [...gone, ...staying, ...travellers]) outcomes.push(outcomeOf("ACCEPT", t));
  return merge(outcomes);
};

const outcomeOf = (fate: Fate, t: Traveller): Outcome => ({
  kind: fate === "ACCEPT" ? "passed" : fate === "DROP" ? "dropped" : "rejected",
  to: t.translated ? { address: t.destination, port: t.port } : null,
  masqueraded: t.masqueraded,
  probability: t.probability,
});

const merge = (outcomes: readonly Outcome[]): readonly Outcome[] => {
  const merged = new Map<string, Outcome>();
  for (const outcome of outcomes) {
    const { probability, ...rest } = outcome;
    const key = JSON.stringify(rest);
    merged.set(key, { ...rest, probability: probability + (merged.get(key)?.probability ?? 0) });
  }
  return [...merged].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, outcome]) => outcome);
};

// ---- chains --------------------------------------------------------------------------------------------------------

interface Leaving {
  /** RETURN: on with the caller. */
  readonly fate: Fate | "RETURN";
  readonly traveller: Traveller;
}

/** A chain of the kernel's own: whoever comes to its end is accepted. */
const run = (tables: RuleTables, machine: Machine, table: string, chain: string, t: Traveller) =>
  walk(tables.get(table) ?? new Map(), machine, chain, t).map(({ fate, traveller }) => ({
    fate: fate === "RETURN" ? ("ACCEPT" as const) : fate,
    traveller,
  }));

type Chains = ReadonlyMap<string, readonly RuleOption[][]>;

const walk = (chains: Chains, machine: Machine, chain: string, first: Traveller): readonly Leaving[] => {
  const rules = chains.get(chain) ?? [];
  const left: Leaving[] = [];
  let here: readonly Traveller[] = [first];
  for (const rule of rules) {
    const next: Traveller[] = [];
    for (const traveller of here) {
      const { matching, other } = split(rule, machine, traveller);
      if (other !== null) next.push(other);
      if (matching === null) continue;
      for (const { fate, traveller: t } of act(chains, machine, rule, matching)) {
        if (fate === "RETURN") next.push(t);
        else left.push({ fate: fate === "LEAVE" ? "RETURN" : fate, traveller: t });
      }
    }
    here = next;
  }
  return [...left, ...here.map((traveller) => ({ fate: "RETURN" as const, traveller }))];
};

/** What of the traveller a rule matches, and what it does not. */
const split = (rule: readonly RuleOption[], machine: Machine, t: Traveller) => {
  const chance = Number(rule.find(({ name }) => name === "--probability")?.values[0] ?? 1);
  if (!rule.every((option) => matches(option, machine, t, rule))) return { matching: null, other: t };
  return {
    matching: { ...t, probability: t.probability * chance },
    other: chance === 1 ? null : { ...t, probability: t.probability * (1 - chance) },
  };
};

interface Acted {
  /** RETURN: on with the next rule of this chain. LEAVE: out of this chain. */
  readonly fate: Fate | "RETURN" | "LEAVE";
  readonly traveller: Traveller;
}

const act = (chains: Chains, machine: Machine, rule: readonly RuleOption[], t: Traveller): readonly Acted[] => {
  const value = (name: string): string | undefined => rule.find((option) => option.name === name)?.values[0];
  const target = value("-j");
  const on = (traveller: Traveller): readonly Acted[] => [{ fate: "RETURN", traveller }];
  switch (target) {
    case undefined:
      return on(t);
    case "ACCEPT":
    case "DROP":
    case "REJECT":
      return [{ fate: target, traveller: t }];
    case "RETURN":
      return [{ fate: "LEAVE", traveller: t }];
    case "MASQUERADE":
      return [{ fate: "ACCEPT", traveller: { ...t, masqueraded: true } }];
    case "MARK":
      return on({ ...t, mark: markedBy(rule, t.mark) });
    case "DNAT":
      return [
        { fate: "ACCEPT", traveller: { ...t, ...destinationOf(value("--to-destination") ?? ""), translated: true } },
      ];
    default:
      if (!chains.has(target)) throw new Error(`There is no chain ${target}`);
      return walk(chains, machine, target, t);
  }
};

const markedBy = (rule: readonly RuleOption[], mark: number): number => {
  for (const { name, values } of rule) {
    const [value = 0, mask = 0xffffffff] = (values[0] ?? "").split("/").map(Number);
    if (name === "--or-mark") return (mark | value) >>> 0;
    if (name === "--xor-mark") return (mark ^ value) >>> 0;
    if (name === "--set-xmark") return ((mark & ~mask) ^ value) >>> 0;
  }
  throw new Error("MARK sets nothing that is known");
};

const destinationOf = (text: string): { readonly destination: Address; readonly port: number } => {
  const [, address = "", port] = /^\[?(.*?)\]?:(\d+)$/.exec(text) ?? [];
  const destination = parseAddress(address);
  if (destination === null) throw new Error(`Not a destination: ${text}`);
  return { destination, port: Number(port) };
};

/** Of a rule: what does not match anything. */
const INERT: ReadonlySet<string> = new Set([
  "-m",
  "-j",
  "--comment",
  "--mode",
  "--probability",
  "--name",
  "--seconds",
  "--reap",
  "--nfacct-name",
  "--set",
  "--mask",
  "--rsource",
  "--random-fully",
  "--to-destination",
  "--reject-with",
  "--or-mark",
  "--xor-mark",
  "--set-xmark",
]);

const matches = (option: RuleOption, machine: Machine, t: Traveller, rule: readonly RuleOption[]): boolean => {
  if (INERT.has(option.name)) return true;
  return isMatch(option, machine, t, rule) !== option.negated;
};

const isMatch = (
  { name, values }: RuleOption,
  machine: Machine,
  t: Traveller,
  rule: readonly RuleOption[],
): boolean => {
  const [value = ""] = values;
  switch (name) {
    case "-s":
      return covers(value, t.source);
    case "-d":
      return covers(value, t.destination);
    case "-i":
      return value.endsWith("+") ? (t.in ?? "").startsWith(value.slice(0, -1)) : t.in === value;
    case "-p":
      return value === t.protocol.toLowerCase();
    case "--dport":
      return Number(value) === t.port;
    case "--dst-type":
      return machine.addresses.includes(t.destination);
    case "--src-type":
      return machine.addresses.includes(t.source);
    case "--mark": {
      if (rule.some((option) => option.name === "-j" && option.values[0] === "MARK")) return true;
      const [mark = 0, mask = 0xffffffff] = value.split("/").map(Number);
      return (t.mark & mask) >>> 0 === mark;
    }
    case "--ctstate":
      return value.split(",").some((state) => state === "NEW" || (state === "DNAT" && t.translated));
    case "--rcheck":
      return false; // nobody is remembered
    default:
      throw new Error(`The tracer does not know ${name}`);
  }
};

const covers = (text: string, address: Address): boolean => {
  const prefix = parsePrefix(text.includes("/") ? text : `${text}/${familyOf(address) === "IPv4" ? 32 : 128}`);
  return prefix !== null && prefixContains(prefix, address);
};

// ---- reading -------------------------------------------------------------------------------------------------------

/** Later texts add to earlier ones. `-A` appends, `-I` puts first. */
export const readRules = (...texts: readonly string[]): RuleTables => {
  const tables = new Map<string, Map<string, RuleOption[][]>>();
  let chains = new Map<string, RuleOption[][]>();
  for (const line of texts.join("\n").split("\n")) {
    const [, kind, rest = ""] = /^(\*|:|-A |-I )(.*)$/.exec(line) ?? [];
    const [name = ""] = rest.split(" ", 1);
    if (kind === "*") {
      chains = tables.get(name) ?? new Map();
      tables.set(name, chains);
    } else if (kind !== undefined) {
      const rules = chains.get(name) ?? [];
      chains.set(name, rules);
      const rule = optionsOf(rest.slice(name.length));
      if (kind === "-A ") rules.push(rule);
      if (kind === "-I ") rules.unshift(rule);
    }
  }
  return tables;
};

/** `! -s 10.0.0.0/8 -m comment --comment "a b"` option by option. */
const optionsOf = (text: string): RuleOption[] => {
  const words = [...text.matchAll(/"((?:[^"\\]|\\.)*)"|(\S+)/g)].map(([, quoted, plain]) =>
    quoted === undefined
      ? { word: plain ?? "", quoted: false }
      : { word: quoted.replace(/\\(.)/g, "$1"), quoted: true },
  );
  const options: { name: string; negated: boolean; values: string[] }[] = [];
  let negated = false;
  for (const { word, quoted } of words) {
    if (word === "!" && !quoted) negated = true;
    else if (word.startsWith("-") && !quoted) {
      options.push({ name: word, negated, values: [] });
      negated = false;
    } else {
      const last = options.at(-1);
      last?.values.push(word);
      if (negated && last !== undefined) last.negated = true; // `--mark ! 1`, as some versions print it
      negated = false;
    }
  }
  return options;
};
