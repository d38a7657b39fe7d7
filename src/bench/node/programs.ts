// Programs that the nodes' processes run: nft, conntrack, iptables' listings. They act on the namespace of this process.
import { spawnSync } from "node:child_process";

/** Throws with what the program said. */
export const runProgram = (program: string, args: readonly string[], input = ""): string => {
  const { error, status, stdout, stderr } = spawnSync(program, args, {
    input,
    encoding: "utf8",
    maxBuffer: 1 << 30,
  });
  if (error !== undefined) throw new Error(`Cannot run ${program}: ${error.message}`, { cause: error });
  if (status !== 0) throw new Error(`${program} ${args.join(" ")}: ${stderr.trim() || `exit ${status}`}`);
  return stdout;
};
