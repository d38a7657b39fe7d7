// `beeline bench`: makes a lab of network namespaces, measures modes side by side, and prints or saves what came out.
// With results of earlier runs it measures nothing: bench-results.ts.
import { accessSync, constants, existsSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { chooseRun } from "../bench/choice.ts";
import { METRICS } from "../bench/measurements.ts";
import { MODES } from "../bench/modes.ts";
import { page } from "../bench/report/page.ts";
import { type Progress, runBenchmark } from "../bench/run.ts";
import { liveTable, resultTable, timeText } from "../bench/table.ts";
import { InputError, messageOf } from "../lib/errors.ts";
import { benchDirectory, benchNodeScript } from "../lib/paths.ts";
import type { Args, Io, Run } from "./command.ts";

export const bench: Run = async (args, io) => {
  const { results = [] } = args;
  if (args.tolerance !== undefined && args.compare !== true) throw new InputError("--tolerance is for --compare");
  if (results.length > 0 || args.compare === true)
    return (await import("./bench-results.ts")).showResults(results, args, io);
  const choice = chooseRun(args, { modes: MODES.map(({ name }) => name), metrics: METRICS.map(({ name }) => name) });
  const save = args.save === undefined ? null : openForWriting(args.save);
  const report = args.report === undefined ? null : openForWriting(args.report);
  const live = io.terminal && args.output !== "json" ? redrawing(io, choice) : plainLines(io);
  const { result, failed } = await runBenchmark({
    ...choice,
    modes: MODES.filter(({ name }) => choice.modes.includes(name)),
    command: commandLine(args),
    version: io.version,
    files: filesOfBench(),
    signal: io.signal,
    note: (text) => io.err(`${text}\n`),
    progress: live.show,
  });
  live.end();
  const json = `${JSON.stringify(result, null, 2)}\n`;
  save?.(json);
  report?.(page(result));
  io.out(args.output === "json" ? json : resultTable(result));
  return failed || !result.complete ? 1 : 0;
};

const filesOfBench = () => {
  try {
    return { tools: benchDirectory(), nodeScript: benchNodeScript() };
  } catch (error) {
    throw new InputError(messageOf(error), { cause: error });
  }
};

/** Found out before minutes of measuring, not after. */
const openForWriting = (path: string): ((text: string) => void) => {
  try {
    accessSync(existsSync(path) ? path : dirname(path), constants.W_OK);
  } catch (error) {
    throw new InputError(`Cannot write ${path}: ${messageOf(error)}`, { cause: error });
  }
  return (text) => writeFileSync(path, text);
};

/** As it was asked for, without what only says where the result goes. */
const commandLine = (args: Args): string => {
  const { modes, metrics, services, rounds, seconds, quick, baseline } = args;
  const flags = Object.entries({ modes, metrics, services, rounds, seconds, baseline }).flatMap(([name, value]) =>
    value === undefined ? [] : [`--${name} ${value}`],
  );
  return ["beeline bench", ...(quick === true ? ["--quick"] : []), ...flags].join(" ");
};

// ---- while it runs -------------------------------------------------------------------------------------------------

interface Display {
  show(progress: Progress): void;
  end(): void;
}

/** To stderr, a line whenever something else is measured; problems as they turn up. */
const plainLines = (io: Io): Display => {
  let [last, problems] = ["", 0];
  return {
    show({ what, left_s, problems: all }) {
      for (const problem of all.slice(problems)) io.err(`problem: ${problem}\n`);
      problems = all.length;
      const [group = what] = what.split(", ", 1);
      const line = what.startsWith("round") ? what.slice(0, Math.max(group.length, what.lastIndexOf(","))) : what;
      if (line !== last) io.err(`${line} (${timeText(left_s)} left)\n`);
      last = line;
    },
    end() {},
  };
};

const [DEFAULT_WIDTH, DEFAULT_HEIGHT] = [100, 40];

/** On a terminal: a table that fills, and below it what is being measured; drawn over itself. */
const redrawing = (io: Io, { metrics }: { readonly metrics: ReadonlySet<string> }): Display => {
  let lines = 0;
  const clear = (): void => {
    if (lines > 0) io.out(`\u001b[${lines}A\u001b[J`);
    lines = 0;
  };
  return {
    show({ what, done, left_s, samples, places, problems }) {
      const { columns: width = DEFAULT_WIDTH, rows: height = DEFAULT_HEIGHT } = process.stdout;
      const shown = METRICS.map(({ name }) => name).filter((name) => metrics.has(name));
      const table = liveTable({ samples, places, metrics: shown }, width - 1, height - 4);
      const state = `${Math.round(100 * done)} %, ${timeText(left_s)} left: ${what}`;
      const trouble = problems.length === 0 ? "" : ` (${problems.length} problems)`;
      const text = `${table}\n${`${state}${trouble}`.slice(0, width - 1)}\n`;
      clear();
      io.out(text);
      lines = text.split("\n").length - 1;
    },
    end: clear,
  };
};
