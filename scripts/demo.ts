// The demo's story: a cluster from examples/, real traffic through it, changes while clients connect. Every line is
// checked; the exit code is 1 when one was not as it should be.
import { fileURLToPath } from "node:url";
import { eventually } from "../test/lib/eventually.ts";
import type { Host } from "../test/lib/host/host.ts";
import type { Answer, Counts, Transport } from "../test/lib/host/protocol.ts";
import { Lab } from "../test/lib/lab.ts";
import { isNode, type Place } from "../test/lib/network.ts";
import { DemoCluster, type Pod } from "./demo-cluster.ts";
import { describeAnswers, describeCounts, list, Report } from "./demo-report.ts";

const EXAMPLES = fileURLToPath(new URL("../examples", import.meta.url));
const started = performance.now();
const seconds = (since = started): string => `${((performance.now() - since) / 1000).toFixed(1)} s`;
const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

const main = async (): Promise<void> => {
  await setUp();
  await fromInside();
  await fromOutside();
  await changes();
  await withoutAgent();
  printServices();
};

const report = new Report();
report.heading("A cluster out of network namespaces");
const lab = await Lab.create({ podsPerNode: 5 });
const cluster = new DemoCluster(lab, EXAMPLES);

const setUp = async (): Promise<void> => {
  report.note("client 203.0.113.2 ── wire ──┬── node1 192.168.0.1 ── pods 10.244.1.11 …");
  report.note("                             └── node2 192.168.0.2 ── pods 10.244.2.11 …    and the same in IPv6");
  await cluster.startServers();
  report.line(true, "2 nodes, 10 pods, servers in the pods", seconds());
  const before = performance.now();
  await Promise.all(["node1", "node2"].map((node) => lab.startAgent(node, { manifests: cluster.manifests })));
  report.line(true, "an agent on each node, from examples/", seconds(before));
};

const fromInside = async (): Promise<void> => {
  report.heading("From inside, translated at the socket: pods and nodes keep their own address, all backends answer");
  for (const [from, address] of [
    ["pod1b", "172.30.0.80"],
    ["pod2c", "fd00:172:30::80"],
    ["node1", "172.30.0.80"],
    ["node2", "fd00:172:30::80"],
  ] as const) {
    await tryOut(from, address, 80, "TCP", cluster.pods("web"), () => own(from, address));
  }
  for (const [from, address, transport] of [
    ["pod1a", "172.30.0.53", "UDP"],
    ["pod1a", "fd00:172:30::53", "UDP"],
    ["node1", "172.30.0.53", "UDP"],
    ["pod1a", "172.30.0.53", "TCP"],
  ] as const) {
    await tryOut(from, address, 53, transport, cluster.pods("dns"), () => own(from, address));
  }
};

const fromOutside = async (): Promise<void> => {
  report.heading(
    "From outside, translated by tc: a pod on the entry node sees the client, one elsewhere sees the node",
  );
  for (const node of lab.nodes()) {
    for (const family of ["v4", "v6"] as const) await enter(node[family], 30080, "TCP", "web", node);
  }
  const node1 = lab.place("node1");
  report.note("the LoadBalancer IP and the external IP are routed to node1");
  await enter("198.51.100.10", 80, "TCP", "shop", node1);
  await enter("fd00:198::10", 80, "TCP", "shop", node1);
  for (const transport of ["UDP", "TCP"] as const) {
    for (const address of ["198.51.100.53", "fd00:198::53"]) await enter(address, 53, transport, "dns", node1);
  }
  report.note("externalTrafficPolicy Local, its only pod on node2");
  lab.routeVip("198.51.100.20/32", "node2");
  await enter("198.51.100.20", 80, "TCP", "edge", lab.place("node2"));
  const client = await lab.host("client");
  const dropped = await client.connect(node1.v4, 30099, { timeout_ms: 500 });
  const timedOut = !dropped.ok && dropped.code === "TIMEOUT";
  report.line(timedOut, "client → 192.168.0.1:30099/TCP", `dropped by node1: ${describeAnswers([dropped])}`);
};

const changes = async (): Promise<void> => {
  report.heading("A manifest is edited while two clients keep connecting");
  const inside = await Clients.start("pod1b", "172.30.0.80", 80);
  const outside = await Clients.start("client", lab.place("node1").v4, 30080);
  const clients = [inside, outside];
  const [web1, web2] = cluster.pods("web");
  if (web1 === undefined || web2 === undefined) throw new Error("examples/web.yaml has fewer than two endpoints");
  const web3: Pod = { name: "web-3", place: lab.place("pod2e") };
  const web4: Pod = { name: "web-4", place: lab.place("pod1d") };

  await step("web-3 joins", [web1, web2, web3], clients);
  await step("web-4 replaces web-1, which ends", [web4, web2, web3], clients);
  await cluster.end("web", web1); // both nodes have turned to web-4, no connection may miss it
  await sleep(300);
  report.note("so far");
  for (const who of clients)
    report.line((await who.counts()).failed === 0, who.title, describeCounts(await who.counts()));

  report.note("scale to zero");
  await cluster.setPods("web", []);
  for (const who of clients) {
    await eventually(async () => {
      if ((await who.counts()).failed === 0) throw new Error(`${who.title} is not refused after the scale to zero`);
    });
    const refused = await who.once();
    const fine = !refused.ok && refused.code === "ECONNREFUSED" && refused.ms < 100;
    report.line(fine, who.title, `${refused.ok ? refused.name : refused.code} after ${refused.ms} ms`);
  }
  await step("back again: web-2 and web-4", [web2, web4], clients);
  const atZero = await Promise.all(clients.map((who) => who.counts()));
  await sleep(500);
  report.note("in the end");
  for (const [i, who] of clients.entries()) {
    const end = await who.stop();
    const same = end.failed === atZero[i]?.failed && Object.keys(end.codes).every((code) => code === "ECONNREFUSED");
    report.line(same, who.title, `${describeCounts(end)}, all of them while there was no endpoint`);
  }
};

