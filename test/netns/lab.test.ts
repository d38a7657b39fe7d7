// The lab itself, without beeline: who reaches whom, and that nothing is left behind.
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";
import { cgroupMount } from "../../src/bench/lab/leftovers.ts";
import { Lab } from "../lib/lab.ts";

const lab = await Lab.create();
after(() => lab.close());

/** Everything on the machine that carries the name. */
const traces = (name: string): readonly string[] => [
  ...readdirSync("/run/netns").filter((n) => n.startsWith(name)),
  ...readdirSync(cgroupMount()).filter((n) => n.startsWith(name)),
  ...readFileSync("/proc/mounts", "utf8")
    .split("\n")
    .filter((line) => line.includes(`/${name}/`)),
  ...(existsSync(`/run/beeline-lab/${name}`) ? [`/run/beeline-lab/${name}`] : []),
];

test("pods reach pods on both nodes and keep their source address, TCP and UDP, both families", async () => {
  const [server, near, far] = [await lab.host("pod1a"), await lab.host("pod1b"), await lab.host("pod2a")];
  await server.serve("alpha", 8080, "TCP", "UDP");
  const { v4, v6 } = lab.place("pod1a");
  for (const [host, place] of [
    [near, lab.place("pod1b")],
    [far, lab.place("pod2a")],
  ] as const) {
    for (const [address, source] of [
      [v4, place.v4],
      [v6, place.v6],
    ] as const) {
      const tcp = await host.connect(address, 8080);
      assert.partialDeepStrictEqual(tcp, { ok: true, name: "alpha", client: source, peer: address, peerPort: 8080 });
      const udp = await host.udp(address, 8080);
      assert.partialDeepStrictEqual(udp, { ok: true, name: "alpha", client: source, peer: address, peerPort: 8080 });
      const connected = await host.connectedUdp(address, 8080);
      assert.partialDeepStrictEqual(connected, { ok: true, name: "alpha", peer: address, peerPort: 8080 });
    }
  }
  const mapped = await far.connect(`::ffff:${v4}`, 8080);
  assert.partialDeepStrictEqual(mapped, { ok: true, client: lab.place("pod2a").v4, peer: `::ffff:${v4}` });
});

test("a node reaches its pods and the client from its own address", async () => {
  const [node, pod, client] = [await lab.host("node1"), await lab.host("pod1a"), await lab.host("client")];
  await pod.serve("beta", 8081);
  await client.serve("outside", 80);
  for (const family of ["v4", "v6"] as const) {
    const source = lab.place("node1")[family];
    assert.partialDeepStrictEqual(await node.connect(lab.place("pod1a")[family], 8081), { ok: true, client: source });
    assert.partialDeepStrictEqual(await node.connect(lab.place("client")[family], 80), { ok: true, client: source });
  }
});

test("the client reaches nodes from the address it chooses, and no pod", async () => {
  const [client, node] = [await lab.host("client"), await lab.host("node2")];
  await node.serve("node2", 8082);
  const other = await client.connect(lab.place("node2").v4, 8082, { localAddress: "203.0.113.130" });
  assert.partialDeepStrictEqual(other, { ok: true, name: "node2", client: "203.0.113.130" });
  const pod = await client.connect(lab.place("pod2a").v4, 8082, { timeout_ms: 200 });
  assert.equal(pod.ok, false);
});

test("a closed port refuses, a silent one times out", async () => {
  const [client, node] = [await lab.host("client"), await lab.host("node1")];
  assert.partialDeepStrictEqual(await client.connect(lab.place("node1").v4, 9), { ok: false, code: "ECONNREFUSED" });
  assert.partialDeepStrictEqual(await client.connectedUdp(lab.place("node1").v6, 9), {
    ok: false,
    code: "ECONNREFUSED",
  });
  const silent = await node.udp(lab.place("client").v4, 80, { timeout_ms: 100 });
  assert.partialDeepStrictEqual(silent, { ok: false, code: "TIMEOUT" });
});

