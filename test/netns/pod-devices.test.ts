// Pods whose sockets are not translated: served packet by packet at the node's end of their device, as by their sockets.
// By bpf.socketLB (host, off) all pods of a node; by bpf.podDevices those behind some devices, such as a virtual machine's.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { hasTcx } from "../../src/dataplane/bpf/probe.ts";
import { bootTime_ns } from "../../src/dataplane/bpf/system/clock.ts";
import { BEELINE } from "../lib/agent.ts";
import { eventually } from "../lib/eventually.ts";
import { FORWARDING_FIELDS, FORWARDINGS } from "../lib/forwarding.ts";
import { Host } from "../lib/host/host.ts";
import { Manifests } from "../lib/objects.ts";
import { openLab, PODS, serviceOf } from "../lib/served-lab.ts";
import { assertFails, assertReaches, assertRefusedByIcmp, type Tried } from "../lib/traffic.ts";

const lab = await openLab();
const manifests = new Manifests(lab);

before(async () => {
  manifests.service(serviceOf("web", 10), ["pod1a", "pod2a"]);
  manifests.service(serviceOf("local", 11, { externalTrafficPolicy: "Local", internalTrafficPolicy: "Local" }), [
    "pod2a",
  ]);
  manifests.service(serviceOf("empty", 12), []);
  manifests.service(serviceOf("alone", 13), ["pod1a"]);
  manifests.service(serviceOf("far", 14), ["pod2b"]);
  manifests.service(serviceOf("host", 15), ["node1", "node2"]);
  manifests.service(serviceOf("guarded", 16, { sourceRanges: ["10.244.1.11/32", "fd00:244:1::11/128"] }), ["pod2a"]);
  manifests.service(serviceOf("sticky", 17, { affinity_timeout_s: 100 }), PODS);
  await lab.startHosts();
  for (const name of [...PODS, "node1", "node2"]) await (await lab.host(name)).serve(name, 8080, "TCP", "UDP");
});

const FAMILIES = ["v4", "v6"] as const;
type Family = (typeof FAMILIES)[number];
const at = (name: string, family: Family): string => lab.place(name)[family];

/** A Service's addresses that pods ask, of one family; TCP at 80 and UDP at 53. */
const vips = (number: number, family: Family): readonly string[] =>
  family === "v4"
    ? [`172.30.0.${number}`, `198.51.100.${number}`, `198.51.100.1${number}`]
    : [`fd00:172:30::${number}`, `fd00:198::${number}`, `fd00:198::1${number}`];

const bothWays = (address: string, number: number, isNodePort = false): readonly Tried[] => [
  { address, port: isNodePort ? 30000 + number : 80 },
  { transport: "UDP", address, port: isNodePort ? 30100 + number : 53 },
];

const startAgents = async (bpf: object): Promise<void> => {
  await Promise.all(lab.nodes().map((node) => lab.startAgent(node.name, { manifests: manifests.path, bpf })));
};

const stopAgents = async (): Promise<void> => {
  await Promise.all(lab.agents.map((agent) => agent.stop()));
  for (const node of lab.nodes()) {
    const { status, stderr } = lab.beeline(node.name, ["reset"]);
    assert.equal(status, 0, stderr);
  }
};

interface Status {
  readonly hooks: readonly { readonly hook: string; readonly target: string; readonly role: string | null }[];
  readonly unhookedNetns: number;
  readonly packets: readonly { readonly hook: string; readonly reason: string; readonly count: number }[];
}

const statusOf = (node: string): Status => {
  const { status, stdout, stderr } = lab.beeline(node, ["status", "-o", "json"]);
  assert.equal(status, 0, stderr);
  return JSON.parse(stdout) as Status;
};
const podDevicesOf = (node: string): readonly string[] => {
  const devices = statusOf(node).hooks.filter(({ role }) => role === "pod");
  return [...new Set(devices.map(({ target }) => target))].sort();
};
const counted = (node: string, hook: string, reason: string): number =>
  statusOf(node).packets.find((one) => one.hook === hook && one.reason === reason)?.count ?? 0;

/** What holds for a pod of node1 whose sockets nobody translates. `pod1a` is itself a backend, `pod1b` is none. */
type HostOf = (pod: "pod1a" | "pod1b") => Promise<Host>;

/** The least of it, for every mode. */
const podsReachServices = (hostOf: HostOf): void => {
  for (const family of FAMILIES) {
    test(`${family}: pods reach local pods, remote pods and themselves`, async () => {
      const [address = ""] = vips(10, family);
      for (const tried of bothWays(address, 10)) {
        const seen = { pod1a: at("node1", family), pod2a: at("pod1a", family) };
        await assertReaches(await hostOf("pod1a"), tried, seen);
        const pod = at("pod1b", family);
        await assertReaches(await hostOf("pod1b"), tried, { pod1a: pod, pod2a: pod });
      }
    });
  }
};

