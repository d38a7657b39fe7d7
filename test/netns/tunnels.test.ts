// Tunnels: devices whose packets start with the IP header (tun, IP in IP), and overlays (VXLAN), by which clients come in
// or by which the pods of another node are reached. With `beeline apply` and no --device: they are found.
import assert from "node:assert/strict";
import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { after, before, describe, test } from "node:test";
import { BEELINE } from "../lib/agent.ts";
import { FORWARDINGS, type Forwarding, forwardingArguments } from "../lib/forwarding.ts";
import { Lab } from "../lib/lab.ts";
import { Manifests, type ServiceWords } from "../lib/objects.ts";
import { assertReaches, assertRefusedByIcmp } from "../lib/traffic.ts";
import { startTunWire } from "../lib/tun.ts";

const lab = await Lab.create();
after(() => lab.close());
const manifests = new Manifests(lab);
const FAMILIES = ["v4", "v6"] as const;
type Family = (typeof FAMILIES)[number];

const service = (name: string, number: number): ServiceWords => ({
  name,
  type: "NodePort",
  clusterIPs: [`172.30.0.${number}`, `fd00:172:30::${number}`],
  ports: [
    { name: "tcp", port: 80, protocol: "TCP", nodePort: 30000 + number },
    { name: "udp", port: 53, protocol: "UDP", nodePort: 30100 + number },
  ],
});

before(async () => {
  manifests.service(service("web", 10), ["pod1a", "pod2a"]);
  manifests.service(service("empty", 12), []);
  await lab.startHosts();
  for (const pod of ["pod1a", "pod2a"]) await (await lab.host(pod)).serve(pod, 8080, "TCP", "UDP");
});

const ip = (place: string, ...lines: readonly string[]): void => {
  for (const line of lines) {
    const { status, stderr } = lab.run(place, ["ip", ...line.split(" ")]);
    assert.equal(status, 0, `${place}: ip ${line}: ${stderr}`);
  }
};

/** Programs a node, which finds its devices itself; answers those that are served. */
const apply = (node: string, forwarding: Forwarding): readonly string[] => {
  lab.fitWire(node, forwarding === "xdp");
  const place = ["--cgroup", lab.cgroup(node), "--bpffs", lab.bpffs(node), "--node", node];
  place.push(...forwardingArguments(forwarding));
  const { status, stderr } = lab.run(node, [BEELINE, "apply", "-f", manifests.path, ...place]);
  assert.equal(status, 0, stderr);
  assert.doesNotMatch(stderr, /WARN|ERROR/);
  const { hooks } = JSON.parse(lab.beeline(node, ["status", "-o", "json"]).stdout) as {
    readonly hooks: readonly { readonly target: string; readonly role: string; readonly attached: boolean }[];
  };
  return [...new Set(hooks.filter((h) => h.role === "node" && h.attached).map((h) => h.target))].sort();
};

const reset = (node: string): void => assert.equal(lab.beeline(node, ["reset"]).status, 0);

interface Tunnel {
  readonly kind: string;
  readonly families: readonly Family[];
  /** Makes `device` in both places, each other's end; answers what has to be ended. */
  make(device: string, a: string, b: string): Promise<ChildProcess | null>;
}

const tunnels: readonly Tunnel[] = [
  {
    kind: "tun",
    families: FAMILIES,
    make: (device, a, b) => startTunWire(device, [lab.inside(a).netns, lab.inside(b).netns]),
  },
  {
    kind: "vxlan",
    families: FAMILIES,
    async make(device, a, b) {
      for (const [here, there] of [
        [a, b],
        [b, a],
      ] as const) {
        const ends = `local ${lab.place(here).v4} remote ${lab.place(there).v4}`;
        ip(here, `link add ${device} type vxlan id 7 ${ends} dstport 8472 dev eth0`);
      }
      return null;
    },
  },
  {
    kind: "ipip",
    families: ["v4"],
    async make(device, a, b) {
      for (const [here, there] of [
        [a, b],
        [b, a],
      ] as const) {
        ip(here, `link add ${device} type ipip local ${lab.place(here).v4} remote ${lab.place(there).v4}`);
      }
      return null;
    },
  },
];

/** Whether this kernel can make such a device; false, or what it says. */
const lacks = (kind: string): string | false => {
  const type = kind === "tun" ? "" : `type ${kind} ${kind === "vxlan" ? "id 9 dstport 8473" : "remote 192.0.2.1"}`;
  const [device, argv] = ["probe0", kind === "tun" ? "ip tuntap add mode tun" : "ip link add"];
  const words = kind === "tun" ? `${argv} ${device}` : `${argv} ${device} ${type}`;
  const { status, stderr } = lab.run("wire", words.split(" "));
  if (status !== 0) return `this kernel has no ${kind}: ${stderr.trim()}`;
  ip("wire", `link del ${device}`);
  return false;
};