test("a transfer, a held connection and a loop count what happened, and notice when the server goes", async () => {
  const [server, client] = [await lab.host("pod2b"), await lab.host("pod1b")];
  const { v4, v6 } = lab.place("pod2b");
  await server.serve("gamma", 8083);
  assert.partialDeepStrictEqual(await client.transfer(v6, 8083, 1_000_000), { ok: true, name: "gamma" });
  const held = await client.hold(v4, 8083, 10);
  const loop = await client.startLoop(v4, 8083, { pause_ms: 1 });
  await new Promise((resolve) => setTimeout(resolve, 200));
  assert.equal((await client.beats(held.id)).ended, null);
  await server.stopServing(8083);
  await new Promise((resolve) => setTimeout(resolve, 50));
  const beats = await client.beats(held.id);
  assert.ok(beats.echoed >= 5, `${beats.echoed} echoes`);
  assert.notEqual(beats.ended, null);
  const counts = await client.loopCounts(loop.id, true);
  assert.ok(counts.ok > 10 && counts.names.gamma === counts.ok, JSON.stringify(counts));
  assert.ok((counts.codes.ECONNREFUSED ?? 0) > 0, JSON.stringify(counts));
  const refused = counts.failures.filter(({ code }) => code === "ECONNREFUSED");
  assert.ok(
    refused.every(({ began, localPort }) => Date.parse(began) <= Date.now() && (localPort ?? 0) > 1024),
    JSON.stringify(counts),
  );
});

test("a VIP is routed to the node the lab says", async () => {
  const client = await lab.host("client");
  for (const node of ["node1", "node2"]) {
    const dummy = await lab.host(node);
    await dummy.serve(node, 8084);
    assert.equal(lab.run(node, ["ip", "addr", "add", "198.51.100.77/32", "dev", "lo"]).status, 0);
  }
  assert.partialDeepStrictEqual(await client.connect("198.51.100.77", 8084), { ok: true, name: "node1" });
  lab.routeVip("198.51.100.77/32", "node2");
  assert.partialDeepStrictEqual(await client.connect("198.51.100.77", 8084), { ok: true, name: "node2" });
});

test("processes of a node and its pods are in the node's cgroup", async () => {
  await Promise.all([lab.host("node2"), lab.host("pod2a"), lab.host("pod2b")]);
  const pids = readFileSync(`${lab.cgroup("node2")}/cgroup.procs`, "utf8")
    .trim()
    .split("\n");
  assert.equal(pids.length, 3);
});

test("nothing is left of a lab that was closed, interrupted, or whose process was killed", async () => {
  const closed = await Lab.create({ nodes: 3, podsPerNode: 1 });
  await closed.startHosts();
  await (await closed.host("pod3a")).serve("third", 8080);
  const answer = await (await closed.host("pod1a")).connect(closed.place("pod3a").v6, 8080);
  assert.partialDeepStrictEqual(answer, { ok: true, name: "third", client: closed.place("pod1a").v6 });
  assert.ok(traces(closed.name).length > 6);
  await closed.close();
  assert.deepEqual(traces(closed.name), []);

  const script = `
    import { Lab } from ${JSON.stringify(fileURLToPath(new URL("../lib/lab.ts", import.meta.url)))};
    const lab = await Lab.create({ podsPerNode: 1 });
    await lab.startHosts();
    console.log(lab.name);
    setInterval(() => {}, 1000);`;
  for (const signal of ["SIGINT", "SIGTERM", "SIGKILL"] as const) {
    const child = spawn(process.execPath, ["--input-type=module", "-e", script], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    const name = String((await once(child.stdout, "data"))[0]).trim();
    assert.ok(traces(name).length > 6, name);
    child.kill(signal);
    await once(child, "exit");
    if (signal === "SIGKILL") {
      assert.ok(traces(name).length > 6);
      const next = spawnSync(process.execPath, [
        "--input-type=module",
        "-e",
        script.replace(/setInterval.*/, "await lab.close();"),
      ]);
      assert.equal(next.status, 0, next.stderr.toString());
    }
    assert.deepEqual(traces(name), [], signal);
  }
});

test("a lab whose owner ends while processes are being started leaves nothing behind", async () => {
  for (const delay_ms of [0, 1, 2, 3, 4, 6, 8]) {
    const script = `
      import { Lab } from ${JSON.stringify(fileURLToPath(new URL("../lib/lab.ts", import.meta.url)))};
      const lab = await Lab.create();
      console.log(lab.name);
      for (const place of ["pod1a", "pod1b", "pod2a", "node1"]) lab.host(place).catch(() => {});
      setTimeout(() => process.exit(0), ${delay_ms});
    `;
    const owner = spawnSync(process.execPath, ["--input-type=module", "-e", script], { encoding: "utf8" });
    assert.equal(owner.status, 0, owner.stderr);
    assert.deepEqual(traces(owner.stdout.trim()), [], `${delay_ms} ms`);
  }
});
