// The agent's loop over fake maps: when it applies, what it says, what it repairs. No kernel, no root, no sockets.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Agent, type AgentDataplane, differences } from "../../src/agent/agent.ts";
import { loadConfig } from "../../src/agent/config.ts";
import { createHealth } from "../../src/agent/health.ts";
import type { HostView } from "../../src/agent/host.ts";
import { CapacityError } from "../../src/dataplane/bpf/capacity.ts";
import { TableProgrammer } from "../../src/dataplane/bpf/programmer.ts";
import { tablesToDesired } from "../../src/dataplane/bpf/readback.ts";
import { readTables } from "../../src/dataplane/bpf/tables.ts";
import { FakeStore } from "../../src/dataplane/fake/fakestore.ts";
import { readManifestText } from "../../src/k8s/manifests.ts";
import type { Source } from "../../src/k8s/source.ts";
import type { ServicePortKey } from "../../src/model/desired.ts";
import type { Problem, Snapshot } from "../../src/model/snapshot.ts";
import { readAddress as address } from "../lib/addresses.ts";
import { eventually } from "../lib/eventually.ts";

const NODE = `
apiVersion: v1
kind: Node
metadata: {name: node-a}
status: {addresses: [{type: InternalIP, address: 192.0.2.11}]}
---
`;

const web = (endpoints: readonly string[], more = ""): string => `
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: web}
spec:
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1]
  ports: [{name: http, port: 80}]
${more}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  namespace: shop
  name: web-1
  labels: {kubernetes.io/service-name: web}
  annotations: {endpoints.kubernetes.io/last-change-trigger-time: "2100-01-01T00:00:00Z"}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [${endpoints.map((e) => `{addresses: ["${e}"]}`).join(", ")}]
---
`;

const HOST: HostView = {
  devices: [
    { name: "eth0", index: 2, kind: "other", peerNetns: null },
    { name: "eth1", index: 3, kind: "other", peerNetns: null },
    { name: "veth9", index: 4, kind: "other", peerNetns: null },
  ],
  defaultRoutes: ["eth1"],
  addresses: [
    { device: "eth0", address: address("192.0.2.11") },
    { device: "lo", address: address("127.0.0.1") },
  ],
};

interface Setup {
  readonly agent: Agent;
  readonly store: FakeStore;
  readonly log: string[];
  readonly metrics: string[];
  readonly devices: (readonly string[])[];
  /** The health answer's status. */
  healthz(): number;
  /** What the source says from now on. */
  say(text: string): void;
  host: HostView;
  synced: boolean;
  /** Called before every apply, which waits for what it promises; may throw. */
  beforeApply: () => void | Promise<void>;
  beforeReadBack: () => void;
  applies: number;
}

const start = (
  t: { after(call: () => Promise<void>): void },
  text: string,
  synced = true,
  more: Partial<AgentDataplane> = {},
): Setup => {
  const log: string[] = [];
  const metrics: string[] = [];
  const devices: (readonly string[])[] = [];
  const store = new FakeStore();
  const programmer = new TableProgrammer(store, { now_ns: () => process.hrtime.bigint() });
  let known: { snapshot: Snapshot; problems: readonly Problem[] } = readManifestText(text, "x.yaml", "node-a");
  const source: Source = {
    description: "a test",
    snapshot: () => known.snapshot,
    synced: () => setup.synced,
    problems: () => known.problems,
    recordProblems: () => undefined,
    close: () => Promise.resolve(),
  };
  const dataplane: AgentDataplane = {
    name: "bpf",
    async apply(desired, options) {
      setup.applies++;
      await setup.beforeApply();
      return programmer.apply(desired, options);
    },
    readBack() {
      setup.beforeReadBack();
      return tablesToDesired(readTables(store));
    },
    setDevices: (names) => void devices.push(names),
    forget: () => programmer.forget(),
    close: () => {},
    ...more,
  };
  const { config } = loadConfig({ node: "node-a", manifests: ["x"] });
  const now_ms = Date.now;
  const health = createHealth({ families: ["IPv4"], timeout_ms: 60_000, now_ms, eligible: () => agent.eligible });
  const setup: Setup = {
    get agent() {
      return agent;
    },
    store,
    log,
    metrics,
    devices,
    healthz: () => health.healthz().status,
    say(next) {
      known = readManifestText(next, "x.yaml", "node-a");
      agent.changed();
    },
    host: HOST,
    synced,
    beforeApply: () => {},
    beforeReadBack: () => {},
    applies: 0,
  };
  const agent = new Agent({
    config: { ...config, minSyncPeriod_ms: 0 },
    dataplane,
    source,
    readHost: () => setup.host,
    health,
    metrics: {
      queued: () => {},
      applied: ({ services, slices, triggers }) => metrics.push(`applied ${services} ${slices} ${triggers.length}`),
      applyFailed: () => metrics.push("failed"),
      drifted: () => metrics.push("drifted"),
    },
    log: (level, message) => void log.push(`${level} ${message}`),
    now_ms,
    periods_ms: { host: 20, audit: 20 },
  });
  t.after(() => agent.close());
  agent.changed();
  return setup;
};

