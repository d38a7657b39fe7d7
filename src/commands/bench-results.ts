// `beeline bench RESULT…`: what was measured before, read again: as a table, as the HTML report, or two of them compared.
import { readFileSync, writeFileSync } from "node:fs";
import { compareResults, LEAST_ROUNDS, type ResultComparison, type Row } from "../bench/compare.ts";
import { grouped, quantityText } from "../bench/quantity.ts";
import { embeddedResult, page } from "../bench/report/page.ts";
import { parseResult, type Result } from "../bench/result.ts";
import { resultTable } from "../bench/table.ts";
import { InputError, messageOf } from "../lib/errors.ts";
import { columns, count } from "../lib/text.ts";
import type { Args, Io } from "./command.ts";
import { type Report, type Style, show } from "./report.ts";

/** With --compare two, else one. */
export const showResults = async (files: readonly string[], args: Args, io: Io): Promise<number> => {
  refuseIdleFlags(args);
  if (args.compare === true) return compareFiles(files, args, io);
  const [file, ...rest] = files;
  if (file === undefined || rest.length > 0)
    throw new InputError(`${files.join(" ")}: one result can be read again, and two with --compare`);
  const result = readResult(file);
  if (args.report !== undefined) writeReport(args.report, result);
  io.out(args.output === "json" ? `${JSON.stringify(result, null, 2)}\n` : resultTable(result));
  return 0;
};

/** A flag that would do nothing is a misunderstanding. */
const refuseIdleFlags = (args: Args): void => {
  const { modes, metrics, services, rounds, seconds, quick, baseline, save } = args;
  const measuring = Object.entries({ modes, metrics, services, rounds, seconds, quick, baseline, save });
  const idle = measuring.find(([, value]) => value !== undefined && value !== false);
  if (idle !== undefined) throw new InputError(`--${idle[0]} is for measuring, and results measure nothing`);
  if (args.compare === true && args.report !== undefined)
    throw new InputError("--report is of one result, and --compare of two");
};

/** JSON, or an HTML report with the result inside. */
const readResult = (file: string): Result => {
  const text = readText(file);
  const embedded = text.startsWith("<!doctype html>") ? embeddedResult(text) : text;
  if (embedded === null)
    throw new InputError(`Cannot read ${file}: a page without a result of \`beeline bench\` in it`);
  return parseResult(embedded, file);
};

const readText = (file: string): string => {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    throw new InputError(`Cannot read ${file}: ${messageOf(error)}`, { cause: error });
  }
};

const writeReport = (file: string, result: Result): void => {
  try {
    writeFileSync(file, page(result));
  } catch (error) {
    throw new InputError(`Cannot write ${file}: ${messageOf(error)}`, { cause: error });
  }
};

// ---- two of them ----------------------------------------------------------------------------------------------------

/** Per cent: what two runs of the same thing on one machine may differ by, whatever their rounds say. */
const TOLERANCE = 10;

const compareFiles = (files: readonly string[], args: Args, io: Io): Promise<number> => {
  const [first, second, ...rest] = files;
  if (first === undefined || second === undefined || rest.length > 0)
    throw new InputError(`--compare takes two results, before and after; here are ${files.length}`);
  const { tolerance = TOLERANCE } = args;
  if (!(tolerance >= 0 && tolerance <= 1000))
    throw new InputError(`--tolerance ${tolerance}: expected per cent, from 0 to 1000`);
  const [before, after] = [readResult(first), readResult(second)];
  const comparison = compareResults(before, after, tolerance / 100);
  if (comparison.rows.length === 0)
    throw new InputError(`${first} and ${second} have no mode, metric and number of services in common`);
  if (comparison.rows.every(({ verdict }) => verdict === "unknown"))
    throw new InputError(
      `Nothing can be said of ${first} and ${second}: it takes ${LEAST_ROUNDS} rounds of the same on both sides (--rounds ${LEAST_ROUNDS})`,
    );
  return show({ ...args, watch: false }, io, () => comparisonReport([first, before], [second, after], comparison));
};

type Side = readonly [file: string, result: Result];

const comparisonReport = (before: Side, after: Side, { rows, warnings }: ResultComparison): Report => ({
  kind: "BenchComparison",
  fields: {
    before: sideFields(before),
    after: sideFields(after),
    warnings,
    worse: countOf(rows, "worse"),
    better: countOf(rows, "better"),
    same: countOf(rows, "same"),
    unknown: countOf(rows, "unknown"),
    items: rows.map(({ metric, mode, ...rest }) => ({
      metric: metric.name,
      unit: metric.unit,
      mode: mode.name,
      ...rest,
    })),
  },
  failed: countOf(rows, "worse") > 0,
  text: (style) => screen(before, after, rows, warnings, style),
});

const countOf = (rows: readonly Row[], verdict: Row["verdict"]): number =>
  rows.filter((row) => row.verdict === verdict).length;

const sideFields = ([file, { started, versions, machine }]: Side) => ({ file, started, versions, machine });

const screen = (before: Side, after: Side, rows: readonly Row[], warnings: readonly string[], style: Style): string => {
  const { paint, wide } = style;
  const sides = columns(null, [sideRow("before", before), sideRow("after", after)]);
  const told = warnings.map((text) => `${paint("yellow", "warning:")} ${columns(null, [[text]])}`).join("");
  const parts = [
    `${sides}${told}`,
    table("WORSE", rows, "worse", style),
    table("BETTER", rows, "better", style),
    ...(wide ? [table("SAME", rows, "same", style), table("TOO FEW ROUNDS", rows, "unknown", style)] : []),
    verdictText(rows, style),
  ];
  return parts.filter((part) => part !== "").join("\n");
};

const sideRow = (name: string, [file, { started, versions }]: Side): readonly string[] => [
  name,
  file,
  started,
  `beeline ${versions.beeline}${versions.commit === null ? "" : ` (${versions.commit})`}`,
];

/** The greatest change first. */
const table = (title: string, rows: readonly Row[], verdict: Row["verdict"], { headers }: Style): string => {
  const chosen = rows
    .filter((row) => row.verdict === verdict)
    .sort((a, b) => Math.abs(Math.log(1 + b.change)) - Math.abs(Math.log(1 + a.change)));
  if (chosen.length === 0) return "";
  const heads = [title, "MODE", "SERVICES", "BEFORE", "AFTER", "CHANGE", "NOISE"];
  return columns(headers ? heads : null, chosen.map(rowText));
};

const rowText = ({ metric, mode, services, before, after, change, noise }: Row): readonly string[] => [
  metric.title,
  mode.name,
  services === 0 ? "-" : grouped(services),
  quantityText(before.median, metric.unit),
  quantityText(after.median, metric.unit),
  `${change > 0 ? "+" : ""}${percent(change)}`,
  `±${percent(noise)}`,
];

const percent = (share: number): string => `${(share * 100).toFixed(Math.abs(share) < 0.1 ? 1 : 0)} %`;

const verdictText = (rows: readonly Row[], { paint }: Style): string => {
  const [worse, better] = [countOf(rows, "worse"), countOf(rows, "better")];
  const [same, unknown] = [countOf(rows, "same"), countOf(rows, "unknown")];
  const said = worse === 0 ? paint("green", "Nothing got worse") : paint("red", `${count(worse, "figure")} got worse`);
  const few = unknown === 0 ? "" : `, ${unknown} with fewer than ${LEAST_ROUNDS} rounds are not judged`;
  return `${said}; ${better} better, ${same} within the noise${few}\n`;
};
