// A neighbour whose MAC address changes without a word (another machine has its address now, a virtual machine has moved):
// the kernel finds out by itself, since it asks now and then for whom it sends to. What is sent on directly must not be lost for
// longer than that. The kernel's times are made short.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { eventually } from "../lib/eventually.ts";
import type { Host } from "../lib/host/host.ts";
import { Manifests } from "../lib/objects.ts";
import { openLab, serveAt, serviceOf } from "../lib/served-lab.ts";

const lab = await openLab({ nodes: 2, podsPerNode: 1 });
const at = (name: string): string => lab.place(name).v4;
const sh = (place: string, script: string): void => {
  const { status, stderr } = lab.run(place, ["sh", "-ec", script]);
  assert.equal(status, 0, stderr);
};

before(async () => {
  // An answer is believed for a second (the kernel draws half to one and a half of it), then asked for anew after another.
  sh(
    "node1",
    `for family in ipv4 ipv6; do for device in eth0 pod1a; do
      cd /proc/sys/net/$family/neigh/$device
      echo 1000 >base_reachable_time_ms; echo 1 >delay_first_probe_time; echo 200 >retrans_time_ms; done; done`,
  );
  const manifests = new Manifests(lab);
  manifests.service(serviceOf("local", 10), ["pod1a"]);
  manifests.service(serviceOf("remote", 11), ["pod2a"]);
  await serveAt(lab, ["pod1a", "pod2a"]);
  await lab.startAgent("node1", { manifests: manifests.path, bpf: { forwarding: "direct" } });
});

interface NextHop {
  readonly way: string;
  readonly mac: string;
}

/** Of what clients send to this node's port. */
const nextHop = (port: number): NextHop | null => {
  const { stdout } = lab.beeline("node1", ["flows", "-o", "json"]);
  const { items } = JSON.parse(stdout) as {
    readonly items: readonly {
      readonly kind: string;
      readonly to: { readonly port: number };
      readonly next_hop: NextHop | null;
    }[];
  };
  return items.find(({ kind, to }) => kind === "DNAT" && to.port === port)?.next_hop ?? null;
};

const newMac = (place: string, last: string): string => {
  const mac = `02:00:00:00:00:${last}`;
  sh(place, `echo 0 >/proc/sys/net/ipv4/conf/eth0/arp_notify; ip link set eth0 address ${mac}`);
  return mac;
};

for (const [what, port, place, way] of [
  ["a pod of this node", 30010, "pod1a", "peer"],
  ["another node", 30011, "node2", "wire"],
] as const) {
  describe(`the MAC address of ${what} changes, and it says nothing`, () => {
    let client: Host;
    let id = 0;
    before(async () => {
      client = await lab.host("client");
      ({ id } = await client.hold(at("node1"), port, 50));
    });
    after(() => client.drop(id));

    // What is sent into a pod gets there whatever MAC address it has.
    if (way === "wire") {
      test("while packets go there directly the kernel goes on to ask who it is", async () => {
        await eventually(() => assert.equal(nextHop(port)?.way, way));
        await new Promise((resolve) => setTimeout(resolve, 6_000));
        const { stdout } = lab.run("node1", ["ip", "-s", "-j", "neigh", "show", at(place)]);
        const [{ confirmed }] = JSON.parse(stdout) as [{ readonly confirmed: number }];
        assert.ok(confirmed < 6, `last heard of ${confirmed} s ago`);
      });
    }

    test("a connection to it goes on, as soon as the kernel would have found out", async () => {
      await eventually(() => assert.equal(nextHop(port)?.way, way));
      const mac = newMac(place, port === 30010 ? "0a" : "0b");
      await eventually(() => assert.equal(nextHop(port)?.mac, mac), 25_000);
      const { echoed } = await client.beats(id);
      await eventually(async () => {
        const beats = await client.beats(id);
        assert.equal(beats.ended, null);
        assert.ok(beats.echoed > echoed + 5);
      }, 20_000);
    });
  });
}
