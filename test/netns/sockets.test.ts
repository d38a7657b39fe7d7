// Connections that pods and nodes open themselves: translated at the socket by the programs on the node's cgroup, or
// packet by packet by kube-proxy's rules, which differ as docs/semantics.md says.
import assert from "node:assert/strict";
import { before, describe, test } from "node:test";
import { eventually } from "../lib/eventually.ts";
import { Manifests, type ServiceWords, serviceObject, sliceObjects } from "../lib/objects.ts";
import {
  addressesIn,
  BPF,
  IPTABLES,
  openLab,
  PODS,
  runOnEveryNode,
  seeing,
  serveAt,
  serviceOf,
} from "../lib/served-lab.ts";
import { AT_ONCE_MS, assertFails, assertReaches, assertRefusedByIcmp } from "../lib/traffic.ts";

const service = (name: string, number: number, words: Partial<ServiceWords> = {}): ServiceWords => ({
  name,
  clusterIPs: [`172.30.0.${number}`, `fd00:172:30::${number}`],
  ports: [
    { name: "tcp", port: 80, protocol: "TCP" },
    { name: "udp", port: 53, protocol: "UDP" },
  ],
  ...words,
});

/** The same slices under other names: a second slice of the same service. */
const renamed = (slices: readonly object[]): readonly object[] =>
  slices.map((slice) => {
    const copy = structuredClone(slice) as { metadata: { name: string } };
    copy.metadata.name += "-more";
    return copy;
  });

const lab = await openLab();
const { v4, v6, own } = addressesIn(lab);
const manifests = new Manifests(lab);

before(async () => {
  manifests.service(serviceOf("web", 10), ["pod1a", "pod2a"]);
  manifests.service(service("dns", 11), ["pod1b"]);
  manifests.service(service("empty", 12, { type: "NodePort", ports: [{ port: 80, nodePort: 30012 }] }), []);
  manifests.service(service("silent", 13, { ports: [{ port: 53, protocol: "UDP" }] }), []);
  manifests.service(service("self", 14), ["pod1a"]);
  manifests.service(service("sticky", 15, { affinity_timeout_s: 10800 }), PODS);
  manifests.service(service("forgetful", 16, { affinity_timeout_s: 1 }), PODS);
  manifests.service(service("inner", 17, { internalTrafficPolicy: "Local" }), PODS);
  manifests.service(service("far", 18, { internalTrafficPolicy: "Local" }), ["pod2a"]);
  const named = service("named", 19, { ports: [{ name: "http", port: 80 }] });
  manifests.write("named", [
    serviceObject(named),
    ...sliceObjects(named, [lab.place("pod1a")]),
    ...renamed(sliceObjects({ ...named, ports: [{ name: "http", port: 80, targetPort: 9090 }] }, [lab.place("pod2a")])),
  ]);
  await serveAt(lab);
  await (await lab.host("pod2a")).serve("pod2a on 9090", 9090);
});

/** By its ClusterIPs, over TCP and UDP. */
const reachWeb = async (from: string): Promise<void> => {
  const host = await lab.host(from);
  for (const address of ["172.30.0.10", "fd00:172:30::10"]) {
    const expected = seeing(own(from, address), ["pod1a", "pod2a"]);
    await assertReaches(host, { address, port: 80 }, expected);
    await assertReaches(host, { transport: "UDP", address, port: 53 }, expected);
  }
};

