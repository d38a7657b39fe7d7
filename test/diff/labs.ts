// Labs that are the same but for their agents: bpf in one, kube-proxy's rules in the other, or whichever are named. All
// read the same manifests; apply() returns when every agent has taken them up.
import { renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Agent, AgentOptions } from "../lib/agent.ts";
import { FORWARDING_FIELDS, type Forwarding } from "../lib/forwarding.ts";
import { type Forwards, readForwards } from "../lib/forwards.ts";
import { Lab } from "../lib/lab.ts";
import type { Place } from "../lib/network.ts";
import { BACKENDS, TARGET_PORTS } from "./cluster.ts";
import type { DataplaneName } from "./expected.ts";
import { EVERYWHERE, VIP_ROUTES } from "./objects.ts";
import { SOURCES } from "./probes.ts";
import {
  AGENT_NODES,
  desiredOf,
  makeWorld,
  type NodePortAddresses,
  type SocketLB,
  secondAddress,
  type World,
} from "./world.ts";

export type Flavour = "legacy" | "nft";

export interface LabsOptions {
  /** A lab each; by default bpf and iptables. */
  readonly dataplanes?: readonly DataplaneName[];
  /** Of iptables. */
  readonly flavour: Flavour;
  /** How the bpf programs are attached; by default what the kernel has. */
  readonly attach?: "tcx" | "clsact";
  /** Of bpf: whose sockets are translated; packets of the other pods are, at their devices. */
  readonly socketLB?: SocketLB;
  /** Of all. */
  readonly nodePortAddresses?: NodePortAddresses;
  /** How bpf forwards, from first to last; by default as each test or run says, at first as by default. */
  readonly forwarding?: Forwarding;
}

/** The way to tell pods of the own node from everybody else that is beeline's, too: by where a packet comes in. */
export const BY_INTERFACE = { detectLocalMode: "InterfaceNamePrefix", detectLocal: { interfaceNamePrefix: "pod" } };

/** How long agents may take to apply one cluster: far more than they need. */
const APPLY_TIMEOUT_MS = 15_000;

export class Labs {
  readonly labs: ReadonlyMap<DataplaneName, Lab>;
  readonly #manifests: string;
  readonly #options: LabsOptions;
  readonly #configs = new Map<DataplaneName, object>();
  readonly #running = new Map<DataplaneName, readonly Agent[]>();
  /** null: as the agents choose. */
  #forwarding: Forwarding | null;
  #generation = 0;
  #lastPorts = 0;

  private constructor(labs: ReadonlyMap<DataplaneName, Lab>, manifests: string, options: LabsOptions) {
    this.labs = labs;
    this.#options = options;
    this.#forwarding = options.forwarding ?? null;
    this.#manifests = manifests;
  }

