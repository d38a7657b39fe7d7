// Problems of a cluster's objects become Events: once each in the whole cluster, and never in the way.
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { watchCluster } from "../../src/k8s/cluster.ts";
import { eventually } from "../lib/eventually.ts";
import { following, service } from "../lib/followed.ts";

const twoPorts = [
  { name: "a", port: 70000 },
  { name: "b", port: 80 },
];
const about = (message: string) => [{ object: "Service default/web", path: "", message }];
const aboutEvents = (log: readonly string[]): readonly string[] => log.filter((line) => line.includes("Event"));

describe("events", () => {
  it("a part of a Service that is not used is an Event about it, posted once", () =>
    following({}, async ({ server, synced }) => {
      await synced();
      server.put(service("bad", { ports: twoPorts }, { uid: "11-22" }));
      await eventually(() => assert.equal(server.events.length, 1));
      const event = server.events[0] as unknown as Record<string, unknown>;
      const regarding = { apiVersion: "v1", kind: "Service", namespace: "default", name: "bad", uid: "11-22" };
      assert.deepEqual(event.regarding, regarding);
      assert.equal(event.type, "Warning");
      assert.match(String(event.note), /^spec\.ports\[0\]\.port: 70000/);
      assert.match(String(event.eventTime), /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/);

      server.put(service("bad", { ports: twoPorts }, { uid: "11-22", labels: { touched: "yes" } }));
      server.put(service("worse", { ports: twoPorts }));
      await eventually(() => assert.equal(server.events.length, 2));
      assert.equal((server.events[1] as unknown as { regarding: { name: string } }).regarding.name, "worse");
    }));

  it("a second node finds the Event there already, and says nothing", () =>
    following({}, async ({ server, source, synced, kubeconfig, log }) => {
      await synced();
      source.recordProblems(about("seen by two"));
      await eventually(() => assert.equal(server.events.length, 1));
      const second = watchCluster(
        { kubeconfig, nodeName: "node-2", serviceProxyName: null },
        { changed: () => undefined, log: (_level, message) => void log.push(message) },
      );
      try {
        await eventually(() => assert.equal(second.synced(), true));
        second.recordProblems(about("seen by two"));
        second.recordProblems(about("seen by the second"));
        await eventually(() => assert.equal(server.events.length, 2));
        assert.deepEqual(aboutEvents(log), []);
      } finally {
        await second.close();
      }
    }));

  it("a server that refuses Events is named once in the log, and the Services are followed all the same", () =>
    following({}, async ({ server, source, synced, services, log }) => {
      await synced();
      server.fail(403, { resource: "", times: 1000 });
      for (const n of [1, 2, 3]) source.recordProblems(about(`problem ${n}`));
      server.put(service("web"));
      await eventually(() => assert.deepEqual(services(), ["default/web"]));
      await eventually(() => assert.equal(aboutEvents(log).length, 1));
      await new Promise((resolve) => setTimeout(resolve, 400));
      assert.equal(aboutEvents(log).length, 1);
    }));
});
