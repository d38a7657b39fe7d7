// One mode with so many services, alive in its own namespaces: processes of its node and pods, a generator at its client.
// Runs its traffic one measurement at a time, and asks the mode itself what it carried.
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { type Asked, CLIENT, NODE, PLACES_OF, POD_PORT, PODS, REMOTE_POD } from "./cluster.ts";
import type { Cpus } from "./cpus.ts";
import { cgroupMount, labDirectory } from "./lab/leftovers.ts";
import { NODE_MAC, netnsName, type Offloads, offloadScript } from "./lab/network.ts";
import { runInside, runScript, Tool, type Where, Worker } from "./lab/process.ts";
import type { Mode } from "./modes.ts";
import type { NodeCommands } from "./node/process.ts";

export interface Files {
  /** Of the benchmark's own programs. */
  readonly tools: string;
  readonly nodeScript: string;
}

/** What all stacks of a run share. */
export interface Setting {
  readonly lab: string;
  readonly files: Files;
  readonly cpus: Cpus;
}

export interface Installed {
  readonly install_s: number;
  /** What the whole kernel's grew by; under 0 when something else gave more back meanwhile. */
  readonly kernel_bytes: number;
  readonly process_bytes: number;
}

const counts = z.object({ right: z.number(), wrong: z.number() });
/** `cpu_s`: of the sender, and of what became of its packets on its CPU. */
export const frames = z.object({ sent: z.number(), rate: z.number(), cpu_s: z.number() });
const client = z.object({
  sent: z.number(),
  lost: z.number(),
  wrong: z.number(),
  p50: z.number().optional(),
  p99: z.number().optional(),
  done: z.number().optional(),
  seconds: z.number().optional(),
  cpu_s: z.number().optional(),
  bytes: z.number().optional(),
});
export type ClientAnswer = z.output<typeof client>;

export class Stack {
  readonly name: string;
  readonly mode: Mode;
  readonly services: number;
  readonly cpus: Cpus;
  readonly #lab: string;
  readonly #files: Files;
  readonly #pods: Tool[] = [];
  #node: Worker | null = null;
  #frames: Tool | null = null;
  /** Flows that the client has used up, and some: none is used twice. */
  #flows = 0;

  constructor({ lab, files, cpus }: Setting, name: string, mode: Mode, services: number) {
    this.cpus = cpus;
    this.#lab = lab;
    this.name = name;
    this.mode = mode;
    this.services = services;
    this.#files = files;
  }

