// Taking things away: everything of beeline's, or what another version with another map layout left.
import { existsSync, readdirSync, rmdirSync } from "node:fs";
import { ABI_HASH } from "./abi.gen.ts";
import { detach, linkPins, unlinkIfThere } from "./attach.ts";
import type { Log } from "./hooks.ts";
import { takeLock } from "./lock.ts";
import { isAbiHash, linkPinName, linksDirectory, mapsDirectory } from "./pins.ts";
import { isOnBpffs } from "./probe.ts";

/** Ours run by now; for a moment both did, and the second found nothing to translate. */
export const removeOtherVersions = ({ bpffs, log }: { readonly bpffs: string; readonly log: Log }): void => {
  for (const name of readdirSync(bpffs).filter((name) => isAbiHash(name) && name !== ABI_HASH)) {
    removeVersion(`${bpffs}/${name}`);
    log("warn", "Took over from a version with another map layout: connections it had translated by packet are lost", {
      removed: `${bpffs}/${name}`,
    });
  }
};

/** Takes everything of beeline's off this node, of every version. Throws RefusedError while an agent runs. */
export const resetBpf = ({
  bpffs,
  log,
}: {
  readonly bpffs: string;
  readonly log: Log;
}): {
  readonly removed: readonly string[];
} => {
  if (!isOnBpffs(bpffs)) return { removed: [] };
  const lock = takeLock(bpffs);
  try {
    const versions = readdirSync(bpffs).filter(isAbiHash);
    const removed = versions.flatMap((name) => removeVersion(`${bpffs}/${name}`));
    removeDirectory(bpffs);
    if (removed.length > 0) log("info", "Removed every program, map and link", { bpffs, removed: removed.length });
    return { removed };
  } finally {
    lock.release();
  }
};

/** Links and filters first: no program may run on maps that nobody can reach any more. */
const removeVersion = (directory: string): string[] => {
  const removed: string[] = [];
  const links = linksDirectory(directory);
  for (const held of existsSync(links) ? linkPins(links) : []) {
    detach(links, held);
    removed.push(`${links}/${linkPinName(held)}`);
  }
  for (const folder of [links, mapsDirectory(directory)]) {
    for (const name of existsSync(folder) ? readdirSync(folder) : []) {
      unlinkIfThere(`${folder}/${name}`);
      removed.push(`${folder}/${name}`);
    }
    removeDirectory(folder);
  }
  removeDirectory(directory);
  return removed;
};

/** Somebody else's file in it, or a mount point: it stays. */
const removeDirectory = (path: string): void => {
  try {
    rmdirSync(path);
  } catch (error) {
    if (!["ENOENT", "ENOTEMPTY", "EBUSY", "EINVAL", "EPERM"].includes((error as NodeJS.ErrnoException).code ?? ""))
      throw error;
  }
};