const podsAreServed = (hostOf: HostOf): void => {
  for (const family of FAMILIES) {
    const own = (name: string): string => at(name, family);

    test(`${family}: ClusterIP, LoadBalancer and external IP: local and remote pods see the pod itself`, async () => {
      const pod = await hostOf("pod1b");
      for (const address of vips(10, family)) {
        for (const tried of bothWays(address, 10)) {
          await assertReaches(pod, tried, { pod1a: own("pod1b"), pod2a: own("pod1b") });
        }
      }
    });

    test(`${family}: NodePort of the own node: as a ClusterIP; of the other node: as from outside`, async () => {
      const pod = await hostOf("pod1b");
      for (const tried of bothWays(own("node1"), 10, true)) {
        await assertReaches(pod, tried, { pod1a: own("pod1b"), pod2a: own("pod1b") });
      }
      for (const tried of bothWays(own("node2"), 10, true)) {
        await assertReaches(pod, tried, { pod1a: own("node2"), pod2a: own("pod1b") });
      }
    });

    test(`${family}: hairpin: a pod that reaches itself sees its node's address, and hears the VIP`, async () => {
      const pod = await hostOf("pod1a");
      for (const tried of [...bothWays(own("node1"), 13, true), ...vips(13, family).flatMap((a) => bothWays(a, 13))]) {
        await assertReaches(pod, tried, { pod1a: own("node1") });
      }
      for (const tried of bothWays(vips(10, family)[0] ?? "", 10)) {
        await assertReaches(pod, tried, { pod1a: own("node1"), pod2a: own("pod1a") });
      }
    });

    test(`${family}: backends in the nodes' own network, of this node and the other`, async () => {
      const pod = await hostOf("pod1b");
      for (const tried of bothWays(vips(15, family)[0] ?? "", 15)) {
        await assertReaches(pod, tried, { node1: own("pod1b"), node2: own("pod1b") });
      }
    });

    test(`${family}: no endpoint: refused; policy Local and none here: dropped; not in source ranges: dropped`, async () => {
      const pod = await hostOf("pod1b");
      const [cluster = "", balancer = ""] = vips(12, family);
      await assertRefusedByIcmp(pod, cluster, 80);
      for (const address of [cluster, balancer]) {
        const udp = await pod.connectedUdp(address, 53);
        assert.partialDeepStrictEqual(udp, { ok: false, code: "ECONNREFUSED" });
      }
      const dropped = [...bothWays(vips(11, family)[0] ?? "", 11), ...bothWays(vips(16, family)[1] ?? "", 16)];
      await Promise.all(dropped.map((tried) => assertFails(pod, { ...tried, timeout_ms: 200 }, "TIMEOUT")));
      for (const tried of bothWays(vips(16, family)[1] ?? "", 16)) {
        await assertReaches(await hostOf("pod1a"), tried, { pod2a: own("pod1a") });
      }
    });

    test(`${family}: externalTrafficPolicy Local does not concern a pod that asks a LoadBalancer's address`, async () => {
      const pod = await hostOf("pod1b");
      for (const tried of bothWays(vips(11, family)[1] ?? "", 11)) {
        await assertReaches(pod, tried, { pod2a: own("pod1b") });
      }
    });

    test(`${family}: session affinity keeps a pod's backend`, async () => {
      const pod = await hostOf("pod1b");
      const names = (await pod.connections(12, vips(17, family)[0] ?? "", 80)).map((a) => (a.ok ? a.name : a.code));
      assert.equal(new Set(names).size, 1, names.join());
      assert.match(names[0] ?? "", /^pod/);
    });

    test(`${family}: a megabyte goes there and comes back whole, to a local, a remote and the own pod`, async () => {
      for (const [from, number, name] of [
        ["pod1b", 13, "pod1a"] as const,
        ["pod1b", 14, "pod2b"] as const,
        ["pod1a", 13, "pod1a"] as const,
      ]) {
        const answer = await (await hostOf(from)).transfer(vips(number, family)[0] ?? "", 80, 1_000_000);
        assert.ok(answer.ok && answer.name === name, JSON.stringify(answer));
      }
    });

    test(`${family}: a client outside is served as ever, by a pod with a program at its device`, async () => {
      const client = await lab.host("client");
      for (const tried of bothWays(own("node1"), 10, true)) {
        await assertReaches(client, tried, { pod1a: own("client"), pod2a: own("node1") });
      }
    });

    test(`${family}: what is no frontend is left alone: a pod, a node, both ways`, async () => {
      const pod = await hostOf("pod1b");
      for (const name of ["pod1a", "pod2a", "node1", "node2"]) {
        await assertReaches(pod, { address: own(name), port: 8080 }, { [name]: own("pod1b") });
      }
      await assertReaches(await lab.host("node1"), { address: own("pod1b"), port: 8080 }, { pod1b: own("node1") });
    });
  }
};

