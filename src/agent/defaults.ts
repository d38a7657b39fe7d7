// Where things are when nobody says otherwise. Apart from config.ts because every command needs these, and few need
// the whole configuration.
import { readFileSync } from "node:fs";
import { hostname } from "node:os";

export const DEFAULT_BPFFS = "/sys/fs/bpf/beeline";

/** kubelet's rule: the host name in lower case. */
export const defaultNodeName = (): string => hostname().toLowerCase();

/** Root of the cgroup v2 hierarchy, or null when none is mounted. The first one mounted is the whole tree's. */
export const findCgroup = (mounts = readFileSync("/proc/mounts", "utf8")): string | null => {
  for (const line of mounts.split("\n")) {
    const [, path, type] = line.split(" ");
    if (type === "cgroup2" && path !== undefined) return path.replaceAll("\\040", " ");
  }
  return null;
};
