// The third voice: generated clusters, the thirty flows, and what the generator does not draw, through the userspace
// proxy. It shares nothing with the other dataplanes right of Desired, and has to answer as evaluate() says.
import assert from "node:assert/strict";
import { join } from "node:path";
import { after, test } from "node:test";
import { compile } from "../../src/compile/compile.ts";
import { evaluate } from "../../src/compile/evaluate.ts";
import { readAddress } from "../lib/addresses.ts";
import type { Lab } from "../lib/lab.ts";
import { type ServiceWords, serviceObject, sliceObjects } from "../lib/objects.ts";
import { complaintsOf } from "./ask.ts";
import type { Cluster } from "./cluster.ts";
import { askAll, newTally } from "./compare.ts";
import { type Case, caseOf } from "./differences.ts";
import { flowObjects, flowsOf, serversOf } from "./flows.ts";
import { Labs } from "./labs.ts";
import { clusterObjects } from "./objects.ts";
import { formatDisagreement, formatTally } from "./report.ts";
import { randomOf, runClusters } from "./run.ts";
import { newKept, runSequence } from "./sequence.ts";
import { USERSPACE_DIFFERENCES } from "./userspace-expected.ts";
import { desiredOf, type Probe, placeOf, type World } from "./world.ts";

const labs = await Labs.create({ dataplanes: ["userspace"], flavour: "nft" });
after(() => labs.close());
const lab = labs.labs.get("userspace") as Lab;

const FRESH = Math.floor(Math.random() * 1_000_000);
const CLUSTERS = 4;
const CASES = 100;
const CHANGES = 4;
const NO_CLUSTER: Cluster = { number: 0, zones: [], services: [] };

const tally = newTally();

/** What is wrong with each answer, in words. */
const disagreementsOf = async (cases: readonly Case[]): Promise<readonly string[]> => {
  for (const { userspaceDifference: name } of cases) if (name !== null) met.add(name);
  return (await askAll(labs, NO_CLUSTER, cases, tally)).map(formatDisagreement);
};

/** Differences that cases of the tests below have met; the tally has those of generated clusters. */
const met = new Set<string>();

for (const [title, seed] of [
  ["seed 1", 1],
  ["a fresh seed", FRESH],
] as const) {
  test(`evaluate() and the userspace proxy agree on generated clusters: ${title}`, async (t) => {
    t.diagnostic(`seed ${seed}`);
    const [before, wrong] = [tally.probes, tally.disagreements.length];
    await runClusters(
      labs,
      { seed, first: 0, clusters: CLUSTERS, cases: CASES, say: (text) => t.diagnostic(text) },
      tally,
    );
    t.diagnostic(`${tally.probes - before} probes`);
    assert.ok(tally.probes - before > (CLUSTERS * CASES) / 2);
    assert.deepEqual(tally.disagreements.slice(wrong).map(formatDisagreement), [], `seed ${seed}`);
  });

  test(`… and after every change of one: ${title}`, async (t) => {
    t.diagnostic(`seed ${seed}`);
    const wrong = tally.disagreements.length;
    const options = { seed, number: CLUSTERS, changes: CHANGES, cases: CASES / 2, random: randomOf(seed, CLUSTERS) };
    await runSequence(labs, options, tally, newKept());
    assert.deepEqual(tally.disagreements.slice(wrong).map(formatDisagreement), [], `seed ${seed}`);
  });
}

test("thirty flows: kube-proxy's endpoints, which all see the node", async () => {
  const world = await labs.apply(flowObjects(labs.places));
  const cases = flowsOf(labs.places).map(({ cell, family, probe }): Case => {
    const servers = new Map(serversOf(cell).map((name) => [name, placeOf(labs.places, "node1")[family]]));
    const one = caseOf(world, probe);
    return { ...one, answers: { ...one.answers, userspace: { kind: "reached", sticky: false, servers } } };
  });
  assert.deepEqual(await disagreementsOf(cases), []);
});

const how = { bound: "no", connected: true, mapped: false, sharedPort: false } as const;

/** TCP and connected UDP from a pod, the node and outside. */
const asked = (world: World, address: string, port: number): readonly Case[] =>
  ["pod1b", "node1", "client"].flatMap((from) =>
    (["TCP", "UDP"] as const).map((transport) => {
      const probe: Probe = { from, transport, address: readAddress(address), port, ...how };
      return caseOf(world, probe);
    }),
  );

const both = (port: number, more: object = {}): ServiceWords["ports"] =>
  (["TCP", "UDP"] as const).map((protocol) => ({ name: protocol.toLowerCase(), port, protocol, ...more }));

const objectsOf = (words: ServiceWords, ...endpoints: readonly string[]): readonly object[] => [
  serviceObject(words),
  ...sliceObjects(
    words,
    endpoints.map((name) => placeOf(labs.places, name)),
  ),
];

test("nobody answers at any backend: a connection is reset", async () => {
  const words = { name: "deaf", clusterIPs: ["172.30.250.1"], ports: both(80, { targetPort: 82 }) };
  const world = await labs.apply([...clusterObjects(NO_CLUSTER, labs.places), ...objectsOf(words, "pod1a", "pod2a")]);
  const cases = asked(world, "172.30.250.1", 80);
  assert.deepEqual(
    new Set(cases.map(({ userspaceDifference }) => userspaceDifference)),
    new Set(["connected is not answered"]),
  );
  assert.deepEqual(await disagreementsOf(cases), []);
});