const inLab = (pod: string): Promise<Host> => lab.host(pod);

for (const forwarding of FORWARDINGS) {
  describe(`forwarding: ${forwarding}: bpf.socketLB host: sockets of the host, packets of the pods`, () => {
    before(() =>
      startAgents({ ...FORWARDING_FIELDS[forwarding], socketLB: "host", attach: hasTcx() ? "tcx" : "clsact" }),
    );
    after(stopAgents);

    test("every pod's device has programs, and status says so", () => {
      assert.deepEqual(podDevicesOf("node1"), ["pod1a", "pod1b"]);
      assert.match(
        lab.beeline("node1", ["status"]).stdout,
        /^Pod devices: +pod1a, pod1b \(\w+ egress, \w+ ingress\)$/m,
      );
    });

    podsAreServed(inLab);

    test("pods' sockets are not counted, the host's are; the host is its own client, also at 127.0.0.1", async () => {
      const before = counted("node1", "sock", "new_flow");
      await (await lab.host("pod1b")).connect("172.30.0.13", 80);
      assert.equal(counted("node1", "sock", "new_flow"), before);
      const node = await lab.host("node1");
      for (const [address, port] of [["172.30.0.13", 80] as const, ["fd00:172:30::13", 80] as const]) {
        const family = address.includes(":") ? "v6" : "v4";
        await assertReaches(node, { address, port }, { pod1a: at("node1", family) });
      }
      await assertReaches(node, { address: "127.0.0.1", port: 30013 }, { pod1a: at("node1", "v4") });
      for (const family of FAMILIES) {
        await assertReaches(node, { address: at("node1", family), port: 30013 }, { pod1a: at("node1", family) });
        // From the other node: its own socket, which the NodePort's frontend translates only for its own addresses.
        const seen = { pod1a: at("node2", family) };
        await assertReaches(await lab.host("node2"), { address: at("node1", family), port: 30013 }, seen);
      }
      assert.ok(counted("node1", "sock", "new_flow") > before);
    });

    test("127.0.0.1 in a pod is the pod's own", async () => {
      await assertFails(await lab.host("pod1b"), { address: "127.0.0.1", port: 30013 }, "ECONNREFUSED");
    });
  });

  describe(`forwarding: ${forwarding}: bpf.socketLB off: packets alone`, () => {
    before(() => startAgents({ ...FORWARDING_FIELDS[forwarding], socketLB: "off", attach: "clsact" }));
    after(stopAgents);

    test("no socket hook is attached", () => {
      assert.deepEqual(new Set(statusOf("node1").hooks.map(({ role }) => role)), new Set(["node", "pod"]));
    });

    podsReachServices(inLab);

    test("what the host itself sends to a frontend goes on untranslated, and is counted", async () => {
      const before = counted("node1", "tc_egress", "not_handled");
      await assertFails(await lab.host("node1"), { address: "172.30.0.13", port: 80, timeout_ms: 300 }, "TIMEOUT");
      assert.ok(counted("node1", "tc_egress", "not_handled") > before);
    });
  });

  describe(`forwarding: ${forwarding}: bpf.podDevices: pods whose sockets the node does not see`, () => {
    /** In the pod's network namespace, but in no cgroup of the node: as a virtual machine is. */
    const unseen = new Map<string, Host>();

    before(async () => {
      await startAgents({ ...FORWARDING_FIELDS[forwarding], podDevices: ["pod?a", "pod?b"] });
      for (const pod of ["pod1a", "pod1b"]) {
        unseen.set(pod, await Host.start({ ...lab.inside(pod), cgroup: lab.cgroup("client") }));
        await (await lab.host(pod)).stopServing(8080);
        await (await lab.host(pod)).stopServing(8080, "UDP");
        await unseen.get(pod)?.serve(pod, 8080, "TCP", "UDP");
      }
    });
    after(async () => {
      await stopAgents();
      for (const [pod, host] of unseen) {
        await host.close();
        await (await lab.host(pod)).serve(pod, 8080, "TCP", "UDP");
      }
    });

    podsReachServices(async (pod) => unseen.get(pod) ?? assert.fail(pod));

    test("a pod's device that appears is served within seconds, one that goes is let go", async () => {
      const script = "ip link add pod9a type veth peer name pod9x && ip link set pod9a up";
      assert.equal(lab.run("node1", ["sh", "-c", script]).status, 0);
      await eventually(() => assert.deepEqual(podDevicesOf("node1"), ["pod1a", "pod1b", "pod9a"]), 8000);
      assert.equal(lab.run("node1", ["ip", "link", "del", "pod9a"]).status, 0);
      await eventually(() => assert.deepEqual(podDevicesOf("node1"), ["pod1a", "pod1b"]), 8000);
    });
  });
}

