// Datagrams that are too big for one packet, there and back: through both nodes, to local and remote pods, both families;
// through bpf and through kube-proxy's rules.
import assert from "node:assert/strict";
import { before, describe, test } from "node:test";
import { Manifests } from "../lib/objects.ts";
import { BPF, IPTABLES, openLab, runOnEveryNode, serviceOf } from "../lib/served-lab.ts";
import { openNamespace, Socket } from "../lib/socket.ts";

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

for (const dataplane of [BPF, IPTABLES]) {
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
            const seen = i === 0 && dataplane === BPF ? "client" : "node1"; // difference 1
            assert.equal(got.from[0], lab.place(seen)[at]);
            server.send(got.text, got.from);
            assert.deepEqual(client.receive(), { text, from: [vip, 53] });
          }
          server.close();
          client.close();
        });
      }
    }
  });
}
