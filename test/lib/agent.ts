// A real agent in a lab: `scripts/beeline run` inside its node's namespace and cgroup. Its log is kept for when a test fails.
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { inside } from "../../src/bench/lab/inside.ts";
import { SLOWEST_PROCESS_MS } from "./eventually.ts";
import type { Lab } from "./lab.ts";

export const BEELINE = fileURLToPath(new URL("../../scripts/beeline", import.meta.url));

export interface AgentOptions {
  /** A file or folder of manifests; or… */
  readonly manifests?: string;
  /** …a kubeconfig. */
  readonly kubeconfig?: string;
  /** Fields under `bpf:` of the configuration file; none: no file. */
  readonly bpf?: object;
  /** Other fields of the configuration file. */
  readonly config?: object;
  /** More arguments of `beeline run`. */
  readonly args?: readonly string[];
  /** Wait until everything has been programmed once. Default true. */
  readonly wait?: boolean;
}

/** Arguments that name the configuration file, where there is something to configure. */
const configArguments = (lab: Lab, node: string, { bpf, config }: AgentOptions): readonly string[] => {
  if (bpf === undefined && config === undefined) return [];
  const path = join(lab.directory, `${node}-config.json`);
  const head = { apiVersion: "beeline.dev/v1alpha1", kind: "BeelineConfiguration" };
  writeFileSync(path, JSON.stringify({ ...head, ...config, ...(bpf === undefined ? {} : { bpf }) }));
  return ["--config", path];
};

const HEALTHZ_PORT = 10256;

export class Agent {
  readonly node: string;
  readonly #lab: Lab;
  readonly #child: ChildProcess;
  #log = "";

  private constructor(lab: Lab, node: string, child: ChildProcess) {
    this.#lab = lab;
    this.node = node;
    this.#child = child;
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding("utf8").on("data", (text: string) => {
        this.#log += text;
      });
    }
  }

  static async start(lab: Lab, node: string, options: AgentOptions): Promise<Agent> {
    const source =
      options.kubeconfig === undefined
        ? ["--manifests", options.manifests ?? ""]
        : ["--kubeconfig", options.kubeconfig];
    const [command, args] = inside(lab.inside(node), [
      BEELINE,
      "run",
      "--node",
      node,
      ...lab.placeArguments(node),
      ...source,
      ...configArguments(lab, node, options),
      ...(options.args ?? []),
    ]);
    const agent = new Agent(lab, node, spawn(command, args, { stdio: ["ignore", "pipe", "pipe"] }));
    if (options.wait !== false) await agent.ready();
    return agent;
  }

  /** What it has said so far. */
  get log(): string {
    return this.#log;
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  /** SIGTERM; answers the exit status. */
  stop(): Promise<number | null> {
    return this.#end("SIGTERM");
  }

  /** SIGKILL: no chance to tidy up. */
  kill9(): Promise<number | null> {
    return this.#end("SIGKILL");
  }

  /** The exit status, once it ends by itself. */
  async ended(): Promise<number | null> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) await once(this.#child, "exit");
    return this.#child.exitCode;
  }

  /** GET from the agent's own HTTP servers, asked in its namespace. */
  async httpGet(port: number, path: string): Promise<{ readonly status: number; readonly body: string }> {
    const host = await this.#lab.host(this.node);
    return host.httpGet(port, path);
  }

  /** Until everything has been programmed once; throws with the log when that does not happen. */
  async ready(): Promise<void> {
    const deadline = performance.now() + SLOWEST_PROCESS_MS;
    for (;;) {
      const status = await this.httpGet(HEALTHZ_PORT, "/readyz").then(
        (response) => response.status,
        () => 0,
      );
      if (status === 200) return;
      const exited = this.#child.exitCode !== null;
      if (exited || performance.now() > deadline) {
        const why = exited
          ? `exit status ${this.#child.exitCode}`
          : `/readyz is not 200 after ${SLOWEST_PROCESS_MS} ms`;
        await this.kill9();
        throw new Error(`Cannot start the agent of ${this.node}: ${why}\n${this.#log}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  async #end(signal: NodeJS.Signals): Promise<number | null> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) {
      const ended = once(this.#child, "exit");
      this.#child.kill(signal);
      await ended;
    }
    return this.#child.exitCode;
  }
}
