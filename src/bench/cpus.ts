// Which CPUs a run uses: one for all that sends and forwards, another for the servers. Among those that this process may use,
// and on two cores where there are two: threads of one core slow each other down.
import { readFileSync } from "node:fs";

export interface Cpus {
  readonly sender: number;
  readonly server: number;
}

/** `siblings`: CPUs on the core of that one, itself included. Two are needed; with one, both are the same. */
export const chooseCpus = (
  allowed: readonly number[] = allowedCpus(),
  siblings: (cpu: number) => readonly number[] = siblingsOf,
): Cpus => {
  const [sender = 0, second = sender] = allowed;
  const own = siblings(sender);
  return { sender, server: allowed.find((cpu) => !own.includes(cpu)) ?? second };
};

const allowedCpus = (): readonly number[] =>
  parseCpuList(/^Cpus_allowed_list:\s*(.*)$/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1] ?? "0");

const siblingsOf = (cpu: number): readonly number[] => {
  try {
    return parseCpuList(readFileSync(`/sys/devices/system/cpu/cpu${cpu}/topology/thread_siblings_list`, "utf8").trim());
  } catch {
    return [cpu]; // this machine does not say
  }
};

/** `0-2,5`: 0, 1, 2, 5. */
export const parseCpuList = (text: string): readonly number[] =>
  text.split(",").flatMap((part) => {
    const [first = 0, last = first] = part.split("-").map(Number);
    return Array.from({ length: last - first + 1 }, (_, i) => first + i);
  });
