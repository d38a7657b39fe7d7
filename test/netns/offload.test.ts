// tc on real devices, with the checksum offloads that BPF_PROG_TEST_RUN cannot show: what leaves a socket here has no
// checksum yet (CHECKSUM_PARTIAL) and may be 64 KiB long. Each side's device completes checksums itself or leaves it to
// the end, which on a veth means that nobody looks; so "off" on one side makes the other side verify for real. Between a
// client and a pod, in every way of forwarding but XDP, which has no part in it.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";
import { hook } from "../../src/dataplane/bpf/abi.gen.ts";
import { hasTcx } from "../../src/dataplane/bpf/probe.ts";
import { clsactAttach, clsactDetach } from "../../src/dataplane/bpf/system/clsact.ts";
import { closeFd } from "../../src/dataplane/bpf/system/file.ts";
import { interfaceIndex } from "../../src/dataplane/bpf/system/interface.ts";
import { linkCreate } from "../../src/dataplane/bpf/system/link.ts";
import { Datapath, type ForwardName, publish, type ReasonName } from "../lib/datapath.ts";
import { CallError, type Name, type Namespace, newNamespace, Socket } from "../lib/socket.ts";

const kinds = [
  { family: "IPv4", vip: "203.0.113.10", backend: "10.1.0.5", client: "192.168.9.2" },
  { family: "IPv6", vip: "2001:db8:2::10", backend: "fd00:1::5", client: "fd00:9::2" },
] as const;

const setUp = (node: Namespace, client: Namespace, pod: Namespace): void => {
  const ip = (where: Namespace, lines: readonly string[]): void =>
    void execFileSync("nsenter", [`--net=${where.path}`, "ip", "-batch", "-"], { input: lines.join("\n") });
  ip(client, ["link add c0 type veth peer name n0", `link set n0 netns ${process.pid}`]);
  ip(pod, ["link add e0 type veth peer name p0", `link set p0 netns ${process.pid}`]);
  ip(client, [
    "link set lo up",
    "addr add 192.168.9.2/24 dev c0",
    "addr add fd00:9::2/64 dev c0 nodad",
    "link set c0 up",
  ]);
  ip(node, [
    "link set lo up",
    "addr add 192.168.9.1/24 dev n0",
    "addr add fd00:9::1/64 dev n0 nodad",
    "link set n0 up",
  ]);
  ip(node, ["addr add 10.1.0.1/24 dev p0", "addr add fd00:1::1/64 dev p0 nodad", "link set p0 up"]);
  ip(pod, [
    "link set lo up",
    "addr add 10.1.0.5/24 dev e0",
    "addr add fd00:1::5/64 dev e0 nodad",
    "link set e0 up",
    "route add default via 10.1.0.1",
    "route add ::/0 via fd00:1::1",
  ]);
  ip(client, ["route add default via 192.168.9.1", "route add ::/0 via fd00:9::1"]);
  for (const setting of ["ipv4/ip_forward", "ipv6/conf/all/forwarding"]) writeFileSync(`/proc/sys/net/${setting}`, "1");
};

let node: Namespace;
let client: Namespace;
let pod: Namespace;
let datapath: Datapath;
let detach: (() => void) | undefined;
let sockets: Socket[] = [];

before(() => {
  client = newNamespace();
  pod = newNamespace();
  node = newNamespace();
  setUp(node, client, pod);
});
after(() => {
  execFileSync("nsenter", [`--net=${client.path}`, "ip", "link", "del", "c0"]);
  execFileSync("nsenter", [`--net=${pod.path}`, "ip", "link", "del", "e0"]);
});

const HANDLE = 1;
const PRIORITY = 1;

const attach = (): (() => void) => {
  const [wire, peer] = [interfaceIndex("n0") ?? 0, interfaceIndex("p0") ?? 0];
  const programs = [
    [wire, "ingress", datapath.program("tc_ingress")],
    [wire, "egress", datapath.program("tc_egress")],
    [peer, "ingress", datapath.program("tc_pod_reply")],
  ] as const;
  if (hasTcx()) {
    const links = programs.map(([device, direction, program]) => linkCreate(program, device, `tcx_${direction}`));
    return () => links.forEach(closeFd);
  }
  for (const [device, direction, program] of programs) clsactAttach(device, direction, program, HANDLE, PRIORITY);
  return () => {
    for (const [device, direction] of programs) clsactDetach(device, direction, HANDLE, PRIORITY);
  };
};

const open = (where: Namespace, protocol: "TCP" | "UDP", family: "IPv4" | "IPv6", patience_ms = 500): Socket => {
  where.enter();
  const socket = new Socket(protocol, family, patience_ms);
  node.enter();
  sockets.push(socket);
  return socket;
};

