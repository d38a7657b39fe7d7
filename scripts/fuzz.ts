// `npm run fuzz`: rounds of random packets, one seed after another, until the time is over or it is interrupted. What
// fails is printed as the fewest packets that show it, each with its program and as hex; `--seed S --rounds 1` runs
// that round again.
import { randomInt } from "node:crypto";
import { parseArgs } from "node:util";
import { Fuzzer, formatFailure } from "../test/fuzz/run.ts";

const TOLD_MS = 10_000;
const MOST_FAILURES = 5;

const usage = (problem: string): never => {
  console.error(`fuzz: ${problem}\nUsage: npm run fuzz -- [--minutes N] [--seed S] [--rounds N]`);
  process.exit(2);
};

const readOptions = () => {
  const number = { type: "string" } as const;
  try {
    return parseArgs({ options: { minutes: number, seed: number, rounds: number } }).values;
  } catch (error) {
    return usage(error instanceof Error ? error.message : String(error));
  }
};

const options = readOptions();

const number = (option: "minutes" | "seed" | "rounds", otherwise: number): number => {
  const text = options[option];
  if (text === undefined) return otherwise;
  return /^\d+(\.\d+)?$/.test(text) ? Number(text) : usage(`--${option} ${text}: expected a number`);
};

const seed = number("seed", randomInt(2 ** 31));
const rounds = number("rounds", Number.POSITIVE_INFINITY);
const end = performance.now() + number("minutes", Number.POSITIVE_INFINITY) * 60_000;

let isInterrupted = false;
process.once("SIGINT", () => {
  isInterrupted = true;
});

const fuzzer = new Fuzzer();
const start = performance.now();
let told = start;
let failures = 0;
let round = 0;

const progress = (): string => {
  const seconds = (performance.now() - start) / 1000;
  const reasons = [...fuzzer.met]
    .sort(([, a], [, b]) => b - a)
    .map(([name, n]) => `${name.replace("REASON_", "")} ${n}`);
  return `${round} rounds from seed ${seed}, ${fuzzer.packets} packets in ${Math.round(seconds)} s: ${reasons.join(", ")}`;
};

while (round < rounds && performance.now() < end && failures < MOST_FAILURES && !isInterrupted) {
  const failure = fuzzer.round(seed + round++);
  if (failure !== null) {
    failures++;
    console.log(formatFailure(failure));
  }
  if (performance.now() - told < TOLD_MS) continue;
  told = performance.now();
  console.log(progress());
  await new Promise((resolve) => setImmediate(resolve)); // an interrupt is heard
}
fuzzer.close();
console.log(progress());
process.exitCode = failures === 0 ? 0 : 1;