  static async create(options: LabsOptions): Promise<Labs> {
    const labs = new Map<DataplaneName, Lab>();
    try {
      for (const name of options.dataplanes ?? ["bpf", "iptables"])
        labs.set(name, await Lab.create({ nodes: 3, podsPerNode: 2 }));
      const [first] = labs.values();
      const all = new Labs(labs, join(first?.directory ?? "", "cluster.json"), options);
      all.write([]);
      await Promise.all([...labs].map(([name, lab]) => all.#start(name, lab)));
      return all;
    } catch (error) {
      await Promise.all([...labs.values()].map((lab) => lab.close()));
      throw error;
    }
  }

  get forwarding(): Forwarding | null {
    return this.#forwarding;
  }

  /** From now on bpf forwards so, unless it is always to do it in one way; its agents start anew where that is a change. */
  async forward(forwarding: Forwarding): Promise<void> {
    if (this.#options.forwarding !== undefined || forwarding === this.#forwarding || !this.labs.has("bpf")) return;
    this.#forwarding = forwarding;
    await this.restart("bpf", this.#configs.get("bpf") ?? {});
  }

  /** Of all nodes of bpf's lab, so far. */
  get forwards(): Forwards {
    const lab = this.labs.get("bpf");
    return readForwards(lab === undefined ? [] : AGENT_NODES.map((node) => lab.bpffs(node)));
  }

  get places(): readonly Place[] {
    return [...this.labs.values()][0]?.places ?? [];
  }

  /** Makes these all the objects there are, waits until every agent has applied them, and answers what they mean. */
  async apply(objects: readonly object[]): Promise<World> {
    const agents = this.#agents();
    const marks = agents.map((agent) => agent.log.length);
    const world = this.write(objects);
    const servicePorts = portsOf(world);
    await Promise.all(agents.map((agent, i) => applied(agent, servicePorts, marks[i] ?? 0)));
    return world;
  }

  /** Makes these all the objects there are, and does not wait. The last world written is told by its number of ports. */
  write(objects: readonly object[]): World {
    const worlds = [1, 2]
      .map((ports) => [...objects, marker(++this.#generation, ports)])
      .map((all) => ({
        all,
        world: makeWorld(all, this.places, this.#options.nodePortAddresses, this.#options.socketLB),
      }));
    const next = worlds.find(({ world }) => portsOf(world) % 2 !== this.#lastPorts % 2) ?? worlds[0];
    if (next === undefined) throw new Error("There is no world");
    this.#lastPorts = portsOf(next.world);
    writeFileSync(`${this.#manifests}.new`, JSON.stringify({ apiVersion: "v1", kind: "List", items: next.all }));
    renameSync(`${this.#manifests}.new`, this.#manifests);
    return next.world;
  }

  logs(): string {
    return [...this.labs].map(([name, lab]) => `==== ${name}\n${lab.logs()}`).join("\n");
  }

  async close(): Promise<void> {
    await Promise.all([...this.labs.values()].map((lab) => lab.close()));
  }

  async #start(name: DataplaneName, lab: Lab): Promise<void> {
    for (const [prefix, node] of VIP_ROUTES) lab.routeVip(prefix, node);
    for (const place of lab.places) lab.run(place.name, ["sh", "-c", UNLIMITED_ICMP]);
    for (const { name: node, v4, v6 } of lab.nodes()) {
      lab.run(node, ["ip", "addr", "add", `${secondAddress(v4)}/24`, "dev", "eth0"]);
      lab.run(node, ["ip", "addr", "add", `${secondAddress(v6)}/64`, "dev", "eth0", "nodad", "preferred_lft", "0"]);
    }
    const hosts = [...new Set([...SOURCES, ...BACKENDS])];
    await Promise.all(hosts.map((place) => lab.host(place)));
    for (const place of BACKENDS) {
      const host = await lab.host(place);
      for (const port of TARGET_PORTS) await host.serve(`${place}:${port}`, port, "TCP", "UDP");
    }
    for (const node of AGENT_NODES) {
      lab.run(node, ["ip", "link", "add", "vips", "type", "bridge"]);
      lab.run(node, ["ip", "link", "set", "vips", "up"]);
      lab.run(node, ["ip", "addr", "add", `${EVERYWHERE.v4}/32`, "dev", "vips"]);
      lab.run(node, ["ip", "addr", "add", `${EVERYWHERE.v6}/128`, "dev", "vips", "nodad", "preferred_lft", "0"]);
    }
    await this.restart(name, BY_INTERFACE);
  }

  /** Ends a lab's agents, and starts new ones with these fields of a configuration. */
  async restart(name: DataplaneName, config: object): Promise<void> {
    await Promise.all((this.#running.get(name) ?? []).map((agent) => agent.stop()));
    this.#configs.set(name, config);
    await this.#startAgents(name);
  }

  /** Kills every agent of every lab, with no chance to tidy up, and starts new ones in their places. */
  async crash(): Promise<void> {
    await Promise.all(this.#agents().map((agent) => agent.kill9()));
    await Promise.all([...this.labs.keys()].map((name) => this.#startAgents(name)));
  }

  async #startAgents(name: DataplaneName): Promise<void> {
    const lab = this.labs.get(name);
    if (lab === undefined) throw new Error(`There is no lab of ${name}`);
    const config = agentOptions(name, this.#configs.get(name) ?? {}, this.#options, this.#forwarding);
    const options = { manifests: this.#manifests, ...config };
    this.#running.set(name, await Promise.all(AGENT_NODES.map((node) => lab.startAgent(node, options))));
  }

  #agents(): readonly Agent[] {
    return [...this.#running.values()].flat();
  }
}

/** A Service of a new name each time makes every write a change. Its ports are nobody's. */
const marker = (generation: number, ports: number): object => ({
  apiVersion: "v1",
  kind: "Service",
  metadata: { name: `generation-${generation}`, namespace: "default" },
  spec: {
    clusterIP: "172.30.0.254",
    ports: Array.from({ length: ports }, (_, i) => ({ name: `port-${i}`, port: i + 1 })),
  },
});

const portsOf = (world: World): number => desiredOf(world, AGENT_NODES[0]).services.size;

/** A kernel sends few ICMP errors a second, whoever makes them: many probes at once would time out instead. */
const UNLIMITED_ICMP = [
  "echo 0 >/proc/sys/net/ipv4/icmp_ratemask",
  "echo 1000000 >/proc/sys/net/ipv4/icmp_msgs_per_sec",
  "echo 1000000 >/proc/sys/net/ipv4/icmp_msgs_burst",
  "echo 0 >/proc/sys/net/ipv6/icmp/ratelimit",
].join("; ");

const agentOptions = (
  name: DataplaneName,
  config: object,
  { flavour, attach, socketLB, nodePortAddresses }: LabsOptions,
  forwarding: Forwarding | null,
): Pick<AgentOptions, "args" | "bpf" | "config"> => {
  const minSyncPeriod = "10ms";
  // The configuration file has a list for either.
  const common = { nodePortAddresses: nodePortAddresses === "primary" ? ["primary"] : (nodePortAddresses ?? []) };
  if (name === "bpf") {
    const fields = forwarding === null ? { forwarding: "auto", xdp: "off" } : FORWARDING_FIELDS[forwarding];
    const bpf = { minSyncPeriod, socketLB: socketLB ?? "all", ...fields };
    return { config: common, bpf, args: attach === undefined ? [] : ["--attach", attach] };
  }
  const { iptables, ...others } = config as { readonly iptables?: object };
  // kube-proxy's 250 ms are too short for a server in a lab that the machine holds up: its answer would be nobody's.
  const more = name === "userspace" ? { udpIdleTimeout: "5s" } : {};
  return {
    config: { ...common, ...others, ...more, iptables: { ...iptables, minSyncPeriod, flavour } },
    args: ["--dataplane", name],
  };
};

/** Until the agent says, after `mark` characters of its log, that it has applied so many ports, or that it cannot. */
const applied = async (agent: Agent, servicePorts: number, mark: number): Promise<void> => {
  const deadline = performance.now() + APPLY_TIMEOUT_MS;
  for (;;) {
    const lines = agent.log.slice(mark).split("\n").slice(0, -1);
    if (lines.some((line) => line.includes('"msg":"Applied"') && line.includes(`"servicePorts":${servicePorts},`)))
      return;
    const failure = lines.find((line) => line.includes('"msg":"Cannot apply'));
    if (failure !== undefined) throw new Error(`The agent of ${agent.node} cannot apply: ${failure}`);
    if (performance.now() > deadline) {
      const said = lines.join("\n");
      throw new Error(
        `The agent of ${agent.node} has not applied ${servicePorts} ports in ${APPLY_TIMEOUT_MS} ms:\n${said}`,
      );
    }
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
};