/** Writes the pods, and waits until both clients have met each of them and nobody else. */
const step = async (what: string, pods: readonly Pod[], clients: readonly Clients[]): Promise<void> => {
  report.note(what);
  await cluster.setPods("web", pods);
  for (const who of clients) {
    const met = await eventually(async () => {
      const before = await who.counts();
      await sleep(150);
      const names = difference((await who.counts()).names, before.names);
      const wanted = pods.map((pod) => pod.name).sort();
      if (Object.keys(names).sort().join() !== wanted.join()) throw new Error(`${who.title} meets ${list(names)}`);
      return names;
    });
    report.line(true, who.title, list(met));
  }
};

const difference = (
  now: Readonly<Record<string, number>>,
  before: Readonly<Record<string, number>>,
): Readonly<Record<string, number>> =>
  Object.fromEntries(
    Object.entries(now)
      .map(([name, count]) => [name, count - (before[name] ?? 0)] as const)
      .filter(([, count]) => count > 0),
  );

const withoutAgent = async (): Promise<void> => {
  report.heading("The agent of node1 is killed (SIGKILL): the kernel goes on alone, a new agent takes over");
  const pod = await lab.host("pod1b");
  const held = await pod.hold("172.30.0.80", 80, 20);
  const loop = await Clients.start("pod1b", "172.30.0.80", 80);
  const [agent] = lab.agents;
  await agent?.kill9();
  await sleep(300);
  const alone = await loop.counts();
  report.line(alone.ok > 0 && alone.failed === 0, "no agent: new connections", describeCounts(alone));
  await lab.startAgent("node1", { manifests: cluster.manifests });
  await sleep(300);
  const end = await loop.stop();
  report.line(end.failed === 0, "new agent: new connections", describeCounts(end));
  const { echoed, ended } = await pod.beats(held.id);
  report.line(
    ended === null && echoed > 10,
    "a connection from before",
    `${echoed} messages echoed, ${ended ?? "alive"}`,
  );
};

const printServices = (): void => {
  report.heading("beeline services, on node1");
  const { status, stdout, stderr } = lab.beeline("node1", ["services"]);
  console.log(`\n${stdout}${stderr}`);
  report.line(status === 0 && stdout.includes("web"), "read from the pinned maps", `exit status ${status}`);
};

// ---- one line of traffic -------------------------------------------------------------------------------------------

/** From the client through a node: who runs on that node sees the client, the others see the node. */
const enter = (address: string, port: number, transport: Transport, service: string, entry: Place): Promise<void> =>
  tryOut("client", address, port, transport, cluster.pods(service), (pod) =>
    own(pod.place.node === entry.name ? "client" : entry.name, address),
  );

const own = (name: string, target: string): string => lab.place(name)[target.includes(":") ? "v6" : "v4"];

/** At least 8 connections, and as many more as it takes to meet every pod. */
const tryOut = async (
  from: string,
  address: string,
  port: number,
  transport: Transport,
  pods: readonly Pod[],
  source: (pod: Pod) => string,
): Promise<void> => {
  const host = await lab.host(from);
  const answers: Answer[] = [];
  const met = new Set<string>();
  while (answers.length < 8 || (met.size < pods.length && answers.length < 60)) {
    const answer = await once(host, address, port, transport);
    answers.push(answer);
    if (answer.ok) met.add(answer.name);
  }
  const fine = (answer: Answer): boolean =>
    answer.ok &&
    answer.peer === address &&
    pods.some((pod) => pod.name === answer.name && source(pod) === answer.client);
  const target = address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`;
  const all = met.size === pods.length && answers.every(fine);
  report.line(all, `${from} → ${target}/${transport}`, describeAnswers(answers));
};

const once = (host: Host, address: string, port: number, transport: Transport): Promise<Answer> =>
  transport === "TCP" ? host.connect(address, port) : host.udp(address, port);

/** A client that connects again and again. */
class Clients {
  readonly title: string;
  readonly once: () => Promise<Answer>;
  readonly #host: Host;
  readonly #id: number;

  private constructor(from: string, host: Host, address: string, port: number, id: number) {
    this.title = `${isNode(lab.place(from)) || from === "client" ? from : "pod"} → ${address}:${port}`;
    this.once = () => host.connect(address, port);
    this.#host = host;
    this.#id = id;
  }

  static async start(from: string, address: string, port: number): Promise<Clients> {
    const host = await lab.host(from);
    const { id } = await host.startLoop(address, port, { pause_ms: 2 });
    return new Clients(from, host, address, port, id);
  }

  counts(): Promise<Counts> {
    return this.#host.loopCounts(this.#id);
  }

  stop(): Promise<Counts> {
    return this.#host.loopCounts(this.#id, true);
  }
}

try {
  await main();
} catch (error) {
  console.error(error);
  console.error(lab.logs());
  process.exitCode = 1;
}
await lab.close();
if (report.wrong > 0) process.exitCode = 1;
report.heading(process.exitCode === 1 ? "NOT as it should be, see above" : `All as it should be, after ${seconds()}`);
