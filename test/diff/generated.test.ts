// Generated clusters: the same traffic through evaluate(), bpf and kube-proxy's rules. A bounded run, of seeds that are
// always the same and of one that never is; `npm run diff` goes on.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { globSync } from "node:fs";
import { join } from "node:path";
import { after, test } from "node:test";
import { readAddress } from "../lib/addresses.ts";
import { FORWARDINGS } from "../lib/forwarding.ts";
import { assertForwards, assertNoOtherWay } from "../lib/forwards.ts";
import { serviceObject, sliceObjects } from "../lib/objects.ts";
import { complaintsOf } from "./ask.ts";
import { drawCluster } from "./cluster.ts";
import { newTally } from "./compare.ts";
import { type Case, caseOf } from "./differences.ts";
import { Labs } from "./labs.ts";
import { clusterObjects } from "./objects.ts";
import { chooseCases } from "./probes.ts";
import { formatDisagreement, formatTally } from "./report.ts";
import { randomOf, runClusters } from "./run.ts";
import { placeOf } from "./world.ts";

const labs = await Labs.create({ flavour: "nft" });
after(() => labs.close());

const FRESH = Math.floor(Math.random() * 1_000_000);

test("left to itself bpf forwards directly, though other nodes of the machine have kube-proxy's rules", async () => {
  const world = await labs.apply(clusterObjects(drawCluster(1, 0), labs.places));
  const cases = chooseCases(world, 100, randomOf(1, 0)).filter(isQuick);
  const lab = labs.labs.get("bpf");
  assert.ok(lab !== undefined && labs.forwarding === null);
  assert.deepEqual([...(await complaintsOf(lab, "bpf", cases)).values()], []);
  assert.ok(labs.forwards.direct > 0, JSON.stringify(labs.forwards));
});

for (const [title, seed] of [
  ["seed 1", 1],
  ["seed 2", 2],
  ["a fresh seed", FRESH],
] as const) {
  test(`evaluate(), bpf and iptables agree on generated clusters: ${title}`, async (t) => {
    t.diagnostic(`seed ${seed}`);
    const tally = newTally();
    await runClusters(labs, { seed, first: 0, clusters: 8, cases: 150, say: (text) => t.diagnostic(text) }, tally);
    t.diagnostic(formatTally(tally));
    assert.ok(tally.probes > 500, formatTally(tally));
    const assertWays = seed === FRESH ? assertNoOtherWay : assertForwards;
    for (const [forwarding, forwards] of tally.forwards) assertWays(forwarding, forwards);
    assert.equal(tally.forwards.size, FORWARDINGS.length);
    assert.deepEqual(tally.disagreements.map(formatDisagreement), [], `seed ${seed}`);
  });
}

test("one port asks a pod through another node's NodePort, then by its own address", async () => {
  const pod = placeOf(labs.places, "pod1a");
  const words = { name: "twice", type: "NodePort" as const, clusterIPs: ["172.30.0.90"] };
  const web = { ...words, ports: [{ port: 80, nodePort: 32_090 }] };
  await labs.apply([serviceObject(web), ...sliceObjects(web, [pod])]);
  const targets = [
    { address: placeOf(labs.places, "node1").v4, port: 32_090 },
    { address: pod.v4, port: 8080 },
    { address: "172.30.0.90", port: 80 },
  ];
  for (const name of ["iptables", "bpf"] as const) {
    const host = await labs.labs.get(name)?.host("pod2a");
    const tries = targets.map((to) => ({ ...to, transport: "TCP" as const, localPort: 31_900, timeout_ms: 1000 }));
    const [answers] = (await host?.tryAll([tries])) ?? [];
    const met = answers?.map((answer) => (answer.ok ? answer.name : answer.code));
    assert.deepEqual(met, ["pod1a:8080", "pod1a:8080", "pod1a:8080"], name);
  }
});

test("an address of another node that is closed: refused on the way there, whatever NodePort is behind it", async () => {
  const { v4 } = placeOf(labs.places, "node2");
  const closed = { name: "closed", clusterIPs: ["172.30.0.91"], externalIPs: [v4], ports: [{ port: 32_091 }] };
  const open = { name: "open", type: "NodePort" as const, clusterIPs: ["172.30.0.92"] };
  const world = await labs.apply([
    ...clusterObjects({ number: 0, zones: [], services: [] }, labs.places),
    serviceObject(closed),
    serviceObject({ ...open, ports: [{ port: 80, nodePort: 32_091 }] }),
    ...sliceObjects({ ...open, ports: [{ port: 80 }] }, [placeOf(labs.places, "pod2b")]),
  ]);
  const how = { transport: "TCP", bound: "no", connected: true, mapped: false, sharedPort: false } as const;
  const cases = ["pod1a", "node1", "pod2a", "node2", "client"].map((from) =>
    caseOf(world, { from, address: readAddress(v4), port: 32_091, ...how }),
  );
  const [passed, hidden] = [cases[0], cases[2]].map((one) => one?.answers.iptables.kind);
  assert.deepEqual([passed, hidden], ["failed", "reached"]);
  for (const [name, lab] of labs.labs) assert.deepEqual([...(await complaintsOf(lab, name, cases)).values()], [], name);
});

test("what somebody changes by hand, in either lab, is a disagreement", async () => {
  const cluster = drawCluster(3, 4);
  const world = await labs.apply(clusterObjects(cluster, labs.places));
  const quick = chooseCases(world, 400, randomOf(3, 4)).filter(isQuick);
  const masqueraded = quick.filter(
    ({ meaning, differences }) => meaning.handler === "node1" && differences.includes("1 source kept"),
  );
  const cases = [...new Set([...masqueraded.slice(0, 5), ...quick.slice(0, 40)])];
  const ask = async (): Promise<readonly string[]> => {
    const wrong = [...labs.labs].map(async ([name, lab]) =>
      (await complaintsOf(lab, name, cases)).size > 0 ? [name] : [],
    );
    return (await Promise.all(wrong)).flat();
  };
  assert.deepEqual(await ask(), []);
  iptables("-F", "KUBE-MARK-MASQ");
  assert.deepEqual(await ask(), ["iptables"]);
  iptables("-A", "KUBE-MARK-MASQ", "-j", "MARK", "--or-mark", "0x4000");
  assert.deepEqual(await ask(), []);
  removeFrontends();
  assert.deepEqual(await ask(), ["bpf"]);
});

/** Fails at once when it fails: not one after another, as where affinity is asked for. */
const isQuick = ({ answers }: Case): boolean => answers.bpf.kind === "failed" || !answers.bpf.sticky;

const iptables = (...args: readonly string[]): void => {
  const result = labs.labs.get("iptables")?.run("node1", ["iptables-nft", "-t", "nat", ...args]);
  assert.equal(result?.status, 0, result?.stderr);
};

const removeFrontends = (): void => {
  const [path = ""] = globSync(join(labs.labs.get("bpf")?.bpffs("node1") ?? "", "**", "frontends"));
  const dump = execFileSync("bpftool", ["-j", "map", "dump", "pinned", path], { encoding: "utf8" });
  const entries = JSON.parse(dump) as readonly { readonly key: readonly string[] }[];
  for (const { key } of entries)
    execFileSync("bpftool", ["map", "delete", "pinned", path, "key", "hex", ...key.map((byte) => byte.slice(2))]);
};
