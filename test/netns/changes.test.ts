// Backends come, go and are replaced while clients connect all the time, inside and outside; through bpf and through
// kube-proxy's rules.
import assert from "node:assert/strict";
import { afterEach, before, describe, test } from "node:test";
import type { Agent } from "../lib/agent.ts";
import { eventually } from "../lib/eventually.ts";
import type { Host } from "../lib/host/host.ts";
import type { Counts, Transport } from "../lib/host/protocol.ts";
import { Manifests } from "../lib/objects.ts";
import { seededRandom } from "../lib/random.ts";
import { addressesIn, BPF, IPTABLES, openLab, PODS, runOnEveryNode, serveAt, serviceOf } from "../lib/served-lab.ts";
import { AT_ONCE_MS, assertFails, assertReaches, assertRefusedByIcmp } from "../lib/traffic.ts";

const lab = await openLab({ podsPerNode: 3 });
const { v4, v6 } = addressesIn(lab);

before(async () => {
  await serveAt(lab);
  for (const pod of PODS) await (await lab.host(pod)).serve(pod, 8081, "TCP", "UDP");
});

/** A SYN that is lost, in queues that all labs of the machine share, is sent again after a second. */
const PATIENCE_MS = 2500;

/** Connects without pause until stopped. */
interface Loop {
  readonly title: string;
  counts(): Promise<Counts>;
  stop(): Promise<Counts>;
}

const startLoop = async (from: string, address: string, port: number, transport: Transport): Promise<Loop> => {
  const host: Host = await lab.host(from);
  const { id } = await host.startLoop(address, port, { transport, pause_ms: 4, timeout_ms: PATIENCE_MS });
  const loop = {
    title: `${from} to ${address} port ${port}/${transport}`,
    counts: () => host.loopCounts(id),
    stop: () => host.loopCounts(id, true),
  };
  running.push(loop);
  return loop;
};

/** Those that the test has started. */
const running: Loop[] = [];

/** Stops them. A failure comes with what all of them have met: the others tell where it happened, and when. */
const stopWithoutFailure = async (loops: readonly Loop[]): Promise<readonly Counts[]> => {
  const counts = await Promise.all(loops.map((loop) => loop.stop()));
  const met = loops.map(({ title }, i) => `${title}: ${JSON.stringify(counts[i], null, 1)}`).join("\n");
  assert.ok(
    counts.every(({ failed }) => failed === 0),
    met,
  );
  return counts;
};

/** From a pod, a node and outside, through both nodes, both families, both protocols. */
const startLoops = (number: number): Promise<readonly Loop[]> =>
  Promise.all([
    startLoop("pod1c", `172.30.0.${number}`, 80, "TCP"),
    startLoop("node2", `fd00:172:30::${number}`, 80, "TCP"),
    startLoop("pod2c", `172.30.0.${number}`, 53, "UDP"),
    startLoop("client", v4("node1"), 30000 + number, "TCP"),
    startLoop("client", v6("node2"), 30000 + number, "TCP"),
    startLoop("client", v4("node2"), 30100 + number, "UDP"),
  ]);

/** Every loop meets exactly these now. */
const meetOnly = async (loops: readonly Loop[], names: readonly string[]): Promise<void> => {
  await Promise.all(
    loops.map((loop) =>
      eventually(async () => {
        const before = await loop.counts();
        await new Promise((resolve) => setTimeout(resolve, 200));
        const now = await loop.counts();
        const met = Object.keys(now.names).filter((name) => (now.names[name] ?? 0) > (before.names[name] ?? 0));
        assert.deepEqual(met.sort(), [...names].sort(), `${loop.title}: ${JSON.stringify(now)}`);
      }, 8000),
    ),
  );
};

