// Has the kernel remove connections that have been silent for too long, every few seconds, and more eagerly when the
// table fills: then what is half-open, closed or unanswered goes soon. An established connection has its whole timeout.
import type { Expired, ExpiryOptions } from "../dataplane/bpf/expiry.ts";
import { messageOf } from "../lib/errors.ts";
import type { Log } from "./log.ts";

export interface ExpiryFacts extends Expired {
  /** Of the last run. */
  readonly seconds: number;
}

export interface Expiry {
  /** Sums of `expired`, `healed`, `orphans` since the start, the rest as of the last run; null: there was none. */
  facts(): ExpiryFacts | null;
  close(): void;
}

export interface ExpiryParts {
  readonly expire: (options: ExpiryOptions) => Expired;
  /** Of the map flows. */
  readonly capacity: number;
  readonly log: Log;
  readonly now_ms: () => number;
}

const EVERY_MS = 5_000;
const THOROUGH_EVERY_MS = 60_000;
/** When more than this share of the table is in use… */
const FILLING = 3 / 4;
const EAGER_EVERY_MS = 1_000;
const EAGER_MOST_S = 10;

export const startExpiry = ({ expire, capacity, log, now_ms }: ExpiryParts): Expiry => {
  let facts: ExpiryFacts | null = null;
  let thorough_ms = Number.NEGATIVE_INFINITY;
  let isEager = false;
  let failed = "";

  const run = (): void => {
    const start_ms = now_ms();
    const thorough = start_ms - thorough_ms >= THOROUGH_EVERY_MS;
    if (thorough) thorough_ms = start_ms;
    const done = expire({ most_s: isEager ? EAGER_MOST_S : 0, thorough });
    const sum = (name: "expired" | "healed" | "orphans"): number => (facts?.[name] ?? 0) + done[name];
    const sums = { expired: sum("expired"), healed: sum("healed"), orphans: sum("orphans") };
    facts = { ...done, ...sums, seconds: (now_ms() - start_ms) / 1000 };
    note(done.entries / capacity > FILLING);
  };

  const note = (eager: boolean): void => {
    if (eager !== isEager) {
      const message = eager ? "Map flows fills: what is not established expires sooner" : "Map flows has room again";
      log(eager ? "warn" : "info", message, { entries: facts?.entries, capacity });
    }
    isEager = eager;
  };

  const guarded = (): void => {
    try {
      run();
      failed = "";
    } catch (error) {
      if (messageOf(error) !== failed) log("error", "Cannot expire flows", { error: messageOf(error) });
      failed = messageOf(error);
    }
    timer = setTimeout(guarded, isEager ? EAGER_EVERY_MS : EVERY_MS);
  };

  let timer = setTimeout(guarded, EVERY_MS);
  return { facts: () => facts, close: () => clearTimeout(timer) };
};
