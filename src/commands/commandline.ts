// From words to a command: options and help by the table in commands.ts, errors to stderr, exit codes.
import yargs from "yargs";
import { exitCodeOf, InputError, isInputError, isRefusedError, isSystemFailure, messageOf } from "../lib/errors.ts";
import { hint } from "../lib/suggest.ts";
import { safe } from "../lib/text.ts";
import type { Args, Command, Io, Option } from "./command.ts";
import { COMMANDS } from "./commands.ts";

/** Answers the exit code: 0 fine, 1 the answer is no, 2 wrong usage or input, 3 the system refused. */
export const runCommandLine = async (words: readonly string[], io: Io): Promise<number> => {
  try {
    const chosen = await parse(words, io);
    if (chosen === null) return 0;
    const run = await chosen.command.load();
    return await run(chosen.args, io);
  } catch (error) {
    if (isInputError(error) || isRefusedError(error) || isSystemFailure(error)) {
      io.err(`beeline: ${messageOf(error).split("\n").map(safe).join("\n")}\n`);
    } else {
      io.err(`beeline: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
    }
    return exitCodeOf(error);
  }
};

/** null: help, the version or a completion was all that was asked for, and has been printed. */
const parse = async (words: readonly string[], io: Io): Promise<{ command: Command; args: Args } | null> => {
  let chosen: { command: Command; args: Args } | null = null;
  let printed = "";
  const parser = yargs()
    .scriptName("beeline")
    .usage("$0 <command>\n\nServices of Kubernetes, by eBPF, on this node.")
    .parserConfiguration({ "boolean-negation": false, "greedy-arrays": false })
    .locale("en")
    .wrap(Math.min(120, Math.max(80, Number(io.env.COLUMNS) || 100)))
    .epilogue(
      "`beeline <command> --help` has examples. Exit codes: 0 fine, 1 the answer is no, 2 wrong usage or input, 3 the system refused.",
    )
    .completion("completion", "Print a completion script for the shell in $SHELL (bash, zsh)")
    .version(io.version)
    .help()
    .alias("help", "h")
    .strict()
    .demandCommand(1, "")
    .exitProcess(false)
    .fail((message, error) => {
      throw error ?? new InputError(message);
    });
  for (const command of COMMANDS) {
    parser.command(
      command.usage,
      command.summary,
      (y) => {
        for (const [name, option] of Object.entries(command.positionals ?? {})) y.positional(name, settings(option));
        for (const [name, option] of Object.entries(command.options)) y.option(name, settings(option));
        for (const [line, what] of command.examples) y.example(line, what);
        return y;
      },
      (args) => {
        chosen = { command, args: args as unknown as Args };
      },
    );
  }
  try {
    await parser.parseAsync([...words], {}, (_error, _args, output) => {
      printed = output;
    });
  } catch (error) {
    throw usageError(error, words);
  }
  if (printed !== "") {
    io.out(`${printed}\n`);
    return null;
  }
  if (chosen === null) throw new InputError(NO_COMMAND);
  checkValues(chosen);
  return chosen;
};

const NO_COMMAND = "No command given; see beeline --help";

/** What yargs lets through: an option twice that means one thing, and words where numbers belong. */
const checkValues = ({ command, args }: { readonly command: Command; readonly args: Args }): void => {
  const values = args as Readonly<Record<string, unknown>>;
  for (const [name, { type, array }] of Object.entries(command.options)) {
    const value = values[name];
    if (Array.isArray(value) && array !== true && type !== "boolean") {
      throw new InputError(`--${name} is given ${value.length} times, and means one thing`);
    }
    if (type === "number" && Number.isNaN(value)) throw new InputError(`-${name}: expected a number`);
  }
};

const settings = (option: Option) => {
  const { describe, type, alias, choices, array } = option;
  return {
    describe,
    type,
    ...(alias === undefined ? {} : { alias }),
    ...(choices === undefined ? {} : { choices }),
    ...(array === undefined ? { requiresArg: type !== "boolean" } : { array, requiresArg: true }),
  } as const;
};

/** yargs' words for a mistake, made ours, with what was probably meant. */
const usageError = (error: unknown, words: readonly string[]): unknown => {
  if (!(error instanceof Error)) return error;
  const command = COMMANDS.find((c) => words.includes(nameOf(c)));
  const help = `See beeline ${command === undefined ? "" : `${nameOf(command)} `}--help`;
  const message = error.message.replaceAll(/\s+/g, " ");
  if (message === "" || message === "null") return new InputError(NO_COMMAND);
  const unknown = /^Unknown (?:argument|command)s?: (.*)$/.exec(message)?.[1];
  if (unknown !== undefined) return new InputError(`${unknownWords(unknown.split(", "), words, command)}. ${help}`);
  const choice = /Argument: (\S+), Given: (.*?), Choices: (.*)$/.exec(message);
  if (choice !== null) return new InputError(`--${choice[1]} ${choice[2]}: expected one of ${choice[3]}`);
  if (message.startsWith("Not enough non-option"))
    return new InputError(`Usage: beeline ${command?.usage ?? ""}. ${help}`);
  return new InputError(`${message}. ${help}`);
};

const nameOf = (command: Command): string => command.usage.split(" ")[0] ?? "";

const unknownWords = (unknown: readonly string[], words: readonly string[], command: Command | undefined): string => {
  // yargs names `--foo-bar` a second time as fooBar.
  const written = unknown.filter((u) => words.some((w) => w === u || w.replace(/^--?/, "").split("=")[0] === u));
  const told = (written.length > 0 ? written : unknown).map((word) => {
    if (words.includes(word)) {
      return command === undefined
        ? `Unknown command ${word}${hint(word, COMMANDS.map(nameOf))}`
        : `Unknown argument ${word}`;
    }
    const near = hint(word, Object.keys(command?.options ?? {})).replace("mean ", "mean --");
    return `Unknown flag ${word.length === 1 ? "-" : "--"}${word}${near}`;
  });
  return told.join("; ");
};
