// Traffic from outside the cluster, translated packet by packet at the node's device: with tcx, and again with clsact.
import assert from "node:assert/strict";
import { after, afterEach, before, describe, test } from "node:test";
import { hasTcx } from "../../src/dataplane/bpf/probe.ts";
import type { Agent } from "../lib/agent.ts";
import { attachedPrograms } from "../lib/attached.ts";
import { eventually } from "../lib/eventually.ts";
import { Lab } from "../lib/lab.ts";
import { CLIENT_OTHER } from "../lib/network.ts";
import { Manifests, type ServiceWords } from "../lib/objects.ts";
import { assertFails, assertReaches, assertRefusedFromOutside } from "../lib/traffic.ts";

const service = (name: string, number: number, words: Partial<ServiceWords> = {}): ServiceWords => ({
  name,
  type: "LoadBalancer",
  clusterIPs: [`172.30.0.${number}`, `fd00:172:30::${number}`],
  loadBalancerIPs: [`198.51.100.${number}`, `fd00:198::${number}`],
  externalIPs: [`198.51.100.1${number}`, `fd00:198::1${number}`],
  ports: [
    { name: "tcp", port: 80, protocol: "TCP", nodePort: 30000 + number },
    { name: "udp", port: 53, protocol: "UDP", nodePort: 30100 + number },
  ],
  ...words,
});

const lab = await Lab.create();
after(() => lab.close());
afterEach((t) => {
  if ("passed" in t && t.passed === false) console.error(lab.logs());
});

const ALL = ["pod1a", "pod1b", "pod2a", "pod2b"] as const;
const v4 = (name: string): string => lab.place(name).v4;
const v6 = (name: string): string => lab.place(name).v6;
const own = (name: string, address: string): string => (address.includes(":") ? v6(name) : v4(name));
const manifests = new Manifests(lab);

/** What each of `pods` must see when the client comes in through `node`. */
const through = (node: string, address: string, pods: readonly string[]): Readonly<Record<string, string>> =>
  Object.fromEntries(pods.map((pod) => [pod, own(lab.place(pod).node === node ? "client" : node, address)] as const));

before(async () => {
  manifests.service(service("web", 10), ["pod1a", "pod2a"]);
  manifests.service(service("local", 11, { externalTrafficPolicy: "Local" }), ["pod2a", "pod2b"]);
  manifests.service(service("empty", 12), []);
  manifests.service(service("guarded", 13, { sourceRanges: ["203.0.113.0/25", "fd00:203::/121"] }), ["pod1a", "pod2a"]);
  manifests.service(service("sticky", 14, { affinity_timeout_s: 10800 }), ALL);
  manifests.service(service("forgetful", 15, { affinity_timeout_s: 1 }), ALL);
  manifests.service(service("near", 16), ["pod1a"]);
  manifests.service(service("far", 17), ["pod2a"]);
  manifests.service(service("host", 18), ["node1", "node2"]);
  manifests.service(service("checked", 19, { externalTrafficPolicy: "Local", healthCheckNodePort: 32019 }), ["pod2a"]);
  await lab.startHosts();
  for (const name of [...ALL, "node1", "node2"]) await (await lab.host(name)).serve(name, 8080, "TCP", "UDP");
});

