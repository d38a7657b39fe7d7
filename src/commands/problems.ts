// What of the manifests is not used, one line each, to stderr.
import { safe } from "../lib/text.ts";
import type { Problem } from "../model/snapshot.ts";
import type { Io } from "./command.ts";

export const reportProblems = (problems: readonly Problem[], io: Io): void => {
  for (const { object, path, message } of problems) {
    io.err(`beeline: ${safe(`${object}${path === "" ? "" : ` ${path}`}: ${message}`)}\n`);
  }
};
