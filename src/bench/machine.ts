// The machine and the versions that a result was measured with, and whether it is fit for it.
import { readFileSync } from "node:fs";
import { availableParallelism, cpus, freemem, loadavg, release, totalmem } from "node:os";
import { libbpfVersion } from "../dataplane/bpf/system/libbpf.ts";
import { InputError, RefusedError } from "../lib/errors.ts";
import { count, list } from "../lib/text.ts";
import { firstLineOf } from "./lab/process.ts";
import type { Result } from "./result.ts";

export const describeMachine = (): Result["machine"] => ({
  cpu: cpus()[0]?.model.trim() ?? "unknown",
  cpus: availableParallelism(),
  memory_bytes: totalmem(),
  kernel: release(),
  virtual: virtualisation(),
});

/** systemd knows its name; without systemd the CPU says only that there is one. */
const virtualisation = (): string | null => {
  const hypervisor = /^flags\s*:.*\bhypervisor\b/m.test(readFileSync("/proc/cpuinfo", "utf8"));
  const named = firstLineOf("systemd-detect-virt", ["--vm"]);
  if (named !== null && named !== "none") return named;
  return hypervisor ? "hypervisor" : null;
};

/** `directory`: of the program, for the commit of a checkout. */
export const describeVersions = (beeline: string, directory: string): Result["versions"] => ({
  beeline,
  commit: firstLineOf("git", ["-C", directory, "describe", "--always", "--dirty", "--abbrev=12"]),
  node: process.versions.node,
  libbpf: orNull(libbpfVersion),
  iptables: versionIn(firstLineOf("iptables", ["--version"])),
  nft: versionIn(firstLineOf("nft", ["--version"])),
});

const orNull = (ask: () => string): string | null => {
  try {
    return ask();
  } catch {
    return null;
  }
};

/** `iptables v1.8.9 (nf_tables)`: v1.8.9. */
const versionIn = (line: string | null): string | null => /v\d[\w.]*/.exec(line ?? "")?.[0] ?? null;

const NEEDED_PROGRAMS: readonly (readonly [program: string, args: readonly string[], debianPackage: string])[] = [
  ["ip", ["-V"], "iproute2"],
  ["ethtool", ["--version"], "ethtool"],
  ["nsenter", ["--version"], "util-linux"],
  ["setpriv", ["--version"], "util-linux"],
  ["taskset", ["--version"], "util-linux"],
];

const NEEDED_CPUS = 2;

/** A Node process each, maps at their full size, and five namespaces. Measured: 110 MB and 90 MB of kernel memory. */
const BYTES_PER_STACK = 200e6;
/** Of the largest number, in a burst: measured 300–350 MB a mode at 10,000, and five modes keep most of it. */
const BYTES_PER_SERVICE = 150e3;

/** What a machine has, as far as it decides whether anything can be measured. */
export interface Facts {
  readonly root: boolean;
  readonly cpus: number;
  readonly memory_bytes: number;
  /** `ip` works, … */
  readonly has: (program: string, args: readonly string[]) => boolean;
}

const readFacts = (): Facts => ({
  root: process.geteuid?.() === 0,
  cpus: availableParallelism(),
  memory_bytes: availableMemory(),
  has: (program, args) => firstLineOf(program, args) !== null,
});

/** Throws what is missing; `stacks` are as large as their number of services. */
export const checkMachine = (stacks: readonly { readonly services: number }[], facts: Facts = readFacts()): void => {
  if (!facts.root) throw new RefusedError("Cannot make a lab of network namespaces: this needs root");
  if (facts.cpus < NEEDED_CPUS) {
    throw new RefusedError(
      `Cannot measure on ${count(facts.cpus, "CPU")}: what sends and what serves need one each, so ${NEEDED_CPUS}`,
    );
  }
  const missing = NEEDED_PROGRAMS.filter(([program, args]) => !facts.has(program, args));
  if (missing.length > 0) {
    const named = missing.map(([program, , debianPackage]) => `${program} (Debian package ${debianPackage})`);
    throw new RefusedError(`Cannot measure without ${list(named)}`);
  }
  const largest = Math.max(0, ...stacks.map(({ services }) => services));
  const needed = stacks.length * BYTES_PER_STACK + largest * BYTES_PER_SERVICE;
  if (facts.memory_bytes < needed) {
    throw new InputError(
      `${count(stacks.length, "mode")} and sizes, of up to ${largest} services, need about ${gigabytes(needed)} of memory, ` +
        `and ${gigabytes(facts.memory_bytes)} are free: choose fewer --modes or --services`,
    );
  }
};

const availableMemory = (): number => {
  const kilobytes = /^MemAvailable:\s*(\d+)/m.exec(readFileSync("/proc/meminfo", "utf8"))?.[1];
  return kilobytes === undefined ? freemem() : Number(kilobytes) * 1024;
};

const gigabytes = (bytes: number): string => `${(bytes / 1e9).toFixed(1)} GB`;

/** Above it somebody else is at work here, and figures mean less. */
const QUIET_LOAD = 0.5;

/** What makes this machine's figures doubtful, in words; null: nothing that can be seen. */
export const restlessness = (): string | null => {
  const [load = 0] = loadavg();
  return load <= QUIET_LOAD
    ? null
    : `The machine was busy with other things when this began (load average ${load.toFixed(1)}): figures mean less`;
};
