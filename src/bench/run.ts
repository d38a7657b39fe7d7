// One benchmark run: makes the lab, lets all modes live in it side by side, measures round by round, checks that each mode
// carried what it claims, and answers the result. Interrupted, it answers what it has; the lab goes in every case.
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { messageOf, RefusedError } from "../lib/errors.ts";
import { list } from "../lib/text.ts";
import { chooseCpus } from "./cpus.ts";
import { Generator, LIMIT, type Limit } from "./generator.ts";
import { closeLab, labDirectory, labName, openLab, removeLeftovers } from "./lab/leftovers.ts";
import { networkScript } from "./lab/network.ts";
import { mountBpf, runScript } from "./lab/process.ts";
import { checkMachine, describeMachine, describeVersions, restlessness } from "./machine.ts";
import { INSTALL_METRICS, MEASUREMENTS, METRICS, type Measured, type Measurement, NOTHING } from "./measurements.ts";
import type { Mode } from "./modes.ts";
import type { Carried } from "./node/node.ts";
import { type Gap, type Proof, RESULT_VERSION, type Result, type Sample } from "./result.ts";
import { schedule } from "./schedule.ts";
import { type Files, type Installed, type Setting, Stack } from "./stack.ts";

export interface RunOptions {
  /** Those that were asked for; the ones that cannot be measured here are named in the result. */
  readonly modes: readonly Mode[];
  /** Ascending. */
  readonly services: readonly number[];
  /** Names of metrics. */
  readonly metrics: ReadonlySet<string>;
  readonly rounds: number;
  readonly seconds: number;
  readonly warm_up_s: number;
  readonly baseline: string | null;
  /** For the record. */
  readonly command: string;
  readonly version: string;
  readonly files: Files;
  readonly signal: AbortSignal;
  /** Worth saying, once. */
  readonly note: (text: string) => void;
  readonly progress: (progress: Progress) => void;
  /** Called between making a stack and its first traffic: for tests that break something. */
  readonly afterInstall?: (stack: Stack, lab: string) => void;
}

export interface Progress {
  /** `round 2 of 5: connect, iptables-nft with 1000 services`. */
  readonly what: string;
  /** From 0 to 1. */
  readonly done: number;
  /** As far as what has been done took as long as was thought. */
  readonly left_s: number;
  readonly samples: readonly Sample[];
  /** Modes and sizes, in the order in which they are measured first. */
  readonly places: readonly { readonly mode: string; readonly services: number }[];
  readonly problems: readonly string[];
}

export interface Outcome {
  readonly result: Result;
  /** A mode that did not carry what it claims, or that broke: the result is not to be used as it is. */
  readonly failed: boolean;
}

