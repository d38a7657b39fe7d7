// A small cluster out of network namespaces: client, wire, nodes, pods; a cgroup and a pin directory for each node;
// real processes inside; real agents. Everything goes when the lab is closed, the process exits or is interrupted, and
// whatever a crash left goes when the next lab is made.
import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { type Inside, inside } from "../../src/bench/lab/inside.ts";
import {
  cgroupMount,
  closeLab,
  labDirectory,
  labName,
  openLab,
  removeLeftovers,
} from "../../src/bench/lab/leftovers.ts";
import { Agent, type AgentOptions, BEELINE } from "./agent.ts";
import { Host } from "./host/host.ts";
import { isNode, networkScript, type Place, planPlaces, vipRoute } from "./network.ts";
import { fitWireForXdp } from "./xdp-lab.ts";

export interface LabOptions {
  /** Default 2. */
  readonly nodes?: number;
  /** Default 2. */
  readonly podsPerNode?: number;
}

export interface CommandResult {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

let labs = 0;

export class Lab {
  /** Unique on this machine. */
  readonly name: string;
  readonly places: readonly Place[];
  /** For the lab's files: manifests, kubeconfigs, sockets. */
  readonly directory: string;
  readonly #hosts = new Map<string, Promise<Host>>();
  readonly #agents: Agent[] = [];
  /** Nodes whose wire takes what XDP sends. */
  readonly #fitForXdp = new Set<string>();

  private constructor(name: string, places: readonly Place[]) {
    this.name = name;
    this.places = places;
    this.directory = labDirectory(name);
  }

  static async create(options: LabOptions = {}): Promise<Lab> {
    if (labs === 0) {
      exitWhenInterrupted();
      removeLeftovers();
    }
    const lab = new Lab(labName(process.pid, ++labs), planPlaces(options.nodes ?? 2, options.podsPerNode ?? 2));
    openLab(lab.name);
    try {
      lab.#make();
    } catch (error) {
      await lab.close();
      throw error;
    }
    return lab;
  }

  #make(): void {
    mkdirSync(join(this.directory, "bpf"), { recursive: true });
    execFileSync("mount", ["-t", "bpf", "beeline-lab", join(this.directory, "bpf")]);
    for (const place of this.places) mkdirSync(this.cgroup(place.name), { recursive: true });
    execFileSync("bash", ["-s"], { input: networkScript(this.places, this.name) });
  }

  place(name: string): Place {
    const place = this.places.find((p) => p.name === name);
    if (place === undefined) throw new Error(`The lab has no ${name}`);
    return place;
  }

  nodes(): readonly Place[] {
    return this.places.filter(isNode);
  }

  /** The cgroup of a node, which its pods share; outside, of the place itself. */
  cgroup(name: string): string {
    return join(cgroupMount(), this.name, this.place(name).node ?? name);
  }

  /** Where a node's agent pins. */
  bpffs(node: string): string {
    return join(this.directory, "bpf", node);
  }

  inside(name: string): Inside {
    return { netns: `/run/netns/${this.name}-${this.place(name).name}`, cgroup: this.cgroup(name) };
  }

  /** The process inside a place; started when first asked for. */
  host(name: string): Promise<Host> {
    const host = this.#hosts.get(name) ?? Host.start(this.inside(name));
    this.#hosts.set(name, host);
    return host;
  }

  /** Starts the processes of every pod, node and the client at once. */
  async startHosts(): Promise<void> {
    await Promise.all(this.places.filter((p) => p.name !== "wire").map((place) => this.host(place.name)));
  }

  /** What tells a beeline command which node of the lab it works on. */
  placeArguments(node: string): readonly string[] {
    return ["--cgroup", this.cgroup(node), "--bpffs", this.bpffs(node), "--device", "eth0"];
  }

  async startAgent(node: string, options: AgentOptions): Promise<Agent> {
    const wantsXdp = (options.bpf as { readonly xdp?: string } | undefined)?.xdp === "required";
    if (wantsXdp) this.fitWire(node, true);
    const agent = await Agent.start(this, node, options);
    this.#agents.push(agent);
    if (!wantsXdp) this.fitWire(node, false);
    return agent;
  }

  /** From now on the wire of a node takes what XDP sends, or has its usual offloads again. */
  fitWire(node: string, isFit: boolean): void {
    if (isFit === this.#fitForXdp.has(node)) return;
    fitWireForXdp(this, node, isFit);
    this.#fitForXdp[isFit ? "add" : "delete"](node);
  }

  /** Every agent that was started, the ended ones too, in order. */
  get agents(): readonly Agent[] {
    return this.#agents;
  }

  /** Runs `beeline ARGS --bpffs …` on a node. */
  beeline(node: string, args: readonly string[]): CommandResult {
    return this.run(node, [BEELINE, ...args, "--bpffs", this.bpffs(node)]);
  }

  /** Runs a command inside a place. */
  run(name: string, argv: readonly string[]): CommandResult {
    const [command, args] = inside(this.inside(name), argv);
    return spawnSync(command, args, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
  }

  /** From now on the wire sends this VIP, or prefix of VIPs, to that node. */
  routeVip(vip: string, node: string): void {
    const { status, stderr } = this.run("wire", ["ip", ...vipRoute(vip, this.places, node).split(" ")]);
    if (status !== 0) throw new Error(`Cannot route ${vip} to ${node}: ${stderr}`);
  }

  /** The agents' logs, for a test that failed. */
  logs(): string {
    return this.#agents.map((agent) => `---- agent of ${agent.node} (${agent.pid})\n${agent.log}`).join("\n");
  }

  async close(): Promise<void> {
    await Promise.all(this.#agents.map((agent) => agent.kill9()));
    await Promise.all([...this.#hosts.values()].map((host) => host.then((h) => h.close()).catch(() => {})));
    closeLab(this.name);
  }
}

/** At the exit the lab is removed. */
const exitWhenInterrupted = (): void => {
  for (const [signal, number] of [["SIGINT", 2] as const, ["SIGTERM", 15] as const, ["SIGHUP", 1] as const]) {
    process.once(signal, () => process.exit(128 + number));
  }
};
