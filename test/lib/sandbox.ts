// A node for one test of the command: namespaces of its own for network and mounts, a BPF file system and a cgroup. All
// of it ends with the process that holds it, so nothing is left behind, whatever happens to the test.
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { findCgroup } from "../../src/agent/defaults.ts";
import { SLOWEST_PROCESS_MS } from "./eventually.ts";

const PREFIX = "beeline-sandbox-";
const BEELINE = fileURLToPath(new URL("../../scripts/beeline", import.meta.url));

export interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export class Sandbox {
  /** A folder for the test's files. */
  readonly folder: string;
  readonly #cgroup: string;
  readonly #holder: ChildProcess;
  readonly #children: ChildProcess[] = [];

  private constructor(folder: string, cgroup: string, holder: ChildProcess) {
    this.folder = folder;
    this.#cgroup = cgroup;
    this.#holder = holder;
  }

  static async create(): Promise<Sandbox> {
    const root = findCgroup();
    if (root === null) throw new Error("no cgroup v2 hierarchy is mounted");
    removeLeftovers(root);
    const folder = mkdtempSync(join(tmpdir(), "beeline-sandbox-"));
    const cgroup = join(root, `${PREFIX}${process.pid}-${folder.slice(-6)}`);
    mkdirSync(cgroup);
    mkdirSync(join(folder, "bpf"));
    const script = `
      mount -t bpf bpf "$1/bpf" && ip link set lo up &&
      ip link add eth0 type veth peer name wire && ip link set wire up && ip link set eth0 up &&
      ip addr add 192.0.2.11/24 dev eth0 && ip -6 addr add fd00::11/64 dev eth0 nodad && echo ready && exec cat`;
    const holder = spawn("unshare", ["--net", "--mount", "sh", "-c", script, "sh", folder], {
      stdio: ["pipe", "pipe", "inherit"], // at the end of its input cat ends, also when we are killed
    });
    const sandbox = new Sandbox(folder, cgroup, holder);
    const [first] = await Promise.race([once(holder.stdout, "data"), once(holder, "exit")]);
    if (String(first) === "ready\n") return sandbox;
    await sandbox.close();
    throw new Error(`cannot make a sandbox: ${String(first)}`);
  }

  /** Where this node's agent pins and attaches. */
  get place(): readonly string[] {
    return ["--bpffs", `${this.folder}/bpf/beeline`, "--cgroup", this.#cgroup, "--node", "node-a"];
  }

  /** Where this node's agent pins, as it is seen from outside. */
  get bpffs(): string {
    return `/proc/${this.#holder.pid}/root${this.folder}/bpf/beeline`;
  }

  /** Runs a command inside, to its end. */
  exec(command: string, ...args: readonly string[]): Ended {
    const [outer, outerArgs] = this.#inside(command, args);
    const { status, stdout, stderr } = spawnSync(outer, outerArgs, { encoding: "utf8", timeout: SLOWEST_PROCESS_MS });
    return { code: status, stdout, stderr };
  }

  /** What a page answers to somebody inside: the status and the body. */
  get(url: string): string {
    const ask = `fetch("${url}").then(async (r) => console.log(r.status, await r.text()))`;
    return this.exec(process.execPath, "-e", ask).stdout;
  }

  /** `beeline ARGS` of this node, to its end. */
  beeline(...args: readonly string[]): Ended {
    return this.exec(BEELINE, ...args, ...this.place);
  }

  /** `beeline ARGS` of this node, in the background. Killed with the sandbox. */
  start(...args: readonly string[]): Running {
    return this.spawn(BEELINE, ...args, ...this.place);
  }

  /** Any command inside, in the background. Killed with the sandbox. */
  spawn(command: string, ...args: readonly string[]): Running {
    const [outer, outerArgs] = this.#inside(command, args);
    const child = spawn(outer, outerArgs, { stdio: ["ignore", "pipe", "pipe"] });
    this.#children.push(child);
    return new Running(child);
  }

  async close(): Promise<void> {
    for (const child of this.#children) await kill(child, "SIGKILL");
    await kill(this.#holder, "SIGKILL");
    rmdirSync(this.#cgroup);
    rmSync(this.folder, { recursive: true });
  }

  /** nsenter replaces itself by the command, so signals reach it. */
  #inside(command: string, args: readonly string[]): [string, string[]] {
    return ["nsenter", ["-t", String(this.#holder.pid), "--net", "--mount", command, ...args]];
  }
}

/** A command in the background, with what it has said so far. */
export class Running {
  readonly #child: ChildProcess;
  #stdout = "";
  #stderr = "";

  constructor(child: ChildProcess) {
    this.#child = child;
    child.stdout?.setEncoding("utf8").on("data", (text: string) => {
      this.#stdout += text;
    });
    child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      this.#stderr += text;
    });
  }

  get stderr(): string {
    return this.#stderr;
  }

  get stdout(): string {
    return this.#stdout;
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  signal(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  async ended(): Promise<Ended> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) await once(this.#child, "close");
    return { code: this.#child.exitCode, stdout: this.#stdout, stderr: this.#stderr };
  }
}

/** Cgroups of tests that were killed: the one thing that does not end with its process. */
const removeLeftovers = (root: string): void => {
  for (const name of readdirSync(root)) {
    if (!name.startsWith(PREFIX) || existsSync(`/proc/${name.slice(PREFIX.length).split("-")[0]}`)) continue;
    try {
      rmdirSync(join(root, name));
    } catch {
      // Another test removes it at the same time, or a process of it is just ending.
    }
  }
};

const kill = async (child: ChildProcess, signal: NodeJS.Signals): Promise<void> => {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = once(child, "exit");
  child.kill(signal);
  await ended;
};
