// A comparison as a screen and as a document: the differences, those by design apart, and what was not understood.
import { foreignSide } from "../compile/difference.ts";
import type { Comparison, Difference, DifferenceKind, IntendedDifference } from "../compile/finding.ts";
import { INTENDED, type IntendedNumber, VISIBLE } from "../compile/intended.ts";
import { bothExpress, type Reading, silences } from "../compile/reading.ts";
import { columns, count, safe } from "../lib/text.ts";
import type { Problem } from "../model/snapshot.ts";
import type { Report, Style } from "./report.ts";

export const differenceReport = (left: Reading, right: Reading, comparison: Comparison): Report => {
  const { differences, intended } = comparison;
  const notCompared = silences(bothExpress(left.expresses, right.expresses));
  return {
    kind: "Comparison",
    fields: {
      left: sideFields(left),
      right: sideFields(right),
      same: differences.length === 0,
      items: differences,
      intended: intended.map((one) => ({ ...one, reason: INTENDED[one.intended] })),
      notCompared,
      problems: [...left.problems.map(of("left")), ...right.problems.map(of("right"))],
    },
    failed: differences.length > 0,
    text: (style) => screen(left, right, comparison, notCompared, style),
  };
};

const of = (side: "left" | "right") => (problem: Problem) => ({ side, ...problem });

const sideFields = (reading: Reading) => ({
  source: reading.source,
  from: reading.from,
  servicePorts: reading.desired.services.size,
  frontends: frontendsIn(reading),
});

const frontendsIn = ({ desired }: Reading): number =>
  [...desired.services.values()].reduce((sum, { frontends }) => sum + frontends.length, 0);

const screen = (
  left: Reading,
  right: Reading,
  { differences, intended }: Comparison,
  notCompared: readonly string[],
  style: Style,
): string => {
  const heads = headsOf(left, right);
  const parts = [
    style.headers ? columns(null, [sideRow(left, heads.left), sideRow(right, heads.right)]) : "",
    differences.length === 0 ? "" : table(differences, heads, style),
    intended.length === 0 ? "" : intendedTable(intended, heads, style),
    problemLines([...left.problems, ...right.problems], style),
    silenceLines(notCompared, foreignSide(left, right) !== null),
    `${verdict(differences, intended, style)}\n`,
  ];
  return parts.filter((part) => part !== "").join("\n");
};

interface Heads {
  readonly left: string;
  readonly right: string;
}

const headsOf = ({ source: left }: Reading, { source: right }: Reading): Heads =>
  left === right ? { left: "left", right: "right" } : { left, right };

const sideRow = (reading: Reading, head: string): readonly string[] => [
  head,
  reading.from,
  count(reading.desired.services.size, "service port"),
  count(frontendsIn(reading), "frontend"),
];

// ---- tables --------------------------------------------------------------------------------------------------------

/** Of what only one side has, and words for what else differs. */
const WORDS: Readonly<Record<DifferenceKind, (heads: Heads) => string>> = {
  unreached: () => "out of reach",
  only_left: ({ left }) => `only ${left}`,
  only_right: ({ right }) => `only ${right}`,
  service: () => "service",
  kind: () => "kind",
  verdict: () => "verdict",
  policy: () => "policy",
  backends: () => "backends",
  source_ranges: () => "may enter",
  affinity: () => "affinity",
  health_check: () => "health check",
  local: () => "counts as local",
  draining: () => "drains",
  node_addresses: () => "NodePort addresses",
};

const table = (differences: readonly Difference[], heads: Heads, style: Style): string => {
  const titles = ["SERVICE", "FRONTEND", "CLIENTS", "WHAT", heads.left.toUpperCase(), heads.right.toUpperCase()];
  return columns(style.headers ? titles : null, rowsOf(differences, heads, style));
};

const intendedTable = (intended: readonly IntendedDifference[], heads: Heads, style: Style): string => {
  const titles = [
    "BY DESIGN",
    "FRONTEND",
    "CLIENTS",
    "WHAT",
    heads.left.toUpperCase(),
    heads.right.toUpperCase(),
    "NO",
  ];
  const rows = groupsOf(intended, style).map((group) => [...rowOf(group, heads, style), String(group.of.intended)]);
  const numbers = [...new Set(intended.map((one) => one.intended))].sort((a, b) => a - b);
  const reasons = numbers.map((n) => `  ${n}. ${INTENDED[n]}\n`).join("");
  return `${columns(style.headers ? titles : null, rows)}${reasons}`;
};