  #where(place: string, cpu: number | null): Where {
    return {
      netns: `/run/netns/${netnsName(this.#lab, this.name, place)}`,
      cgroup: this.#cgroup(place === "client" ? "client" : "node"),
      cpus: cpu === null ? null : [cpu],
    };
  }

  #cgroup(who: "client" | "node"): string {
    return join(cgroupMount(), this.#lab, this.name, who);
  }

  /** What takes services; its namespaces are there already. */
  async startNode(): Promise<void> {
    for (const who of ["client", "node"] as const) mkdirSync(this.#cgroup(who), { recursive: true });
    const bpffs = join(labDirectory(this.#lab), "bpf", this.name);
    const args = [this.mode.name, String(this.services), bpffs, this.#cgroup("client")];
    this.#node = await Worker.start(this.#where("node", null), this.#files.nodeScript, args);
  }

  /** And what traffic needs. */
  async start(): Promise<void> {
    await this.startNode();
    const object = join(this.#files.tools, "load.bpf.o");
    for (const { name } of ALL_PODS) {
      const argv = [join(this.#files.tools, "pod"), name, String(POD_PORT), "eth0", object];
      this.#pods.push(await Tool.start(this.#where(name, this.cpus.server), argv));
    }
    this.#offload("usual");
    if (!this.mode.packets) return;
    const argv = [join(this.#files.tools, "frames"), "eth0", object, NODE_MAC, `${CLIENT.address}:${GREET_PORT}`];
    this.#frames = await Tool.start(this.#where("client", this.cpus.sender), argv);
  }

  // ---- the control plane -------------------------------------------------------------------------------------------

  async ask<C extends keyof NodeCommands>(command: C, asked?: Asked): Promise<NodeCommands[C]> {
    if (this.#node === null) throw new Error(`Stack ${this.name} has not been started`);
    return (await this.#node.ask(command, asked)) as NodeCommands[C];
  }

  /** Programs every service, and watches what that takes. */
  async install(): Promise<Installed> {
    const peaks = new Map<string, number>();
    const watch = setInterval(() => this.#notePeaks(peaks), PEAK_MS);
    const before = await settledMemory();
    try {
      await this.ask("open");
      const install_s = await this.ask("install");
      this.#notePeaks(peaks);
      const process_bytes = [...peaks.values()].reduce((sum, bytes) => sum + bytes, 0);
      return { install_s, kernel_bytes: kernelMemory() - before, process_bytes };
    } finally {
      clearInterval(watch);
    }
  }

  /** Greatest memory so far of the node's process, and of whatever it runs at the moment, by program. */
  #notePeaks(peaks: Map<string, number>): void {
    const pids = readText(join(this.#cgroup("node"), "cgroup.procs"))
      .trim()
      .split("\n");
    for (const pid of pids) {
      const status = readText(`/proc/${pid}/status`);
      const [name = ""] = /^Name:\s*(.*)$/m.exec(status)?.slice(1) ?? [];
      const [kilobytes = "0"] = /^VmHWM:\s*(\d+)/m.exec(status)?.slice(1) ?? [];
      if (name !== "" && name !== "pod") peaks.set(name, Math.max(peaks.get(name) ?? 0, Number(kilobytes) * 1024));
    }
  }

  // ---- traffic -----------------------------------------------------------------------------------------------------

  #offload(offloads: Offloads): void {
    runScript(offloadScript(this.#lab, this.name, offloads));
  }

  async withOffloads<T>(offloads: Offloads, action: () => Promise<T>): Promise<T> {
    this.#offload(offloads);
    try {
      return await action();
    } finally {
      this.#offload("usual");
    }
  }

  /** What clients ask for: the service, or in a mode without services its pods. */
  #addresses({ service }: Asked): readonly string[] {
    const { address, port, pods } = PLACES_OF[service];
    return this.mode.direct ? pods.map((pod) => `${pod.address}:${POD_PORT}`) : [`${address}:${port}`];
  }

  /** A program of bench/client.c; every answer is checked there. */
  async client(
    asked: Asked,
    what: "connect" | "first" | "requests" | "udp" | "bulk" | "greet",
    seconds: number,
    warm_up_s: number,
  ): Promise<ClientAnswer> {
    const times = [String(seconds), String(warm_up_s)];
    const names = PLACES_OF[asked.service].pods.map(({ name }) => name);
    // A reply of the other node must come back through this one: who translates puts an address of this node.
    const seenAs = asked.service === "target" || this.mode.direct ? "-" : [NODE.inner, NODE.address].join();
    const who = [String(this.#flows), seenAs, names.join(), ...this.#addresses(asked)];
    const argv = [join(this.#files.tools, "client"), what, ...times, ...who];
    const answer = client.parse(JSON.parse(await runInside(this.#where("client", this.cpus.sender), argv)));
    if (COUNTS_FLOWS.has(what)) this.#flows += answer.sent;
    return answer;
  }

  /** While it runs, packets end in the pods' counters and not at their sockets. */
  async withSink<T>(kind: "xdp" | "tc", action: () => Promise<T>): Promise<T> {
    await this.#sink(kind);
    try {
      return await action();
    } finally {
      await this.#sink("off");
    }
  }

  async #sink(kind: "xdp" | "tc" | "off"): Promise<void> {
    for (const [i, pod] of this.#pods.entries()) await pod.ask(`sink ${kind} ${ALL_PODS[i]?.address}:${POD_PORT}`);
  }

  /** Packets that arrived since the sink was put there, at the address they were meant for and at others. */
  async arrived(): Promise<{ readonly right: number; readonly wrong: number }> {
    await pause(SETTLE_MS);
    let [right, wrong] = [0, 0];
    for (const pod of this.#pods) {
      const counted = counts.parse(await pod.ask("count"));
      right += counted.right;
      wrong += counted.wrong;
    }
    return { right, wrong };
  }

  /** Live frames for so long, not more than `most`; flows 0: every one another flow. */
  async frames(asked: Asked, flows: number, seconds: number, most: number): Promise<z.output<typeof frames>> {
    if (this.#frames === null) throw new Error(`Mode ${this.mode.name} has no packets from a wire`);
    const [first, second = first] = this.#addresses(asked);
    return frames.parse(await this.#frames.ask(`run ${first} ${second} ${flows} ${seconds} ${most}`));
  }
}

const ALL_PODS = [...PODS, REMOTE_POD];

/** As in bench/client.c. */
const GREET_PORT = 10_000;
export const GREET_FLOWS = 64;

/** What sends over flows of its own, one for each that it counts as sent. */
const COUNTS_FLOWS = new Set(["connect", "first", "requests"]);

const PEAK_MS = 10;
/** What is still on its way arrives. */
const SETTLE_MS = 5;

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

const readText = (path: string): string => {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return ""; // it has ended, or the lab is being removed
  }
};

/** What was given up a moment ago is freed later, and would be taken off what comes. At most two seconds. */
const settledMemory = async (): Promise<number> => {
  let least = kernelMemory();
  for (let calm = 0, looks = 0; calm < CALM_LOOKS && looks < MOST_LOOKS; looks++) {
    await pause(LOOK_MS);
    const now = kernelMemory();
    calm = now < least - LITTLE_BYTES ? 0 : calm + 1;
    least = Math.min(least, now);
  }
  return kernelMemory();
};

const [LOOK_MS, CALM_LOOKS, MOST_LOOKS, LITTLE_BYTES] = [20, 5, 100, 100_000];

/** What rules and maps are kept in: kernel objects that cannot be given up, large areas, and per-CPU memory. */
const kernelMemory = (): number => {
  const text = readFileSync("/proc/meminfo", "utf8");
  return ["SUnreclaim", "VmallocUsed", "Percpu"].reduce(
    (sum, field) => sum + Number(new RegExp(`^${field}:\\s*(\\d+)`, "m").exec(text)?.[1] ?? 0) * 1024,
    0,
  );
};
