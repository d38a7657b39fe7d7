// Processes of the lab: inside a namespace and a cgroup, on CPUs of their own, asked in lines or messages. They end with
// this process, and what they say when they fail becomes the error. Ctrl-C is not for them (detached): who started them
// decides what becomes of them.
import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { type Inside, inside } from "./inside.ts";

/** Where a process runs; `cpus` null: anywhere. */
export interface Where extends Inside {
  readonly cpus: readonly number[] | null;
}

const commandOf = ({ cpus, ...where }: Where, argv: readonly string[]): readonly [string, readonly string[]] =>
  inside(where, cpus === null ? argv : ["taskset", "--cpu-list", cpus.join(), ...argv]);

/** Runs a program to its end and answers what it printed. Rejects when it fails. */
export const runInside = async (where: Where, argv: readonly string[]): Promise<string> => {
  const [command, args] = commandOf(where, argv);
  const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"], detached: true });
  const [stdout, stderr] = [collect(child.stdout), collect(child.stderr)];
  const [code, signal] = await once(child, "close");
  if (code !== 0) throw new Error(`${nameOf(argv)} failed: ${stderr().trim() || (signal ?? `exit status ${code}`)}`);
  return stdout();
};

const nameOf = (argv: readonly string[]): string => argv[0]?.split("/").at(-1) ?? "";

const collect = (stream: NodeJS.ReadableStream): (() => string) => {
  let text = "";
  stream.setEncoding("utf8").on("data", (more: string) => {
    text += more;
  });
  return () => text;
};

/** A shell script of the lab, run by root on this machine; it touches nothing but the lab's namespaces. */
export const runScript = (script: string): void => {
  const { status, stderr } = spawnSync("bash", ["-s"], { input: script, encoding: "utf8" });
  if (status !== 0) throw new Error(`Cannot make the lab: ${stderr.trim() || `exit status ${status}`}`);
};

/** A BPF file system of the lab's own; it goes with the lab. */
export const mountBpf = (directory: string): void =>
  void execFileSync("mount", ["-t", "bpf", "beeline-bench", directory]);

/** A program's first line of output, or null: it is not installed, or does not work. */
export const firstLineOf = (program: string, args: readonly string[]): string | null => {
  const { error, status, stdout } = spawnSync(program, args, { encoding: "utf8" });
  return error === undefined && status === 0 ? (stdout.trim().split("\n")[0] ?? "") : null;
};

/** A program that answers every line of input by one line of JSON, and says `{}` once it is ready. */
export class Tool {
  readonly #child: ChildProcess;
  readonly #name: string;
  readonly #waiting: { resolve(value: unknown): void; reject(error: Error): void }[] = [];

  private constructor(child: ChildProcess, name: string) {
    this.#child = child;
    this.#name = name;
    const stderr = child.stderr === null ? () => "" : collect(child.stderr);
    if (child.stdout !== null)
      createInterface(child.stdout).on("line", (line) => this.#waiting.shift()?.resolve(JSON.parse(line)));
    child.stdin?.on("error", () => {}); // it has ended, and says why
    child.on("close", (code, signal) => {
      const error = new Error(`${name} ended: ${stderr().trim() || (signal ?? `exit status ${code}`)}`);
      for (const { reject } of this.#waiting.splice(0)) reject(error);
    });
  }

  static async start(where: Where, argv: readonly string[]): Promise<Tool> {
    const [command, args] = commandOf(where, argv);
    const tool = new Tool(spawn(command, args, { stdio: ["pipe", "pipe", "pipe"], detached: true }), nameOf(argv));
    await tool.#answer();
    return tool;
  }

  ask(line: string): Promise<unknown> {
    const answer = this.#answer();
    this.#child.stdin?.write(`${line}\n`);
    return answer;
  }

  #answer(): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (this.#child.exitCode !== null || this.#child.signalCode !== null)
        return reject(new Error(`${this.#name} has ended`));
      this.#waiting.push({ resolve, reject });
    });
  }
}

/** A Node program that answers messages: `{id, command, request}` by `{id, response}` or `{id, error}`. */
export class Worker {
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, { resolve(value: unknown): void; reject(error: Error): void }>();
  #lastId = 0;

  private constructor(child: ChildProcess) {
    this.#child = child;
    child.on("message", (message: { readonly id: number; readonly response?: unknown; readonly error?: string }) => {
      const waiting = this.#waiting.get(message.id);
      this.#waiting.delete(message.id);
      if (message.error === undefined) waiting?.resolve(message.response);
      else waiting?.reject(new Error(message.error));
    });
    child.on("exit", (code, signal) => {
      for (const { reject } of this.#waiting.values()) reject(new Error(`A node's process ended (${signal ?? code})`));
      this.#waiting.clear();
    });
  }

  static async start(where: Where, script: string, args: readonly string[]): Promise<Worker> {
    const [command, argv] = commandOf(where, [process.execPath, script, ...args]);
    const child = spawn(command, argv, { stdio: ["ignore", "ignore", "inherit", "ipc"], detached: true });
    const worker = new Worker(child);
    const [first] = await Promise.race([once(child, "message"), once(child, "exit")]);
    if (child.exitCode !== null) throw new Error(`Cannot start a node's process: exit status ${first}`);
    return worker;
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  ask(command: string, request: unknown = null): Promise<unknown> {
    const id = ++this.#lastId;
    return new Promise((resolve, reject) => {
      if (!this.#child.connected) return reject(new Error(`Cannot ask for ${command}: the node's process has ended`));
      this.#waiting.set(id, { resolve, reject });
      this.#child.send({ id, command, request });
    });
  }
}
