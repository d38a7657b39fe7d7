// ICMP errors of routers, and of the nodes themselves, about translated packets: path MTU discovery finds every bottleneck,
// and who sends too few hops far hears of it. Where an error got lost on its way, the transfers here would hang. Through bpf
// and through kube-proxy's rules.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { Manifests } from "../lib/objects.ts";
import { BPF, IPTABLES, openLab, runOnEveryNode, serveAt, serviceOf } from "../lib/served-lab.ts";
import { CallError, openNamespace, Socket } from "../lib/socket.ts";

const lab = await openLab();
const manifests = new Manifests(lab);

const MTU = 1300;

before(async () => {
  manifests.service(serviceOf("near", 1), ["pod1a"]);
  manifests.service(serviceOf("far", 2), ["pod2a"]);
  await serveAt(lab, ["pod1a", "pod2a"]);
});

const ip = (place: string, line: string): void => {
  const { status, stderr } = lab.run(place, ["ip", ...line.split(" ")]);
  if (status !== 0) throw new Error(`ip ${line}: ${stderr}`);
};

/** Nobody remembers what the test before found out. */
const forgetPaths = (): void => {
  for (const { name } of lab.places) for (const family of ["-4", "-6"]) ip(name, `${family} route flush cache`);
};

const kinds = [
  { family: "IPv4", near: "198.51.100.1", far: "198.51.100.2", pods: "10.244.2.0/24", at: "v4" },
  { family: "IPv6", near: "fd00:198::1", far: "fd00:198::2", pods: "fd00:244:2::/64", at: "v6" },
] as const;

const home = openNamespace("/proc/self/ns/net");
const IP_TTL = { v4: 2, v6: 16 };
const IP_MTU_DISCOVER = { v4: 10, v6: 23 };
const IP_RECVERR = { v4: 11, v6: 25 };
const IP_PMTUDISC_DO = 2;

/** A UDP socket of the client, connected to a VIP, that is told of every error. */
const connectedUdp = (family: "IPv4" | "IPv6", vip: string): Socket => {
  openNamespace(lab.inside("client").netns).enter();
  try {
    return new Socket("UDP", family, 1000).option(IP_RECVERR, 1).connect([vip, 53]);
  } finally {
    home.enter();
  }
};

const codeOf = (action: () => unknown): string => {
  try {
    action();
  } catch (error) {
    if (error instanceof CallError) return error.code;
    throw error;
  }
  return "none";
};

for (const dataplane of [...BPF, IPTABLES]) {
  describe(dataplane.title, () => {
    runOnEveryNode(lab, manifests, dataplane);

    for (const k of kinds) {
      const node = (name: string): string => lab.place(name)[k.at];
      const client = lab.place("client")[k.at];

      const bottlenecks = {
        "between the client and the node, found by a router": {
          // Of a link with two MTUs the kernel drops what is too large for the receiver, and nobody hears of it.
          make: () => ip("wire", `route add ${client} dev client mtu ${MTU}`),
          remove: () => ip("wire", `route del ${client} dev client`),
          vips: [k.near, k.far],
        },
        "between the nodes, found by the first node": {
          make: () => ip("node1", `route replace ${k.pods} via ${node("node2")} mtu ${MTU}`),
          remove: () => ip("node1", `route replace ${k.pods} via ${node("node2")}`),
          vips: [k.far],
        },
        "between the nodes, found by a router": {
          make: () => {
            ip("wire", `route replace ${k.pods} via ${node("node2")} mtu ${MTU}`);
            ip("node1", `route replace ${k.pods} via ${node("wire")}`);
          },
          remove: () => {
            ip("node1", `route replace ${k.pods} via ${node("node2")}`);
            ip("wire", `route del ${k.pods}`);
          },
          vips: [k.far],
        },
      } as const;

      for (const [where, { make, remove, vips }] of Object.entries(bottlenecks)) {
        describe(`${k.family}: a bottleneck ${where}`, () => {
          before(() => {
            forgetPaths();
            make();
          });
          after(remove);

          for (const vip of vips) {
            test(`Fault 79: half a megabyte goes through ${vip} and comes back whole`, async () => {
              const answer = await (await lab.host("client")).transfer(vip, 80, 500_000);
              assert.ok(answer.ok, JSON.stringify(answer));
            });
          }

          if (where !== "between the client and the node, found by a router") {
            test("a datagram that may not be fragmented: its sender is told the path's MTU", async () => {
              forgetPaths();
              const socket = connectedUdp(k.family, k.far).option(IP_MTU_DISCOVER, IP_PMTUDISC_DO);
              socket.send("x".repeat(1400));
              assert.equal(
                codeOf(() => socket.receive()),
                "EMSGSIZE",
              );
              assert.equal(
                codeOf(() => socket.send("x".repeat(1400))),
                "EMSGSIZE",
              );
              socket.send("x".repeat(1200));
              assert.match(socket.receive().text, /pod2a/);
              socket.close();
            });
          }
        });
      }

      describe(`${k.family}: a datagram with too few hops`, () => {
        for (const [what, vip, hops] of [
          ["ends at the node, before a local pod", k.near, 2],
          ["ends at the node, before another node", k.far, 2],
          ["ends at the other node, before its pod", k.far, 3],
        ] as const) {
          test(`${what}: its sender hears of it`, () => {
            const socket = connectedUdp(k.family, vip).option(IP_TTL, hops);
            const ask = (): string => {
              socket.send("anybody?");
              return codeOf(() => socket.receive());
            };
            // The kernel limits how many errors a second it sends to whom.
            assert.ok(
              [ask, ask, ask].some((ask) => ask() === "EHOSTUNREACH"),
              "no error came",
            );
            socket.close();
          });
        }
      });

      test(`${k.family}: a pod that listens no more refuses, and the client hears it from the VIP`, async () => {
        for (const [vip, pod] of [[k.near, "pod1a"] as const, [k.far, "pod2a"] as const]) {
          const host = await lab.host(pod);
          await host.stopServing(8080, "UDP");
          const socket = connectedUdp(k.family, vip);
          socket.send("anybody?");
          assert.equal(
            codeOf(() => socket.receive()),
            "ECONNREFUSED",
          );
          socket.close();
          await host.serve(pod, 8080, "UDP");
        }
      });
    }
  });
}