interface Flow {
  readonly kind: string;
  readonly from: { readonly address: string; readonly port: number };
  readonly to: { readonly address: string; readonly port: number };
  readonly created_ns: string | number;
}

describe("bpf.podDevices: a pod whose sockets the node sees, beside one that is translated by its sockets", () => {
  const ONE_POD = { podDevices: ["pod?b"] };
  const restart = async (how: "stop" | "kill9", bpf: object): Promise<void> => {
    await lab.agents.at(-1)?.[how]();
    await lab.startAgent("node1", { manifests: manifests.path, bpf });
  };
  before(() => lab.startAgent("node1", { manifests: manifests.path, bpf: ONE_POD }));
  after(stopAgents);

  /**
   * What calls of `pod` are translated by; their peer is the VIP either way, and the backend sees the pod. Flows are told
   * by the calls' ports: connections of tests before may still be saying goodbye.
   */
  const assertTranslatedBy = async (hook: "sock" | "tc_ingress", pod: string): Promise<void> => {
    const host = await lab.host(pod);
    const start_ns = bootTime_ns();
    const ends: string[] = [];
    for (const family of FAMILIES) {
      const [vip = ""] = vips(14, family);
      const answers = [await host.connect(vip, 80), await host.udp(vip, 53), await host.connectedUdp(vip, 53)];
      for (const answer of answers) {
        const seen = { ok: true, name: "pod2b", peer: vip, client: at(pod, family) };
        assert.partialDeepStrictEqual(answer, seen);
        if (answer.ok) ends.push(`${answer.client} ${answer.clientPort} > ${answer.peer} ${answer.peerPort}`);
      }
    }
    const opened = readFlowsSince(start_ns).filter((flow) => ends.includes(flow));
    assert.deepEqual(opened.sort(), hook === "sock" ? [] : ends.sort(), pod);
  };
  /** `10.244.1.12 40000 > 172.30.0.14 80`, of those whose destination is rewritten. */
  const readFlowsSince = (start_ns: bigint): string[] => {
    const { status, stdout, stderr } = lab.beeline("node1", ["flows", "-o", "json"]);
    assert.equal(status, 0, stderr);
    const { items } = JSON.parse(stdout) as { readonly items: readonly Flow[] };
    return items
      .filter(({ kind, created_ns }) => kind === "DNAT" && BigInt(created_ns) >= start_ns)
      .map(({ from, to }) => `${from.address} ${from.port} > ${to.address} ${to.port}`);
  };
  const assertOnePodUnhooked = async (): Promise<void> => {
    assert.equal(statusOf("node1").unhookedNetns, 1);
    await assertTranslatedBy("tc_ingress", "pod1b");
    await assertTranslatedBy("sock", "pod1a");
  };

  test("it goes packet by packet; its neighbour by its sockets", async () => {
    await assertOnePodUnhooked();
    assert.match(lab.beeline("node1", ["status"]).stdout, /^Sockets: +9 hooks, not for 1 network namespace$/m);
  });

  test("the host's own processes go by their sockets", () => assertTranslatedBy("sock", "node1"));

  test("a killed agent leaves it so, and the next one takes it over", async () => {
    await lab.agents.at(-1)?.kill9();
    await assertOnePodUnhooked();
    await lab.startAgent("node1", { manifests: manifests.path, bpf: ONE_POD });
    await assertOnePodUnhooked();
  });

  test("connections of its sockets from before go on", async () => {
    await restart("stop", {});
    const host = await lab.host("pod1b");
    const [vip = ""] = vips(14, "v4");
    const tcp = await host.hold(vip, 80, 20);
    const { id } = await host.openUdp(4);
    assert.partialDeepStrictEqual(await host.askUdp(id, { address: vip, port: 53 }), { ok: true, peer: vip });
    await restart("stop", ONE_POD);
    await assertOnePodUnhooked();
    assert.partialDeepStrictEqual(await host.askUdp(id, { address: vip, port: 53 }), { ok: true, peer: vip });
    const { echoed } = await host.beats(tcp.id);
    await eventually(async () => {
      const beats = await host.beats(tcp.id);
      assert.ok(beats.ended === null && beats.echoed > echoed, JSON.stringify(beats));
    });
    await host.drop(tcp.id);
    await host.drop(id);
  });

  test("without the pattern it goes by its sockets again", async () => {
    await restart("kill9", {});
    assert.equal(statusOf("node1").unhookedNetns, 0);
    assert.deepEqual(podDevicesOf("node1"), []);
    await assertTranslatedBy("sock", "pod1b");
    await restart("stop", ONE_POD);
    await assertOnePodUnhooked();
  });

  test("a pod whose device's other end is moved away later is found, one that goes is forgotten", async () => {
    const netns = `${lab.name}-pod9`;
    const run = (script: string): void => {
      const { status, stderr } = lab.run("node1", ["sh", "-ec", script]);
      assert.equal(status, 0, stderr);
    };
    const unhooked = (): number => statusOf("node1").unhookedNetns;
    run(`ip netns add ${netns}`);
    try {
      run("ip link add pod9b type veth peer name pod9x && ip link set pod9b up");
      await eventually(() => assert.deepEqual(podDevicesOf("node1"), ["pod1b", "pod9b"]), 8000);
      assert.equal(unhooked(), 1);
      run(`ip link set pod9x netns ${netns}`);
      await eventually(() => assert.equal(unhooked(), 2), 8000);
    } finally {
      run(`ip netns del ${netns}`);
    }
    await eventually(() => assert.equal(unhooked(), 1), 8000);
    await assertOnePodUnhooked();
  });

  test("who may not enter its network namespace says so, and the pod goes by its sockets", async () => {
    await lab.agents.at(-1)?.stop();
    const config = `${lab.directory}/node1-config.json`; // that of the agent
    const place = ["--node", "node1", ...lab.placeArguments("node1"), "--config", config];
    const unprivileged = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "--"];
    const applied = lab.run("node1", [...unprivileged, BEELINE, "apply", "-f", manifests.path, ...place]);
    assert.equal(applied.status, 0, applied.stderr);
    assert.match(applied.stderr, /Sockets of the pod behind pod1b stay translated.*Cannot enter a network namespace/);
    assert.equal(statusOf("node1").unhookedNetns, 0);
    assert.deepEqual(podDevicesOf("node1"), ["pod1b"]);
    await assertTranslatedBy("sock", "pod1b");
    await lab.startAgent("node1", { manifests: manifests.path, bpf: ONE_POD });
    await assertOnePodUnhooked();
  });
});

