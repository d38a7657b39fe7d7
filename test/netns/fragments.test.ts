// Datagrams that are too big for one packet, there and back: through both nodes, to local and remote pods, both families.
import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import { Lab } from "../lib/lab.ts";
import { Manifests } from "../lib/objects.ts";
import { openNamespace, Socket } from "../lib/socket.ts";

const lab = await Lab.create();
after(() => lab.close());
afterEach((t) => {
  if ("passed" in t && t.passed === false) console.error(lab.logs());
});

before(async () => {
  const manifests = new Manifests(lab);
  for (const [name, number, pod] of [["near", 1, "pod1a"] as const, ["far", 2, "pod2a"] as const]) {
    const service = {
      name,
      type: "LoadBalancer" as const,
      clusterIPs: [`172.30.0.${number}`, `fd00:172:30::${number}`],
      loadBalancerIPs: [`198.51.100.${number}`, `fd00:198::${number}`],
      externalIPs: [],
      ports: [{ name: "udp", port: 53, protocol: "UDP" as const, nodePort: 30000 + number }],
    };
    manifests.service(service, [pod]);
  }
  await Promise.all(lab.nodes().map(({ name }) => lab.startAgent(name, { manifests: manifests.path })));
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
        assert.equal(got.from[0], i === 0 ? lab.place("client")[at] : lab.place("node1")[at]);
        server.send(got.text, got.from);
        assert.deepEqual(client.receive(), { text, from: [vip, 53] });
      }
      server.close();
      client.close();
    });
  }
}
