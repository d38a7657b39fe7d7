// Datagrams that are too big for one packet, there and back: through both nodes, to local and remote pods, both families;
// through bpf and through kube-proxy's rules.
import assert from "node:assert/strict";
import { before, describe, test } from "node:test";
import { Manifests } from "../lib/objects.ts";
import { buildFrame, ETHERNET, splitFrame } from "../lib/packet.ts";
import { BPF, IPTABLES, openLab, runOnEveryNode, serviceOf } from "../lib/served-lab.ts";
import { type Name, openNamespace, Socket, sendPackets } from "../lib/socket.ts";

const lab = await openLab();
const manifests = new Manifests(lab);

before(() => {
  manifests.service(serviceOf("near", 1), ["pod1a"]);
  manifests.service(serviceOf("far", 2), ["pod2a"]);
});

const home = openNamespace("/proc/self/ns/net");

const open = (place: string, family: "IPv4" | "IPv6"): Socket => {
  openNamespace(lab.inside(place).netns).enter();
  try {
    return new Socket("UDP", family, 1000);
  } finally {
    home.enter();
  }
};

/** Of so many fragments. */
const textOf = (count: number): string => "0123456789".repeat(count * 100).slice(0, (count - 1) * SIZE + 100);

const SIZE = 1000;
let id = 1;

/** One datagram, the last fragment first, from a place of the lab. */
const sendReversed = (place: string, from: Name, to: Name, payload: string): void => {
  const addresses = { from: from[0], sport: from[1], to: to[0], dport: to[1] };
  const datagram = buildFrame({ ...addresses, proto: "UDP", payload });
  const packets = splitFrame(datagram, SIZE, id++).map((frame) => frame.slice(ETHERNET));
  openNamespace(lab.inside(place).netns).enter();
  try {
    sendPackets(packets.reverse());
  } finally {
    home.enter();
  }
};

for (const dataplane of [...BPF, IPTABLES]) {
  describe(dataplane.title, () => {
    runOnEveryNode(lab, manifests, dataplane);

    for (const [family, at, vips] of [
      ["IPv4", "v4", ["198.51.100.1", "198.51.100.2"]],
      ["IPv6", "v6", ["fd00:198::1", "fd00:198::2"]],
    ] as const) {
      for (const [i, vip] of vips.entries()) {
        const pod = ["pod1a", "pod2a"][i] ?? "";

        test(`${family}, ${i === 0 ? "local" : "remote"} pod: questions and answers of up to 60 kB arrive whole`, () => {
          const [server, client] = [open(pod, family), open("client", family)];
          server.bind([lab.place(pod)[at], 8080]);
          client.connect([vip, 53]);
          for (const size of [10, 1472, 1473, 1500, 3000, 20_000, 60_000]) {
            const text = "0123456789".repeat(size / 10 + 1).slice(0, size);
            client.send(text);
            const got = server.receive();
            assert.equal(got.text, text, `${size} bytes to the pod`);
            const seen = i === 0 && dataplane.name === "bpf" ? "client" : "node1"; // difference 1
            assert.equal(got.from[0], lab.place(seen)[at]);
            server.send(got.text, got.from);
            assert.deepEqual(client.receive(), { text, from: [vip, 53] });
          }
          server.close();
          client.close();
        });

        for (const [to, port] of [
          [vip, 53],
          [lab.place("node1")[at], 30101 + i],
        ] as const) {
          test(`${family}, ${i === 0 ? "local" : "remote"} pod by ${to} port ${port}: fragments in reverse order`, () => {
            const [server, client] = [open(pod, family), open("client", family)];
            server.bind([lab.place(pod)[at], 8080]);
            client.connect([to, port]);
            const self: Name = [lab.place("client")[at], client.name()[1]];
            for (const count of [2, 4]) {
              const text = textOf(count);
              sendReversed("client", self, [to, port], text);
              const got = server.receive();
              assert.equal(got.text, text, `${count} fragments to the pod`);
              // What a pod of the node itself sends is seen at egress alone, as its own kernel sends it: in order.
              if (i === 1 || dataplane === IPTABLES) sendReversed(pod, [lab.place(pod)[at], 8080], got.from, text);
              else server.send(text, got.from);
              assert.deepEqual(client.receive(), { text, from: [to, port] });
            }
            server.close();
            client.close();
          });
        }
      }

      test(`${family}: the node's own datagrams arrive with their fragments in reverse order, too`, () => {
        const [server, client] = [open("node1", family), open("client", family)];
        server.bind([lab.place("node1")[at], 9999]);
        client.connect([lab.place("node1")[at], 9999]);
        for (const count of [2, 4, 9, 12]) {
          const text = textOf(count);
          sendReversed("client", [lab.place("client")[at], client.name()[1]], [lab.place("node1")[at], 9999], text);
          assert.equal(server.receive().text, text);
        }
        server.close();
        client.close();
      });
    }
  });
}
