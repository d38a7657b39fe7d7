// A node changes over from kube-proxy's rules to bpf: connections that the rules set up go on, new ones go by bpf.
import assert from "node:assert/strict";
import { before, test } from "node:test";
import { hasConntrack } from "../../src/dataplane/bpf/probe.ts";
import { BEELINE } from "../lib/agent.ts";
import { eventually } from "../lib/eventually.ts";
import { Manifests } from "../lib/objects.ts";
import { nodePortServiceOf, openLab, PODS, serveAt } from "../lib/served-lab.ts";

const NODE_PORT = 30010;
const skip = hasConntrack() ? false : "this kernel cannot be asked for tracked connections";

const lab = await openLab({ nodes: 2, podsPerNode: 2 });
const manifests = new Manifests(lab);

before(async () => {
  manifests.service(nodePortServiceOf("web", 10), PODS);
  await serveAt(lab);
});

const apply = (dataplane: string): void => {
  const args = ["apply", "-f", manifests.path, "--node", "node1", "--dataplane", dataplane];
  const { status, stderr } = lab.run("node1", [BEELINE, ...args, ...lab.placeArguments("node1")]);
  assert.equal(status, 0, stderr);
};

const packets = (reason: string): number => {
  const { stdout } = lab.beeline("node1", ["status", "-o", "json"]);
  const { packets } = JSON.parse(stdout) as {
    readonly packets: readonly { readonly hook: string; readonly reason: string; readonly count: number }[];
  };
  return packets.find((one) => one.hook === "tc_ingress" && one.reason === reason)?.count ?? 0;
};

for (const family of ["v4", "v6"] as const) {
  test(`IP${family}: connections of kube-proxy's rules live on, to whichever backend, and new ones are bpf's`, {
    skip,
  }, async () => {
    const client = await lab.host("client");
    const node = lab.place("node1")[family];
    apply("iptables");
    // More connections than backends, so that a choice by hash would send some of them elsewhere.
    const held = await Promise.all(Array.from({ length: 12 }, () => client.hold(node, NODE_PORT, 50)));
    assert.ok(held.every((one) => one.ok));
    assert.ok(new Set(held.map((one) => one.ok && one.name)).size > 1, "several backends");

    apply("bpf");
    const [conntrack, fresh] = [packets("conntrack"), packets("new_flow")];
    const echoed = await Promise.all(held.map(async ({ id }) => (await client.beats(id)).echoed));
    await eventually(async () => {
      for (const [i, { id }] of held.entries()) {
        const { echoed: now, ended } = await client.beats(id);
        assert.equal(ended, null);
        assert.ok(now > (echoed[i] ?? 0) + 5, `connection ${i}: ${now} beats`);
      }
    });
    assert.ok(packets("conntrack") > conntrack, "the kernel was asked");
    assert.equal(packets("new_flow"), fresh, "and none of them was taken for a new one");

    const answer = await client.connect(node, NODE_PORT);
    assert.ok(answer.ok);
    assert.equal(packets("new_flow"), fresh + 1);
    await Promise.all(held.map(({ id }) => client.ask("drop", { id })));
    assert.equal(lab.beeline("node1", ["reset"]).status, 0);
  });
}
