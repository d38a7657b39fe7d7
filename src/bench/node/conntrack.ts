// Connection tracking of a node: emptied before a run, and listed after it by what it did with a service.
import { readFileSync } from "node:fs";
import { type Asked, PLACES_OF } from "../cluster.ts";
import { runProgram } from "./programs.ts";

export const flushConntrack = (): void => void runProgram("conntrack", ["--flush"]);

/** Flows that asked for the service and are answered by one of its pods. */
export const countTranslated = ({ service, protocol }: Asked): number => {
  const { address, pods } = PLACES_OF[service];
  const listed = runProgram("conntrack", ["--dump", "--proto", protocol.toLowerCase(), "--orig-dst", address]);
  const answers = pods.map((pod) => `src=${pod.address} `);
  return listed.split("\n").filter((line) => answers.some((answer) => line.includes(answer))).length;
};

/** How many connections are tracked here; a node without rules tracks none. */
const trackedFlows = (): number => {
  try {
    return Number(readFileSync("/proc/sys/net/netfilter/nf_conntrack_count", "utf8"));
  } catch {
    return 0; // the kernel has no connection tracking, or has not loaded it
  }
};

/** For modes that must do without. */
export const trackingIntruder = (): string | null => {
  const tracked = trackedFlows();
  return tracked === 0 ? null : `connection tracking follows ${tracked} flows: rules are in this mode's way`;
};
