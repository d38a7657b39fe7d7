// What the words on the command line choose: modes, metrics, numbers of services, and how long everything takes. Whatever
// cannot be is an InputError that says what was perhaps meant. Pure.
import { InputError } from "../lib/errors.ts";
import { hint } from "../lib/suggest.ts";
import { FEWEST_SERVICES, MOST_SERVICES } from "./cluster.ts";

export interface BenchFlags {
  readonly modes?: string | undefined;
  readonly metrics?: string | undefined;
  readonly services?: string | undefined;
  readonly rounds?: number | undefined;
  readonly seconds?: number | undefined;
  readonly quick?: boolean | undefined;
  readonly baseline?: string | undefined;
}

export interface Choice {
  readonly modes: readonly string[];
  readonly metrics: ReadonlySet<string>;
  readonly services: readonly number[];
  readonly rounds: number;
  readonly seconds: number;
  readonly warm_up_s: number;
  readonly baseline: string | null;
}

export interface Known {
  readonly modes: readonly string[];
  readonly metrics: readonly string[];
}

const FULL = { services: [10, 1000, 10_000], rounds: 5, seconds: 0.3, warm_up_s: 0.15 } as const;
/** As few rounds as say something of their spread, and as --compare takes. */
const QUICK = { services: [10], rounds: 3, seconds: 0.2, warm_up_s: 0.1 } as const;

/** What others are measured by, when nobody says: what most clusters run. */
const BASELINE = "iptables-legacy";

const MOST_ROUNDS = 100;
const [LEAST_SECONDS, MOST_SECONDS] = [0.02, 60];

export const chooseRun = (flags: BenchFlags, known: Known): Choice => {
  const usual = flags.quick === true ? QUICK : FULL;
  const modes = wordsOf("mode", flags.modes, known.modes);
  const metrics = wordsOf("metric", flags.metrics, known.metrics);
  const services = flags.services === undefined ? usual.services : numbersOf(flags.services);
  const [rounds, seconds] = [flags.rounds ?? usual.rounds, flags.seconds ?? usual.seconds];
  if (!Number.isInteger(rounds) || rounds < 1 || rounds > MOST_ROUNDS)
    throw new InputError(`--rounds ${rounds}: expected a whole number from 1 to ${MOST_ROUNDS}`);
  if (!(seconds >= LEAST_SECONDS && seconds <= MOST_SECONDS))
    throw new InputError(`--seconds ${seconds}: expected a number from ${LEAST_SECONDS} to ${MOST_SECONDS}`);
  const { warm_up_s } = usual;
  const baseline = baselineOf(flags.baseline, modes, known.modes);
  return { modes, metrics: new Set(metrics), services, rounds, seconds, warm_up_s, baseline };
};

/** In the order of the known ones, each once. */
const wordsOf = (what: string, text: string | undefined, known: readonly string[]): readonly string[] => {
  if (text === undefined) return known;
  const words = text
    .split(",")
    .map((word) => word.trim())
    .filter((word) => word !== "");
  for (const word of words) {
    if (!known.includes(word))
      throw new InputError(`There is no ${what} ${word}${hint(word, known)}: the ${what}s are ${known.join(", ")}`);
  }
  if (words.length === 0) throw new InputError(`--${what}s names none: the ${what}s are ${known.join(", ")}`);
  return known.filter((word) => words.includes(word));
};

const numbersOf = (text: string): readonly number[] => {
  const numbers = text.split(",").map((word) => (/^\s*\d+\s*$/.test(word) ? Number(word) : Number.NaN));
  const wrong = numbers.findIndex((n) => !(n >= FEWEST_SERVICES && n <= MOST_SERVICES));
  if (wrong >= 0) {
    throw new InputError(
      `--services ${text.split(",")[wrong]}: expected whole numbers from ${FEWEST_SERVICES} to ${MOST_SERVICES}, like 10,1000`,
    );
  }
  return [...new Set(numbers)].sort((x, y) => x - y);
};

const baselineOf = (wanted: string | undefined, modes: readonly string[], known: readonly string[]): string | null => {
  if (wanted === undefined) return modes.includes(BASELINE) ? BASELINE : null;
  if (!known.includes(wanted)) throw new InputError(`There is no mode ${wanted}${hint(wanted, known)} for --baseline`);
  if (!modes.includes(wanted))
    throw new InputError(`--baseline ${wanted} is not among the --modes: ${modes.join(", ")}`);
  return wanted;
};