const offload = (where: Namespace, device: string, tx: "on" | "off"): void =>
  void execFileSync("nsenter", [`--net=${where.path}`, "ethtool", "-K", device, "tx", tx], { stdio: "ignore" });

const SENT: readonly ForwardName[] = ["FORWARD_PEER", "FORWARD_NEIGHBOUR", "FORWARD_WIRE"];

const isRefused = (action: () => unknown): void =>
  assert.throws(action, (error) => error instanceof CallError && error.code === "ECONNREFUSED");

/** How often tc_ingress counted it. What it answers leaves by tc_egress, which counts it, too. */
const countIn = (reason: ReasonName, action: () => void): number =>
  datapath.counted(action).filter((c) => c.hook === hook.HOOK_TC_INGRESS && c.reason === reason).length;

for (const forwarding of ["kernel", "direct"] as const) {
  describe(`forwarding: ${forwarding}`, () => {
    beforeEach(() => {
      const crossing = { wire: interfaceIndex("n0") ?? 0, pod: interfaceIndex("p0") ?? 0 };
      datapath = new Datapath({}, {}, forwarding === "direct" ? () => crossing : null);
      detach = attach();
    });
    afterEach(() => {
      for (const socket of sockets) socket.close();
      sockets = [];
      detach?.();
      datapath.close();
    });

    /** In each direction at least one packet goes on as it should, and none otherwise. */
    const goesOn = (action: () => void): void => {
      const ways = new Set(datapath.forwarded(action).map(({ forward }) => forward));
      if (forwarding === "kernel") return assert.equal(ways.size, 0);
      for (const way of ways) assert.ok(SENT.includes(way), way);
      assert.ok(ways.has("FORWARD_PEER") && ways.has("FORWARD_WIRE"), [...ways].join());
    };

    for (const k of kinds) {
      for (const there of ["on", "off"] as const) {
        for (const here of ["on", "off"] as const) {
          describe(`${k.family}, checksum offload ${there} at the client and the pod, ${here} at the node`, () => {
            const vip: Name = [k.vip, 80];
            before(() => {
              offload(client, "c0", there);
              offload(node, "n0", here);
              offload(pod, "e0", there);
              offload(node, "p0", here);
            });

            test("TCP: a connection, and large writes both ways", () => {
              publish(datapath, { address: k.vip, port: 80 }, [{ id: 1, address: k.backend, local: true }]);
              const server = open(pod, "TCP", k.family).bind([k.backend, 8080]).listen();
              goesOn(() => {
                const socket = open(client, "TCP", k.family).connect(vip);
                const accepted = server.accept();
                sockets.push(accepted);
                assert.equal(accepted.peer()[0], k.client);
                const text = "0123456789abcdef".repeat(2000);
                for (const [from, to] of [
                  [socket, accepted],
                  [accepted, socket],
                ] as const) {
                  from.send(text);
                  let got = "";
                  while (got.length < text.length) got += to.receive().text;
                  assert.equal(got, text);
                }
              });
            });

            test("UDP: a question and its answer", () => {
              publish(datapath, { address: k.vip, port: 80, proto: "UDP" }, [
                { id: 1, address: k.backend, local: true },
              ]);
              const server = open(pod, "UDP", k.family).bind([k.backend, 8080]);
              const socket = open(client, "UDP", k.family).connect(vip);
              goesOn(() => {
                for (const text of ["", "x", "yz", "a longer question".repeat(50)]) {
                  socket.send(text);
                  const got = server.receive();
                  assert.equal(got.text, text);
                  server.send(got.text, got.from);
                  assert.deepEqual(socket.receive(), { text, from: vip });
                }
              });
            });

            // The first error comes while connect() is still sending, and counts as a hint; the second SYN, a second later,
            // is refused for good. (On a real wire the first one is.) So not in every combination.
            if (here === "off") {
              test("no endpoints: the client's kernel takes the ICMP error for TCP", () => {
                publish(datapath, { address: k.vip, port: 80 }, []);
                isRefused(() => open(client, "TCP", k.family, 5000).connect(vip));
              });
            }

            for (const size of [0, 1, 100, 700, 1400]) {
              test(`no endpoints: and for a datagram of ${size} bytes`, () => {
                publish(datapath, { address: k.vip, port: 80, proto: "UDP" }, []);
                const socket = open(client, "UDP", k.family).connect(vip);
                assert.equal(
                  countIn("REASON_NO_ENDPOINTS", () => socket.send("x".repeat(size))),
                  1,
                );
                isRefused(() => socket.receive());
              });
            }
          });
        }
      }
    }
  });
}
