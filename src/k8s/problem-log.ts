// Problems as log lines: each once, when it appears, and few at a time, so that a thousand bad objects are no flood.
import type { Problem } from "../model/snapshot.ts";
import type { SourceHandlers } from "./source.ts";

const MAX_LINES = 20;

/** Returns a function that takes the problems there are now and logs those that were not there before. */
export const createProblemLog = (log: SourceHandlers["log"]): ((problems: readonly Problem[]) => void) => {
  let known: ReadonlySet<string> = new Set();
  let last: readonly Problem[] = [];
  return (problems) => {
    if (problems === last) return;
    last = problems;
    const lines = new Set(problems.map(({ object, path, message }) => `${object}${path && ` ${path}`}: ${message}`));
    const fresh = [...lines].filter((line) => !known.has(line));
    for (const line of fresh.slice(0, MAX_LINES)) log("warn", line);
    if (fresh.length > MAX_LINES) log("warn", `${fresh.length - MAX_LINES} more problems like these`);
    known = lines;
  };
};
