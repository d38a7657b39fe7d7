// One at a time for one directory: a lock on the directory itself, which ends with the process.
import { readFileSync, statSync } from "node:fs";
import { RefusedError } from "../../lib/errors.ts";
import { closeFd, openDirectory, tryLock } from "./system/file.ts";

export interface Lock {
  release(): void;
}

/** Throws RefusedError when somebody else holds it; `who` is what holds such locks. */
export const takeLock = (directory: string, who = "beeline agent"): Lock => {
  const fd = openDirectory(directory);
  if (tryLock(fd)) return { release: () => closeFd(fd) };
  closeFd(fd);
  const holder = holderOf(directory);
  const named = holder === null ? "" : ` (process ${holder})`;
  throw new RefusedError(`Another ${who} holds ${directory}${named}`);
};

/** Process id of the lock's holder, as far as this PID namespace shows it. */
const holderOf = (directory: string): number | null => {
  try {
    const inode = String(statSync(directory).ino);
    const line = readFileSync("/proc/locks", "utf8")
      .split("\n")
      .find((text) => text.includes("FLOCK") && !text.includes("->") && text.includes(`:${inode} `));
    const pid = Number(line?.trim().split(/\s+/)[4]);
    return pid > 0 ? pid : null;
  } catch {
    return null;
  }
};