const WEB = "shop/web:http/TCP" as ServicePortKey;

test("what the source says is in the maps, and a change of it too", async (t) => {
  const s = start(t, NODE + web(["10.244.1.2", "10.244.2.2"]));
  await eventually(() => assert.equal(s.agent.desired?.services.get(WEB)?.backends.length, 2));
  assert.equal(s.healthz(), 200);
  s.say(NODE + web(["10.244.2.2"]));
  await eventually(() => assert.equal(tablesToDesired(readTables(s.store)).services.get(WEB)?.backends.length, 1));
  // Read anew, every object is another value; but the time of the trigger is old news.
  assert.deepEqual(s.metrics, ["applied 1 1 1", "applied 1 1 0"]);
});

test("nothing is written before the source has synced: half a picture would refuse connections", async (t) => {
  const s = start(t, NODE + web([]), false);
  await new Promise((resolve) => setTimeout(resolve, 60));
  assert.equal(s.applies, 0);
  assert.deepEqual(s.devices, []);
  assert.equal(s.healthz(), 503);
  s.synced = true;
  s.agent.changed();
  await eventually(() => assert.equal(s.applies, 1));
});

test("a change that changes nothing for this node writes nothing", async (t) => {
  const s = start(t, NODE + web(["10.244.2.2"]));
  await eventually(() => assert.equal(s.applies, 1));
  s.say(NODE + web(["10.244.2.2"]));
  await new Promise((resolve) => setTimeout(resolve, 60));
  assert.equal(s.applies, 1);
});

test("an apply that the kernel refuses is counted, named, and done again", async (t) => {
  const s = start(t, NODE);
  await eventually(() => assert.equal(s.applies, 1));
  let failures = 2;
  s.beforeApply = () => {
    if (failures-- > 0) throw new Error("Cannot write map frontends");
  };
  s.say(NODE + web(["10.244.2.2"]));
  await eventually(() => assert.equal(s.agent.desired?.services.size, 1));
  assert.deepEqual(
    s.metrics.filter((m) => m === "failed"),
    ["failed", "failed"],
  );
  assert.ok(s.log.includes("error Cannot apply; trying again"));
  assert.equal(s.agent.backoff_s, 0);
});

test("what does not fit is named and tried again; the rest counts as applied", async (t) => {
  const s = start(t, NODE);
  await eventually(() => assert.equal(s.applies, 1));
  s.beforeApply = () => {
    throw new CapacityError([], () => 0, {});
  };
  s.say(NODE + web(["10.244.2.2"]));
  await eventually(() => assert.ok(s.agent.backoff_s > 0));
  assert.equal(s.agent.desired?.services.size, 1);
  assert.ok(s.metrics.includes("failed"));
});

test("a problem is named once, until it changes", async (t) => {
  const clash = (ip: string): string =>
    web(["10.244.2.2"]) + web(["10.244.2.2"]).replaceAll("name: web", `name: other`).replaceAll("10.96.0.1", ip);
  const s = start(t, NODE + clash("10.96.0.1"));
  await eventually(() => assert.equal(s.applies, 1));
  const named = (): string[] => s.log.filter((line) => line.startsWith("warn Service"));
  assert.equal(named().length, 1);
  s.say(
    NODE +
      clash("10.96.0.1") +
      web(["10.244.2.2"]).replaceAll("name: web", "name: third").replaceAll("10.96.0.1", "10.96.0.3"),
  );
  await eventually(() => assert.equal(s.applies, 2));
  assert.equal(named().length, 1);
  assert.ok(s.agent.problems.length >= 1);
});

