// Where things are when nobody says otherwise. Apart from config.ts because every command needs these, and few need
// the whole configuration.
import { existsSync, readFileSync } from "node:fs";
import { hostname } from "node:os";
import { fileURLToPath } from "node:url";

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

/** The folder with the compiled BPF objects: beside a bundle, or where a checkout builds them. */
export const findObjects = (here = import.meta.url): string => {
  const places = ["./bpf", "../bpf", "../build/bpf", "../../build/bpf"].map((p) => fileURLToPath(new URL(p, here)));
  return places.find((place) => existsSync(`${place}/sock.bpf.o`)) ?? places[places.length - 1] ?? "build/bpf";
};
