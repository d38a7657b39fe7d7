// Runs iptables, ip6tables, their -save and -restore, conntrack and nfacct: the one file of this folder that starts programs.
// Says in words what they refused: which program, why, and for a restore the line of its input.
import { spawn, spawnSync } from "node:child_process";
import { RefusedError } from "../../lib/errors.ts";
import type { Family } from "../../model/address.ts";
import type { Jump, Table } from "./jumps.ts";

/** The kernel side that iptables writes to: nf_tables, or the older x_tables. */
export type Flavour = "nft" | "legacy";

/** One family's iptables of one flavour. */
export interface Iptables {
  readonly family: Family;
  readonly flavour: Flavour;
  /** The table as iptables-save prints it. */
  save(table: Table): string;
  /** All of a table or nothing of it; chains that are not named stay as they are. */
  restore(input: string): void;
  /** The same without holding up this process: rules of ten thousand endpoints may take half a minute. */
  restoreAside(input: string): Promise<void>;
  /** Puts the rule first in its chain, unless the chain has it. True: it was put there. */
  ensure(jump: Jump): boolean;
  hasChain(table: Table, chain: string): boolean;
}

/** How long the lock that all iptables programs share may be held by another, in seconds. */
const LOCK_WAIT_S = "5";

export const openIptables = (family: Family, flavour: Flavour): Iptables => {
  const base = `${family === "IPv4" ? "iptables" : "ip6tables"}-${flavour}`;
  const run = (args: readonly string[]): string => demand(base, ["-w", LOCK_WAIT_S, ...args]);
  const agrees = (args: readonly string[]): boolean => {
    const { status, stderr } = runProgram(base, ["-w", LOCK_WAIT_S, ...args]);
    if (status === RESOURCE_PROBLEM) throw new RefusedError(refusal(base, args, stderr));
    return status === 0;
  };
  return {
    family,
    flavour,
    save: (table) => demand(`${base}-save`, ["-t", table]),
    restore: (input) => {
      const { status, stderr } = runProgram(`${base}-restore`, RESTORE, input);
      if (status !== 0) throw restoreError(`${base}-restore`, stderr, input);
    },
    restoreAside: async (input) => {
      const { status, stderr } = await runAside(`${base}-restore`, RESTORE, input);
      if (status !== 0) throw restoreError(`${base}-restore`, stderr, input);
    },
    ensure: ({ table, from, match, to }) => {
      const rule = [...match, "-j", to];
      if (agrees(["-t", table, "-C", from, ...rule])) return false;
      run(["-t", table, "-I", from, ...rule]);
      return true;
    },
    hasChain: (table, chain) => agrees(["-t", table, "-S", chain]),
  };
};

const RESTORE = ["-w", LOCK_WAIT_S, "--noflush", "--counters"];

/** iptables' exit code when the lock is held, or the kernel has no room. */
const RESOURCE_PROBLEM = 4;

/** What `program --version` says, or null where there is none. */
export const versionOf = (program: string): string | null => {
  const { error, stdout } = spawnSync(program, ["--version"], { encoding: "utf8" });
  return error === undefined ? stdout.trim() : null;
};

/** UDP entries of the conntrack table, as `conntrack -L` prints them. */
export const listUdpFlows = (family: Family): string =>
  demand("conntrack", ["-L", "-f", familyWord(family), "-p", "udp"]);

/** Deletes the UDP entries of such a destination that were answered from such a source; answers how many. */
export const deleteUdpFlows = (family: Family, flow: UdpFlow): number => {
  const args = ["-D", "-f", familyWord(family), "-p", "udp"];
  args.push("--orig-dst", flow.to, "--orig-port-dst", String(flow.toPort));
  args.push("--reply-src", flow.from, "--reply-port-src", String(flow.fromPort));
  const { status, stderr } = runProgram("conntrack", args);
  const deleted = /(\d+) flow entries have been deleted/.exec(stderr)?.[1];
  if (deleted === undefined) throw new RefusedError(refusal("conntrack", args, stderr || `exit ${status}`));
  return Number(deleted);
};

/** Where a client sent to, and who answers it. */
export interface UdpFlow {
  readonly to: string;
  readonly toPort: number;
  readonly from: string;
  readonly fromPort: number;
}

/** Makes a packet counter, unless it is there. Throws RefusedError where the program or the kernel has none. */
export const ensureCounter = (name: string): void => {
  const { status, stderr } = runProgram("nfacct", ["add", name]);
  if (status !== 0 && !stderr.includes(BUSY)) throw new RefusedError(refusal("nfacct", ["add", name], stderr));
};

/** EBUSY: for `add` the counter is there, for `delete` a rule uses it. */
const BUSY = "Device or resource busy";

/** What `nfacct list` prints. */
export const listCounters = (): string => demand("nfacct", ["list"]);

/** True: it was there and is gone. One that a rule uses stays. */
export const deleteCounter = (name: string): boolean => runProgram("nfacct", ["delete", name]).status === 0;

const familyWord = (family: Family): string => (family === "IPv4" ? "ipv4" : "ipv6");

const demand = (program: string, args: readonly string[]): string => {
  const { status, stdout, stderr } = runProgram(program, args);
  if (status !== 0) throw new RefusedError(refusal(program, args, stderr));
  return stdout;
};

interface Result {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Rules of 100,000 endpoints are some 50 MB. */
const LONGEST_OUTPUT_BYTES = 1 << 30;

/** Blocks, as all other writes to the kernel do. Throws RefusedError when the program is not there. */
const runProgram = (program: string, args: readonly string[], input = ""): Result => {
  const result = spawnSync(program, args, { encoding: "utf8", input, maxBuffer: LONGEST_OUTPUT_BYTES });
  const error: NodeJS.ErrnoException | undefined = result.error;
  if (error === undefined || error.code === "EPIPE") return result;
  throw notRun(program, error);
};

const runAside = (program: string, args: readonly string[], input: string): Promise<Result> =>
  new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio: ["pipe", "ignore", "pipe"] });
    let stderr = "";
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      stderr += text;
    });
    child.on("error", (error) => reject(notRun(program, error)));
    child.on("close", (status) => resolve({ status, stdout: "", stderr }));
    child.stdin.on("error", () => {}); // it ended without reading everything, and says why
    child.stdin.end(input);
  });

const notRun = (program: string, error: NodeJS.ErrnoException): RefusedError => {
  const hint = program === "conntrack" || program === "nfacct" ? program : "iptables";
  const why = error.code === "ENOENT" ? `not found (Debian package ${hint})` : error.message;
  return new RefusedError(`Cannot run ${program}: ${why}`, { cause: error });
};

const refusal = (program: string, args: readonly string[], stderr: string): string =>
  `${program} ${args.join(" ")}: ${firstLines(stderr)}`;

/** Every version names the line in another way, and some by the one that follows; the text is shown to be sure. */
const restoreError = (program: string, stderr: string, input: string): RefusedError => {
  const number = Number(/\bline:? (\d+)/.exec(stderr)?.[1] ?? 0);
  const line = input.split("\n")[number - 1] ?? null;
  const where = line === null ? "" : ` (line ${number} of the input: ${line})`;
  return new RefusedError(`${program}: ${firstLines(stderr)}${where}`);
};

/** Without the advice to ask for help. */
const firstLines = (stderr: string): string => {
  const lines = stderr.split("\n").map((line) => line.trim());
  return lines.filter((line) => line !== "" && !line.startsWith("Try `")).join("; ") || "no reason given";
};
