// A cluster that changes: a random list of changes, written to both labs, compared after each. Meanwhile connections
// stay open and UDP flows go on, and some changes are not waited for.
import fc from "fast-check";
import type { Answer } from "../lib/host/protocol.ts";
import type { Lab } from "../lib/lab.ts";
import { shuffled } from "../lib/random.ts";
import { arbitraryService, type Cluster, draw, drawCluster, type ServiceDraw } from "./cluster.ts";
import { compareCluster, type Tally } from "./compare.ts";
import { caseOf } from "./differences.ts";
import type { DataplaneName } from "./expected.ts";
import { serverOf } from "./expected.ts";
import type { Labs } from "./labs.ts";
import { clusterObjects } from "./objects.ts";
import { everyProbe, formatProbe } from "./probes.ts";
import { drawForwarding } from "./run.ts";
import { desiredOf, type Probe, type World } from "./world.ts";

/** One Service of a cluster becomes, in some of its fields, what `draw` says. */
export interface Change {
  /** Taken modulo the number of Services. */
  readonly index: number;
  readonly kind: (typeof KINDS)[number];
  readonly draw: ServiceDraw;
  /** The next change is made before the agents have taken up this one. */
  readonly hasty: boolean;
}

const KINDS = [
  "endpoints",
  "endpoints",
  "endpoints",
  "policies",
  "type",
  "addresses",
  "ports",
  "delete",
  "make again",
] as const;

const arbitraryChange: fc.Arbitrary<Change> = fc.record({
  index: fc.nat({ max: 1000 }),
  kind: fc.constantFrom(...KINDS),
  draw: arbitraryService,
  hasty: fc.constantFrom(true, false, false),
});

export const changed = (cluster: Cluster, { index, kind, draw: to }: Change): Cluster => {
  const i = index % cluster.services.length;
  const service = cluster.services[i] ?? null;
  return { ...cluster, services: cluster.services.with(i, changedService(service, kind, to)) };
};

const changedService = (service: ServiceDraw | null, kind: Change["kind"], to: ServiceDraw): ServiceDraw | null => {
  if (kind === "delete") return null;
  if (service === null || kind === "make again") return to;
  switch (kind) {
    case "endpoints":
      return { ...service, slices: to.slices };
    case "policies": {
      const { internalTrafficPolicy, externalTrafficPolicy, affinity_timeout_s, sourceRanges } = to;
      return { ...service, internalTrafficPolicy, externalTrafficPolicy, affinity_timeout_s, sourceRanges };
    }
    case "type":
      return { ...service, type: to.type, nodePorts: to.nodePorts, oddity: to.oddity };
    case "addresses":
      return { ...service, externalIPs: to.externalIPs, balancers: to.balancers, families: to.families };
    case "ports":
      return { ...service, ports: to.ports };
  }
};

export interface SequenceOptions {
  readonly seed: number;
  readonly number: number;
  readonly changes: number;
  /** Cases asked after each change. */
  readonly cases: number;
  readonly random: () => number;
}

/** What was kept open through sequences, and whether it lived: bad ones are told in words. */
export interface Kept {
  connections: number;
  flows: number;
  readonly complaints: string[];
}

export const newKept = (): Kept => ({ connections: 0, flows: 0, complaints: [] });

/**
 * Runs one sequence, in the midst of which every agent is killed and started again, and bpf forwards in one way after the
 * other. What held connections and UDP flows met goes to `kept`, disagreements go to the tally.
 */
export const runSequence = async (labs: Labs, options: SequenceOptions, tally: Tally, kept: Kept): Promise<void> => {
  const { seed, number, changes, random } = options;
  let cluster = drawCluster(seed, number);
  await labs.forward(drawForwarding(seed, number, 0));
  const world = await compareCluster(labs, cluster, options, tally);
  const followed = await follow(labs, world, random);
  const crash = Math.floor(random() * changes);
  for (let i = 0; i < changes; i++) {
    if (i === crash) await labs.crash();
    else if (i % SWITCH === SWITCH - 1) await labs.forward(drawForwarding(seed, number, (i + 1) / SWITCH));
    const change = draw(arbitraryChange, seed, number * 1000 + i);
    cluster = changed(cluster, change);
    if (change.hasty && i < changes - 1) labs.write(clusterObjects(cluster, labs.places));
    else await followed.check(await compareCluster(labs, cluster, options, tally), kept);
  }
  await followed.close(kept);
};

