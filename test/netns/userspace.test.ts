// kube-proxy's first proxy on the nodes of a lab, with iptables of one flavour on each: the agent itself takes every
// connection and copies it, so that pods see the node.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import type { Agent } from "../lib/agent.ts";
import { eventually } from "../lib/eventually.ts";
import { CLIENT_OTHER } from "../lib/network.ts";
import { Manifests } from "../lib/objects.ts";
import { addressesIn, openLab, PODS, seeing, serveAt, serviceOf } from "../lib/served-lab.ts";
import { assertFails, assertReaches, assertRefusedByIcmp } from "../lib/traffic.ts";

const lab = await openLab();
const { v4, v6, own } = addressesIn(lab);
const manifests = new Manifests(lab);
const local = serviceOf("local", 11, { externalTrafficPolicy: "Local" });
const scaled = serviceOf("scaled", 17);
const changing = serviceOf("changing", 18);

/** Each of `pods` sees the node that copies. */
const seenFrom = (node: string, address: string, pods: readonly string[]): Readonly<Record<string, string>> =>
  seeing(own(node, address), pods);

const namesOf = (answers: readonly ({ ok: true; name: string } | { ok: false; code: string })[]): readonly string[] =>
  answers.map((answer) => (answer.ok ? answer.name : answer.code));

before(async () => {
  manifests.service(serviceOf("web", 10), ["pod1a", "pod2a"]);
  manifests.service(local, ["pod1b"]);
  manifests.service(serviceOf("inside", 12, { internalTrafficPolicy: "Local" }), ["pod1a", "pod1b"]);
  manifests.service(serviceOf("empty", 13), []);
  manifests.service(serviceOf("guarded", 14, { sourceRanges: ["203.0.113.0/25", "fd00:203::/121"] }), [
    "pod1a",
    "pod2a",
  ]);
  manifests.service(serviceOf("sticky", 15, { affinity_timeout_s: 10800 }), PODS);
  manifests.service(serviceOf("round", 16), PODS);
  manifests.service(scaled, ["pod1a"]);
  manifests.service(changing, ["pod1a"]);
  // Nothing listens at 8080 of node2.
  manifests.service(serviceOf("limping", 19), ["pod1a", "node2", "pod2b"]);
  await serveAt(lab);
});

