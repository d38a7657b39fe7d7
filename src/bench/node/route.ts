// Plain routing: nothing is programmed. What the kernel forwarded is its own count.
import { readFileSync } from "node:fs";
import { trackingIntruder } from "./conntrack.ts";
import type { NodeSide } from "./node.ts";

export const openRoute = (): NodeSide => {
  let start = 0;
  return {
    async install() {},
    async change() {},
    read: () => null,
    reset() {
      start = forwarded();
    },
    carried: () => ({
      counter: "packets that the kernel forwarded (Ip ForwDatagrams)",
      counted: forwarded() - start,
      intruder: trackingIntruder(),
    }),
    close() {},
  };
};

/** Two lines begin with `Ip:`, of names and of numbers. */
const forwarded = (): number => {
  const [names, numbers] = readFileSync("/proc/self/net/snmp", "utf8")
    .split("\n")
    .filter((line) => line.startsWith("Ip:"))
    .map((line) => line.split(" "));
  return Number(numbers?.[names?.indexOf("ForwDatagrams") ?? -1] ?? 0);
};
