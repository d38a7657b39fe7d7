// The pinned maps, for commands that read: they answer with the agent dead or alive, and say clearly why they cannot.
import { existsSync, readdirSync } from "node:fs";
import { basename } from "node:path";
import type { DataplaneName } from "../agent/config.ts";
import { DEFAULT_BPFFS, findCgroup } from "../agent/defaults.ts";
import type { MapStore } from "../dataplane/bpf/mapstore.ts";
import { openPinnedMaps } from "../dataplane/bpf/pinned.ts";
import { pinDirectory } from "../dataplane/bpf/pins.ts";
import { ENOENT, isSystemError } from "../dataplane/bpf/system/errors.ts";
import { RefusedError } from "../lib/errors.ts";
import type { Args } from "./command.ts";

/** Where pins are: the flag, the configuration file, or the default. */
export const bpffsOf = async (args: Args): Promise<string> => {
  if (args.config === undefined && (args.dataplane ?? "bpf") === "bpf") return args.bpffs ?? DEFAULT_BPFFS;
  const { loadConfig } = await import("../agent/config.ts");
  return loadConfig(args).config.bpf.pinPath;
};

/** Whose sockets are served: the flag, the configuration file, or where cgroup v2 is mounted; null: nobody's. */
export const cgroupOf = async (args: Args): Promise<string | null> => {
  if (args.config === undefined) return args.cgroup ?? findCgroup();
  const { loadConfig } = await import("../agent/config.ts");
  const { socketLB, cgroupPath } = loadConfig(args).config.bpf;
  return socketLB === "off" ? null : cgroupPath;
};

/** Which dataplane: the flag, the configuration file, or bpf. */
export const dataplaneOf = async (args: Args): Promise<DataplaneName> => {
  if (args.config === undefined && args.dataplane === undefined) return "bpf";
  const { loadConfig } = await import("../agent/config.ts");
  return loadConfig(args).config.dataplane;
};

/** Calls `read` with the maps of this version, and closes them. */
export const withPinnedMaps = async <T>(
  args: Args,
  read: (store: MapStore, bpffs: string) => T | Promise<T>,
): Promise<T> => {
  const bpffs = await bpffsOf(args);
  const store = open(bpffs);
  try {
    return await read(store, bpffs);
  } catch (error) {
    if (!isSystemError(error, ENOENT)) throw error;
    throw new RefusedError(`The beeline maps under ${bpffs} are not complete; starting the agent makes them so`, {
      cause: error,
    });
  } finally {
    store.close();
  }
};

const open = (bpffs: string): MapStore & { close(): void } => {
  if (process.geteuid?.() !== 0) throw new RefusedError(`Cannot read the maps under ${bpffs}: this needs root`);
  const directory = pinDirectory(bpffs);
  if (existsSync(directory)) return openPinnedMaps(directory);
  const others = existsSync(bpffs) ? readdirSync(bpffs).filter((name) => /^[0-9a-f]{12}$/.test(name)) : [];
  const agent = "is the agent running on this node? (beeline run; --bpffs names another place)";
  if (others.length === 0) throw new RefusedError(`No beeline maps under ${bpffs}: ${agent}`);
  throw new RefusedError(
    `The beeline maps under ${bpffs} are another version's: map layout ${others.join(", ")}, and this command reads ` +
      `${basename(directory)}. Use the command of the version that runs here`,
  );
};
