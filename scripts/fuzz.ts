// `npm run fuzz`: rounds of random packets, one seed after another, until the time is over or it is interrupted. What
// fails is printed as the fewest packets that show it, each with its program and as hex; `--seed S --rounds 1` runs
// that round again.
import { randomInt } from "node:crypto";
import { parseArgs } from "node:util";
import { Fuzzer, formatFailure } from "../test/fuzz/run.ts";

const TOLD_MS = 10_000;
const MOST_FAILURES = 5;

const { values } = parseArgs({
  options: { minutes: { type: "string" }, seed: { type: "string" }, rounds: { type: "string" } },
});

const number = (option: keyof typeof values, otherwise: number): number => {
  const text = values[option];
  const given = text === undefined ? otherwise : Number(text);
  if (!(given >= 0)) {
    console.error(`fuzz: --${option} ${text}: expected a number`);
    process.exit(2);
  }
  return given;
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
  const reasons = [...fuzzer.reasons].sort(([, a], [, b]) => b - a).map(([name, n]) => `${name.slice(7)} ${n}`);
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