test("devices are those of default routes and of the Node's addresses; a new device behind an old name is news", async (t) => {
  const s = start(t, NODE);
  await eventually(() => assert.deepEqual(s.devices[0], ["eth0", "eth1"]));
  const before = s.devices.length;
  s.host = {
    ...HOST,
    devices: HOST.devices.map((d) => (d.name === "eth1" ? { ...d, index: 9, kind: "other", peerNetns: null } : d)),
  };
  await eventually(() => assert.ok(s.devices.length > before));
  const replaced = s.devices.length;
  s.host = { ...HOST, devices: s.host.devices.map((d) => (d.name === "eth1" ? { ...d, peerNetns: 3 } : d)) };
  await eventually(() => assert.ok(s.devices.length > replaced, "its other end is in another namespace"));
  s.host = { ...HOST, devices: HOST.devices.filter((d) => d.name !== "eth1") };
  await eventually(() => assert.deepEqual(s.devices.at(-1), ["eth0"]));
});

test("a new address of the machine is a new place for NodePorts", async (t) => {
  const s = start(t, NODE + web(["10.244.2.2"]));
  await eventually(() => assert.equal(s.applies, 1));
  s.host = { ...HOST, addresses: [...HOST.addresses, { device: "eth0", address: address("192.0.2.99") }] };
  await eventually(() => assert.ok(s.agent.desired?.nodeAddresses.some(({ address }) => address === "192.0.2.99")));
});

test("an audit finds maps that somebody else changed, says so, and repairs them", async (t) => {
  const s = start(t, NODE + web(["10.244.1.2", "10.244.2.2"]));
  await eventually(() => assert.equal(s.applies, 1));
  await new Promise((resolve) => setTimeout(resolve, 60));
  assert.deepEqual(s.metrics, ["applied 1 1 1"], "maps as they should be are no drift");
  const keys = [...s.store.entries("frontends")].map(([key]) => key);
  s.store.delete("frontends", keys);
  await eventually(() => assert.equal([...s.store.entries("frontends")].length, keys.length));
  assert.ok(s.metrics.includes("drifted"));
  assert.ok(s.log.includes("warn The kernel does not hold what it should: applying everything again"));
});

test("an audit that fails is said, and the next one is tried", async (t) => {
  const s = start(t, NODE + web(["10.244.1.2"]));
  s.beforeReadBack = () => {
    throw new Error("Cannot read a map: ENOMEM");
  };
  await eventually(() => assert.ok(s.log.includes("error Cannot compare the maps")));
  s.beforeReadBack = () => {};
  await eventually(() => assert.equal(s.applies, 1));
  s.store.delete(
    "frontends",
    [...s.store.entries("frontends")].map(([key]) => key),
  );
  await eventually(() => assert.ok(s.metrics.includes("drifted")));
});

test("what was applied reads back as what was meant, also after backends came and went", async (t) => {
  const s = start(t, NODE + web(["10.244.1.2", "10.244.2.2", "10.244.3.2"]));
  await eventually(() => assert.equal(s.applies, 1));
  for (const endpoints of [["10.244.2.2"], [], ["10.244.9.9", "10.244.2.2"]]) {
    const applies = s.applies;
    s.say(NODE + web(endpoints, "  sessionAffinity: ClientIP"));
    await eventually(() => assert.equal(s.applies, applies + 1));
    const { desired } = s.agent;
    assert.ok(desired);
    assert.deepEqual(differences(desired, tablesToDesired(readTables(s.store))), []);
  }
});

test("a node that is being deleted stays programmed, and is not eligible", async (t) => {
  const s = start(t, NODE + web(["10.244.2.2"]));
  await eventually(() => assert.equal(s.healthz(), 200));
  s.say(
    NODE.replace("{name: node-a}", '{name: node-a, deletionTimestamp: "2026-01-01T00:00:00Z"}') + web(["10.244.2.2"]),
  );
  await eventually(() => assert.equal(s.healthz(), 503));
  assert.equal(s.agent.desired?.services.size, 1);
});

test("what comes while an apply is under way is applied next: a change, and the wish to write everything again", async (t) => {
  const s = start(t, NODE + web(["10.244.1.2", "10.244.2.2"]), true, { refresh_ms: 40 });
  let ended = false;
  s.beforeApply = async () => {
    if (s.applies > 1) return;
    s.say(NODE + web(["10.244.2.2"]));
    await new Promise((resolve) => setTimeout(resolve, 60)); // a refresh falls into it
    ended = true;
  };
  await eventually(() => assert.equal(tablesToDesired(readTables(s.store)).services.get(WEB)?.backends.length, 1));
  assert.ok(ended);
  const applies = s.applies;
  await eventually(() => assert.ok(s.applies >= applies + 2), 2000); // every 40 ms, though nothing changes
  assert.equal(s.metrics.includes("drifted"), false);
});
