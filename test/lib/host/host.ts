// A process inside a namespace and a cgroup, as the test sees it: typed questions, typed answers.
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { type Inside, inside } from "../../../src/bench/lab/inside.ts";
import type {
  Answer,
  Beats,
  CommandName,
  Commands,
  ConnectRequest,
  Counts,
  ResponseMessage,
  Speech,
  Target,
  Transport,
  TryRequest,
} from "./protocol.ts";

const SCRIPT = fileURLToPath(new URL("process.ts", import.meta.url));

export class Host {
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, { resolve(value: unknown): void; reject(error: Error): void }>();
  #lastId = 0;

  private constructor(child: ChildProcess) {
    this.#child = child;
    child.on("message", (message: ResponseMessage) => {
      const waiting = this.#waiting.get(message.id);
      this.#waiting.delete(message.id);
      if (message.error === undefined) waiting?.resolve(message.response);
      else waiting?.reject(new Error(message.error));
    });
    child.on("exit", (code, signal) => {
      for (const { reject } of this.#waiting.values()) reject(new Error(`The host process ended (${signal ?? code})`));
      this.#waiting.clear();
    });
  }

  static async start(where: Inside): Promise<Host> {
    const [command, args] = inside(where, [process.execPath, SCRIPT]);
    const child = spawn(command, args, { stdio: ["ignore", "inherit", "inherit", "ipc"] });
    const [first] = await Promise.race([once(child, "message"), once(child, "exit")]);
    if (child.exitCode !== null) throw new Error(`Cannot start a host process in ${where.netns}: exit status ${first}`);
    return new Host(child);
  }

  ask<C extends CommandName>(command: C, request: Commands[C]["request"]): Promise<Commands[C]["response"]> {
    const id = ++this.#lastId;
    return new Promise<Commands[C]["response"]>((resolve, reject) => {
      if (!this.#child.connected) return reject(new Error(`Cannot ask for ${command}: the host process has ended`));
      this.#waiting.set(id, { resolve: resolve as (value: unknown) => void, reject });
      this.#child.send({ id, command, request });
    });
  }

  async serve(name: string, port: number, ...transports: readonly Transport[]): Promise<void> {
    for (const transport of transports.length > 0 ? transports : (["TCP"] as const)) {
      await this.ask("serve", { name, port, transport });
    }
  }

  async stopServing(port: number, transport: Transport = "TCP"): Promise<void> {
    await this.ask("stopServing", { port, transport });
  }

  /** One TCP connection. */
  connect(address: string, port: number, how: Omit<ConnectRequest, keyof Target> = {}): Promise<Answer> {
    return this.ask("connect", { address, port, ...how });
  }

  /** `count` TCP connections, one after another. */
  async connections(
    count: number,
    address: string,
    port: number,
    how: Omit<ConnectRequest, keyof Target> = {},
  ): Promise<readonly Answer[]> {
    const answers: Answer[] = [];
    for (let i = 0; i < count; i++) answers.push(await this.connect(address, port, how));
    return answers;
  }

  /** Lists of tries: the lists side by side, `parallel` at a time, the tries of each one after another. */
  tryAll(lists: readonly (readonly TryRequest[])[], parallel = 32): Promise<readonly (readonly Answer[])[]> {
    return this.ask("tryAll", { lists, parallel });
  }

  transfer(address: string, port: number, size_bytes: number): Promise<Answer> {
    return this.ask("transfer", { address, port, size_bytes });
  }

  hold(
    address: string,
    port: number,
    beat_ms: number | null,
    how: Omit<ConnectRequest, keyof Target> = {},
  ): Promise<Answer & { readonly id: number }> {
    return this.ask("hold", { address, port, beat_ms, ...how });
  }

  /** A held connection's client says something. */
  async say(id: number): Promise<void> {
    await this.ask("say", { id });
  }

  /** A server of this process's does. Throws where it has no such connection. */
  async speak(speech: Speech): Promise<void> {
    if (!(await this.ask("speak", speech)))
      throw new Error(`The server at port ${speech.port} has no client at port ${speech.clientPort}`);
  }

  beats(id: number): Promise<Beats> {
    return this.ask("beats", { id });
  }

  /** One datagram over a new unconnected socket. */
  async udp(
    address: string,
    port: number,
    how: { readonly timeout_ms?: number; readonly localAddress?: string; readonly localPort?: number } = {},
  ): Promise<Answer> {
    const { id } = await this.openUdp(address.includes(":") ? 6 : 4, how);
    const answer = await this.askUdp(id, { address, port }, how.timeout_ms);
    await this.drop(id);
    return answer;
  }

  /** One datagram over a new connected socket, which takes answers from that very address and port only. */
  async connectedUdp(address: string, port: number, timeout_ms?: number): Promise<Answer> {
    const { id } = await this.openUdp(address.includes(":") ? 6 : 4, { to: { address, port } });
    const answer = await this.askUdp(id, undefined, timeout_ms);
    await this.drop(id);
    return answer;
  }

  openUdp(
    family: 4 | 6,
    how: { readonly to?: Target; readonly localAddress?: string; readonly localPort?: number } = {},
  ): Promise<{ readonly id: number }> {
    return this.ask("openUdp", { family, ...how });
  }

  askUdp(id: number, to?: Target, timeout_ms?: number): Promise<Answer> {
    return this.ask("askUdp", {
      id,
      ...(to === undefined ? {} : { to }),
      ...(timeout_ms === undefined ? {} : { timeout_ms }),
    });
  }

  /** The code of the error that a UDP socket reported by itself; null: none. */
  udpError(id: number): Promise<string | null> {
    return this.ask("udpError", { id });
  }

  async drop(id: number): Promise<void> {
    await this.ask("drop", { id });
  }

  startLoop(
    address: string,
    port: number,
    how: { readonly transport?: Transport; readonly pause_ms?: number; readonly timeout_ms?: number } = {},
  ): Promise<{ readonly id: number }> {
    return this.ask("startLoop", { address, port, transport: "TCP", pause_ms: 5, ...how });
  }

  loopCounts(id: number, stop = false): Promise<Counts> {
    return this.ask("loopCounts", { id, stop });
  }

  relay(port: number, path: string): Promise<null> {
    return this.ask("relay", { port, path });
  }

  httpGet(port: number, path: string): Promise<{ readonly status: number; readonly body: string }> {
    return this.ask("httpGet", { port, path });
  }

  async close(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const ended = once(this.#child, "exit");
    this.#child.kill("SIGKILL");
    await ended;
  }
}
