// The command in this process: what it prints, and its exit code.
import type { Io } from "../../src/commands/command.ts";
import { runCommandLine } from "../../src/commands/commandline.ts";

/** Where a command prints to, which is no terminal unless `over` says so. */
export const createIo = (over: Partial<Io> = {}) => {
  const written = { out: "", err: "" };
  const io: Io = {
    out: (text) => {
      written.out += text;
    },
    err: (text) => {
      written.err += text;
    },
    terminal: false,
    env: {},
    signal: new AbortController().signal,
    version: "1.2.3",
    ...over,
  };
  return { io, written };
};

/** `runCommand("diff", "a.json")`. */
export const runCommand = async (...words: readonly string[]) => {
  const { io, written } = createIo();
  const code = await runCommandLine(words, io);
  return { code, ...written };
};
