// How every reading command answers: as columns for people or as a document for programs, once or whenever it changes.
import type { Args, Io } from "./command.ts";

export const API_VERSION = "beeline.dev/v1alpha1";

export interface Style {
  readonly wide: boolean;
  readonly headers: boolean;
  readonly paint: Paint;
}

export type Colour = "red" | "green" | "yellow";
export type Paint = (colour: Colour, text: string) => string;

export interface Report {
  /** `ServiceList`; docs/operations.md has the shape of each. */
  readonly kind: string;
  /** Fields of the document after apiVersion and kind. */
  readonly fields: Readonly<Record<string, unknown>>;
  readonly text: (style: Style) => string;
  /** The answer is no: exit 1. */
  readonly failed?: boolean;
}

const WATCH_MS = 1_000;

/** Prints what `gather` answers; with --watch again whenever it is another text, until the signal. */
export const show = async (args: Args, io: Io, gather: () => Report | Promise<Report>): Promise<number> => {
  let report = await gather();
  let printed = await render(report, args, io);
  io.out(printed);
  while (args.watch === true && (await pause(WATCH_MS, io.signal))) {
    report = await gather();
    const next = await render(report, args, io);
    if (next === printed) continue;
    printed = next;
    io.out(`${separator(args, io)}${printed}`);
  }
  return report.failed === true ? 1 : 0;
};

export const render = async (report: Report, args: Args, io: Io): Promise<string> => {
  const document = { apiVersion: API_VERSION, kind: report.kind, ...report.fields };
  switch (args.output) {
    case "json":
      return `${JSON.stringify(document, plainNumbers, args.watch === true ? 0 : 2)}\n`;
    case "yaml": {
      const { stringify } = await import("yaml");
      return stringify(JSON.parse(JSON.stringify(document, plainNumbers)), { lineWidth: 0 });
    }
    default:
      return report.text({
        wide: args.output === "wide",
        headers: args.noHeaders !== true,
        paint: paintFor(args, io),
      });
  }
};

/** 64-bit counters as numbers: exact up to 2^53, which is three centuries of a million a second. */
export const plainNumbers = (_key: string, value: unknown): unknown =>
  typeof value === "bigint" ? Number(value) : value;

const separator = (args: Args, io: Io): string => {
  if (args.output === "json") return "";
  if (args.output === "yaml") return "---\n";
  return io.terminal ? "\u001b[H\u001b[2J" : "\n";
};

/** Resolves to false when the signal came first. */
export const pause = (ms: number, signal: AbortSignal): Promise<boolean> =>
  new Promise((resolve) => {
    if (signal.aborted) return resolve(false);
    const done = (): void => {
      clearTimeout(timer);
      resolve(false);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", done);
      resolve(true);
    }, ms);
    signal.addEventListener("abort", done, { once: true });
  });

const CODES: Readonly<Record<Colour, number>> = { red: 31, green: 32, yellow: 33 };

/** Colour on terminals only, and not when NO_COLOR says anything (no-color.org). */
export const paintFor = (args: Args, io: Io): Paint =>
  io.terminal && args.noColor !== true && !io.env.NO_COLOR
    ? (colour, text) => `\u001b[${CODES[colour]}m${text}\u001b[0m`
    : (_colour, text) => text;
