// A reporter of node:test for a run that takes long: one line for each file as soon as it is over, with its time, and below it
// by name what failed and what was skipped, each with the reason.
import { relative } from "node:path";
import type { EventData } from "node:test";
import type { TestEvent } from "node:test/reporters";
import { inspect } from "node:util";

export default async function* report(events: AsyncIterable<TestEvent>): AsyncGenerator<string> {
  /** Of the test that is reported, and of those around it. */
  let names: readonly string[] = [];
  /** Of the file that is reported. */
  let [remarks, stderr] = ["", ""];
  for await (const { type, data } of events) {
    if (type === "test:start") names = [...names.slice(0, data.nesting), data.name];
    if (type === "test:stderr") stderr += data.message;
    if (type === "test:pass") remarks += skipped(names, data);
    if (type === "test:fail") remarks += hasDied(data) ? died(data, stderr) : failed(names, data);
    if (type !== "test:summary" && !(type === "test:fail" && hasDied(data))) continue;
    yield (type === "test:summary" ? ended(data) : "") + remarks;
    [remarks, stderr] = ["", ""];
  }
}

/** Nothing for that of all files. */
const ended = ({ file, counts, success, duration_ms }: EventData.TestSummary): string => {
  if (file === undefined) return "";
  const { passed, skipped, tests } = counts;
  const words = `${passed} of ${tests} passed${skipped === 0 ? "" : `, ${skipped} skipped`}`;
  const seconds = `${Math.round(duration_ms / 1000)} s`;
  return `${success ? "ok    " : "FAILED"} ${relative(".", file).padEnd(36)} ${seconds.padStart(6)}  ${words}\n`;
};

const skipped = (names: readonly string[], { nesting, name, skip }: EventData.TestPass): string =>
  skip === undefined ? "" : `  skipped: ${pathOf(names, nesting, name)}: ${skip === true ? "no reason given" : skip}\n`;

const failed = (names: readonly string[], { nesting, name, details: { error } }: EventData.TestFail): string => {
  // A suite fails when a test of it does, which was said.
  if ("failureType" in error && error.failureType === "subtestsFailed") return "";
  return `  failed: ${pathOf(names, nesting, name)}\n${indented(inspect(error.cause ?? error))}`;
};

const pathOf = (names: readonly string[], nesting: number, name: string): string =>
  [...names.slice(0, nesting), name].join(" › ");

/** What fails is a file's whole process: no summary of it comes. */
const hasDied = ({ details }: EventData.TestFail): boolean => "exitCode" in details.error;

const died = ({ name, details }: EventData.TestFail, stderr: string): string =>
  `FAILED ${name}: its process ended: ${inspect(details.error)}\n${indented(stderr)}`;

/** Without node's own part of stacks. */
const indented = (text: string): string =>
  text
    .split("\n")
    .filter((line) => line.trim() !== "" && !/\bat .*\bnode:/.test(line))
    .map((line) => `    ${line}\n`)
    .join("");
