// Agents fed by an API server program what agents fed by manifests program, follow it, and outlive its absence.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { Agent } from "../lib/agent.ts";
import { FakeApiServer } from "../lib/api-server.ts";
import { type Door, openDoor } from "../lib/door.ts";
import { eventually } from "../lib/eventually.ts";
import { Manifests, nodeObject, type ServiceWords, serviceObjects } from "../lib/objects.ts";
import { openLab } from "../lib/served-lab.ts";
import { assertFails, assertReaches } from "../lib/traffic.ts";

const WEB: ServiceWords = {
  name: "web",
  type: "LoadBalancer",
  clusterIPs: ["172.30.0.60", "fd00:172:30::60"],
  loadBalancerIPs: ["198.51.100.60", "fd00:198::60"],
  externalIPs: ["198.51.100.160"],
  sourceRanges: ["203.0.113.0/24", "10.244.0.0/16", "fd00::/16"],
  affinity_timeout_s: 600,
  ports: [
    { name: "tcp", port: 80, nodePort: 30060 },
    { name: "udp", port: 53, protocol: "UDP", nodePort: 30160 },
  ],
};
const LOCAL: ServiceWords = {
  name: "local",
  type: "NodePort",
  clusterIPs: ["172.30.0.61"],
  externalTrafficPolicy: "Local",
  internalTrafficPolicy: "Local",
  ports: [{ port: 80, nodePort: 30061 }],
};
const PLAIN: ServiceWords = { name: "plain", clusterIPs: ["172.30.0.62", "fd00:172:30::62"], ports: [{ port: 80 }] };

const lab = await openLab({ podsPerNode: 2 });
const api = new FakeApiServer({ tls: true });
let kubeconfig = "";
let door: Door;
let agent: Agent;
const v4 = (name: string): string => lab.place(name).v4;

const put = (words: ServiceWords, backends: readonly string[]): void => {
  for (const object of serviceObjects(lab, words, backends)) api.put(object);
};

before(async () => {
  await api.start();
  kubeconfig = api.writeKubeconfig(lab.directory);
  const port = Number(new URL(api.url).port);
  door = await openDoor(lab, "node1", port, port);
  for (const node of lab.nodes()) api.put(nodeObject(node));
  put(WEB, ["pod1a", "pod2a"]);
  put(LOCAL, ["pod1b"]);
  put(PLAIN, ["pod1a", "pod2a"]);
  for (const pod of ["pod1a", "pod1b", "pod2a", "pod2b"]) await (await lab.host(pod)).serve(pod, 8080, "TCP", "UDP");
  agent = await lab.startAgent("node1", { kubeconfig });
});
after(async () => {
  await door.close();
  await api.stop();
});

/** Every service as node1's kernel holds it, without ids and counters: those depend on the order of arrival. */
const held = (): readonly { readonly name: string }[] => {
  const { status, stdout, stderr } = lab.beeline("node1", ["services", "-o", "json"]);
  assert.equal(status, 0, stderr);
  const { items } = JSON.parse(stdout, (key, value) =>
    ["id", "new_flows", "open_sockets"].includes(key) ? undefined : value,
  );
  return items;
};

test("an agent that follows the API serves what it says, and a change there is a change here", async () => {
  const pod = await lab.host("pod1b");
  const client = await lab.host("client");
  await assertReaches(pod, { address: "172.30.0.62", port: 80 }, { pod1a: v4("pod1b"), pod2a: v4("pod1b") });
  await assertReaches(client, { address: v4("node1"), port: 30061 }, { pod1b: v4("client") });
  put(PLAIN, ["pod2b"]);
  await eventually(() => assertReaches(pod, { address: "172.30.0.62", port: 80 }, { pod2b: v4("pod1b") }));
  put(PLAIN, ["pod1a", "pod2a"]);
  await eventually(() =>
    assertReaches(pod, { address: "172.30.0.62", port: 80 }, { pod1a: v4("pod1b"), pod2a: v4("pod1b") }),
  );
});

test("restarted while the API server is away: everything works on, nothing is pruned, and what was missed is made up for", async () => {
  const before = held();
  await agent.kill9();
  door.shut();
  api.delete("Service", "default", "plain");
  agent = await lab.startAgent("node1", { kubeconfig, wait: false });
  const pod = await lab.host("pod1b");
  const loop = await pod.startLoop("172.30.0.62", 80);
  await eventually(() => assert.match(agent.log, /Started/));
  await new Promise((resolve) => setTimeout(resolve, 1500));
  assert.deepEqual(held(), before);
  const { ok, failed } = await pod.loopCounts(loop.id, true);
  assert.ok(ok > 50 && failed === 0, `${ok} ok, ${failed} failed`);
  assert.equal((await agent.httpGet(10256, "/readyz")).status, 503);
  door.open();
  await agent.ready();
  await eventually(() => assertFails(pod, { address: "172.30.0.62", port: 80, timeout_ms: 300 }, "TIMEOUT"));
  assert.deepEqual(
    held(),
    before.filter((service) => service.name !== "plain"),
  );
  put(PLAIN, ["pod1a", "pod2a"]);
  await eventually(() => assert.deepEqual(held(), before));
});

test("manifests with the same objects come to the same services", async () => {
  const fromApi = held();
  assert.deepEqual(fromApi.map((service) => service.name).sort(), ["local", "plain", "web", "web"]);
  assert.equal(await agent.stop(), 0);
  assert.equal(lab.beeline("node1", ["reset"]).status, 0);
  const manifests = new Manifests(lab);
  manifests.service(PLAIN, ["pod1a", "pod2a"]);
  manifests.service(LOCAL, ["pod1b"]);
  manifests.service(WEB, ["pod1a", "pod2a"]);
  agent = await lab.startAgent("node1", { manifests: manifests.path });
  assert.deepEqual(held(), fromApi);
});
