// Runs the programs that only list what the kernel holds for others: nft, ipvsadm, iptables-legacy-save.
import { execFile, spawnSync } from "node:child_process";
import { promisify } from "node:util";
import { RefusedError } from "../lib/errors.ts";
import type { Family } from "../model/address.ts";

/** kube-proxy's tables as `nft -j` prints them, one text for each. Throws RefusedError when nft cannot be asked. */
export const listNftables = (): readonly string[] => {
  const tables = run("nft", ["list", "tables"], "nftables").matchAll(/^table (ip6?) kube-proxy$/gm);
  return [...tables].map(([, family = ""]) => run("nft", ["-j", "list", "table", family, "kube-proxy"], "nftables"));
};

/** Every table but kube-proxy's, as `nft -j list ruleset` prints them. Rejects with RefusedError when nft cannot be asked. */
export const listRuleset = async (): Promise<readonly string[]> => {
  const tables = await aside("nft", ["list", "tables"], "nftables");
  const names = [...tables.matchAll(/^table (\S+) (\S+)$/gm)].filter(([, , name]) => name !== "kube-proxy");
  return Promise.all(
    names.map(([, family = "", name = ""]) => aside("nft", ["-j", "list", "table", family, name], "nftables")),
  );
};

/** A table of x_tables as iptables-save prints it. Rejects with RefusedError when it cannot be asked. */
export const listLegacyTable = (family: Family, table: string): Promise<string> =>
  aside(`${family === "IPv4" ? "iptables" : "ip6tables"}-legacy-save`, ["-t", table], "iptables");

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

/** The same without holding up this process. */
const aside = async (program: string, args: readonly string[], debianPackage: string): Promise<string> => {
  try {
    return (await promisify(execFile)(program, args, { maxBuffer: LONGEST_OUTPUT_BYTES })).stdout;
  } catch (cause) {
    const { code, stderr, message } = cause as { code?: unknown; stderr?: string; message: string };
    if (code === "ENOENT") throw new RefusedError(`Cannot run ${program}: not found (Debian package ${debianPackage})`);
    throw new RefusedError(`${program} ${args.join(" ")}: ${stderr?.trim().split("\n")[0] || message}`, { cause });
  }
};
