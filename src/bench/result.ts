// The result of one benchmark run, as a value: what was measured on which machine, how, and every single sample with
// the proof that the mode it names carried the traffic. `beeline bench -o json` writes it; reports and comparisons read
// nothing else. Files come from outside, so parseResult() checks them strictly.
import { z } from "zod";
import { InputError } from "../lib/errors.ts";

/** Raised when a reader of the old shape would misread the new one. */
export const RESULT_VERSION = 1;

const text = z.string();
const amount = z.number();
const count = z.number().int().nonnegative();

/** A mode: one way to get traffic from a client to the backends of a service. */
const mode = z.strictObject({
  /** `iptables-nft`: as `--modes` takes it. */
  name: text,
  title: text,
  /** One sentence: what carries the packets. */
  summary: text,
  /** One of beeline's own dataplanes; the others are what it is compared with. */
  beeline: z.boolean(),
  /** Its cost may depend on the number of services. False (plain routing): its samples have services 0. */
  counts_services: z.boolean(),
  /** Why it was not measured; null: it was. */
  skipped: text.nullable(),
});

const metric = z.strictObject({
  /** `connect-p50`: as `--metrics` takes it. */
  name: text,
  title: text,
  /** How it is measured, in a sentence or two. */
  summary: text,
  /** Of every value of this metric: `packets/s`, `ns`, `µs`, `ms`, `Gbit/s`, `MB`, … */
  unit: text,
  better: z.enum(["higher", "lower"]),
  /** mode: a bar per mode. services: a line per mode over the number of services. */
  axis: z.enum(["mode", "services"]),
  /** Why it was not measured in any mode; null: it was. */
  skipped: text.nullable(),
});

/** A mode and a metric that were both measured, but not together: the rules of a mode that has none take no time. */
const gap = z.strictObject({
  mode: text,
  metric: text,
  /** null: at no number of services. */
  services: count.nullable(),
  why: text,
});

/** What shows that a mode carried a sample's traffic: a counter of the mode itself, read before and after. */
const proof = z.strictObject({
  /** `conntrack entries to a backend`, `counters of the tc programs`, … */
  counter: text,
  /** What it must have counted at least. */
  expected: amount,
  counted: amount,
});

const sample = z.strictObject({
  mode: text,
  metric: text,
  /** Services that were programmed; 0 for modes that have none. */
  services: count,
  /** From 0. Samples of one metric, number of services and round were taken one right after the other: a pair. */
  round: count,
  value: amount,
  /** Packets, or requests, that were sent for it, and how many of them got no (right) answer. */
  sent: count,
  lost: count,
  proof,
});

const result = z.strictObject({
  kind: z.literal("beeline-bench"),
  version: z.literal(RESULT_VERSION),
  /** ISO 8601. */
  started: text,
  duration_s: amount,
  /** False: interrupted; what is there is valid. */
  complete: z.boolean(),
  machine: z.strictObject({
    cpu: text,
    cpus: count,
    memory_bytes: count,
    kernel: text,
    /** `kvm`, `xen`, … as the machine says; null: not virtualised, as far as it says. */
    virtual: text.nullable(),
  }),
  versions: z.strictObject({
    beeline: text,
    /** Of a checkout, `-dirty` when it is changed; null: a release. */
    commit: text.nullable(),
    node: text,
    /** null: not installed. */
    libbpf: text.nullable(),
    iptables: text.nullable(),
    nft: text.nullable(),
  }),
  method: z.strictObject({
    rounds: count,
    /** Of each measurement of a rate. */
    seconds: amount,
    /** Before each measurement, not counted. */
    warm_up_s: amount,
    /** In one sentence: `the modes one after the other, in reverse every other round`. */
    order: text,
    /** What runs on which CPU. */
    pinning: z.array(z.strictObject({ cpu: count, what: text })).readonly(),
    /** The mode that ratios refer to; null: none of the measured ones. */
    baseline: text.nullable(),
    /** Numbers of services that were asked for. */
    services: z.array(count).readonly(),
    /** The command line, without the program's path. */
    command: text,
  }),
  modes: z.array(mode).readonly(),
  metrics: z.array(metric).readonly(),
  /** Whatever else is missing was not reached: the run was interrupted, or a problem says why. */
  gaps: z.array(gap).readonly(),
  samples: z.array(sample).readonly(),
  /** What the load generator can do when nothing has to be carried: no mode can look better than this. */
  generator: z.array(z.strictObject({ metric: text, round: count, value: amount })).readonly(),
  /** What went wrong or does not hold as expected, in words. A run with problems is not to be believed blindly. */
  problems: z.array(text).readonly(),
});

export type Result = z.output<typeof result>;
export type ModeOfResult = Result["modes"][number];
export type MetricOfResult = Result["metrics"][number];
export type Gap = Result["gaps"][number];
export type Sample = Result["samples"][number];
export type Proof = Sample["proof"];

/** `where` is the file's name, for the error. Throws InputError, which names what is wrong with it. */
export const parseResult = (text: string, where: string): Result => {
  const raw = parseJson(text, where);
  const parsed = result.safeParse(raw);
  if (!parsed.success) throw new InputError(`Cannot read ${where}: ${problemOf(raw, parsed.error)}`);
  const unknown = unknownName(parsed.data);
  if (unknown !== null) throw new InputError(`Cannot read ${where}: ${unknown}`);
  return parsed.data;
};

const parseJson = (text: string, where: string): unknown => {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new InputError(`Cannot read ${where}: not JSON`, { cause });
  }
};

const problemOf = (raw: unknown, error: z.ZodError): string => {
  const { kind, version } = (typeof raw === "object" && raw !== null ? raw : {}) as Record<string, unknown>;
  if (kind !== "beeline-bench") return "not a result of `beeline bench -o json`";
  if (version !== RESULT_VERSION) return `version ${String(version)} of the format, and this reads ${RESULT_VERSION}`;
  const first = error.issues[0];
  return first === undefined ? error.message : `${first.path.join(".")}: ${first.message}`;
};

/** Samples may name only what the lists beside them know. */
const unknownName = ({ modes, metrics, gaps, samples }: Result): string | null => {
  const known = { mode: new Set(modes.map((m) => m.name)), metric: new Set(metrics.map((m) => m.name)) };
  const named = [
    ...samples.map((s, i) => ({ ...s, at: `samples.${i}` })),
    ...gaps.map((g, i) => ({ ...g, at: `gaps.${i}` })),
  ];
  for (const { at, mode, metric } of named) {
    if (!known.mode.has(mode)) return `${at}: mode ${mode} is not among its modes`;
    if (!known.metric.has(metric)) return `${at}: metric ${metric} is not among its metrics`;
  }
  return null;
};