/** So many changes later bpf forwards in another way. */
const SWITCH = 2;
const HELD = 4;
const FLOWS = 6;
const BEAT_MS = 50;
/** A UDP flow of an endpoint that is gone may be answered wrongly, or not at all, for as long as this. */
const MOVED_MS = 2000;

interface Followed {
  /** Asks again over each UDP flow. */
  check(world: World, kept: Kept): Promise<void>;
  /** Ends everything, and looks whether the held connections lived until now. */
  close(kept: Kept): Promise<void>;
}

interface Held {
  readonly name: DataplaneName;
  readonly lab: Lab;
  readonly probe: Probe;
  readonly id: number;
}

const follow = async (labs: Labs, world: World, random: () => number): Promise<Followed> => {
  const reachable = shuffled(everyProbe(world), random).filter(
    (probe) =>
      probe.bound === "no" &&
      !probe.mapped &&
      !probe.sharedPort &&
      caseOf(world, probe).meaning.verdict.kind === "forward",
  );
  const tcp = reachable.filter(({ transport }) => transport === "TCP").slice(0, HELD);
  const udp = reachable.filter(({ transport, connected }) => transport === "UDP" && !connected).slice(0, FLOWS);
  const connections: Held[] = [];
  const flows: Held[] = [];
  for (const [name, lab] of labs.labs) {
    if (name === "userspace") continue; // its connections are the agent's own, and end with it
    for (const probe of tcp) {
      const held = await (await lab.host(probe.from)).hold(probe.address, probe.port, BEAT_MS);
      if (held.ok) connections.push({ name, lab, probe, id: held.id });
    }
    for (const probe of udp) {
      const { id } = await (await lab.host(probe.from)).openUdp(probe.address.includes(":") ? 6 : 4);
      await askFlow({ name, lab, probe, id });
      flows.push({ name, lab, probe, id });
    }
  }
  return {
    check: async (now, kept) => {
      const wrong = await Promise.all(flows.map((flow) => checkFlow(now, flow)));
      kept.flows += wrong.length;
      kept.complaints.push(...wrong.flat());
    },
    close: async (kept) => {
      const wrong = await Promise.all(connections.map(checkConnection));
      kept.connections += wrong.length;
      kept.complaints.push(...wrong.flat());
      for (const { lab, probe, id } of [...connections, ...flows]) await (await lab.host(probe.from)).drop(id);
    },
  };
};

const askFlow = async ({ lab, probe, id }: Held): Promise<Answer> =>
  (await lab.host(probe.from)).askUdp(id, { address: probe.address, port: probe.port }, 400);

/** A flow may stay with an endpoint that keeps what it has, and must leave one that is gone. */
const checkFlow = async (world: World, flow: Held): Promise<readonly string[]> => {
  const { verdict, handler } = caseOf(world, flow.probe).meaning;
  if (verdict.kind !== "forward" || handler === null) return [];
  const service = [...desiredOf(world, handler).services.values()].find(({ name }) => name === verdict.service);
  const allowed = (service?.backends ?? []).map((backend) => serverOf(world.places, backend));
  const deadline = performance.now() + MOVED_MS;
  for (;;) {
    const answer = await askFlow(flow);
    if (answer.ok && allowed.includes(answer.name)) return [];
    if (performance.now() < deadline) continue;
    const met = answer.ok ? answer.name : answer.code;
    return [`${flow.name}: ${formatProbe(flow.probe)}: an old flow meets ${met} instead of ${allowed.join(", ")}`];
  }
};

/** TCP is never cut, whatever becomes of the Service, as long as the pod is there. */
const checkConnection = async ({ name, lab, probe, id }: Held): Promise<readonly string[]> => {
  const host = await lab.host(probe.from);
  const before = await host.beats(id);
  await new Promise((resolve) => setTimeout(resolve, 3 * BEAT_MS));
  const now = await host.beats(id);
  if (now.ended === null && now.echoed > before.echoed) return [];
  return [`${name}: ${formatProbe(probe)}: an established connection ended: ${now.ended ?? "nothing is echoed"}`];
};
