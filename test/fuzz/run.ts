// Rounds of random packets through every program. A round starts with nothing remembered, so it can be run again by its
// seed; what fails is made as small as it can be and still fail.
import { EINVAL, isSystemError } from "../../src/dataplane/bpf/system/errors.ts";
import { FORWARDINGS } from "../lib/forwarding.ts";
import { enterNetworkNamespace } from "../lib/socket.ts";
import { type Change, generate, type Step } from "./generate.ts";
import { Model } from "./model.ts";
import { Random } from "./random.ts";
import { World } from "./world.ts";

const PACKETS = 120;
const REMEMBERED = 16;

export interface Failure {
  readonly seed: number;
  readonly message: string;
  /** The fewest packets found that show it; the last one is what goes wrong. */
  readonly steps: readonly Step[];
}

export class Fuzzer {
  readonly #worlds: readonly World[];
  packets = 0;
  /** Packets by what was said of them, and by how they went on. */
  readonly met = new Map<string, number>();

  constructor() {
    enterNetworkNamespace([]); // what a program sends to its device again ends here
    this.#worlds = FORWARDINGS.flatMap((forwarding) => [
      new World({ socketLB: true, vips: ["cluster", "balancer", "cluster"], hash_seed: 1, forwarding }),
      new World({ socketLB: false, vips: ["cluster", "balancer", "node"], hash_seed: 0xdeadbeef, forwarding }),
    ]);
  }

  /** All that the object of tc has. */
  get programs(): readonly string[] {
    return this.#worlds.flatMap((world) => world.datapath.programs);
  }

  /** null: as it should be. */
  round(seed: number): Failure | null {
    const random = new Random(seed);
    const world = random.pick(this.#worlds);
    const steps: Step[] = [];
    const seen: Uint8Array[] = [];
    const model = this.#fresh(world);
    while (steps.length < PACKETS) {
      for (const step of generate(random, model, seen, world.frontends.length)) {
        steps.push(step);
        try {
          const out = this.#run(world, model, step);
          if (out !== null) seen.push(out);
        } catch (error) {
          const message = error instanceof Error ? error.message : String(error);
          const fewest = this.#shrink(world, steps);
          return { seed, message: this.#failureOf(world, fewest) ?? message, steps: fewest };
        }
      }
      seen.splice(0, seen.length - REMEMBERED);
    }
    return null;
  }

  close(): void {
    for (const world of this.#worlds) world.close();
  }

  #fresh(world: World): Model {
    world.forget();
    return new Model(world);
  }

  /** The frame that came out; null: none, or the kernel lets no such frame near a program. */
  #run(world: World, model: Model, step: Step): Uint8Array | null {
    if ("change" in step) return change(world, model, step);
    if ("generation" in step) {
      world.reroute(step.generation);
      return null;
    }
    const { program, frame, gso = false } = step;
    let outcome: ReturnType<World["run"]>;
    try {
      outcome = world.run(program, frame, gso);
    } catch (error) {
      if (frame.length < SHORTEST && isSystemError(error, EINVAL)) return null;
      throw error;
    }
    this.packets++;
    for (const met of [outcome.reason, outcome.byXdp ? "XDP" : outcome.forward])
      if (met !== null) this.met.set(met, (this.met.get(met) ?? 0) + 1);
    model.judge(step, outcome);
    return outcome.frame;
  }

  #failureOf(world: World, steps: readonly Step[]): string | null {
    const model = this.#fresh(world);
    try {
      for (const step of steps) this.#run(world, model, step);
      return null;
    } catch (error) {
      return error instanceof Error ? error.message : String(error);
    }
  }

  /** Without packets that do not matter, then without the end of the last one. */
  #shrink(world: World, all: readonly Step[]): readonly Step[] {
    const fails = (steps: readonly Step[]): boolean => this.#failureOf(world, steps) !== null;
    if (!fails(all)) return all;
    let steps = all;
    for (let i = steps.length - 2; i >= 0; i--) {
      const fewer = steps.filter((_, j) => j !== i);
      if (fails(fewer)) steps = fewer;
    }
    for (let cut = 64; cut >= 1; cut /= 2) {
      for (let shorter = cutLast(steps, cut); shorter !== null && fails(shorter); shorter = cutLast(steps, cut)) {
        steps = shorter;
      }
    }
    return steps;
  }
}

const change = (world: World, model: Model, step: Change): null => {
  world[step.change](step.frontend);
  const frontend = world.frontends[step.frontend];
  if (frontend !== undefined) model.changed(frontend);
  return null;
};

/** BPF_PROG_TEST_RUN of newer kernels takes no frame that ends inside its IP header. */
const SHORTEST = 14 + 40;

const cutLast = (steps: readonly Step[], bytes: number): readonly Step[] | null => {
  const last = steps.at(-1);
  if (last === undefined || !("frame" in last) || last.frame.length - bytes < 14) return null;
  return [...steps.slice(0, -1), { ...last, frame: last.frame.slice(0, -bytes) }];
};

export const formatFailure = ({ seed, message, steps }: Failure): string =>
  [`seed ${seed}: ${message}`, ...steps.map((step) => `  ${formatStep(step)}`)].join("\n");

const formatStep = (step: Step): string => {
  if ("generation" in step) return step.generation === 0 ? "all by the kernel" : `routes of ${step.generation}`;
  if ("change" in step) return `${step.change} a backend of frontend ${step.frontend}`;
  return `${step.program} ${Buffer.from(step.frame).toString("hex")}${step.gso ? " gso" : ""}`;
};