test("an external IP that is a backend as well: the node goes straight there", async () => {
  const { v4 } = placeOf(labs.places, "node1");
  const words = { name: "own", clusterIPs: ["172.30.250.2"], externalIPs: [v4], ports: both(8080) };
  const world = await labs.apply([...clusterObjects(NO_CLUSTER, labs.places), ...objectsOf(words, "node1", "pod2a")]);
  assert.deepEqual(await disagreementsOf(asked(world, v4, 8080)), []);
});

test("an address of the node that is closed hides the NodePort behind it", async () => {
  const { v4, v6 } = placeOf(labs.places, "node1");
  const closed = { name: "closed", clusterIPs: ["172.30.250.3", "fd00:172:30::fa03"], externalIPs: [v4, v6] };
  const open = { name: "open", type: "NodePort" as const, clusterIPs: ["172.30.250.4", "fd00:172:30::fa04"] };
  const world = await labs.apply([
    ...clusterObjects(NO_CLUSTER, labs.places),
    ...objectsOf({ ...closed, ports: both(32_090) }),
    ...objectsOf({ ...open, ports: both(80, { nodePort: 32_090 }) }, "pod1a"),
  ]);
  assert.deepEqual(await disagreementsOf([v4, v6].flatMap((address) => asked(world, address, 32_090))), []);
});

test("who is kept out: refused where there is nobody at all, found out on accept elsewhere", async () => {
  const words = { type: "LoadBalancer" as const, sourceRanges: ["192.0.2.0/24"], ports: both(80) };
  const world = await labs.apply([
    ...clusterObjects(NO_CLUSTER, labs.places),
    ...objectsOf({ ...words, name: "empty", clusterIPs: ["172.30.250.6"], loadBalancerIPs: ["198.18.250.96"] }),
    ...objectsOf({ ...words, name: "full", clusterIPs: ["172.30.250.7"], loadBalancerIPs: ["198.18.250.97"] }, "pod1a"),
    ...objectsOf(
      { name: "far", clusterIPs: ["172.30.250.8"], internalTrafficPolicy: "Local", ports: both(80) },
      "pod2a",
    ),
  ]);
  const addresses = ["198.18.250.96", "198.18.250.97", "172.30.250.6", "172.30.250.8"];
  assert.deepEqual(await disagreementsOf(addresses.flatMap((address) => asked(world, address, 80))), []);
});

test("SCTP has a meaning, and no rule", async () => {
  const port = { port: 80, nodePort: 32_095, protocol: "SCTP" as const };
  const words = { name: "sctp", type: "NodePort" as const, clusterIPs: ["172.30.250.5"], ports: [port] };
  const world = await labs.apply([...clusterObjects(NO_CLUSTER, labs.places), ...objectsOf(words, "pod1a")]);
  const to = { address: readAddress("172.30.250.5"), port: 80, protocol: "SCTP" as const };
  const packet = { from: { place: "node" as const, address: readAddress("192.168.0.1") }, to };
  assert.equal(evaluate(desiredOf(world, "node1"), packet).kind, "forward");
  const { stdout } = lab.run("node1", ["iptables-nft-save"]);
  assert.match(stdout, /KUBE-PORTALS-HOST/);
  assert.doesNotMatch(stdout, /sctp|172\.30\.250\.5|32095/);
});

test("every difference was met", (t) => {
  t.diagnostic(formatTally(tally));
  const names = USERSPACE_DIFFERENCES.map(({ name }) => name);
  assert.deepEqual(
    names.filter((name) => !met.has(name) && !tally.differences.has(`userspace: ${name}`)),
    [],
  );
});

test("what somebody changes by hand is a disagreement", async () => {
  const world = await labs.apply(flowObjects(labs.places));
  const cases = flowsOf(labs.places)
    .filter(({ client, frontend, family }) => client === "pod" && frontend === "ClusterIP" && family === "v4")
    .map(({ probe }) => caseOf(world, probe));
  assert.deepEqual(await disagreementsOf(cases), []);
  assert.equal(lab.run("node1", ["iptables-nft", "-t", "nat", "-F", "KUBE-PORTALS-CONTAINER"]).status, 0);
  assert.equal((await complaintsOf(lab, "userspace", cases)).size, cases.length);
});

test("a family in which the node has no address is not served", async () => {
  const words = { name: "dual", clusterIPs: ["172.30.250.9", "fd00:172:30::fa09"], ports: both(80) };
  const world = await labs.apply([...clusterObjects(NO_CLUSTER, labs.places), ...objectsOf(words, "pod1a")]);
  const { v4, v6 } = placeOf(labs.places, "pod3a");
  const node = placeOf(labs.places, "node3").v4;
  assert.equal(lab.run("node3", ["ip", "-6", "addr", "flush", "dev", "eth0"]).status, 0);
  await lab.startAgent("node3", {
    manifests: join(lab.directory, "cluster.json"),
    args: ["--dataplane", "userspace"],
    config: { iptables: { flavour: "nft" } },
  });
  const localAddresses = ["127.0.0.1", node].map(readAddress);
  const { desired } = compile(world.snapshot, { nodeName: "node3", localAddresses, nodePortAddresses: [] });
  const host = await lab.host("pod3a");
  for (const [from, address] of [[v4, "172.30.250.9"] as const, [v6, "fd00:172:30::fa09"] as const]) {
    const to = { address: readAddress(address), port: 80, protocol: "TCP" as const };
    assert.equal(evaluate(desired, { from: { place: "pod", address: readAddress(from) }, to }).kind, "forward");
    const answer = await host.connect(address, 80, { timeout_ms: 1000 });
    if (from === v4) assert.partialDeepStrictEqual(answer, { ok: true, name: "pod1a:8080", client: node });
    else
      assert.ok(!answer.ok && ["TIMEOUT", "EHOSTUNREACH", "ENETUNREACH"].includes(answer.code), JSON.stringify(answer));
  }
});