/** Throws RefusedError or InputError before anything is made; later troubles are in the result. */
export const runBenchmark = async (options: RunOptions): Promise<Outcome> => {
  const started = new Date();
  const start_ms = performance.now();
  const skipped = new Map(options.modes.map((mode) => [mode, mode.missing()]));
  const modes = options.modes.filter((mode) => skipped.get(mode) === null);
  if (modes.length === 0) {
    const reasons = options.modes.map((mode) => `${mode.name}: ${skipped.get(mode) ?? ""}`);
    throw new RefusedError(`None of these modes can be measured here: ${reasons.join("; ")}`);
  }
  const run = new Run(options, modes);
  checkMachine(run.stacks);
  const restless = restlessness();
  const leftovers = removeLeftovers();
  if (leftovers.length > 0) options.note(`removed what runs that crashed left here: ${list(leftovers)}`);
  const complete = await run.toTheEnd();
  const measured = new Set(run.samples.map(({ metric }) => metric));
  const metrics = METRICS.filter(({ name }) => options.metrics.has(name) && (complete || measured.has(name)));
  const isListed = ({ metric }: { readonly metric: string }): boolean => metrics.some(({ name }) => name === metric);
  const result: Result = {
    kind: "beeline-bench",
    version: RESULT_VERSION,
    started: started.toISOString(),
    duration_s: Math.round((performance.now() - start_ms) / 100) / 10,
    complete,
    machine: describeMachine(),
    versions: describeVersions(options.version, import.meta.dirname),
    method: {
      rounds: options.rounds,
      seconds: options.seconds,
      warm_up_s: options.warm_up_s,
      order: "all modes alive at once; one measurement on each in turn, in reverse every other round",
      pinning: [
        { cpu: run.setting.cpus.sender, what: "sender, interrupts, forwarding, and what counts packets" },
        { cpu: run.setting.cpus.server, what: "servers in the pods" },
      ],
      baseline: modes.some(({ name }) => name === options.baseline) ? options.baseline : null,
      services: options.services,
      command: options.command,
    },
    modes: options.modes.map((mode) => {
      const { name, title, summary, beeline, counts_services } = mode;
      return { name, title, summary, beeline, counts_services, skipped: skipped.get(mode) ?? null };
    }),
    metrics,
    gaps: [...modes.flatMap((mode) => gapsOf(mode, options.metrics, options.services)), ...run.gaps].filter(isListed),
    samples: run.samples,
    generator: run.generator.filter(isListed),
    problems: [...(restless === null ? [] : [restless]), ...run.problems],
  };
  return { result, failed: run.problems.length > 0 };
};

let labs = 0;

/** Of each mode and size, by rounds; of what takes longer than so many seconds, one. */
const INSTALLS = 3;
const WORTH_REPEATING_S = 3;

class Run {
  readonly stacks: readonly Stack[];
  readonly samples: Sample[] = [];
  readonly generator: { metric: string; round: number; value: number }[] = [];
  readonly gaps: Gap[] = [];
  readonly problems: string[] = [];
  readonly #options: RunOptions;
  readonly setting: Setting;
  readonly #measurements: readonly Measurement[];
  readonly #broken = new Set<Stack>();
  /** Those whose install does not take long. */
  readonly #repeated: Stack[] = [];
  #generator: Generator | null = null;
  /** Of this round. */
  #limit: Limit | null = null;
  readonly #start_ms = performance.now();
  #done_s = 0;
  #total_s = 0;

  constructor(options: RunOptions, modes: readonly Mode[]) {
    this.#options = options;
    this.setting = { lab: labName(process.pid, ++labs), files: options.files, cpus: chooseCpus() };
    this.#measurements = MEASUREMENTS.filter(({ metrics }) => metrics.some(({ name }) => options.metrics.has(name)));
    // By size: what is compared with each other is measured one right after the other.
    this.stacks = [0, ...options.services].flatMap((services) =>
      modes
        .filter(({ counts_services }) => counts_services === services > 0)
        .map((mode) => this.#stack(mode, services)),
    );
  }

  #stack(mode: Mode, services: number): Stack {
    const name = services === 0 ? mode.name : `${mode.name}-${services}`;
    return new Stack(this.setting, name, mode, services);
  }

  /** False: interrupted. */
  async toTheEnd(): Promise<boolean> {
    const { signal } = this.#options;
    // All its processes end, so whatever is awaited fails at once.
    const interrupt = (): void => closeLab(this.setting.lab);
    openLab(this.setting.lab);
    signal.addEventListener("abort", interrupt, { once: true });
    try {
      await this.#measureAll();
    } catch (error) {
      if (!signal.aborted) throw error;
    } finally {
      signal.removeEventListener("abort", interrupt);
      closeLab(this.setting.lab);
    }
    return !signal.aborted;
  }

