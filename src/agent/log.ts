// Log lines on stderr: JSON by pino, or text. A warning or error that repeats is held back after a few and counted, so
// that a failure in a loop cannot flood a node's disk.
import pino from "pino";
import { safe } from "../lib/text.ts";
import type { Config, Level } from "./config.ts";

export type Log = (level: Level, message: string, fields?: object) => void;

/** Of one message this many lines a window; then one line says how many were held back. */
const BURST = 10;
const WINDOW_MS = 60_000;
/** Different messages remembered; more than this at once are not a repeat of anything. */
const MEMORY = 1000;

const ORDER: readonly Level[] = ["error", "warn", "info", "debug", "trace"];

export const createLog = (
  config: Config["logging"],
  write: (line: string) => void,
  now_ms: () => number = Date.now,
): Log => {
  const sink = config.format === "json" ? jsonSink(config.level, write) : textSink(write, now_ms);
  return limitRepeats((level, message, fields) => {
    if (ORDER.indexOf(level) <= ORDER.indexOf(config.level)) sink(level, message, fields);
  }, now_ms);
};

const jsonSink = (level: Level, write: (line: string) => void): Log => {
  const logger = pino(
    {
      level,
      base: { component: "beeline" },
      timestamp: () => `,"ts":"${new Date().toISOString()}"`,
      formatters: { level: (label) => ({ level: label }) },
    },
    { write },
  );
  return (at, message, fields) => logger[at](jsonSafe(fields ?? {}), message);
};

/** Errors as words: pino would print a stack for each. */
const jsonSafe = (fields: object): object =>
  Object.fromEntries(Object.entries(fields).map(([k, v]) => [k, v instanceof Error ? v.message : v]));

const textSink =
  (write: (line: string) => void, now_ms: () => number): Log =>
  (level, message, fields) => {
    const rest = Object.entries(fields ?? {}).map(([key, value]) => ` ${key}=${textOf(value)}`);
    write(`${new Date(now_ms()).toISOString()} ${level.toUpperCase().padEnd(5)} ${safe(message)}${rest.join("")}\n`);
  };

const textOf = (value: unknown): string => {
  if (value instanceof Error) return JSON.stringify(safe(value.message));
  if (typeof value === "string") return /^[\w./:@[\]-]+$/.test(value) ? value : JSON.stringify(safe(value));
  return safe(JSON.stringify(value) ?? String(value));
};

const limitRepeats = (log: Log, now_ms: () => number): Log => {
  const seen = new Map<string, { since_ms: number; count: number }>();
  return (level, message, fields) => {
    if (level !== "warn" && level !== "error") return log(level, message, fields);
    const now = now_ms();
    const key = message.replace(/\d+ ms/g, "# ms"); // a wait differs every time
    const entry = seen.get(key);
    if (entry !== undefined && now - entry.since_ms < WINDOW_MS) {
      if (++entry.count <= BURST) log(level, message, fields);
      return;
    }
    if (entry !== undefined && entry.count > BURST) {
      log(level, `${message} (${entry.count - BURST} more of these were held back)`);
    }
    if (seen.size >= MEMORY) seen.clear();
    seen.set(key, { since_ms: now, count: 1 });
    log(level, message, fields);
  };
};
