// `beeline trace --drops`: what is refused and dropped, as it happens, one line each, with the agent dead or alive.
import { existsSync } from "node:fs";
import { type EventCounts, listenForEvents } from "../dataplane/bpf/events.ts";
import type { MapStore } from "../dataplane/bpf/mapstore.ts";
import { pinDirectory } from "../dataplane/bpf/pins.ts";
import { bootTime_ns } from "../dataplane/bpf/system/clock.ts";
import { InputError, RefusedError } from "../lib/errors.ts";
import { count, safe } from "../lib/text.ts";
import type { Args, Io, Run } from "./command.ts";
import { DROP_HEADERS, type Drop, dropCells, dropJson, dropOf, filterOf } from "./drop.ts";
import { withPinnedMaps } from "./pinned.ts";
import { API_VERSION, paintFor, pause, plainNumbers } from "./report.ts";

const POLL_MS = 50;
const CHECK_MS = 1_000;
const RATE = 100;

export const trace: Run = async (args, io) => {
  if (args.drops !== true) {
    throw new InputError("beeline trace shows what is refused or dropped, and nothing else: beeline trace --drops");
  }
  const isWanted = filterOf(args);
  const limit = positive("count", args.count, Number.POSITIVE_INFINITY);
  const rate = positive("rate", args.rate, RATE);
  return withPinnedMaps(args, (store, bpffs) =>
    follow(pinDirectory(bpffs), store, { rate, limit, isWanted, print: printerFor(args, io) }, io),
  );
};

interface Following {
  readonly rate: number;
  readonly limit: number;
  readonly isWanted: (drop: Drop) => boolean;
  readonly print: (drop: Drop) => void;
}

const follow = async (directory: string, store: MapStore, what: Following, io: Io): Promise<number> => {
  const { rate, limit, isWanted, print } = what;
  const listener = listenForEvents(directory, store, rate);
  const boot_ms = Date.now() - Number(bootTime_ns() / 1000n) / 1000;
  let shown = 0;
  let lost = 0;
  let checked_ms = performance.now();
  try {
    do {
      for (const event of listener.read()) {
        const drop = dropOf(event, store, boot_ms);
        if (shown === limit || !isWanted(drop)) continue;
        print(drop);
        shown++;
      }
      if (performance.now() - checked_ms < CHECK_MS) continue;
      checked_ms = performance.now();
      lost = tellLoss(listener.counts().lost, lost, io);
      if (!existsSync(directory))
        throw new RefusedError(`${directory} is gone: reset, or taken over by another version`);
    } while (shown < limit && (await pause(POLL_MS, io.signal)));
    io.err(summary(shown, listener.counts(), rate));
    return 0;
  } finally {
    listener.close();
  }
};

const tellLoss = (lost: number, before: number, io: Io): number => {
  if (lost > before) io.err(`beeline: ${count(lost - before, "event")} lost: they came faster than they were read\n`);
  return lost;
};

/** Where filters leave some out, or not everything was written, the numbers say so. */
const summary = (shown: number, { written, limited, lost }: EventCounts, rate: number): string =>
  `${shown} shown of ${count(written, "event")}; ${limited} more not written (over ${rate} a second for one hook, ` +
  `reason and CPU), ${lost} lost (the reader was too slow)\n`;

const positive = (option: string, given: number | undefined, otherwise: number): number => {
  if (given === undefined) return otherwise;
  if (Number.isInteger(given) && given > 0) return given;
  throw new InputError(`--${option} ${given}: expected a positive integer`);
};

/** Columns as wide as anything in them so far; the first ones rarely have to grow. */
const printerFor = (args: Args, io: Io): ((drop: Drop) => void) => {
  if (args.output === "json") {
    return (drop) => {
      const document = { apiVersion: API_VERSION, kind: "Drop", ...dropJson(drop) };
      io.out(`${JSON.stringify(document, plainNumbers)}\n`);
    };
  }
  const paint = paintFor(args, io);
  const widths = [12, 10, 8, 5, 21, 21, 16, 12, 0];
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, i) => {
        widths[i] = Math.max(widths[i] ?? 0, cell.length);
        return cell.padEnd(widths[i]);
      })
      .join("   ")
      .trimEnd();
  if (args.noHeaders !== true) io.out(`${line(DROP_HEADERS)}\n`);
  return (drop) => io.out(`${paint(drop.verdict === "refused" ? "yellow" : "red", line(dropCells(drop).map(safe)))}\n`);
};
