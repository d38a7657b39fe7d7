// Tunnels: devices whose packets start with the IP header (tun, IP in IP), and overlays (VXLAN), by which clients come in
// or by which the pods of another node are reached. With `beeline apply` and no --device: they are found.
import assert from "node:assert/strict";
import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { after, before, describe, test } from "node:test";
import { BEELINE } from "../lib/agent.ts";
import { FORWARDINGS, type Forwarding, forwardingArguments } from "../lib/forwarding.ts";
import { Manifests } from "../lib/objects.ts";
import { nodePortServiceOf, openLab } from "../lib/served-lab.ts";
import { assertReaches, assertRefusedByIcmp } from "../lib/traffic.ts";
import { startTunWire } from "../lib/tun.ts";

const lab = await openLab();
const manifests = new Manifests(lab);
const FAMILIES = ["v4", "v6"] as const;
type Family = (typeof FAMILIES)[number];

before(async () => {
  manifests.service(nodePortServiceOf("web", 10), ["pod1a", "pod2a"]);
  manifests.service(nodePortServiceOf("empty", 12), []);
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

/** A device in node1 and one in another place, each other's end. */
interface Tunnel {
  readonly kind: string;
  readonly families: readonly Family[];
  readonly other: "client" | "node2";
  readonly device: string;
  /** Another of each. */
  readonly number: number;
}

const tunnels: readonly Tunnel[] = (
  [
    ["tun", FAMILIES],
    ["vxlan", FAMILIES],
    ["ipip", ["v4"]],
  ] as const
)
  .flatMap(([kind, families]) => [
    { kind, families, other: "client" } as const,
    { kind, families, other: "node2" } as const,
  ])
  .map((tunnel, i) => ({ ...tunnel, device: `${tunnel.kind}-${tunnel.other}`, number: i + 1 }));

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

const lacking = new Map(tunnels.map(({ kind }) => [kind, lacks(kind)]));
const here = tunnels.filter(({ kind }) => lacking.get(kind) === false);

/** 1: node1's end. */
const address = ({ number }: Tunnel, end: 1 | 2, family: Family): string =>
  family === "v4" ? `198.18.${number}.${end}` : `fd00:18:${number}::${end}`;

/** Makes both ends; answers what has to be ended for them to go, or null: they are to be deleted. */
const make = async (tunnel: Tunnel): Promise<ChildProcess | null> => {
  const { kind, device, other, number } = tunnel;
  const wire = kind === "tun" ? await startTunWire(device, [lab.inside("node1").netns, lab.inside(other).netns]) : null;
  for (const [place, far, end] of [
    ["node1", other, 1],
    [other, "node1", 2],
  ] as const) {
    const ends = `local ${lab.place(place).v4} remote ${lab.place(far).v4}`;
    if (kind === "vxlan") ip(place, `link add ${device} type vxlan id ${number} ${ends} dstport 8472`);
    if (kind === "ipip") ip(place, `link add ${device} type ipip ${ends}`);
    ip(place, `link set ${device} up`, `addr add ${address(tunnel, end, "v4")}/30 dev ${device}`);
    ip(place, `addr add ${address(tunnel, end, "v6")}/126 dev ${device} nodad`);
  }
  return wire;
};

/** Nothing of the tunnel is left. */
const take = async ({ device, other }: Tunnel, wire: ChildProcess | null): Promise<void> => {
  if (wire === null) for (const place of ["node1", other]) ip(place, `link del ${device}`);
  else {
    const ended = once(wire, "exit");
    wire.kill();
    await ended;
  }
};

/** Where the nodes send what is for each other's pods: into the tunnel; null: by the wire between them. */
const routePods = (tunnel: Tunnel | null): void => {
  for (const [place, far, n, end] of [
    ["node1", "node2", 2, 2],
    ["node2", "node1", 1, 1],
  ] as const) {
    const via = (family: Family): string =>
      tunnel === null ? lab.place(far)[family] : `${address(tunnel, end, family)} dev ${tunnel.device}`;
    ip(place, `route replace 10.244.${n}.0/24 via ${via("v4")}`, `route replace fd00:244:${n}::/64 via ${via("v6")}`);
  }
};

const comesIn = (tunnel: Tunnel): void => {
  for (const family of tunnel.families) {
    const node = address(tunnel, 1, family);
    const client = address(tunnel, 2, family);

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
      const answer = await host.transfer(address(tunnel, 1, "v4"), 30010, 1_000_000);
      assert.ok(answer.ok, JSON.stringify(answer));
    }
  });
};

const areBehind = (tunnel: Tunnel): void => {
  before(() => {
    routePods(tunnel);
    // As on most machines: what claims to be from a pod may come by the tunnel only.
    assert.equal(lab.run("node1", ["sh", "-c", "echo 1 >/proc/sys/net/ipv4/conf/eth0/rp_filter"]).status, 0);
  });
  after(() => routePods(null));

  for (const family of tunnel.families) {
    test(`${family}: NodePort from outside: a remote pod sees the tunnel's address, and answers through it`, async () => {
      const node = lab.place("node1")[family];
      const client = lab.place("client")[family];
      const host = await lab.host("client");
      const expected = { pod1a: client, pod2a: address(tunnel, 1, family) };
      await assertReaches(host, { address: node, port: 30010 }, expected);
      await assertReaches(host, { transport: "UDP", address: node, port: 30110 }, expected);
      // Of ports of its own: what is remembered of a flow may be of the way before.
      const again = await host.connections(6, node, 30010, { localPort: 24_000 + 100 * tunnel.number });
      for (const answer of again) assert.ok(answer.ok, JSON.stringify(answer));
    });

    test(`${family}: from a pod: a remote pod sees the pod`, async () => {
      const vip = family === "v4" ? "172.30.0.10" : "fd00:172:30::10";
      const pod = lab.place("pod1b")[family];
      await assertReaches(await lab.host("pod1b"), { address: vip, port: 80 }, { pod1a: pod, pod2a: pod });
    });
  }
};

for (const forwarding of FORWARDINGS) {
  describe(`forwarding: ${forwarding}`, () => {
    let wires: readonly (readonly [Tunnel, ChildProcess | null])[] = [];

    before(async () => {
      for (const tunnel of here) wires = [...wires, [tunnel, await make(tunnel)]];
      for (const node of ["node1", "node2"] as const) {
        const devices = here.filter(({ other }) => node === "node1" || other === node).map(({ device }) => device);
        assert.deepEqual(apply(node, forwarding), ["eth0", ...devices].sort());
      }
    });
    after(async () => {
      for (const node of ["node1", "node2"]) reset(node);
      for (const [tunnel, wire] of wires) await take(tunnel, wire);
    });

    for (const tunnel of tunnels) {
      const skip = lacking.get(tunnel.kind) ?? false;
      if (tunnel.other === "client") describe(`a client comes in by ${tunnel.kind}`, { skip }, () => comesIn(tunnel));
      else describe(`the pods of the other node are behind ${tunnel.kind}`, { skip }, () => areBehind(tunnel));
    }
  });
}