for (const [index, dataplane] of [...BPF, IPTABLES].entries()) {
  describe(dataplane.title, () => {
    const rules = dataplane === IPTABLES;
    const manifests = new Manifests(lab, `manifests-${index}`);
    runOnEveryNode(lab, manifests, dataplane);

    afterEach(async () => {
      await Promise.all(running.splice(0).map((loop) => loop.stop()));
      manifests.removeServices();
    });

    const startAgent = (node: string): Promise<Agent> =>
      lab.startAgent(node, { manifests: manifests.path, ...dataplane.agent });
    /** A pod on the node by which a client from outside comes in sees that (difference 1). */
    const clientBy = (node: string): string => v4(rules ? node : "client");

    test("scale up, roll every backend, scale down: not one connection fails", async (t) => {
      const web = serviceOf("web", 20);
      manifests.service(web, ["pod1a", "pod2a"]);
      for (const node of lab.nodes()) {
        const expected = { pod1a: v4(node.name), pod2a: v4(node.name) };
        await eventually(async () =>
          assertReaches(await lab.host(node.name), { address: "172.30.0.20", port: 80 }, expected),
        );
      }
      const loops = await startLoops(20);
      await meetOnly(loops, ["pod1a", "pod2a"]);
      manifests.service(web, ["pod1a", "pod2a", "pod1b"]);
      await meetOnly(loops, ["pod1a", "pod2a", "pod1b"]);
      manifests.service(web, ["pod1b", "pod2b"]);
      await meetOnly(loops, ["pod1b", "pod2b"]);
      for (const gone of ["pod1a", "pod2a"]) {
        const host = await lab.host(gone);
        await host.stopServing(8080, "TCP");
        await host.stopServing(8080, "UDP");
        t.after(() => host.serve(gone, 8080, "TCP", "UDP"));
      }
      manifests.service(web, ["pod2b"]);
      await meetOnly(loops, ["pod2b"]);
      for (const [i, { ok }] of (await stopWithoutFailure(loops)).entries())
        assert.ok(ok > 50, `${loops[i]?.title}: ${ok} connections`);
    });

    test("scale to zero refuses at once, and the way back serves again without another failure", async () => {
      const web = serviceOf("zero", 21);
      manifests.service(web, ["pod1a", "pod2a"]);
      const pod = await lab.host("pod1c");
      await eventually(() =>
        assertReaches(pod, { address: "172.30.0.21", port: 80 }, { pod1a: v4("pod1c"), pod2a: v4("pod1c") }),
      );
      const client = await lab.host("client");
      await eventually(() =>
        assertReaches(client, { address: v4("node2"), port: 30021 }, { pod1a: v4("node2"), pod2a: clientBy("node2") }),
      );
      const loops = await Promise.all([
        startLoop("pod1c", "172.30.0.21", 80, "TCP"),
        startLoop("client", v4("node2"), 30021, "TCP"),
      ]);
      manifests.service(web, []);
      for (const loop of loops) await eventually(async () => assert.ok((await loop.counts()).failed > 5, loop.title));
      // The rules of the two families are two writes.
      if (rules) await eventually(() => assertRefusedByIcmp(pod, "fd00:172:30::21", 80));
      else await assertFails(pod, { address: "fd00:172:30::21", port: 80 }, "ECONNREFUSED", AT_ONCE_MS);
      await eventually(() => assertRefusedByIcmp(client, v6("node2"), 30021));
      manifests.service(web, ["pod2a"]);
      await meetOnly(loops, ["pod2a"]);
      const served = await Promise.all(loops.map((loop) => loop.counts()));
      await new Promise((resolve) => setTimeout(resolve, 300));
      for (const [i, loop] of loops.entries()) {
        const end = await loop.stop();
        // With rules, the first table stops refusing before the second one serves (docs/iptables.md).
        const codes = Object.keys(end.codes).filter((code) => !(rules && code === "TIMEOUT"));
        assert.deepEqual(codes, ["ECONNREFUSED"], loop.title);
        assert.equal(end.failed, served[i]?.failed, loop.title);
      }
    });

    test("a deleted service is no frontend any more, and its neighbour goes on", async () => {
      manifests.service(serviceOf("goes", 22), ["pod1a"]);
      manifests.service(serviceOf("stays", 23), ["pod1a"]);
      const [pod, client] = [await lab.host("pod2c"), await lab.host("client")];
      for (const number of [22, 23]) {
        await eventually(() => assertReaches(pod, { address: `172.30.0.${number}`, port: 80 }, { pod1a: v4("pod2c") }));
        await eventually(() =>
          assertReaches(client, { address: v4("node1"), port: 30000 + number }, { pod1a: clientBy("node1") }),
        );
      }
      const loop = await startLoop("pod2c", "172.30.0.23", 80, "TCP");
      manifests.remove("goes");
      await eventually(() => assertFails(pod, { address: "172.30.0.22", port: 80, timeout_ms: 300 }, "TIMEOUT"));
      await eventually(() => assertFails(client, { address: v4("node1"), port: 30022 }, "ECONNREFUSED")); // nobody listens
      const [counts] = await stopWithoutFailure([loop]);
      assert.ok((counts?.ok ?? 0) > 10, `${counts?.ok} connections`);
    });

    test("a UDP flow whose backend is removed moves to another, from outside with one socket as well", async () => {
      const dns = serviceOf("dns", 24);
      const [pod, client] = [await lab.host("pod1c"), await lab.host("client")];
      for (const [host, to] of [
        [pod, { address: "172.30.0.24", port: 53 }],
        [client, { address: v4("node1"), port: 30124 }],
        [client, { address: v6("node2"), port: 30124 }],
      ] as const) {
        manifests.service(dns, ["pod1a", "pod2a"]);
        const { id } = await host.openUdp(to.address.includes(":") ? 6 : 4);
        const ask = async (): Promise<string> => {
          const answer = await host.askUdp(id, to, 300);
          return answer.ok ? answer.name : answer.code;
        };
        const first = await eventually(async () => {
          const name = await ask();
          assert.match(name, /^pod/);
          return name;
        });
        const other = first === "pod1a" ? "pod2a" : "pod1a";
        manifests.service(dns, [other]);
        await eventually(async () => assert.equal(await ask(), other));
        for (let i = 0; i < 5; i++) assert.equal(await ask(), other);
        await host.drop(id);
      }
    });

    test("a connected UDP socket whose backend is removed goes on with another, or ends (difference 22)", async () => {
      const dns = serviceOf("resolver", 29);
      const pod = await lab.host("pod1c");
      const to = { address: "172.30.0.29", port: 53 };
      manifests.service(dns, ["pod1a"]);
      await eventually(() => assertReaches(pod, { ...to, transport: "UDP" }, { pod1a: v4("pod1c") }));
      const { id } = await pod.openUdp(4, { to });
      assert.partialDeepStrictEqual(await pod.askUdp(id), { ok: true, name: "pod1a" });
      manifests.service(dns, ["pod2a"]);
      if (rules) {
        await eventually(async () =>
          assert.partialDeepStrictEqual(await pod.askUdp(id, undefined, 300), { ok: true, name: "pod2a" }),
        );
      } else {
        await eventually(async () => assert.equal(await pod.udpError(id), "ECONNABORTED"));
        assert.partialDeepStrictEqual(await pod.connectedUdp(to.address, to.port), { ok: true, name: "pod2a" });
      }
      await pod.drop(id);
    });

    test("a UDP socket that asked before the Service was there, and while it had no endpoint, is served once it has", async () => {
      const client = await lab.host("client");
      for (const [number, address] of [
        [26, v4("node1")],
        [30, v6("node2")],
      ] as const) {
        const late = serviceOf(`late-${number}`, number);
        const to = { address, port: 30100 + number };
        const { id } = await client.openUdp(to.address.includes(":") ? 6 : 4);
        const ask = async (): Promise<string> => {
          const answer = await client.askUdp(id, to, 300);
          return answer.ok ? answer.name : answer.code;
        };
        await eventually(async () => assert.doesNotMatch(await ask(), /^pod/));
        for (let i = 0; i < 3; i++) assert.doesNotMatch(await ask(), /^pod/, "nothing is there yet");
        manifests.service(late, ["pod1a"]);
        await eventually(async () => assert.equal(await ask(), "pod1a"));
        manifests.service(late, []);
        await eventually(async () => assert.doesNotMatch(await ask(), /^pod/));
        manifests.service(late, ["pod2a"]);
        await eventually(async () => assert.equal(await ask(), "pod2a"));
        await client.drop(id);
      }
    });

    test("an established TCP connection outlives the removal of its backend from the service", async () => {
      const web = serviceOf("drains", 25);
      manifests.service(web, ["pod1a", "pod2a"]);
      const [pod, client] = [await lab.host("pod1c"), await lab.host("client")];
      await eventually(() =>
        assertReaches(pod, { address: "172.30.0.25", port: 80 }, { pod1a: v4("pod1c"), pod2a: v4("pod1c") }),
      );
      await eventually(() =>
        assertReaches(client, { address: v4("node1"), port: 30025 }, { pod1a: clientBy("node1"), pod2a: v4("node1") }),
      );
      const inside = await Promise.all(Array.from({ length: 4 }, () => pod.hold("172.30.0.25", 80, 20)));
      const outside = await Promise.all(Array.from({ length: 4 }, () => client.hold(v4("node1"), 30025, 20)));
      manifests.service(web, ["pod1b"]);
      await eventually(() => assertReaches(pod, { address: "172.30.0.25", port: 80 }, { pod1b: v4("pod1c") }));
      await eventually(() =>
        assertReaches(client, { address: v4("node1"), port: 30025 }, { pod1b: clientBy("node1") }),
      );
      for (const [host, held] of [
        [pod, inside],
        [client, outside],
      ] as const) {
        for (const { id } of held) {
          const { echoed: before } = await host.beats(id);
          await eventually(async () => {
            const { echoed, ended } = await host.beats(id);
            assert.equal(ended, null);
            assert.ok(echoed > before + 5, `${echoed} echoes, ${before} of them before`);
          });
          await host.drop(id);
        }
      }
    });

    test("session affinity to a removed backend chooses again, and stays there", async () => {
      const sticky = serviceOf("sticky", 31, { affinity_timeout_s: 10800 });
      manifests.service(sticky, PODS);
      const host = await lab.host("pod1c");
      const meet = async (): Promise<readonly string[]> => {
        const answers = await host.connections(6, "172.30.0.31", 80);
        return [...new Set(answers.map((a) => (a.ok ? a.name : a.code)))];
      };
      const [first = ""] = await eventually(async () => {
        const names = await meet();
        assert.equal(names.length, 1);
        assert.match(names.join(), /^pod/);
        return names;
      });
      manifests.service(
        sticky,
        PODS.filter((name) => name !== first),
      );
      const [second = ""] = await eventually(async () => {
        const names = await meet();
        assert.ok(names.length === 1 && names[0] !== first, names.join());
        return names;
      });
      manifests.service(sticky, PODS);
      await new Promise((resolve) => setTimeout(resolve, 500));
      assert.deepEqual(await meet(), [second]);
    });

    test("a policy that changes to Local takes effect at once, and back", async () => {
      const client = await lab.host("client");
      const both = { pod1a: clientBy("node1"), pod2a: v4("node1") };
      const words = serviceOf("policy", 27);
      for (let round = 0; round < 2; round++) {
        manifests.service(words, ["pod1a", "pod2a"]);
        await eventually(() => assertReaches(client, { address: v4("node1"), port: 30027 }, both));
        manifests.service({ ...words, externalTrafficPolicy: "Local" }, ["pod1a", "pod2a"]);
        await eventually(() => assertReaches(client, { address: v4("node1"), port: 30027 }, { pod1a: v4("client") }));
      }
    });

    test("backends change at random forty times, an agent is killed now and then: not one connection fails", async (t) => {
      const seed = Date.now() & 0xffff;
      t.diagnostic(`seed ${seed}`);
      const random = seededRandom(seed);
      // A port of its own: the client's ports of earlier tests are remembered as flows to the pods' other port.
      const ports = serviceOf("random", 28).ports.map((port) => ({ ...port, targetPort: 8081 }));
      const web = serviceOf("random", 28, { ports });
      manifests.service(web, PODS);
      for (const [from, address, port] of [
        ["pod1c", "172.30.0.28", 80],
        ["node2", "172.30.0.28", 80],
      ] as const) {
        const expected = Object.fromEntries(PODS.map((pod) => [pod, v4(from)]));
        await eventually(async () => assertReaches(await lab.host(from), { address, port }, expected));
      }
      const loops = await startLoops(28);
      for (let change = 1; change <= 40; change++) {
        const some = PODS.filter(() => random() < 0.5);
        manifests.service(web, some.length > 0 ? some : ["pod2b"]);
        await new Promise((resolve) => setTimeout(resolve, 50 + 150 * random()));
        if (change % 15 !== 0) continue;
        const victim = lab.agents.filter(({ node }) => node === "node1").at(-1);
        await victim?.kill9();
        await startAgent("node1");
      }
      manifests.service(web, ["pod1a"]);
      await meetOnly(loops, ["pod1a"]);
      for (const [i, { names }] of (await stopWithoutFailure(loops)).entries())
        assert.deepEqual(Object.keys(names).sort(), PODS, loops[i]?.title);
      assert.doesNotMatch(lab.logs(), /"level":"error"/);
    });
  });
}