  async #measureAll(): Promise<void> {
    const { seconds, warm_up_s, rounds } = this.#options;
    const steps = schedule(this.#measurements, this.stacks, rounds, canMeasure(this.#options.services));
    const each_s = ({ extra_s }: Measurement): number => extra_s + seconds + warm_up_s;
    const installs_s = this.stacks.map(({ services, mode }) => expectedInstall(mode, services));
    const again_s = this.#repeatsInstalls() ? this.stacks.length * (Math.min(rounds, INSTALLS) - 1) * AGAIN_S : 0;
    const before_s = sumOf(installs_s) + LAB_S + again_s;
    this.#total_s = steps.reduce((sum, { measurement }) => sum + each_s(measurement), before_s);
    this.#tell("making the lab");
    await this.#makeLab();
    this.#done_s += LAB_S;
    for (const [i, stack] of this.stacks.entries()) {
      this.#tell(`installing ${titleOf(stack)}`);
      await this.#attempt(stack, () => this.#install(stack));
      this.#done_s += installs_s[i] ?? 0;
    }
    for (let round = 0; round < rounds; round++) {
      await this.#beginRound(round);
      for (const { measurement, stack } of steps.filter((step) => step.round === round)) {
        const names = measurement.metrics.map(({ name }) => name).join(", ");
        this.#tell(`round ${round + 1} of ${rounds}: ${names}, ${titleOf(stack)}`);
        if (!this.#broken.has(stack)) await this.#attempt(stack, () => this.#measure(measurement, stack, round));
        this.#done_s += each_s(measurement);
      }
    }
    this.#tell("done");
  }

  async #beginRound(round: number): Promise<void> {
    if (round > 0 && round < INSTALLS && this.#repeatsInstalls()) {
      const stacks = round % 2 === 0 ? this.#repeated : [...this.#repeated].reverse();
      for (const stack of stacks) {
        if (!this.#broken.has(stack)) await this.#attempt(stack, () => this.#installAgain(stack, round));
      }
    }
    await this.#measureLimit(round);
  }

  #repeatsInstalls(): boolean {
    return INSTALL_METRICS.some(({ name }) => this.#options.metrics.has(name));
  }

  #tell(what: string): void {
    this.#options.signal.throwIfAborted();
    const { samples, problems } = this;
    const places = this.stacks.map(({ mode, services }) => ({ mode: mode.name, services }));
    const expected_s = this.#total_s - this.#done_s;
    const slowness = this.#done_s < LAB_S * 2 ? 1 : (performance.now() - this.#start_ms) / 1000 / this.#done_s;
    const done = Math.min(1, this.#done_s / this.#total_s);
    this.#options.progress({ what, done, left_s: expected_s * slowness, samples, places, problems });
  }

  /** A stack that breaks is left out from then on; the others go on. */
  async #attempt(stack: Stack, action: () => Promise<void>): Promise<void> {
    try {
      await action();
    } catch (error) {
      if (this.#options.signal.aborted) throw error;
      this.#broken.add(stack);
      this.problems.push(`${titleOf(stack)} broke, and is left out from there on: ${messageOf(error)}`);
    }
  }

  async #makeLab(): Promise<void> {
    const needsLimit = this.#measurements.some(({ packets }) => packets);
    makeNetwork(this.setting.lab, [...this.stacks.map(({ name }) => name), ...(needsLimit ? [LIMIT] : [])]);
    this.#options.signal.throwIfAborted();
    if (needsLimit) this.#generator = await Generator.start(this.setting);
  }