for (const dataplane of [...BPF, IPTABLES]) {
  describe(dataplane.title, () => {
    const rules = dataplane === IPTABLES;
    runOnEveryNode(lab, manifests, dataplane);

    test("pod to ClusterIP, TCP and UDP, both families: every backend answers, sees the pod's own address, as the VIP", async () => {
      for (const from of ["pod1b", "pod2b"]) await reachWeb(from);
    });

    test("an IPv4 ClusterIP through an IPv6 socket: getpeername and recvmsg answer with the mapped VIP", async () => {
      const host = await lab.host("pod1b");
      const expected = { pod1a: v4("pod1b"), pod2a: v4("pod1b") };
      await assertReaches(host, { address: "::ffff:172.30.0.10", port: 80 }, expected);
      await assertReaches(host, { transport: "UDP", address: "::ffff:172.30.0.10", port: 53 }, expected);
    });

    test("node to ClusterIP: from the node's own address", async () => {
      for (const from of ["node1", "node2"]) await reachWeb(from);
    });

    test("pod and node to LoadBalancer IP, external IP and their own node's NodePort: translated at the socket too", async () => {
      for (const from of ["pod1b", "node1"]) {
        const host = await lab.host(from);
        const seen = (address: string) => {
          const client = own(rules ? "node1" : from, address);
          return { pod1a: client, pod2a: client };
        };
        for (const address of ["198.51.100.10", "198.51.100.110"]) {
          await assertReaches(host, { address, port: 80 }, seen(address));
        }
        for (const address of ["fd00:198::10", "fd00:198::110"]) {
          await assertReaches(host, { transport: "UDP", address, port: 53 }, seen(address));
        }
        for (const address of [v4("node1"), v6("node1")]) {
          await assertReaches(host, { address, port: 30010 }, seen(address));
          await assertReaches(host, { transport: "UDP", address, port: 30110 }, seen(address));
        }
      }
    });

    test("pod to another node's NodePort: that node answers, and puts its own address on what it sends back here", async () => {
      for (const from of ["pod1b", "node1"]) {
        const host = await lab.host(from);
        const kept = rules ? "node2" : from;
        const tcp = { address: v4("node2"), port: 30010 };
        await assertReaches(host, tcp, { pod1a: v4("node2"), pod2a: v4(kept) });
        const udp = { transport: "UDP", address: v6("node2"), port: 30110 } as const;
        await assertReaches(host, udp, { pod1a: v6("node2"), pod2a: v6(kept) });
      }
    });

    test("localhost:NodePort works from the host, and only from there", async () => {
      const node = await lab.host("node1");
      await assertReaches(node, { address: "127.0.0.1", port: 30010 }, { pod1a: v4("node1"), pod2a: v4("node1") });
      await assertReaches(
        node,
        { transport: "UDP", address: "127.0.0.1", port: 30110 },
        { pod1a: v4("node1"), pod2a: v4("node1") },
      );
      await assertFails(await lab.host("pod1b"), { address: "127.0.0.1", port: 30010 }, "ECONNREFUSED");
    });

    test("one UDP socket asks two VIPs in turn, each answer comes from the VIP that was asked", async () => {
      const pod = await lab.host("pod2b");
      for (const [family, web, dns] of [
        [4, "172.30.0.10", "172.30.0.11"],
        [6, "fd00:172:30::10", "fd00:172:30::11"],
        [6, "::ffff:172.30.0.10", "::ffff:172.30.0.11"],
      ] as const) {
        const { id } = await pod.openUdp(family);
        for (let i = 0; i < 6; i++) {
          const first = await pod.askUdp(id, { address: web, port: 53 });
          assert.partialDeepStrictEqual(first, { ok: true, peer: web, peerPort: 53 });
          assert.ok(first.ok && ["pod1a", "pod2a"].includes(first.name), JSON.stringify(first));
          const second = await pod.askUdp(id, { address: dns, port: 53 });
          assert.partialDeepStrictEqual(second, { ok: true, name: "pod1b", peer: dns, peerPort: 53 });
        }
        await pod.drop(id);
      }
    });

    test("a connected UDP socket keeps one backend, and believes it talks to the VIP", async () => {
      const pod = await lab.host("pod1b");
      for (const [family, address] of [
        [4, "172.30.0.10"],
        [6, "fd00:172:30::10"],
        [6, "::ffff:172.30.0.10"],
      ] as const) {
        const { id } = await pod.openUdp(family, { to: { address, port: 53 } });
        const names = new Set<string>();
        for (let i = 0; i < 10; i++) {
          const answer = await pod.askUdp(id);
          assert.partialDeepStrictEqual(answer, { ok: true, peer: address, peerPort: 53 });
          if (answer.ok) names.add(answer.name);
        }
        assert.equal(names.size, 1);
        await pod.drop(id);
      }
    });

    test("no endpoint anywhere: refused at once, from pod and node, TCP and UDP", async () => {
      for (const from of ["pod1b", "node1"]) {
        const host = await lab.host(from);
        for (const [address, port] of [
          ["172.30.0.12", 80],
          ["fd00:172:30::12", 80],
          ["::ffff:172.30.0.12", 80],
          [v4("node1"), 30012],
        ] as const) {
          if (rules) await assertRefusedByIcmp(host, address, port);
          else await assertFails(host, { address, port }, "ECONNREFUSED", AT_ONCE_MS);
        }
        for (const address of ["172.30.0.13", "fd00:172:30::13"]) {
          if (rules) {
            const answer = await host.connectedUdp(address, 53, 300);
            // Refused on its way out of the node, it is not sent either.
            assert.ok(!answer.ok && (answer.code === "ECONNREFUSED" || (from === "node1" && answer.code === "EPERM")));
          } else {
            await assertFails(host, { transport: "UDP", address, port: 53 }, "ECONNREFUSED", AT_ONCE_MS);
            await assert.rejects(
              host.openUdp(address.includes(":") ? 6 : 4, { to: { address, port: 53 } }),
              /ECONNREFUSED/,
            );
          }
        }
      }
    });

    test("hairpin: a pod reaches itself through its own service, TCP and UDP, both families", async () => {
      const pod = await lab.host("pod1a");
      const seen = rules ? "node1" : "pod1a";
      await assertReaches(pod, { address: "172.30.0.14", port: 80 }, { pod1a: v4(seen) });
      await assertReaches(pod, { address: "fd00:172:30::14", port: 80 }, { pod1a: v6(seen) });
      await assertReaches(pod, { transport: "UDP", address: "172.30.0.14", port: 53 }, { pod1a: v4(seen) });
    });

    test("session affinity: fifteen connections of a client meet one backend, UDP as well, other clients choose anew", async () => {
      for (const from of [...PODS, "node1"]) {
        const host = await lab.host(from);
        const names = new Set<string>();
        for (const answer of await host.connections(15, "172.30.0.15", 80))
          names.add(answer.ok ? answer.name : answer.code);
        assert.equal(names.size, 1, [...names].join());
        assert.match([...names].join(), /^pod/);
        const udp = new Set<string>();
        for (let i = 0; i < 8; i++) {
          const answer = await host.udp("172.30.0.15", 53);
          udp.add(answer.ok ? answer.name : answer.code);
        }
        assert.equal(udp.size, 1, [...udp].join());
        assert.match([...udp].join(), /^pod/);
      }
    });

    test("session affinity is forgotten after its timeout", async () => {
      const host = await lab.host("pod1b");
      const meet = async (): Promise<string> => {
        const names = (await host.connections(5, "172.30.0.16", 80)).map((a) => (a.ok ? a.name : a.code));
        assert.equal(new Set(names).size, 1, names.join());
        return names[0] ?? "";
      };
      const first = await meet();
      await eventually(async () => {
        await new Promise((resolve) => setTimeout(resolve, 1200));
        assert.notEqual(await meet(), first);
      }, 20_000);
    });

    test("internalTrafficPolicy Local: only pods of the own node answer, from pod and node", async () => {
      for (const node of ["1", "2"]) {
        for (const from of [`pod${node}b`, `node${node}`]) {
          const itself = rules ? `node${node}` : from;
          const expected = { [`pod${node}a`]: v4(from), [`pod${node}b`]: v4(from === `pod${node}b` ? itself : from) };
          await assertReaches(await lab.host(from), { address: "172.30.0.17", port: 80 }, expected);
          await assertReaches(await lab.host(from), { transport: "UDP", address: "172.30.0.17", port: 53 }, expected);
        }
      }
    });

    test("internalTrafficPolicy Local without a local pod: no route, while the other node's clients are served", async () => {
      const near = await lab.host("pod1b");
      const told = rules ? "TIMEOUT" : "EHOSTUNREACH";
      await assertFails(near, { address: "172.30.0.18", port: 80, timeout_ms: 300 }, told);
      await assertFails(near, { transport: "UDP", address: "fd00:172:30::18", port: 53, timeout_ms: 300 }, told);
      await assertReaches(await lab.host("pod2b"), { address: "172.30.0.18", port: 80 }, { pod2a: v4("pod2b") });
    });

    test("a named port leads to each pod's own number", async () => {
      const host = await lab.host("pod1b");
      await assertReaches(
        host,
        { address: "172.30.0.19", port: 80 },
        { pod1a: v4("pod1b"), "pod2a on 9090": v4("pod1b") },
      );
    });

    test("another port of a ClusterIP is nobody's, and a pod by its own address is left alone", async () => {
      const host = await lab.host("pod1b");
      const told = rules ? "TIMEOUT" : "ECONNREFUSED"; // difference 20
      await assertFails(host, { address: "172.30.0.10", port: 81, timeout_ms: 300 }, told);
      await assertReaches(host, { address: v4("pod2a"), port: 8080 }, { pod2a: v4("pod1b") });
    });

    test("a megabyte goes there and comes back through a ClusterIP", async () => {
      for (const address of ["172.30.0.10", "fd00:172:30::10"]) {
        for (let i = 0; i < 4; i++) {
          const answer = await (await lab.host("pod1b")).transfer(address, 80, 1_000_000);
          assert.ok(answer.ok, JSON.stringify(answer));
        }
      }
    });
  });
}
