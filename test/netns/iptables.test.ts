// The reference dataplane on real traffic: an agent with --dataplane iptables on both nodes, once with each flavour.
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

before(() => serveAt(lab));

for (const flavour of ["nft", "legacy"] as const) {
  describe(`iptables-${flavour}`, () => {
    const manifests = new Manifests(lab, `manifests-${flavour}`);
    const options = {
      manifests: manifests.path,
      args: ["--dataplane", "iptables", "--iptables", flavour],
      config: {
        clusterCIDR: "10.244.0.0/16,fd00:244::/32",
        iptables: { syncPeriod: "1s", minSyncPeriod: "50ms" },
        conntrack: { udpTimeout: "77s", tcpBeLiberal: flavour === "nft" },
      },
    };
    let agents: Agent[] = [];

    before(async () => {
      for (const { name } of lab.nodes())
        assert.equal(
          lab.run(name, ["sh", "-c", "echo 0 >/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal"]).status,
          0,
        );
      manifests.service(serviceOf("web", 10), ["pod1a", "pod2a"]);
      const local = { externalTrafficPolicy: "Local", healthCheckNodePort: 32011 } as const;
      manifests.service(serviceOf("local", 11, local), ["pod2a", "pod2b"]);
      manifests.service(serviceOf("empty", 12), []);
      manifests.service(serviceOf("guarded", 13, { sourceRanges: ["203.0.113.0/25", "fd00:203::/121"] }), ["pod1a"]);
      manifests.service(serviceOf("sticky", 14, { affinity_timeout_s: 10800 }), PODS);
      manifests.service(serviceOf("near", 15, { internalTrafficPolicy: "Local" }), ["pod1a", "pod2a"]);
      agents = await Promise.all(lab.nodes().map((node) => lab.startAgent(node.name, options)));
    });
    after(async () => {
      await Promise.all(agents.map((agent) => agent.stop()));
      for (const node of lab.nodes()) {
        const { status, stderr } = lab.beeline(node.name, ["reset", "--kube-proxy"]);
        assert.equal(status, 0, stderr);
        const left = save(node.name).split("\n");
        assert.deepEqual(
          left.filter((line) => /KUBE-(?!FIREWALL)/.test(line)),
          [],
        );
      }
    });

    const iptables = (node: string, ...args: readonly string[]): string => {
      const { status, stdout, stderr } = lab.run(node, [`iptables-${flavour}`, "-w", "5", ...args]);
      assert.equal(status, 0, stderr);
      return stdout;
    };
    /** Without counters and the time. */
    const save = (node: string): string =>
      lab
        .run(node, [`iptables-${flavour}-save`])
        .stdout.replace(/^#.*\n/gm, "")
        .replace(/\[\d+:\d+\]/g, "");

    test("the rules are of this flavour, and the agent says what it is", async () => {
      assert.match(save("node1"), /-A KUBE-SVC-/);
      assert.deepEqual(await agents[0]?.httpGet(10249, "/proxyMode"), { status: 200, body: "iptables" });
      const metrics = await agents[0]?.httpGet(10249, "/metrics");
      assert.match(metrics?.body ?? "", /^kubeproxy_sync_proxy_rules_iptables_total\{.*table="nat"\} [1-9]/m);
    });

    test("connection tracking of the node is set, as far as it may be", () => {
      const value = (name: string) =>
        lab.run("node1", ["cat", `/proc/sys/net/netfilter/nf_conntrack_${name}`]).stdout.trim();
      assert.equal(value("udp_timeout"), "77");
      assert.equal(value("tcp_timeout_close_wait"), "3600");
      assert.equal(value("tcp_be_liberal"), flavour === "nft" ? "1" : "0");
      assert.equal(save("node1").includes("--ctstate INVALID"), flavour === "legacy"); // what is liberal calls nothing INVALID
      assert.match(agents[0]?.log ?? "", /Cannot set net.netfilter.nf_conntrack_max, it stays as it is/); // one for all namespaces
    });

    test("ClusterIP: pods are seen as they are, the node by its address", async () => {
      for (const address of ["172.30.0.10", "fd00:172:30::10"]) {
        for (const from of ["pod1b", "node1"]) {
          const expected = seeing(own(from, address), ["pod1a", "pod2a"]);
          await assertReaches(await lab.host(from), { address, port: 80 }, expected);
          await assertReaches(await lab.host(from), { transport: "UDP", address, port: 53 }, expected);
        }
      }
    });

    test("a pod that reaches itself is seen as its node", async () => {
      for (const address of ["172.30.0.10", "fd00:172:30::10"]) {
        const expected = { pod1a: own("node1", address), pod2a: own("pod1a", address) };
        await assertReaches(await lab.host("pod1a"), { address, port: 80 }, expected);
      }
    });

    test("NodePort and LoadBalancer IP from outside: every pod sees the entry node", async () => {
      const client = await lab.host("client");
      for (const address of [v4("node1"), v6("node1")]) {
        await assertReaches(client, { address, port: 30010 }, seeing(address, ["pod1a", "pod2a"]));
        await assertReaches(client, { transport: "UDP", address, port: 30110 }, seeing(address, ["pod1a", "pod2a"]));
      }
      for (const address of ["198.51.100.10", "fd00:198::10"]) {
        await assertReaches(client, { address, port: 80 }, seeing(own("node1", address), ["pod1a", "pod2a"]));
      }
    });

    const counted = async (name: string): Promise<number> => {
      const metrics = await agents[0]?.httpGet(10249, "/metrics");
      return Number(
        new RegExp(`^kubeproxy_iptables_${name}_packets_total (\\d+)$`, "m").exec(metrics?.body ?? "")?.[1],
      );
    };

    test("a NodePort at 127.0.0.1, for the node itself, counted", async () => {
      const node = await lab.host("node1");
      const before = await counted("localhost_nodeports_accepted");
      const answers = await assertReaches(
        node,
        { address: "127.0.0.1", port: 30010 },
        seeing(v4("node1"), ["pod1a", "pod2a"]),
      );
      assert.equal(await counted("localhost_nodeports_accepted"), before + answers.length);
    });

    test("the end of a connection that conntrack has forgotten is INVALID: dropped and counted, unless it is liberal", async () => {
      const before = await counted("ct_state_invalid_dropped");
      const pod = await lab.host("pod1b");
      const { id } = await pod.hold(v4("pod2a"), 8080, 60_000);
      assert.equal(lab.run("node1", ["conntrack", "-F"]).status, 0);
      await pod.drop(id);
      if (flavour === "legacy")
        await eventually(async () => assert.ok((await counted("ct_state_invalid_dropped")) > before));
      else assert.equal(await counted("ct_state_invalid_dropped"), before);
    });

    test("externalTrafficPolicy Local: local pods see the client; dropped elsewhere; pods and nodes reach all", async () => {
      const client = await lab.host("client");
      for (const address of [v4("node2"), v6("node2")]) {
        await assertReaches(client, { address, port: 30011 }, seeing(own("client", address), ["pod2a", "pod2b"]));
      }
      await assertFails(client, { address: v4("node1"), port: 30011, timeout_ms: 300 }, "TIMEOUT");
      await assertFails(client, { address: "198.51.100.11", port: 80, timeout_ms: 300 }, "TIMEOUT");
      for (const from of ["pod1a", "node1"]) {
        const expected = seeing(v4(from), ["pod2a", "pod2b"]);
        await assertReaches(await lab.host(from), { address: "198.51.100.11", port: 80 }, expected);
      }
    });

    test("internalTrafficPolicy Local: the pod of the node that asks", async () => {
      await assertReaches(await lab.host("pod1b"), { address: "172.30.0.15", port: 80 }, { pod1a: v4("pod1b") });
      await assertReaches(await lab.host("pod2b"), { address: "172.30.0.15", port: 80 }, { pod2a: v4("pod2b") });
    });

    test("no endpoint anywhere: refused, inside and outside, TCP and UDP", async () => {
      const client = await lab.host("client");
      for (const address of ["198.51.100.12", "fd00:198::12", "172.30.0.12"])
        await assertRefusedByIcmp(client, address, 80);
      for (const address of [v4("node1"), v6("node1")]) await assertRefusedByIcmp(client, address, 30012);
      assert.partialDeepStrictEqual(await client.connectedUdp("198.51.100.12", 53), {
        ok: false,
        code: "ECONNREFUSED",
      });
      await assertRefusedByIcmp(await lab.host("pod1a"), "172.30.0.12", 80);
    });

    test("source ranges: who is outside them is dropped at the LoadBalancer IP, and served elsewhere", async () => {
      const client = await lab.host("client");
      for (const [vip, other] of [
        ["198.51.100.13", CLIENT_OTHER.v4],
        ["fd00:198::13", CLIENT_OTHER.v6],
      ] as const) {
        const node = own("node1", vip);
        await assertReaches(client, { address: vip, port: 80 }, { pod1a: node });
        await assertFails(client, { address: vip, port: 80, localAddress: other, timeout_ms: 300 }, "TIMEOUT");
        await assertReaches(client, { address: node, port: 30013, localAddress: other }, { pod1a: node });
      }
      await assertFails(await lab.host("pod1b"), { address: "198.51.100.13", port: 80, timeout_ms: 300 }, "TIMEOUT");
    });

    test("session affinity: each client address keeps its pod", async () => {
      const client = await lab.host("client");
      for (const localAddress of [v4("client"), CLIENT_OTHER.v4]) {
        const answers = await client.connections(12, v4("node1"), 30014, { localAddress });
        const names = new Set(answers.map((answer) => (answer.ok ? answer.name : answer.code)));
        assert.equal(names.size, 1, [...names].join());
        assert.match([...names].join(), /^pod/);
      }
    });

    test("a UDP client that never stops sending follows the pods: replaced, none, and back", async () => {
      const pod = await lab.host("pod1b");
      const dns = serviceOf("dns", 20);
      const answers = async (expected: string): Promise<void> => {
        await eventually(async () => {
          const answer = await pod.askUdp(id, { address: "172.30.0.20", port: 53 }, 200);
          assert.equal(answer.ok ? answer.name : answer.code, expected);
        });
      };
      const { id } = await pod.openUdp(4);
      manifests.service(dns, ["pod1a"]);
      await answers("pod1a");
      manifests.service(dns, ["pod2a"]);
      await answers("pod2a");
      manifests.service(dns, []);
      await eventually(async () => {
        const answer = await pod.askUdp(id, { address: "172.30.0.20", port: 53 }, 200);
        assert.equal(answer.ok, false);
      });
      manifests.service(dns, ["pod1a"]);
      await answers("pod1a");
      manifests.remove("dns");
      await pod.drop(id);
    });

    test("scaled up, down and away: the rules follow, and chains that nothing uses go", async () => {
      const client = await lab.host("client");
      const scaled = serviceOf("scaled", 21);
      const address = v4("node1");
      for (const pods of [["pod1a"], PODS, ["pod2b"]]) {
        manifests.service(scaled, pods);
        await eventually(() => assertReaches(client, { address, port: 30021 }, seeing(address, pods)));
      }
      const chains = () =>
        save("node1")
          .split("\n")
          .filter((line) => line.startsWith(":KUBE-SEP")).length;
      const before = chains();
      manifests.remove("scaled");
      await eventually(async () => {
        assert.equal(chains(), before - 2); // pod2b's, for TCP and for UDP
        await assertFails(client, { address, port: 30021 }, "ECONNREFUSED");
      });
    });

    test("flushed by a stranger: written again within the sync period", async () => {
      const before = save("node1");
      iptables("node1", "-t", "nat", "-F");
      iptables("node1", "-t", "nat", "-X");
      assert.notEqual(save("node1"), before);
      await eventually(async () => assert.equal(save("node1"), before));
      await assertReaches(
        await lab.host("pod1b"),
        { address: "172.30.0.10", port: 80 },
        seeing(v4("pod1b"), ["pod1a", "pod2a"]),
      );
    });

    test("a stranger's rule is left alone, also one that keeps a chain of ours", async () => {
      manifests.service(serviceOf("kept", 22), ["pod1a"]);
      const chain = await eventually(async () => {
        const found = /-A KUBE-SERVICES -d 172.30.0.22\/32 -p tcp .*-j (KUBE-SVC-\S+)/.exec(save("node1"))?.[1];
        assert.ok(found);
        return found;
      });
      iptables("node1", "-t", "nat", "-N", "STRANGER");
      iptables("node1", "-t", "nat", "-A", "STRANGER", "-d", "192.0.2.1", "-j", chain);
      manifests.remove("kept");
      await eventually(async () => assert.equal(save("node1").includes("172.30.0.22"), false));
      assert.match(save("node1"), new RegExp(`^:${chain} `, "m"));
      const named = new RegExp(`${chain} stays, empty: a rule of STRANGER uses it`);
      await eventually(() => assert.match(agents[0]?.log ?? "", named));
      iptables("node1", "-t", "nat", "-F", "STRANGER");
      iptables("node1", "-t", "nat", "-X", "STRANGER");
      manifests.service(serviceOf("other", 23), ["pod1a"]); // the next write looks for what can go
      await eventually(async () => assert.equal(save("node1").includes(chain), false));
      manifests.remove("other");
    });

    test("killed: connections go on, new ones too; started again: the same rules", async () => {
      const client = await lab.host("client");
      const address = v4("node1");
      await eventually(async () => assert.equal(save("node1").includes("172.30.0.23"), false));
      const before = save("node1");
      await agents[0]?.kill9();
      await assertReaches(client, { address, port: 30010 }, seeing(address, ["pod1a", "pod2a"]));
      agents[0] = await lab.startAgent("node1", options);
      assert.equal(save("node1"), before);
      await assertReaches(client, { address, port: 30010 }, seeing(address, ["pod1a", "pod2a"]));
    });
  });
}