  async #install(stack: Stack): Promise<void> {
    await stack.start();
    const installed = await stack.install();
    this.#options.afterInstall?.(stack, this.setting.lab);
    await this.#keepInstall(stack, 0, installed);
    if (stack.services > 0 && installed.install_s < WORTH_REPEATING_S) this.#repeated.push(stack);
  }

  /** Once more, on an empty node in a lab of its own. */
  async #installAgain(stack: Stack, round: number): Promise<void> {
    const { signal, rounds } = this.#options;
    this.#tell(`round ${round + 1} of ${rounds}: install, ${titleOf(stack)}`);
    const lab = labName(process.pid, ++labs);
    const again = new Stack({ ...this.setting, lab }, stack.name, stack.mode, stack.services);
    const interrupt = (): void => closeLab(lab);
    openLab(lab);
    signal.addEventListener("abort", interrupt, { once: true });
    try {
      makeNetwork(lab, [again.name]);
      await again.startNode();
      await this.#keepInstall(again, round, await again.install());
    } finally {
      signal.removeEventListener("abort", interrupt);
      closeLab(lab);
      this.#done_s += AGAIN_S;
    }
  }

  async #keepInstall(stack: Stack, round: number, installed: Installed): Promise<void> {
    if (stack.services === 0) return;
    const { install_s, kernel_bytes, process_bytes } = installed;
    const proof = await servicesProof(stack);
    const values = {
      install: install_s * 1000,
      "process-memory": process_bytes / 1e6,
      // Nothing is no figure: it would look like the best one.
      ...(kernel_bytes > 0 ? { [KERNEL_MEMORY]: kernel_bytes / 1e6 } : {}),
    };
    this.#keep(stack, round, { values, sent: stack.services, ...NOTHING }, proof, INSTALL_METRICS);
    if (kernel_bytes > 0 || !this.#options.metrics.has(KERNEL_MEMORY) || round > 0) return;
    this.gaps.push({ mode: stack.mode.name, metric: KERNEL_MEMORY, services: stack.services, why: SHRANK });
  }

  async #measureLimit(round: number): Promise<void> {
    if (this.#generator === null) return;
    this.#tell(`round ${round + 1} of ${this.#options.rounds}: the generator's limit`);
    for (const flows of ["established", "new"] as const) {
      const bounded = BOUNDED[flows];
      if (!this.#measurements.some(({ metrics }) => metrics.some(({ name }) => bounded.includes(name)))) continue;
      const limit = await this.#generator.measure(flows, this.#options.seconds);
      this.generator.push(...bounded.map((metric) => ({ metric, round, value: limit.rate })));
      if (flows === "established") this.#limit = limit;
    }
  }

  async #measure(measurement: Measurement, stack: Stack, round: number): Promise<void> {
    const { asks } = measurement;
    if (asks !== null) await stack.ask("reset", asks);
    const measured = await measurement.run(stack, this.#options, this.#limit);
    const proof =
      asks === null
        ? await servicesProof(stack)
        : trafficProof(stack, measured, await stack.ask("carried", asks), this.problems);
    this.#keep(stack, round, measured, proof, measurement.metrics);
  }

  /** Only what the mode shows that it did. */
  #keep(stack: Stack, round: number, measured: Measured, proof: Proof, metrics: Measurement["metrics"]): void {
    const names = metrics.map(({ name }) => name).filter((name) => this.#options.metrics.has(name));
    const complaint = complaintOf(measured, proof);
    if (complaint !== null) {
      this.problems.push(`${titleOf(stack)}, ${names.join(", ")}, round ${round + 1}: ${complaint}; not counted`);
      return;
    }
    for (const metric of names) {
      const { values, sent, lost } = measured;
      const value = values[metric];
      if (value === undefined) continue;
      this.samples.push({ mode: stack.mode.name, metric, services: stack.services, round, value, sent, lost, proof });
    }
  }
}

/** Metrics that the generator bounds, by the flows that it makes. */
const BOUNDED: Readonly<Record<"established" | "new", readonly string[]>> = {
  established: ["packets", "packets-away"],
  new: ["new-flows"],
};

const KERNEL_MEMORY = "kernel-memory";
const SHRANK =
  "it could not be told the first time: the kernel's memory did not grow, since something else gave as much back meanwhile";

