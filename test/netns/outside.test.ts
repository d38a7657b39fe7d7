// Traffic from outside the cluster, translated packet by packet at the node's device: with tcx, again with clsact, and by
// kube-proxy's rules, which differ as docs/semantics.md says.
import assert from "node:assert/strict";
import { before, describe, test } from "node:test";
import { attachedPrograms } from "../lib/attached.ts";
import { eventually } from "../lib/eventually.ts";
import { CLIENT_OTHER } from "../lib/network.ts";
import { Manifests } from "../lib/objects.ts";
import {
  addressesIn,
  BPF_ATTACHED,
  IPTABLES,
  openLab,
  PODS,
  runOnEveryNode,
  seeing,
  serveAt,
  serviceOf,
} from "../lib/served-lab.ts";
import { AT_ONCE_MS, assertFails, assertReaches, assertRefusedByIcmp } from "../lib/traffic.ts";

const lab = await openLab();
const { v4, v6, own } = addressesIn(lab);
const manifests = new Manifests(lab);

before(async () => {
  manifests.service(serviceOf("web", 10), ["pod1a", "pod2a"]);
  manifests.service(serviceOf("local", 11, { externalTrafficPolicy: "Local" }), ["pod2a", "pod2b"]);
  manifests.service(serviceOf("empty", 12), []);
  manifests.service(serviceOf("guarded", 13, { sourceRanges: ["203.0.113.0/25", "fd00:203::/121"] }), [
    "pod1a",
    "pod2a",
  ]);
  manifests.service(serviceOf("sticky", 14, { affinity_timeout_s: 10800 }), PODS);
  manifests.service(serviceOf("forgetful", 15, { affinity_timeout_s: 1 }), PODS);
  manifests.service(serviceOf("near", 16), ["pod1a"]);
  manifests.service(serviceOf("far", 17), ["pod2a"]);
  manifests.service(serviceOf("host", 18), ["node1", "node2"]);
  manifests.service(serviceOf("checked", 19, { externalTrafficPolicy: "Local", healthCheckNodePort: 32019 }), [
    "pod2a",
  ]);
  await serveAt(lab, [...PODS, "node1", "node2"]);
});

for (const [index, dataplane] of [...BPF_ATTACHED, IPTABLES].entries()) {
  describe(dataplane.title, { skip: dataplane.skip }, () => {
    const rules = dataplane === IPTABLES;
    runOnEveryNode(lab, manifests, dataplane);

    /** What each of `pods` must see when the client comes in through `node` (difference 1). */
    const through = (node: string, address: string, pods: readonly string[]): Readonly<Record<string, string>> =>
      Object.fromEntries(
        pods.map((pod) => {
          const kept = rules ? pod === node : lab.place(pod).node === node;
          return [pod, own(kept ? "client" : node, address)] as const;
        }),
      );

    test("it is what is attached", () => {
      for (const node of lab.nodes()) {
        const hooks = attachedPrograms(lab, node.name).filter((line) => line.endsWith("gress"));
        const { attach } = dataplane;
        assert.deepEqual(hooks, rules ? [] : [`${attach}_egress tc_egress`, `${attach}_ingress tc_ingress`]);
        assert.equal(/KUBE-SERVICES/.test(lab.run(node.name, ["iptables-save", "-t", "nat"]).stdout), rules);
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
        const expected = seeing(own("client", address), ["pod2a", "pod2b"]);
        await assertReaches(client, { address, port: 30011 }, expected);
        await assertReaches(client, { transport: "UDP", address, port: 30111 }, expected);
      }
      for (const address of [v4("node1"), v6("node1")]) {
        await assertFails(client, { address, port: 30011, timeout_ms: 300 }, "TIMEOUT");
        await assertFails(client, { transport: "UDP", address, port: 30111, timeout_ms: 300 }, "TIMEOUT");
      }
      for (const [node, vip] of [["node2", "198.51.100.11"] as const, ["node2", "fd00:198::11"] as const]) {
        lab.routeVip(`${vip}/${vip.includes(":") ? 128 : 32}`, node);
        await assertReaches(client, { address: vip, port: 80 }, seeing(own("client", vip), ["pod2a", "pod2b"]));
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
        await assertRefusedByIcmp(client, address, 80);
        const udp = await client.connectedUdp(address, 53);
        assert.partialDeepStrictEqual(udp, { ok: false, code: "ECONNREFUSED" });
      }
      for (const address of [v4("node1"), v6("node1"), v4("node2")]) {
        await assertRefusedByIcmp(client, address, 30012);
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
          const seen = { pod1a: rules ? node : other, pod2a: node };
          await assertReaches(client, { address, port, localAddress: other }, seen);
        }
      }
      // At the socket the caller is told at once, if it is bound to its address (difference 6).
      const told = rules ? "TIMEOUT" : "EPERM";
      const tried = { address: "198.51.100.13", port: 80, timeout_ms: 300 };
      await assertFails(await lab.host("pod1b"), { ...tried, localAddress: v4("pod1b") }, told);
      await assertFails(await lab.host("node1"), tried, told);
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
            const seen = through("node1", address, [name])[name];
            assert.equal(answer.ok && answer.client, seen);
          }
        }
        await client.drop(id);

        // Below the ephemeral ports, of which one may be in use.
        const own = { localAddress: v4("client"), localPort: 21_000 + 100 * index + number };
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
          // Below the ephemeral ports, and no port of the dataplane before.
          const localPort = 22_000 + 100 * index + port - 30000;
          const answers = await client.connections(20, address, port, { localPort });
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
      await assertFails(client, { address: v4("node1"), port: 30999 }, "ECONNREFUSED", AT_ONCE_MS);
    });
  });
}
