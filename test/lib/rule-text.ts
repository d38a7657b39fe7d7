// Rules for tests: the rules of a Desired with the jumps that lead to them, and a form in which what is written and what
// iptables-save prints of it are the same.
import { JUMPS } from "../../src/dataplane/iptables/jumps.ts";
import { type RuleOptions, rulesOf } from "../../src/dataplane/iptables/rules.ts";
import { restoreInput } from "../../src/dataplane/iptables/text.ts";
import type { Family } from "../../src/model/address.ts";
import type { Desired } from "../../src/model/desired.ts";
import { type RuleOption, type RuleTables, readRules } from "./trace-rules.ts";

export const inputOf = (desired: Desired, family: Family, options: RuleOptions): string =>
  restoreInput(rulesOf(desired, family, options));

/** As on a fresh node. */
export const tablesOf = (desired: Desired, family: Family, options: RuleOptions): RuleTables =>
  readRules(inputOf(desired, family, options), jumpText());

/** The jumps, and the chains they lead to. */
export const jumpText = (): string =>
  (["filter", "nat"] as const)
    .map((table) =>
      [
        `*${table}`,
        ...JUMPS.filter((jump) => jump.table === table).map(({ to }) => `:${to} - [0:0]`),
        ...JUMPS.filter((jump) => jump.table === table).map(({ from, match, to }) =>
          ["-I", from, ...match.map((word) => (word.includes(" ") ? `"${word}"` : word)), "-j", to].join(" "),
        ),
        "COMMIT\n",
      ].join("\n"),
    )
    .join("");

/** `TABLE CHAIN rule` in one spelling, whoever printed it; chains sorted, rules in their order. Empty chains too. */
export const normalised = (text: string, family: Family): readonly string[] => {
  const lines: string[] = [];
  for (const [table, chains] of readRules(text)) {
    for (const [chain, rules] of [...chains].sort(([a], [b]) => (a < b ? -1 : 1))) {
      if (!chain.startsWith("KUBE-")) continue;
      lines.push(`${table} ${chain}`);
      for (const rule of rules) lines.push(`${table} ${chain} ${normal(rule, family)}`);
    }
  }
  return lines.sort((a, b) => tableOf(a).localeCompare(tableOf(b)));
};

const tableOf = (line: string): string => line.split(" ", 1)[0] ?? "";

/** Matches that iptables-save adds, or that name a module of what follows. */
const IMPLIED: ReadonlySet<string> = new Set(["-m", "--mask", "--rsource"]);

const isImplied = ({ name, negated, values: [value = ""] }: RuleOption): boolean =>
  IMPLIED.has(name) || (!negated && (name === "-s" || name === "-d") && value.endsWith("/0"));

const normal = (rule: readonly RuleOption[], family: Family): string => {
  const options = rule.filter((option) => !isImplied(option)).map((option) => normalOption(option, family));
  const refuses = rule.some(({ name, values }) => name === "-j" && values[0] === "REJECT");
  if (refuses && !rule.some(({ name }) => name === "--reject-with"))
    options.push(`--reject-with ${family === "IPv4" ? "icmp" : "icmp6"}-port-unreachable`);
  return options.sort().join(" ");
};

const normalOption = ({ name, negated, values }: RuleOption, family: Family): string => {
  const [value = ""] = values;
  const not = negated ? "! " : "";
  const hex = (text: string): string => `0x${Number(text).toString(16)}`;
  switch (name) {
    case "-s":
    case "-d":
      return `${not}${name} ${value.includes("/") ? value : `${value}/${family === "IPv4" ? 32 : 128}`}`;
    case "--mark":
      return `${not}${name} ${value.split("/").map(hex).join("/")}`;
    case "--or-mark":
      return `--set-xmark ${hex(value)}/${hex(value)}`;
    case "--xor-mark":
      return `--set-xmark ${hex(value)}/0x0`;
    case "--probability":
      return `${name} ${Number(value).toFixed(7)}`; // the kernel keeps 31 bits
    default:
      return `${not}${[name, ...values].join(" ")}`;
  }
};
