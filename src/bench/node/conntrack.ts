// Connection tracking of a node: emptied before a run, and listed after it by what it did with the services asked for.
import { readFileSync } from "node:fs";
import { PODS, REMOTE, REMOTE_POD, TARGET } from "../cluster.ts";
import { runProgram } from "./programs.ts";

export const flushConntrack = (): void => void runProgram("conntrack", ["--flush"]);

/** Flows that asked for one of the services and are answered by one of its pods. */
export const countTranslated = (): number =>
  (["tcp", "udp"] as const).reduce(
    (sum, protocol) => sum + countAnswered(protocol, TARGET, PODS) + countAnswered(protocol, REMOTE, [REMOTE_POD]),
    0,
  );

interface Place {
  readonly address: string;
}

const countAnswered = (protocol: string, to: Place, pods: readonly Place[]): number => {
  const listed = runProgram("conntrack", ["--dump", "--proto", protocol, "--orig-dst", to.address]);
  const answers = pods.map(({ address }) => `src=${address} `);
  return listed.split("\n").filter((line) => answers.some((answer) => line.includes(answer))).length;
};

/** How many connections are tracked here; a node without rules tracks none. */
export const trackedFlows = (): number => {
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
