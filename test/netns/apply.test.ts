// `beeline apply` on whatever kernel this is: programs attach as it can (tcx links, or clsact filters before 6.6), and
// translate at the socket and at the device. Small, so that scripts/test-kernels can run it on a slow machine.
import assert from "node:assert/strict";
import { before, test } from "node:test";
import { SOCKET_HOOKS } from "../../src/dataplane/bpf/attach.ts";
import { hasTcx } from "../../src/dataplane/bpf/probe.ts";
import { BEELINE } from "../lib/agent.ts";
import { attachedPrograms } from "../lib/attached.ts";
import { Manifests } from "../lib/objects.ts";
import { nodePortServiceOf, openLab } from "../lib/served-lab.ts";
import { assertReaches } from "../lib/traffic.ts";

const lab = await openLab({ nodes: 1, podsPerNode: 2 });
const CLUSTER_IPS = { v4: "172.30.0.10", v6: "fd00:172:30::10" } as const;
const tc = hasTcx() ? "tcx" : "clsact";

before(async () => {
  const manifests = new Manifests(lab);
  manifests.service(nodePortServiceOf("web", 10), ["pod1a"]);
  await lab.startHosts();
  await (await lab.host("pod1a")).serve("pod1a", 8080, "TCP", "UDP");
  const { status, stderr } = lab.run("node1", [
    ...[BEELINE, "apply", "-f", manifests.path, "--node", "node1"],
    ...lab.placeArguments("node1"),
  ]);
  assert.equal(status, 0, stderr);
});

/** The part of `status -o json` that is asked for here. */
interface Status {
  readonly hooks: readonly { readonly hook: string; readonly attached: boolean }[];
  readonly counts: { readonly servicePorts: number; readonly backends: number };
}

test("status says what is attached and programmed, and the kernel says the same", () => {
  const { status, stdout, stderr } = lab.beeline("node1", ["status", "-o", "json"]);
  assert.equal(status, 0, stderr);
  const { hooks, counts } = JSON.parse(stdout) as Status;
  const attached = hooks.filter((one) => one.attached).map((one) => one.hook);
  assert.deepEqual(attached.sort(), [...Object.keys(SOCKET_HOOKS), `${tc} egress`, `${tc} ingress`].sort());
  assert.equal(attachedPrograms(lab, "node1").length, attached.length);
  assert.deepEqual([counts.servicePorts, counts.backends], [2, 4]);
});

for (const family of ["v4", "v6"] as const) {
  const address = (place: string): string => lab.place(place)[family];

  test(`IP${family}: a pod connects to the ClusterIP, and the backend sees the pod`, async () => {
    const pod = await lab.host("pod1b");
    const vip = CLUSTER_IPS[family];
    await assertReaches(pod, { address: vip, port: 80 }, { pod1a: address("pod1b") });
    await assertReaches(pod, { address: vip, port: 53, transport: "UDP" }, { pod1a: address("pod1b") });
  });

  test(`IP${family}: a client outside connects to the NodePort, and the backend sees the client`, async () => {
    const client = await lab.host("client");
    const node = address("node1");
    await assertReaches(client, { address: node, port: 30010 }, { pod1a: address("client") });
    await assertReaches(client, { address: node, port: 30110, transport: "UDP" }, { pod1a: address("client") });
  });
}

test("reset takes every program off", () => {
  const { status, stderr } = lab.beeline("node1", ["reset"]);
  assert.equal(status, 0, stderr);
  assert.deepEqual(attachedPrograms(lab, "node1"), []);
});
