// The machine and the versions that a result was measured with, and whether it is fit for it.
import { readFileSync } from "node:fs";
import { availableParallelism, cpus, freemem, loadavg, release, totalmem } from "node:os";
import { libbpfVersion } from "../dataplane/bpf/libbpf.ts";
import { InputError, RefusedError } from "../lib/errors.ts";
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

/** A Node process each, and four namespaces. */
const BYTES_PER_STACK = 130e6;
/** Programming takes it in a burst: rules as text, and the kernel's copies. */
const BYTES_PER_SERVICE = 100e3;

/** Throws what is missing; `stacks` are as large as their number of services. */
export const checkMachine = (stacks: readonly { readonly services: number }[]): void => {
  if (process.geteuid?.() !== 0) throw new RefusedError("Cannot make a lab of network namespaces: this needs root");
  if (availableParallelism() < NEEDED_CPUS) {
    throw new RefusedError(
      `Cannot measure on ${availableParallelism()} CPU: senders and servers need one each, so ${NEEDED_CPUS}`,
    );
  }
  const missing = NEEDED_PROGRAMS.filter(([program, args]) => firstLineOf(program, args) === null);
  if (missing.length > 0) {
    const named = missing.map(([program, , debianPackage]) => `${program} (Debian package ${debianPackage})`);
    throw new RefusedError(`Cannot measure without ${named.join(", ")}`);
  }
  const largest = Math.max(...stacks.map(({ services }) => services));
  const needed = stacks.length * BYTES_PER_STACK + largest * BYTES_PER_SERVICE;
  const free = availableMemory();
  if (free < needed) {
    throw new InputError(
      `${stacks.length} modes and sizes with up to ${largest} services need about ${gigabytes(needed)} of memory, and ` +
        `${gigabytes(free)} are free: choose fewer --modes or --services`,
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
