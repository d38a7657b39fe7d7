// Runs the programs that only list what the kernel holds for others: nft and ipvsadm.
import { spawnSync } from "node:child_process";
import { RefusedError } from "../lib/errors.ts";

/** kube-proxy's tables as `nft -j` prints them, one text for each. Throws RefusedError when nft cannot be asked. */
export const listNftables = (): readonly string[] => {
  const tables = run("nft", ["list", "tables"], "nftables").matchAll(/^table (ip6?) kube-proxy$/gm);
  return [...tables].map(([, family = ""]) => run("nft", ["-j", "list", "table", family, "kube-proxy"], "nftables"));
};

/** As `ipvsadm -Sn` prints it. Throws RefusedError when it cannot be asked. */
export const listIpvs = (): string => run("ipvsadm", ["-Sn"], "ipvsadm");

/** A table of 250,000 endpoints is some 100 MB of JSON. */
const LONGEST_OUTPUT_BYTES = 1 << 30;

const run = (program: string, args: readonly string[], debianPackage: string): string => {
  const { error, status, stdout, stderr } = spawnSync(program, args, {
    encoding: "utf8",
    maxBuffer: LONGEST_OUTPUT_BYTES,
  });
  const missing = (error as NodeJS.ErrnoException | undefined)?.code === "ENOENT";
  if (missing) throw new RefusedError(`Cannot run ${program}: not found (Debian package ${debianPackage})`);
  if (error !== undefined) throw new RefusedError(`Cannot run ${program}: ${error.message}`, { cause: error });
  if (status === 0) return stdout;
  throw new RefusedError(`${program} ${args.join(" ")}: ${stderr.trim().split("\n")[0] || `exit ${status}`}`);
};