const rowsOf = (differences: readonly Difference[], heads: Heads, style: Style): string[][] =>
  groupsOf(differences, style).map((group) => rowOf(group, heads, style));

interface Group<D> {
  readonly of: D;
  readonly frontends: (string | null)[];
  /** What only one side says, of each. */
  readonly left: Set<string>;
  readonly right: Set<string>;
}

/** One difference of many frontends of a service is one row, and so are all that only one side has; wide has them all. */
const groupsOf = <D extends Difference>(differences: readonly D[], { wide }: Style): readonly Group<D>[] => {
  const groups = new Map<string, Group<D>>();
  for (const difference of differences) {
    const { frontend, left, right, ...rest } = difference;
    const apart = wide || difference.service === null;
    const alike = difference.kind === "only_left" || difference.kind === "only_right" ? rest : { ...rest, left, right };
    const key = JSON.stringify(apart ? difference : alike);
    const known = groups.get(key) ?? { of: difference, frontends: [], left: new Set(), right: new Set() };
    groups.set(key, known);
    known.frontends.push(frontend);
    for (const text of left) known.left.add(text);
    for (const text of right) known.right.add(text);
  }
  return [...groups.values()];
};

const rowOf = ({ of: one, frontends, left, right }: Group<Difference>, heads: Heads, { wide }: Style): string[] => {
  const [first] = frontends;
  const more = frontends.length > 1 ? ` and ${frontends.length - 1} more` : "";
  return [
    one.service ?? (one.frontend === null ? "the node" : "-"),
    `${first ?? "all"}${more}`,
    one.clients ?? "all",
    WORDS[one.kind](heads),
    sideText([...left], one, frontends.length, wide),
    sideText([...right], one, frontends.length, wide),
  ];
};

const SHOWN = 3;

/** Of many that only one side has, the kinds are enough. */
const sideText = (items: readonly string[], { kind }: Difference, frontends: number, wide: boolean): string => {
  const alone = kind === "only_left" || kind === "only_right";
  if (alone && frontends > 1) return [...new Set(items.map((text) => text.split(":")[0]))].join(", ") || "-";
  if (items.length === 0) return "-";
  if (wide || items.length <= SHOWN) return items.join(" ");
  return `${items.slice(0, SHOWN).join(" ")} and ${items.length - SHOWN} more`;
};

// ---- what else there is to say -------------------------------------------------------------------------------------

const PROBLEMS_SHOWN = 10;

const problemLines = (problems: readonly Problem[], { wide }: Style): string => {
  if (problems.length === 0) return "";
  const shown = wide ? problems : problems.slice(0, PROBLEMS_SHOWN);
  const lines = shown.map(
    ({ object, path, message }) => `  ${safe(`${object}${path === "" ? "" : ` ${path}`}: ${message}`)}\n`,
  );
  const rest = problems.length - shown.length;
  return `To be looked at:\n${lines.join("")}${rest === 0 ? "" : `  and ${rest} more (-o wide)\n`}`;
};

const silenceLines = (notCompared: readonly string[], foreign: boolean): string => {
  const said =
    notCompared.length === 0 ? "" : `Not compared, since one side cannot say it: ${notCompared.join(", ")}\n`;
  return foreign ? `${said}By design, and in no rule to be seen (docs/semantics.md): ${INVISIBLE.join(", ")}\n` : said;
};

const INVISIBLE: readonly number[] = Object.keys(INTENDED)
  .map((n) => Number(n) as IntendedNumber)
  .filter((n) => !VISIBLE.includes(n));

const verdict = (
  differences: readonly Difference[],
  intended: readonly IntendedDifference[],
  { paint }: Style,
): string => {
  const design = intended.length === 0 ? "" : `; by design ${intended.length} more`;
  if (differences.length === 0) return `${paint("green", "No difference")}${design}`;
  const services = new Set(differences.flatMap(({ service, frontend }) => service ?? frontend ?? [])).size;
  const where = services === 0 ? "" : ` in ${count(services, "service")}`;
  return `${paint("red", count(differences.length, "difference"))}${where}${design}`;
};