describe("pods that share a bridge: their frames are for the bridge, and they answer each other without the node", () => {
  before(async () => {
    bridgePods();
    await startAgents({ socketLB: "host" });
  });
  after(stopAgents);

  podsReachServices(inLab);

  test("a pod's frames reach the other one as from itself, by the bridge alone", async () => {
    for (const family of FAMILIES) {
      const seen = { pod1a: at("pod1b", family) };
      await assertReaches(await lab.host("pod1b"), { address: at("pod1a", family), port: 8080 }, seen);
    }
  });
});

/** As the bridge plugin of CNI makes it. There is no way back: this is the last thing that the lab is used for. */
const bridgePods = (): void => {
  const run = (place: string, lines: readonly string[]): void => {
    const { status, stderr } = lab.run(place, ["sh", "-ec", lines.map((line) => `ip ${line}`).join("\n")]);
    assert.equal(status, 0, `${place}: ${stderr}`);
  };
  const pods = ["pod1a", "pod1b"];
  run("node1", [
    "link add cni0 type bridge",
    "link set cni0 up",
    "addr add 10.244.1.1/24 dev cni0",
    "addr add fd00:244:1::1/64 dev cni0 nodad",
    ...pods.flatMap((pod) => [
      `route del ${at(pod, "v4")}/32 dev ${pod}`,
      `route del ${at(pod, "v6")}/128 dev ${pod}`,
      `link set ${pod} master cni0`,
    ]),
  ]);
  for (const pod of pods) {
    run(pod, [
      "addr flush dev eth0 scope global",
      `addr add ${at(pod, "v4")}/24 dev eth0`,
      `addr add ${at(pod, "v6")}/64 dev eth0 nodad`,
      "route add default via 10.244.1.1",
      "-6 route replace default via fd00:244:1::1",
    ]);
  }
};
