// A VIP asked for what no Service has, over real wires: refused at once and never sent round between the node and the
// router; pinged: answered by the node. The node's own addresses stay the host's.
import assert from "node:assert/strict";
import { before, describe, test } from "node:test";
import { Manifests } from "../lib/objects.ts";
import { addressesIn, BPF_ATTACHED, openLab, runOnEveryNode, serveAt, serviceOf } from "../lib/served-lab.ts";
import { assertFails, assertReaches, assertRefusedByIcmp } from "../lib/traffic.ts";

const lab = await openLab();
const { v4, v6 } = addressesIn(lab);
const manifests = new Manifests(lab);

const VIPS = [
  ...["198.51.100.10", "198.51.100.110", "172.30.0.10"],
  ...["fd00:198::10", "fd00:198::110", "fd00:172:30::10"],
];
const EMPTY = ["198.51.100.12", "fd00:198::12"];

before(async () => {
  const node = { externalIPs: [v4("node1"), v6("node1")] };
  manifests.service(serviceOf("web", 10), ["pod1a", "pod2a"]);
  manifests.service(serviceOf("empty", 12), []);
  manifests.service(serviceOf("at-node", 14, node), ["pod1a"]);
  await serveAt(lab, ["pod1a", "pod2a", "node1"]);
});

/** Packets of a count that all came back, and none that was damaged or sent twice. */
const ping = (place: string, address: string, ...how: readonly string[]): string => {
  const { stdout, stderr, status } = lab.run(place, [
    "ping",
    "-n",
    "-c",
    "3",
    "-i",
    "0.01",
    "-W",
    "1",
    ...how,
    address,
  ]);
  return status === 0
    ? (/^3 packets transmitted, 3 received, 0% packet loss/m.exec(stdout)?.[0] ?? stdout)
    : stderr + stdout;
};
const ALL_CAME_BACK = "3 packets transmitted, 3 received, 0% packet loss";

for (const dataplane of BPF_ATTACHED) {
  describe(dataplane.title, { skip: dataplane.skip }, () => {
    runOnEveryNode(lab, manifests, dataplane, { hasRemote: false });

    const counted = (node: string, reason: string): number => {
      const { stdout } = lab.beeline(node, ["status", "-o", "json"]);
      const { packets } = JSON.parse(stdout) as { packets: { hook: string; reason: string; count: string | number }[] };
      const found = packets.find((one) => one.hook === "tc_ingress" && one.reason === reason);
      return Number(found?.count ?? 0);
    };

    test("Fault 80: an unlisted port of every kind of VIP is refused at once, and no packet comes round again", async () => {
      const client = await lab.host("client");
      const before = counted("node1", "unlisted_port");
      for (const address of VIPS) {
        await assertRefusedByIcmp(client, address, 81);
        const udp = await client.connectedUdp(address, 80);
        assert.partialDeepStrictEqual(udp, { ok: false, code: "ECONNREFUSED" }, address);
      }
      const times = counted("node1", "unlisted_port") - before;
      // A circle would make dozens of each; a SYN is sent again where its answer came before its socket waited for one.
      assert.ok(times >= 2 * VIPS.length && times <= 3 * VIPS.length, `${times} times`);
    });

    test("a NodePort's number, and a port at which the host listens, are refused at a VIP", async () => {
      const client = await lab.host("client");
      for (const port of [30010, 8080]) {
        await assertRefusedByIcmp(client, "198.51.100.10", port);
        const udp = await client.connectedUdp("fd00:198::10", port);
        assert.partialDeepStrictEqual(udp, { ok: false, code: "ECONNREFUSED" });
      }
    });

    test("an external IP that is the node's address is the host's at other ports", async () => {
      const client = await lab.host("client");
      for (const [address, seen] of [[v4("node1"), v4("client")] as const, [v6("node1"), v6("client")] as const]) {
        await assertReaches(client, { address, port: 80 }, { pod1a: seen });
        await assertReaches(client, { address, port: 8080 }, { node1: seen });
      }
    });

    test("from a pod and the node a ClusterIP's unlisted port is refused in the system call", async () => {
      for (const from of ["pod1b", "node1"]) {
        const host = await lab.host(from);
        for (const address of ["172.30.0.10", "fd00:172:30::10"]) {
          await assertFails(host, { address, port: 81 }, "ECONNREFUSED", 100);
          await assertFails(host, { transport: "UDP", address, port: 80 }, "ECONNREFUSED", 100);
        }
      }
    });

    test("Fault 72: every VIP answers pings of every size, with options, with and without endpoints", () => {
      for (const address of [...VIPS, ...EMPTY]) {
        for (const how of [
          ["-s", "0"],
          ["-s", "56"],
          ["-s", "1472"],
          ["-s", "4000"],
          ["-s", "20000"],
          ["-p", "ff"],
        ]) {
          assert.equal(ping("client", address, ...how), ALL_CAME_BACK, `${address} ${how.join(" ")}`);
        }
      }
      for (const how of [["-R"], ["-T", "tsonly"]])
        assert.equal(ping("client", VIPS[0] ?? "", ...how), ALL_CAME_BACK, how.join(" "));
    });

    test("a node's own address answers by itself, and an address that nobody has does not answer", () => {
      const before = counted("node1", "echo");
      for (const address of [v4("node1"), v6("node1")]) assert.equal(ping("client", address), ALL_CAME_BACK);
      for (const address of ["198.51.100.99", "fd00:198::99"]) assert.notEqual(ping("client", address), ALL_CAME_BACK);
      assert.equal(counted("node1", "echo"), before);
    });
  });
}
