// A running agent has connections expired in the kernel, by its configuration, and says so in its metrics.
import assert from "node:assert/strict";
import { test } from "node:test";
import { eventually } from "../lib/eventually.ts";
import { Manifests } from "../lib/objects.ts";
import { nodePortServiceOf, openLab } from "../lib/served-lab.ts";

const lab = await openLab({ nodes: 1, podsPerNode: 1 });

test("a UDP flow that has been silent for longer than its timeout is gone, a TCP connection stays", async () => {
  const manifests = new Manifests(lab);
  manifests.service(nodePortServiceOf("web", 10), ["pod1a"]);
  await lab.startHosts();
  await (await lab.host("pod1a")).serve("pod1a", 8080, "TCP", "UDP");
  const config = { bpf: { timeouts: { udp: "1s" }, mapSizes: { flows: 4096 } } };
  const agent = await lab.startAgent("node1", { manifests: manifests.path, config });
  const client = await lab.host("client");
  const node = lab.place("node1").v4;
  const held = await eventually(async () => {
    const answer = await client.hold(node, 30010, 50);
    assert.ok(answer.ok);
    return answer;
  });
  assert.ok((await client.udp(node, 30110)).ok);
  const states = (): readonly string[] => {
    const { stdout } = lab.beeline("node1", ["flows", "-o", "json"]);
    const { items } = JSON.parse(stdout) as { readonly items: readonly { readonly state: string }[] };
    return items.map((flow) => flow.state).sort();
  };
  assert.deepEqual(states(), ["tcpEstablished", "tcpEstablished", "udp", "udp"]);
  await eventually(() => assert.deepEqual(states(), ["tcpEstablished", "tcpEstablished"]), 15_000);
  const { ended } = await client.beats(held.id);
  assert.equal(ended, null);
  await eventually(async () => {
    const text = (await agent.httpGet(10249, "/metrics"))?.body ?? "";
    assert.match(text, /^beeline_connections\{state="tcpEstablished"\} 1$/m);
    assert.match(text, /^beeline_connections_expired_total 1$/m);
    assert.match(text, /^beeline_map_entries\{map="flows"\} 2$/m);
  });
});
