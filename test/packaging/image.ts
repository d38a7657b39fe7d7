// The image without a container engine: the Dockerfile's own commands, run in a Debian root made by debootstrap.
// Running something in it is container.ts's.
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { cpSync, existsSync, globSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";

export const ROOT = join(import.meta.dirname, "../..");
const CACHE = join(ROOT, "build/image");

export interface Instruction {
  readonly stage: string;
  readonly word: string;
  readonly rest: string;
}

/** Instructions of a Dockerfile in order, continued lines joined. A stage is named by AS, else by its image. */
const parseDockerfile = (text: string): readonly Instruction[] => {
  const lines = text
    .replaceAll(/^#.*\n/gm, "")
    .replaceAll(/\\\n\s*/g, "")
    .split("\n")
    .filter((line) => line.trim() !== "");
  let stage = "";
  return lines.map((line) => {
    const [, word = "", rest = ""] = /^(\w+)\s+(.*)$/.exec(line) ?? [];
    if (word === "FROM") stage = rest.split(/\s+AS\s+/i).at(-1) ?? rest;
    return { stage, word, rest };
  });
};

export const dockerfile = parseDockerfile(readFileSync(join(ROOT, "Dockerfile"), "utf8"));
export const runtimeStage = dockerfile.at(-1)?.stage ?? "";

export const commandsOf = (stage: string, word: string): readonly string[] =>
  dockerfile.filter((i) => i.stage === stage && i.word === word).map((i) => i.rest);

/** The Debian mirror that this machine uses. */
const mirror = (): string => {
  const sources = globSync("/etc/apt/{sources.list,sources.list.d/*}").map((file) => readFileSync(file, "utf8"));
  return /https?:\/\/\S+\/debian\/?(?=\s)/.exec(sources.join("\n"))?.[0] ?? "http://deb.debian.org/debian";
};

/** Why the root cannot be made here, or null. */
export const whyNot = async (): Promise<string | null> => {
  if (process.getuid?.() !== 0) return "not root";
  if (existsSync(rootDirectory())) return null;
  if (!existsSync("/usr/sbin/debootstrap")) return "debootstrap is not installed";
  const release = `${mirror()}/dists/bookworm/InRelease`;
  try {
    const answer = await fetch(release, { method: "HEAD", signal: AbortSignal.timeout(10_000) });
    return answer.ok ? null : `${release}: HTTP ${answer.status}`;
  } catch (error) {
    return `${release}: ${error instanceof Error ? error.message : error}`;
  }
};

/** Kept between runs, until the runtime stage's commands change. */
const rootDirectory = (): string => {
  const key = createHash("sha256")
    .update(JSON.stringify(commandsOf(runtimeStage, "RUN")))
    .digest("hex");
  return join(CACHE, `root-${key.slice(0, 12)}`);
};

/** The runtime stage before anything is copied into it: Debian with the stage's RUN commands done. Cached. */
export const makeRoot = (): string => {
  const root = rootDirectory();
  if (existsSync(root)) return root;
  mkdirSync(CACHE, { recursive: true });
  for (const old of globSync(join(CACHE, "root-*"))) rmSync(old, { recursive: true });
  const building = mkdtempSync(join(CACHE, "building-"));
  try {
    execFileSync("debootstrap", ["--variant=minbase", "bookworm", building, mirror()], { stdio: "pipe" });
    // As docker build does it: /bin/sh -c, in a root with /proc.
    for (const command of commandsOf(runtimeStage, "RUN")) {
      const script = `mount -t proc proc ${building}/proc && exec chroot ${building} /bin/sh -c "$0"`;
      execFileSync("unshare", ["--mount", "sh", "-c", script, command], {
        stdio: "pipe",
        env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" },
      });
    }
    rmSync(join(building, "var/cache/apt/archives"), { recursive: true });
    renameSync(building, root);
  } finally {
    rmSync(building, { recursive: true, force: true });
  }
  return root;
};

/** An empty directory beside the roots. Those of test runs that were killed are removed. `owner` is like `bl123-1`. */
export const workDirectory = (owner: string): string => {
  for (const old of globSync("bl*", { cwd: CACHE })) {
    if (!existsSync(`/proc/${/\d+/.exec(old)?.[0]}`)) rmSync(join(CACHE, old), { recursive: true });
  }
  const directory = join(CACHE, owner);
  mkdirSync(directory, { recursive: true });
  return directory;
};

/** The files that `COPY . .` would bring into the build stage, by .dockerignore, put into `directory`. */
export const copyContext = (directory: string): void => {
  const rules = readFileSync(join(ROOT, ".dockerignore"), "utf8").split("\n");
  for (const rule of rules.filter((line) => line.startsWith("!"))) {
    cpSync(join(ROOT, rule.slice(1)), join(directory, rule.slice(1)), { recursive: true });
  }
};
