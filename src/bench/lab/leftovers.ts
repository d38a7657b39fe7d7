// Takes a lab off the machine, the benchmark's or a test's: processes, mounts, namespaces, cgroups, files. Synchronous, so
// that it also works while the process exits; absent things are fine, so that it also works after a crash. Every name
// carries its owner's pid.
import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync, rmdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/** `bl<pid>-<number>`: the lab's cgroup, directory, and the beginning of its namespaces' names. */
export const labName = (pid: number, number: number): string => `bl${pid}-${number}`;
const LAB_NAME = /^bl(\d+)-\d+/;

const NETNS = "/run/netns";
const DIRECTORIES = "/run/beeline-lab";

export const labDirectory = (lab: string): string => join(DIRECTORIES, lab);

/** Where cgroup v2 is mounted: the whole hierarchy's root, or beside v1 on a hybrid machine. */
export const cgroupMount = (): string => {
  const mount = readFileSync("/proc/mounts", "utf8")
    .split("\n")
    .map((line) => line.split(" "))
    .find((fields) => fields[2] === "cgroup2")?.[1];
  if (mount === undefined) throw new Error("Cannot make a lab: cgroup v2 is not mounted");
  return mount;
};

const open = new Set<string>();
let watching = false;

/** From now on the lab goes when this process exits, however it comes to. (Not when it is killed: removeLeftovers().) */
export const openLab = (lab: string): void => {
  open.add(lab);
  if (watching) return;
  watching = true;
  process.on("exit", () => {
    for (const one of open) removeLab(one);
  });
};

export const closeLab = (lab: string): void => {
  removeLab(lab);
  open.delete(lab);
};

const sleepSync = (ms: number): void => void Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);

/** Thirty seconds: on a busy machine a process that is loading programs takes seconds to end. */
const END_TRIES = 3000;
const END_PAUSE_MS = 10;

const list = (directory: string): readonly string[] => (existsSync(directory) ? readdirSync(directory) : []);

export const removeLab = (lab: string): void => {
  endProcesses(lab);
  unmountInside(labDirectory(lab));
  const namespaces = list(NETNS).filter((name) => name.startsWith(`${lab}-`));
  quietly(() =>
    execFileSync("ip", ["-force", "-batch", "-"], {
      input: namespaces.map((name) => `netns del ${name}\n`).join(""),
      stdio: ["pipe", "ignore", "ignore"],
    }),
  );
  rmSync(labDirectory(lab), { recursive: true, force: true });
};

/** Removes what labs of processes that have ended left behind, and answers their names. */
export const removeLeftovers = (): readonly string[] => {
  const names = [...list(NETNS), ...list(DIRECTORIES), ...list(cgroupMount())];
  const labs = new Set(names.flatMap((name) => LAB_NAME.exec(name)?.[0] ?? []));
  const left = [...labs].filter((lab) => !existsSync(`/proc/${LAB_NAME.exec(lab)?.[1]}`));
  for (const lab of left) removeLab(lab);
  return left;
};

/**
 * A process that was just spawned may enter the cgroup after its end was ordered, or be slow to end: tried until the
 * cgroup is gone. Whoever comes later finds none to enter, and ends by itself.
 */
const endProcesses = (lab: string): void => {
  const cgroup = join(cgroupMount(), lab);
  for (let i = 0; i < END_TRIES && existsSync(cgroup); i++) {
    if (i > 0) sleepSync(END_PAUSE_MS);
    quietly(() => writeFileSync(join(cgroup, "cgroup.kill"), "1"));
    removeCgroup(cgroup);
  }
};

const unmountInside = (directory: string): void => {
  const mounts = readFileSync("/proc/mounts", "utf8")
    .split("\n")
    .map((line) => line.split(" ")[1] ?? "")
    .filter((mount) => mount.startsWith(`${directory}/`));
  for (const mount of mounts.reverse()) quietly(() => execFileSync("umount", ["--lazy", mount], { stdio: "ignore" }));
};

const removeCgroup = (cgroup: string): void => {
  for (const child of readdirIfThere(cgroup)) removeCgroup(join(cgroup, child));
  quietly(() => rmdirSync(cgroup));
};

const readdirIfThere = (directory: string): readonly string[] =>
  existsSync(directory)
    ? readdirSync(directory, { withFileTypes: true })
        .filter((entry) => entry.isDirectory())
        .map((entry) => entry.name)
    : [];

/** Somebody else may be removing the same leftovers at this moment. */
const quietly = (remove: () => void): void => {
  try {
    remove();
  } catch {
    // absent, or going
  }
};
