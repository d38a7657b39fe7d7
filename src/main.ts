#!/usr/bin/env node
// The beeline command: hands the process over to commands/, and leaves with its exit code.
import { constants } from "node:os";
import manifest from "../package.json" with { type: "json" };
import { runCommandLine } from "./commands/commandline.ts";

// A reader that has seen enough (`| head`) is no error.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") process.exit(0);
  throw error;
});
process.stderr.on("error", () => {});

const abort = new AbortController();
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  // The second one does not wait.
  process.on(signal, () =>
    abort.signal.aborted ? process.exit(128 + constants.signals[signal]) : abort.abort(signal),
  );
}

process.exitCode = await runCommandLine(process.argv.slice(2), {
  out: (text) => void process.stdout.write(text),
  err: (text) => void process.stderr.write(text),
  terminal: process.stdout.isTTY === true,
  env: process.env,
  signal: abort.signal,
  version: manifest.version,
});