for (const { node, flavour, pod, n } of [
  { node: "node1", flavour: "nft", pod: "pod1a", n: 1 },
  { node: "node2", flavour: "legacy", pod: "pod2b", n: 2 },
] as const) {
  describe(`at ${node} with iptables-${flavour}`, () => {
    let agent: Agent;

    const startAgent = (): Promise<Agent> =>
      lab.startAgent(node, {
        manifests: manifests.path,
        args: ["--dataplane", "userspace"],
        config: {
          clusterCIDR: `10.244.${n}.0/24,fd00:244:${n}::/64`,
          iptables: { flavour, syncPeriod: "1s", minSyncPeriod: "50ms" },
        },
      });

    /** Lines of both families' rules that speak of our chains. */
    const ourRules = (): readonly string[] =>
      ["iptables", "ip6tables"].flatMap((family) => {
        const { status, stdout, stderr } = lab.run(node, [`${family}-${flavour}-save`]);
        assert.equal(status, 0, stderr);
        return stdout.split("\n").filter((line) => /KUBE-(PORTALS|NODEPORT)/.test(line));
      });

    before(async () => {
      for (const vip of ["198.51.100.0/24", "fd00:198::/64", "172.30.0.0/16", "fd00:172:30::/112"])
        lab.routeVip(vip, node);
      agent = await startAgent();
    });
    after(() => agent.kill9());

    test("it says that its mode is userspace", async () => {
      assert.equal((await agent.httpGet(10249, "/proxyMode")).body, "userspace");
    });

    for (const place of [pod, node]) {
      test(`ClusterIP from ${place}`, async () => {
        const host = await lab.host(place);
        for (const address of ["172.30.0.10", "fd00:172:30::10"]) {
          const expected = seenFrom(node, address, ["pod1a", "pod2a"]);
          await assertReaches(host, { address, port: 80 }, expected);
          await assertReaches(host, { transport: "UDP", address, port: 53 }, expected);
        }
      });
    }

    test("NodePort, LoadBalancer and external IP from outside", async () => {
      const client = await lab.host("client");
      const vips = ["198.51.100.10", "fd00:198::10", "198.51.100.110", "fd00:198::110", "172.30.0.10"];
      for (const { address, tcp, udp } of [
        ...[v4(node), v6(node)].map((address) => ({ address, tcp: 30010, udp: 30110 })),
        ...vips.map((address) => ({ address, tcp: 80, udp: 53 })),
      ]) {
        const expected = seenFrom(node, address, ["pod1a", "pod2a"]);
        await assertReaches(client, { address, port: tcp }, expected);
        await assertReaches(client, { transport: "UDP", address, port: udp }, expected);
      }
    });

    test("NodePort from a pod, and from the node, at 127.0.0.1, too", async () => {
      const expected = seenFrom(node, v4(node), ["pod1a", "pod2a"]);
      await assertReaches(await lab.host(pod), { address: v4(node), port: 30010 }, expected);
      for (const address of [v4(node), "127.0.0.1"]) {
        await assertReaches(await lab.host(node), { address, port: 30010 }, expected);
        await assertReaches(await lab.host(node), { transport: "UDP", address, port: 30110 }, expected);
      }
    });

    test("connections take turns, exactly", async () => {
      const names = namesOf(await (await lab.host(pod)).connections(12, "172.30.0.16", 80));
      assert.deepEqual([...names.slice(0, 4)].sort(), [...PODS]);
      assert.deepEqual(names.slice(4), [...names.slice(0, 4), ...names.slice(0, 4)]);
    });

    test("affinity goes by client address, whichever way it comes", async () => {
      const client = await lab.host("client");
      const met = new Set<string>();
      for (const localAddress of [v4("client"), CLIENT_OTHER.v4]) {
        const names = namesOf([
          ...(await client.connections(5, v4(node), 30015, { localAddress })),
          ...(await client.connections(5, "198.51.100.15", 80, { localAddress })),
        ]);
        assert.equal(new Set(names).size, 1, names.join());
        met.add(names[0] ?? "");
      }
      assert.equal(met.size, 2, "the second client had the next turn");
    });

    test("a backend that refuses is passed over", async () => {
      const names = namesOf(await (await lab.host(pod)).connections(8, "172.30.0.19", 80));
      assert.deepEqual([...new Set(names)].sort(), ["pod1a", "pod2b"]);
    });

    test("policy Local, external: from outside only pods of this node, and nobody where there is none", async () => {
      const client = await lab.host("client");
      manifests.service(local, ["pod1a", "pod2a"]);
      const inside = seenFrom(node, v4(node), ["pod1a", "pod2a"]);
      const host = await lab.host(pod);
      await eventually(() => assertReaches(host, { address: v4(node), port: 30011 }, inside));
      const mine = seenFrom(node, v4(node), [`pod${n}a`]);
      await assertReaches(client, { address: v4(node), port: 30011 }, mine);
      await assertReaches(client, { transport: "UDP", address: v4(node), port: 30111 }, mine);
      manifests.service(local, [`pod${3 - n}a`]);
      await eventually(() => assertFails(client, { address: v4(node), port: 30011 }, "ECONNRESET"));
      await assertFails(client, { transport: "UDP", address: v4(node), port: 30111, timeout_ms: 300 }, "TIMEOUT");
      const far = seenFrom(node, v4(node), [`pod${3 - n}a`]);
      await assertReaches(host, { address: "198.51.100.11", port: 80 }, far);
    });

    test("policy Local, internal: the ClusterIP reaches pods of this node, or drops", async () => {
      const tried = { address: "172.30.0.12", port: 80, timeout_ms: 300 };
      const host = await lab.host(pod);
      if (node === "node1") await assertReaches(host, tried, seenFrom(node, v4(node), ["pod1a", "pod1b"]));
      else await assertFails(host, tried, "TIMEOUT");
    });

    test("who is in no source range is let in nowhere but at other frontends", async () => {
      const client = await lab.host("client");
      for (const [vip, external, other] of [
        ["198.51.100.14", "198.51.100.114", CLIENT_OTHER.v4],
        ["fd00:198::14", "fd00:198::114", CLIENT_OTHER.v6],
      ] as const) {
        await assertReaches(client, { address: vip, port: 80 }, seenFrom(node, vip, ["pod1a", "pod2a"]));
        await assertFails(client, { address: vip, port: 80, localAddress: other }, "ECONNRESET");
        const udp = { transport: "UDP", address: vip, port: 53, localAddress: other, timeout_ms: 300 } as const;
        await assertFails(client, udp, "TIMEOUT");
        const open = { address: external, port: 80, localAddress: other };
        await assertReaches(client, open, seenFrom(node, vip, ["pod1a", "pod2a"]));
      }
    });

    test("no endpoint: refused, from everywhere", async () => {
      for (const place of [pod, node]) {
        for (const [address, port] of [
          ["172.30.0.13", 80] as const,
          ["fd00:172:30::13", 80] as const,
          [v4(node), 30013] as const,
        ])
          await assertFails(await lab.host(place), { address, port, timeout_ms: 3000 }, "ECONNREFUSED");
      }
      const client = await lab.host("client");
      for (const address of ["198.51.100.13", "fd00:198::13"]) await assertRefusedByIcmp(client, address, 80);
      await assertRefusedByIcmp(client, v4(node), 30013);
      const udp = await client.connectedUdp(v4(node), 30113);
      assert.partialDeepStrictEqual(udp, { ok: false, code: "ECONNREFUSED" });
    });

    test("scaled to zero and back, while a connection lives on", async () => {
      const host = await lab.host(pod);
      manifests.service(scaled, ["pod1a"]);
      const tried = { address: "172.30.0.17", port: 80 };
      await eventually(() => assertReaches(host, tried, seenFrom(node, v4(node), ["pod1a"])));
      const held = await host.hold("172.30.0.17", 80, 20);
      manifests.service(scaled, []);
      await eventually(() => assertFails(host, tried, "ECONNREFUSED"));
      const { echoed, ended } = await host.beats(held.id);
      assert.equal(ended, null);
      await eventually(async () => assert.ok((await host.beats(held.id)).echoed > echoed));
      await host.drop(held.id);
      manifests.service(scaled, ["pod2a"]);
      await eventually(() => assertReaches(host, tried, seenFrom(node, v4(node), ["pod2a"])));
      await assertReaches(host, { transport: "UDP", ...tried, port: 53 }, seenFrom(node, v4(node), ["pod2a"]));
    });

    test("32 MB there and back", async () => {
      for (const address of ["172.30.0.10", "fd00:172:30::10"]) {
        const answer = await (await lab.host(pod)).transfer(address, 80, 32 << 20);
        assert.ok(answer.ok, JSON.stringify(answer));
      }
    });

    test("no connection fails while backends come and go", async () => {
      const host = await lab.host(pod);
      const loops = [
        await host.startLoop("172.30.0.18", 80),
        await host.startLoop("172.30.0.18", 53, { transport: "UDP" }),
      ];
      for (const pods of [["pod1a", "pod2a"], ["pod2a"], ["pod2a", "pod2b", "pod1b"], ["pod1a"]]) {
        manifests.service(changing, pods);
        await new Promise((resolve) => setTimeout(resolve, 300));
      }
      for (const { id } of loops) {
        const counts = await host.loopCounts(id, true);
        assert.deepEqual([counts.failed, counts.codes], [0, {}]);
        assert.ok(counts.ok > 20, `${counts.ok} connections`);
      }
    });

    test("rules that somebody removed come back", async () => {
      const before = ourRules();
      const { status } = lab.run(node, [`iptables-${flavour}`, "-t", "nat", "-F", "KUBE-PORTALS-HOST"]);
      assert.equal(status, 0);
      assert.notDeepEqual(ourRules(), before);
      await eventually(() => assert.deepEqual(ourRules(), before));
      assert.match(agent.log, /"different":\["IPv4 nat"\]/);
    });

    test("killed, it refuses; started again, it answers, over the rules of the dead one", async () => {
      const host = await lab.host(pod);
      const tried = { address: "172.30.0.10", port: 80 };
      const udp = { transport: "UDP", address: "172.30.0.10", port: 53, localPort: 40_000 } as const;
      const expected = seenFrom(node, v4(node), ["pod1a", "pod2a"]);
      assert.ok((await host.udp(udp.address, udp.port, { localPort: udp.localPort })).ok);
      await agent.kill9();
      await assertFails(host, tried, "ECONNREFUSED");
      assert.ok(ourRules().length > 0);
      agent = await startAgent();
      await assertReaches(host, tried, expected);
      // From the port of before: the kernel had remembered where the dead one listened.
      const answer = await host.udp(udp.address, udp.port, { localPort: udp.localPort });
      assert.ok(answer.ok, JSON.stringify(answer));
      const jumps = ourRules().filter((line) => /^-A (PREROUTING|INPUT|FORWARD|OUTPUT)/.test(line));
      assert.equal(jumps.length, 2 * 11, "each jump once in each family");
      assert.equal(new Set(jumps).size, 11);
    });

    test("stopped, it leaves no rule and no connection; killed, what it left goes by reset", async () => {
      const host = await lab.host(pod);
      const held = await host.hold("172.30.0.10", 80, 20);
      assert.equal(await agent.stop(), 0);
      assert.deepEqual(ourRules(), []);
      await eventually(async () => assert.notEqual((await host.beats(held.id)).ended, null));
      await host.drop(held.id);
      agent = await startAgent();
      await agent.kill9();
      assert.ok(ourRules().length > 0);
      const { status, stdout } = lab.beeline(node, ["reset", "--dataplane", "userspace"]);
      assert.equal(status, 0);
      assert.match(stdout, new RegExp(`^removed IPv4 filter \\(${flavour}\\)$`, "m"));
      assert.deepEqual(ourRules(), []);
    });
  });
}

test("apply has nothing to leave behind, and says so", () => {
  const { status, stderr } = lab.beeline("node1", ["apply", "-f", manifests.path, "--dataplane", "userspace"]);
  assert.equal(status, 2);
  assert.match(stderr, /the userspace dataplane answers only while it runs/);
});