/** What the mode does not have. */
const gapsOf = (mode: Mode, metrics: ReadonlySet<string>, sizes: readonly number[]): readonly Gap[] => {
  const gap = (why: string) => (metric: string) => ({ mode: mode.name, metric, services: null, why });
  const namesOf = (all: readonly Pick<Measurement, "metrics">[]): readonly string[] =>
    all.flatMap((one) => one.metrics.map(({ name }) => name)).filter((name) => metrics.has(name));
  const fromWires = namesOf(MEASUREMENTS.filter(({ packets }) => packets && !mode.packets));
  const ofServices = [...MEASUREMENTS.filter(({ asks }) => asks === null), { metrics: INSTALL_METRICS }];
  return [
    ...fromWires.map(gap("it translates calls of sockets on this node; packets that come by a wire are not its own")),
    ...(mode.counts_services ? [] : namesOf(ofServices).map(gap("it has no services"))),
    ...(mode.counts_services ? sizes : []).flatMap((services) =>
      namesOf(MEASUREMENTS.filter((one) => canReach(one, mode) && isBetween(services, sizes, one.metrics))).map(
        (metric) => ({ mode: mode.name, metric, services, why: BETWEEN }),
      ),
    ),
  ];
};

const canMeasure =
  (sizes: readonly number[]) =>
  (measurement: Measurement, { mode, services }: Stack): boolean =>
    canReach(measurement, mode) &&
    (mode.counts_services || measurement.asks !== null) &&
    !isBetween(services, sizes, measurement.metrics);

const canReach = ({ packets }: Measurement, mode: Mode): boolean => mode.packets || !packets;

const BETWEEN = "measured at the fewest and the most services only";

/** What a report shows for the fewest and the most services only is measured there only: that is minutes. */
const isBetween = (services: number, sizes: readonly number[], metrics: Measurement["metrics"]): boolean =>
  services > 0 && services !== sizes[0] && services !== sizes.at(-1) && metrics.every(({ axis }) => axis === "mode");

const titleOf = ({ mode, services }: Stack): string =>
  services === 0 ? mode.name : `${mode.name} with ${services} services`;

const trafficProof = (stack: Stack, measured: Measured, carried: Carried, problems: string[]): Proof => {
  const { counter, counted, intruder } = carried;
  if (intruder !== null) problems.push(`${titleOf(stack)}: ${intruder}`);
  return { counter, counted, expected: measured[stack.mode.counts] };
};

const servicesProof = async (stack: Stack): Promise<Proof> => {
  const { held, wanted, different } = await stack.ask("check");
  return {
    counter: "services that are as they should be, read back from the kernel",
    expected: wanted,
    counted: Math.max(0, held - different),
  };
};

/** Why a sample cannot be believed; null: it can. */
export const complaintOf = (measured: Measured, { counter, expected, counted }: Proof): string | null => {
  const { wrong, lost, sent, lossy, values } = measured;
  if (wrong > 0) return `${wrong} of ${sent} answers or packets came from, or went to, somebody else`;
  if (!lossy && lost > 0) return `${lost} of ${sent} were lost`;
  if (lossy && lost >= sent) return "nothing arrived";
  if (counted < expected) return `the mode did not carry it: ${counter}: ${counted}, and ${expected} are needed`;
  if (Object.values(values).some((value) => !Number.isFinite(value) || value < 0)) return "there is nothing to count";
  return null;
};

/** Namespaces of stacks, and a place for their maps. */
const makeNetwork = (lab: string, stacks: readonly string[]): void => {
  const bpf = join(labDirectory(lab), "bpf");
  mkdirSync(bpf, { recursive: true });
  mountBpf(bpf);
  runScript(networkScript(lab, stacks));
};

/** Guesses, for the time left only. */
const LAB_S = 3;
const AGAIN_S = 1.5;
const expectedInstall = ({ name }: Mode, services: number): number => {
  const perService = name.startsWith("iptables") ? 0.3e-3 : 0.1e-3;
  // With every rule of one restore, or transaction, the next one takes longer.
  const perPair = { "iptables-nft": 3e-7, nftables: 1e-7 }[name] ?? 0;
  return 1 + services * perService + services ** 2 * perPair;
};

const sumOf = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0);