for (const attach of ["tcx", "clsact"] as const) {
  const skip = attach === "tcx" && !hasTcx() ? "this kernel has no tcx (6.6 or later has it)" : false;
  describe(`attached by ${attach}`, { skip }, () => {
    let agents: readonly Agent[] = [];

    before(async () => {
      const options = { manifests: manifests.path, bpf: { attach } };
      agents = await Promise.all(lab.nodes().map((node) => lab.startAgent(node.name, options)));
    });
    after(async () => {
      await Promise.all(agents.map((agent) => agent.stop()));
      for (const node of lab.nodes()) {
        const { status, stderr } = lab.beeline(node.name, ["reset"]);
        assert.equal(status, 0, stderr);
      }
    });

    test(`it is ${attach} that is attached`, () => {
      for (const node of lab.nodes()) {
        const hooks = attachedPrograms(lab, node.name).filter((line) => line.endsWith("gress"));
        assert.deepEqual(hooks, [`${attach}_egress tc_egress`, `${attach}_ingress tc_ingress`]);
      }
    });

    test("NodePort of both nodes: a pod on the entry node sees the client, the other sees the entry node", async () => {
      const client = await lab.host("client");
      for (const node of ["node1", "node2"]) {
        for (const address of [v4(node), v6(node)]) {
          const expected = through(node, address, ["pod1a", "pod2a"]);
          await assertReaches(client, { address, port: 30010 }, expected);
          await assertReaches(client, { transport: "UDP", address, port: 30110 }, expected);
        }
      }
    });

    test("LoadBalancer IP and external IP, through either node", async () => {
      const client = await lab.host("client");
      for (const node of ["node2", "node1"]) {
        for (const address of ["198.51.100.10", "fd00:198::10", "198.51.100.110", "fd00:198::110"]) {
          lab.routeVip(`${address}/${address.includes(":") ? 128 : 32}`, node);
          const expected = through(node, address, ["pod1a", "pod2a"]);
          await assertReaches(client, { address, port: 80 }, expected);
          await assertReaches(client, { transport: "UDP", address, port: 53 }, expected);
        }
      }
    });

    test("ClusterIP from outside", async () => {
      const client = await lab.host("client");
      for (const address of ["172.30.0.10", "fd00:172:30::10"]) {
        const expected = through("node1", address, ["pod1a", "pod2a"]);
        await assertReaches(client, { address, port: 80 }, expected);
        await assertReaches(client, { transport: "UDP", address, port: 53 }, expected);
      }
    });

    test("a connected UDP client, which hears its VIP only, gets answers from local and remote pods", async () => {
      const client = await lab.host("client");
      for (const number of [16, 17]) {
        for (const address of [`198.51.100.${number}`, `fd00:198::${number}`]) {
          const answer = await client.connectedUdp(address, 53);
          assert.partialDeepStrictEqual(answer, { ok: true, peer: address, peerPort: 53 });
        }
        const port = 30100 + number;
        const answer = await client.connectedUdp(v4("node1"), port);
        assert.partialDeepStrictEqual(answer, { ok: true, peer: v4("node1"), peerPort: port });
      }
    });

    test("externalTrafficPolicy Local: only local pods, seeing the client; dropped at a node without one", async () => {
      const client = await lab.host("client");
      for (const address of [v4("node2"), v6("node2")]) {
        const expected = through("node2", address, ["pod2a", "pod2b"]);
        await assertReaches(client, { address, port: 30011 }, expected);
        await assertReaches(client, { transport: "UDP", address, port: 30111 }, expected);
      }
      for (const address of [v4("node1"), v6("node1")]) {
        await assertFails(client, { address, port: 30011, timeout_ms: 300 }, "TIMEOUT");
        await assertFails(client, { transport: "UDP", address, port: 30111, timeout_ms: 300 }, "TIMEOUT");
      }
      for (const [node, vip] of [["node2", "198.51.100.11"] as const, ["node2", "fd00:198::11"] as const]) {
        lab.routeVip(`${vip}/${vip.includes(":") ? 128 : 32}`, node);
        await assertReaches(client, { address: vip, port: 80 }, through(node, vip, ["pod2a", "pod2b"]));
      }
    });

    test("externalTrafficPolicy Local from a pod or node: all pods answer, as if it came back from the load balancer", async () => {
      for (const from of ["pod1a", "node1"]) {
        const tried = { address: "198.51.100.11", port: 80 };
        await assertReaches(await lab.host(from), tried, { pod2a: v4(from), pod2b: v4(from) });
      }
    });

    test("no endpoint anywhere: refused at once, TCP and UDP, both families, every kind of address", async () => {
      const client = await lab.host("client");
      const addresses = ["198.51.100.12", "fd00:198::12", "198.51.100.112", "fd00:198::112", "172.30.0.12"];
      for (const address of addresses) {
        await assertRefusedFromOutside(client, address, 80);
        const udp = await client.connectedUdp(address, 53);
        assert.partialDeepStrictEqual(udp, { ok: false, code: "ECONNREFUSED" });
      }
      for (const address of [v4("node1"), v6("node1"), v4("node2")]) {
        await assertRefusedFromOutside(client, address, 30012);
        const udp = await client.connectedUdp(address, 30112);
        assert.partialDeepStrictEqual(udp, { ok: false, code: "ECONNREFUSED" });
      }
    });

    test("source ranges: who is outside them is dropped at the LoadBalancer IP, and only there", async () => {
      const client = await lab.host("client");
      for (const [vip, external, other] of [
        ["198.51.100.13", "198.51.100.113", CLIENT_OTHER.v4],
        ["fd00:198::13", "fd00:198::113", CLIENT_OTHER.v6],
      ] as const) {
        await assertReaches(client, { address: vip, port: 80 }, through("node1", vip, ["pod1a", "pod2a"]));
        const blocked = { address: vip, localAddress: other, timeout_ms: 300 };
        await assertFails(client, { ...blocked, port: 80 }, "TIMEOUT");
        await assertFails(client, { ...blocked, transport: "UDP", port: 53 }, "TIMEOUT");
        const node = own("node1", vip);
        for (const [address, port] of [[external, 80] as const, [node, 30013] as const]) {
          const seen = { pod1a: other, pod2a: node };
          await assertReaches(client, { address, port, localAddress: other }, seen);
        }
      }
      const pod = await lab.host("pod1b"); // at the socket the caller is told at once, if it is bound to its address
      await assertFails(pod, { address: "198.51.100.13", port: 80, localAddress: v4("pod1b") }, "EPERM");
      await assertFails(await lab.host("node1"), { address: "198.51.100.13", port: 80 }, "EPERM");
    });

    test("session affinity goes by client address: each address keeps its pod, by NodePort and by LoadBalancer IP", async () => {
      const client = await lab.host("client");
      for (const localAddress of [v4("client"), CLIENT_OTHER.v4]) {
        const tcp = await client.connections(15, v4("node1"), 30014, { localAddress });
        const names = new Set(tcp.map((answer) => (answer.ok ? answer.name : answer.code)));
        assert.equal(names.size, 1, [...names].join());
        assert.match([...names].join(), /^pod/);
        const vip = await client.connect("198.51.100.14", 80, { localAddress });
        assert.ok(vip.ok && names.has(vip.name), "NodePort and LoadBalancer IP share their memory");
      }
    });

    test("session affinity is forgotten after its timeout", async () => {
      const client = await lab.host("client");
      const meet = async (): Promise<string> => {
        const names = (await client.connections(5, v4("node1"), 30015)).map((a) => (a.ok ? a.name : a.code));
        assert.equal(new Set(names).size, 1, names.join());
        return names[0] ?? "";
      };
      const first = await meet();
      assert.match(first, /^pod/);
      await eventually(async () => {
        await new Promise((resolve) => setTimeout(resolve, 1200));
        assert.notEqual(await meet(), first);
      }, 20_000);
    });

    test("two megabytes go there and come back whole, to a local and to a remote pod, with the devices' offloads", async () => {
      const client = await lab.host("client");
      for (const number of [16, 17]) {
        for (const address of [`198.51.100.${number}`, `fd00:198::${number}`]) {
          const answer = await client.transfer(address, 80, 2_000_000);
          assert.ok(answer.ok, `${address}: ${JSON.stringify(answer)}`);
          assert.equal(answer.name, number === 16 ? "pod1a" : "pod2a");
        }
      }
    });

    test("one client port to several VIPs that share a pod: each answers as itself, UDP and TCP, local and remote", async () => {
      const client = await lab.host("client");
      for (const [number, name] of [[16, "pod1a"] as const, [17, "pod2a"] as const]) {
        const { id } = await client.openUdp(4);
        const targets = [`198.51.100.${number}`, `198.51.100.1${number}`].map((address) => ({ address, port: 53 }));
        targets.push({ address: v4("node1"), port: 30100 + number });
        for (let round = 0; round < 3; round++) {
          for (const { address, port } of targets) {
            const answer = await client.askUdp(id, { address, port }, 1000);
            assert.partialDeepStrictEqual(answer, { ok: true, name, peer: address, peerPort: port });
            if (name === "pod1a")
              assert.equal(answer.ok && answer.client, v4("client"), "the client's address is kept");
          }
        }
        await client.drop(id);

        // Below the ephemeral ports, of which one may be in use.
        const own = { localAddress: v4("client"), localPort: (attach === "tcx" ? 21_000 : 21_100) + number };
        const held = [];
        for (const { address } of targets) {
          const port = address === v4("node1") ? 30000 + number : 80;
          const answer = await client.hold(address, port, 20, own);
          // A second is when a lost SYN is sent again.
          assert.ok(answer.ok && answer.name === name && answer.ms < 1000, JSON.stringify(answer));
          held.push(answer.id);
        }
        for (const id of held) {
          await eventually(async () => {
            const beats = await client.beats(id);
            assert.ok(beats.ended === null && beats.echoed > 2, JSON.stringify(beats));
          });
          await client.drop(id);
        }
      }
    });

    test("backends in the nodes' own network: reached through the same node and the other, inside and outside", async () => {
      const client = await lab.host("client");
      for (const node of ["node1", "node2"]) {
        for (const address of [v4(node), v6(node)]) {
          const expected = through(node, address, ["node1", "node2"]);
          await assertReaches(client, { address, port: 30018 }, expected);
          await assertReaches(client, { transport: "UDP", address, port: 30118 }, expected);
        }
      }
      for (const from of ["pod1b", "node1"]) {
        const expected = { node1: v4(from), node2: v4(from) };
        await assertReaches(await lab.host(from), { address: "172.30.0.18", port: 80 }, expected);
      }
    });

    test("a client port that is used again at once starts a new connection each time, to a local and a remote pod", async () => {
      const client = await lab.host("client");
      for (const [port, name] of [[30016, "pod1a"] as const, [30017, "pod2a"] as const]) {
        for (const address of [v4("node1"), v6("node1")]) {
          const answers = await client.connections(20, address, port, { localPort: 40000 + port - 30000 });
          for (const answer of answers) assert.partialDeepStrictEqual(answer, { ok: true, name });
        }
      }
    });

    test("the load balancer's health check says which node has a pod of a Local service", async () => {
      const answers = await Promise.all(
        lab.nodes().map(async ({ name }) => (await lab.host(name)).httpGet(32019, "/")),
      );
      assert.deepEqual(
        answers.map(({ status, body }) => [status, JSON.parse(body).localEndpoints]),
        [
          [503, 0],
          [200, 1],
        ],
      );
    });

    test("a hundred clients at once, all served", async () => {
      const client = await lab.host("client");
      const answers = await Promise.all(Array.from({ length: 100 }, () => client.connect("198.51.100.10", 80)));
      assert.deepEqual(new Set(answers.map((a) => (a.ok ? a.name : a.code))), new Set(["pod1a", "pod2a"]));
    });

    test("what is no frontend is left alone: the node's own port, an unused NodePort", async () => {
      const [client, node] = [await lab.host("client"), await lab.host("node1")];
      await node.serve("node1 itself", 2222);
      await assertReaches(client, { address: v4("node1"), port: 2222 }, { "node1 itself": v4("client") });
      await node.stopServing(2222);
      await assertFails(client, { address: v4("node1"), port: 30999 }, "ECONNREFUSED", 100);
    });
  });
}