const address = (end: 1 | 2, family: Family): string => (family === "v4" ? `198.18.0.${end}` : `fd00:18::${end}`);

const raise = (place: string, device: string, end: 1 | 2): void =>
  ip(
    place,
    `link set ${device} up`,
    `addr add ${address(end, "v4")}/30 dev ${device}`,
    `addr add ${address(end, "v6")}/126 dev ${device} nodad`,
  );

for (const [{ kind, families, make }, forwarding] of tunnels.flatMap((tunnel) =>
  FORWARDINGS.map((forwarding) => [tunnel, forwarding] as const),
)) {
  const skip = lacks(kind);

  describe(`forwarding: ${forwarding}: a client comes in by ${kind}`, { skip }, () => {
    let wire: ChildProcess | null = null;

    before(async () => {
      wire = await make("t0", "node1", "client");
      raise("node1", "t0", 1);
      raise("client", "t0", 2);
      assert.deepEqual(apply("node1", forwarding), ["eth0", "t0"]);
    });
    after(async () => {
      reset("node1");
      await take(wire, "node1", "client");
    });

    for (const family of families) {
      const node = address(1, family);
      const client = address(2, family);

      test(`${family}: NodePort at the tunnel's address: a local pod sees the client, a remote one the node`, async () => {
        const expected = { pod1a: client, pod2a: lab.place("node1")[family] };
        const host = await lab.host("client");
        await assertReaches(host, { address: node, port: 30010 }, expected);
        await assertReaches(host, { transport: "UDP", address: node, port: 30110 }, expected);
      });

      test(`${family}: no endpoint: refused by an ICMP error, TCP and UDP`, async () => {
        const host = await lab.host("client");
        await assertRefusedByIcmp(host, node, 30012);
        const udp = await host.connectedUdp(node, 30112);
        assert.partialDeepStrictEqual(udp, { ok: false, code: "ECONNREFUSED" });
      });
    }

    test("a megabyte goes there and comes back whole", async () => {
      const host = await lab.host("client");
      for (let i = 0; i < 4; i++) {
        const answer = await host.transfer(address(1, "v4"), 30010, 1_000_000);
        assert.ok(answer.ok, JSON.stringify(answer));
      }
    });
  });

  describe(`forwarding: ${forwarding}: the pods of the other node are behind ${kind}`, { skip }, () => {
    let wire: ChildProcess | null = null;

    before(async () => {
      wire = await make("t0", "node1", "node2");
      raise("node1", "t0", 1);
      raise("node2", "t0", 2);
      for (const [node, other, end] of [
        ["node1", 2, 2],
        ["node2", 1, 1],
      ] as const) {
        ip(node, `route replace 10.244.${other}.0/24 via ${address(end, "v4")} dev t0`);
        ip(node, `route replace fd00:244:${other}::/64 via ${address(end, "v6")} dev t0`);
        assert.deepEqual(apply(node, forwarding), ["eth0", "t0"]);
      }
      // As on most machines: what claims to be from a pod may come by the tunnel only.
      assert.equal(lab.run("node1", ["sh", "-c", "echo 1 >/proc/sys/net/ipv4/conf/eth0/rp_filter"]).status, 0);
    });
    after(async () => {
      for (const node of ["node1", "node2"]) reset(node);
      await take(wire, "node1", "node2");
      for (const [node, other] of [
        ["node1", "node2"],
        ["node2", "node1"],
      ] as const) {
        const n = other.slice("node".length);
        ip(node, `route replace 10.244.${n}.0/24 via ${lab.place(other).v4}`);
        ip(node, `route replace fd00:244:${n}::/64 via ${lab.place(other).v6}`);
      }
    });

    for (const family of families) {
      test(`${family}: NodePort from outside: a remote pod sees the tunnel's address, and answers through it`, async () => {
        const node = lab.place("node1")[family];
        const client = lab.place("client")[family];
        const host = await lab.host("client");
        const expected = { pod1a: client, pod2a: address(1, family) };
        await assertReaches(host, { address: node, port: 30010 }, expected);
        await assertReaches(host, { transport: "UDP", address: node, port: 30110 }, expected);
        const again = await host.connections(6, node, 30010, { localPort: 24_000 });
        for (const answer of again) assert.ok(answer.ok, JSON.stringify(answer));
      });

      test(`${family}: from a pod: a remote pod sees the pod`, async () => {
        const vip = family === "v4" ? "172.30.0.10" : "fd00:172:30::10";
        const pod = lab.place("pod1b")[family];
        await assertReaches(await lab.host("pod1b"), { address: vip, port: 80 }, { pod1a: pod, pod2a: pod });
      });
    }
  });
}

/** Nothing of the tunnel is left. */
const take = async (wire: ChildProcess | null, a: string, b: string): Promise<void> => {
  if (wire === null) for (const place of [a, b]) ip(place, "link del t0");
  else {
    const ended = once(wire, "exit");
    wire.kill();
    await ended;
  }
};
