import assert from "node:assert/strict";
import { test } from "node:test";
import { objectKey } from "../../src/model/snapshot.ts";
import { eventually } from "../lib/eventually.ts";
import { clusterIP, following, NODE, service, slice } from "../lib/followed.ts";

test("Objects, changes and deletions arrive through list and watch", () =>
  following({ before: (server) => void server.put(service("old")) }, async (f) => {
    f.server.put({ apiVersion: "v1", kind: "Node", metadata: { name: NODE }, spec: { podCIDRs: ["10.1.0.0/24"] } });
    f.server.put({ apiVersion: "v1", kind: "Node", metadata: { name: "another" } });
    await f.synced();
    assert.ok(f.services().includes("default/old"));
    f.server.put(service("new"));
    f.server.put(slice("new-1", "new", ["10.1.0.1"]));
    await eventually(() => {
      assert.deepEqual(f.services(), ["default/new", "default/old"]);
      assert.equal(f.source.snapshot().slices.get(objectKey("default", "new"))?.get("new-1")?.endpoints.length, 1);
      assert.equal(f.source.snapshot().node?.name, NODE);
    });
    f.server.put(service("new", { clusterIP: "10.0.0.9" }));
    f.server.delete("Service", "default", "old");
    await eventually(() => {
      assert.deepEqual(f.services(), ["default/new"]);
      assert.equal(clusterIP(f, "new"), "10.0.0.9");
    });
  }));

test("The first changed() comes when all three resources have been listed, not before", () =>
  following(
    {
      before: (server) => {
        server.put(service("web"));
        server.fail(500, { resource: "nodes", times: 3 });
      },
    },
    async (f) => {
      await eventually(() => assert.equal(f.services().length, 1));
      assert.equal(f.source.synced(), false);
      assert.equal(f.changes(), 0);
      await f.synced();
      assert.equal(f.changes(), 1);
    },
  ));

test("A watch asks for bookmarks, a timeout of its own, and the position of the list", () =>
  following({}, async (f) => {
    await f.synced();
    await eventually(() => assert.equal(f.server.openWatches, 3));
    const watch = f.server.requests.find((r) => r.verb === "watch" && r.resource === "services");
    assert.equal(watch?.query.get("allowWatchBookmarks"), "true");
    assert.equal(watch?.query.get("timeoutSeconds"), "3");
    assert.equal(watch?.query.get("resourceVersion"), "200");
    assert.equal(
      watch?.query.get("labelSelector"),
      "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless",
    );
  }));

test("A bookmark moves the position: the next watch starts there", () =>
  following({ server: { bookmark_ms: 50 } }, async (f) => {
    await f.synced();
    await eventually(() => assert.equal(f.server.openWatches, 3));
    f.server.put({ apiVersion: "v1", kind: "Event", metadata: { name: "noise", namespace: "default" } });
    await new Promise((resolve) => setTimeout(resolve, 150));
    f.server.closeAll();
    await eventually(() => {
      const watches = f.server.requests.filter((r) => r.verb === "watch" && r.resource === "services");
      assert.equal(watches[1]?.query.get("resourceVersion"), "201");
    });
    assert.equal(f.server.count({ verb: "list", resource: "services" }), 1, "no new list was needed");
  }));

test("The service-proxy-name label put on a live Service takes it away, taken off brings it back", () =>
  following({}, async (f) => {
    f.server.put(service("web"));
    await f.synced();
    await eventually(() => assert.deepEqual(f.services(), ["default/web"]));
    f.server.put(service("web", {}, { labels: { "service.kubernetes.io/service-proxy-name": "other" } }));
    await eventually(() => assert.deepEqual(f.services(), []));
    f.server.put(service("web"));
    await eventually(() => assert.deepEqual(f.services(), ["default/web"]));
  }));

test("With a service proxy name of our own, only Services that bear it are ours", () =>
  following({ serviceProxyName: "mine" }, async (f) => {
    f.server.put(service("ours", {}, { labels: { "service.kubernetes.io/service-proxy-name": "mine" } }));
    f.server.put(service("theirs", {}, { labels: { "service.kubernetes.io/service-proxy-name": "other" } }));
    f.server.put(service("plain"));
    await f.synced();
    await eventually(() => assert.deepEqual(f.services(), ["default/ours"]));
    assert.equal(f.source.snapshot().services.get(objectKey("default", "ours"))?.skip, null);
  }));

test("Fault 34: the API is away while much changes; the difference arrives, deletions too", () =>
  following({}, async (f) => {
    for (let i = 0; i < 20; i++) f.server.put(service(`s${i}`));
    await f.synced();
    await eventually(() => assert.equal(f.services().length, 20));
    const kept = f.source.snapshot().services.get(objectKey("default", "s19"));
    await f.server.stop();
    for (let i = 0; i < 15; i++) f.server.delete("Service", "default", `s${i}`);
    for (let i = 20; i < 30; i++) f.server.put(service(`s${i}`));
    f.server.expire();
    await new Promise((resolve) => setTimeout(resolve, 100));
    assert.equal(f.services().length, 20, "what was known stays known meanwhile");
    await f.server.start();
    await eventually(() => assert.equal(f.services().length, 15));
    assert.equal(f.source.snapshot().services.get(objectKey("default", "s19")), kept, "unchanged keeps its identity");
  }));

test("Fault 35: a reset connection is opened again at the position it had", () =>
  following({}, async (f) => {
    f.server.put(service("a"));
    await f.synced();
    await eventually(() => assert.equal(f.server.openWatches, 3));
    f.server.reset();
    f.server.put(service("b"));
    await eventually(() => assert.deepEqual(f.services(), ["default/a", "default/b"]));
    assert.equal(f.server.count({ verb: "list", resource: "services" }), 1);
  }));

test("Fault 36: a stream that has gone silent is given up, and nothing of it is lost", () =>
  following({ times: { watch_min_s: 0.5 }, server: { bookmark_ms: 100_000 } }, async (f) => {
    await f.synced();
    await eventually(() => assert.equal(f.server.openWatches, 3));
    f.server.stall();
    f.server.put(service("missed"));
    await eventually(() => assert.match(f.log.join("\n"), /services: the API server has been silent for/));
    f.server.resume();
    await eventually(() => assert.deepEqual(f.services(), ["default/missed"]));
  }));

for (const form of ["stream", "http"] as const) {
  const fault = form === "http" ? 37 : 38;
  test(`Fault ${fault}: 410 ${form === "http" ? "as the answer" : "in the stream"} leads to a new list`, () =>
    following({}, async (f) => {
      f.server.put(service("a"));
      await f.synced();
      await eventually(() => assert.equal(f.server.openWatches, 3));
      await f.server.stop();
      f.server.delete("Service", "default", "a");
      f.server.put(service("b"));
      f.server.expire(form);
      await f.server.start();
      await eventually(() => assert.deepEqual(f.services(), ["default/b"]));
      assert.equal(f.server.count({ verb: "list", resource: "services" }), 2);
    }));
}

test("Fault 47: watches that a leaving server ends together are opened again at random moments, from where they were", () =>
  following({ times: { backoff_min_ms: 400, backoff_max_ms: 10_000 } }, async (f) => {
    await f.synced();
    await eventually(() => assert.equal(f.server.openWatches, 3));
    const ended_ms = performance.now();
    f.server.closeAll();
    await eventually(() => assert.equal(f.server.openWatches, 3));
    const again = f.server.requests.filter((r) => r.verb === "watch" && r.at_ms > ended_ms);
    assert.equal(again.length, 3);
    // random() says 0.5 here: half of the longest first delay.
    for (const { at_ms } of again) assert.ok(at_ms - ended_ms >= 195, `${at_ms - ended_ms} ms`);
    assert.equal(f.server.count({ verb: "list" }), 3);
  }));

test("A watch that ends when it was asked to goes on without delay and without a word", () =>
  following({ times: { watch_min_s: 0.5, backoff_min_ms: 5000 }, server: { bookmark_ms: 300 } }, async (f) => {
    await f.synced();
    await eventually(() => assert.ok(f.server.count({ verb: "watch", resource: "services" }) >= 2));
    assert.equal(f.server.count({ verb: "list", resource: "services" }), 1);
    assert.deepEqual(f.log, []);
  }));

test("Fault 42: a line that is no JSON loses no update", () =>
  following({}, async (f) => {
    f.server.put(service("a"));
    await f.synced();
    await eventually(() => assert.equal(f.server.openWatches, 3));
    f.server.corruptLine();
    f.server.put(service("lost"));
    f.server.put(service("after"));
    await eventually(() => assert.deepEqual(f.services(), ["default/a", "default/after", "default/lost"]));
  }));

for (const bytes of [1, 3, 7]) {
  test(`Fault 42: objects cut every ${bytes} bytes, also inside of characters, arrive whole`, () =>
    following({}, async (f) => {
      await f.synced();
      await eventually(() => assert.equal(f.server.openWatches, 3));
      f.server.split(bytes);
      f.server.put(service("umlaut", {}, { annotations: { note: "Käse 🧀 für alle" }, uid: "ü-🧀" }));
      f.server.put(service("next"));
      await eventually(() => assert.deepEqual(f.services(), ["default/next", "default/umlaut"]));
      assert.equal(f.source.snapshot().services.get(objectKey("default", "umlaut"))?.uid, "ü-🧀");
      assert.equal(f.server.count({ verb: "list", resource: "services" }), 1);
    }));
}

test("Fault 42: lines that end in CRLF, empty lines, and two events in one piece are read", () =>
  following({}, async (f) => {
    await f.synced();
    await eventually(() => assert.equal(f.server.openWatches, 3));
    const added = (name: string, version: number): string =>
      JSON.stringify({ type: "ADDED", object: service(name, {}, { resourceVersion: String(version) }) });
    f.server.inject("services", `\r\n${added("a", 301)}\r\n\n${added("b", 302)}\r\n`);
    await eventually(() => assert.deepEqual(f.services(), ["default/a", "default/b"]));
  }));

test("Fault 42: a line without end is given up at its limit, and the list brings what it held", () =>
  following({ limits: { line_bytes: 100_000 } }, async (f) => {
    await f.synced();
    await eventually(() => assert.equal(f.server.openWatches, 3));
    f.server.put(service("huge", {}, { annotations: { note: "x".repeat(200_000) } }));
    await eventually(() => assert.deepEqual(f.services(), ["default/huge"]));
    assert.match(f.log.join("\n"), /a line is longer than 100000 bytes/);
  }));

test("Fault 43: a bookmark without fields is passed over", () =>
  following({}, async (f) => {
    await f.synced();
    await eventually(() => assert.equal(f.server.openWatches, 3));
    f.server.inject("services", '{"type":"BOOKMARK"}\n{"type":"BOOKMARK","object":{"metadata":{}}}\n');
    f.server.put(service("a"));
    await eventually(() => assert.deepEqual(f.services(), ["default/a"]));
    assert.equal(f.server.count({ verb: "list", resource: "services" }), 1);
  }));

const DISTRUSTED: readonly (readonly [string, string])[] = [
  ["an unknown event type", '{"type":"SURPRISE","object":{}}'],
  [
    "an ERROR that is not 410",
    '{"type":"ERROR","object":{"kind":"Status","code":500,"message":"etcd leader changed"}}',
  ],
  ["an ERROR without anything", '{"type":"ERROR"}'],
  ["an event without object", '{"type":"ADDED"}'],
  ["an object without resourceVersion", '{"type":"MODIFIED","object":{"metadata":{"name":"a"}}}'],
  ["JSON that is no event", "[1,2,3]"],
  ["null", "null"],
];
for (const [what, text] of DISTRUSTED) {
  test(`Fault 43: ${what} makes it list again`, () =>
    following({}, async (f) => {
      f.server.put(service("a"));
      await f.synced();
      await eventually(() => assert.equal(f.server.openWatches, 3));
      f.server.inject("services", `${text}\n`);
      await eventually(() => assert.equal(f.server.count({ verb: "list", resource: "services" }), 2));
      await eventually(() => assert.equal(f.server.openWatches, 3));
      f.server.put(service("b"));
      await eventually(() => assert.deepEqual(f.services(), ["default/a", "default/b"]));
    }));
}

test("Fault 44: duplicates, a deletion of the unknown and a change of the unknown are taken as they are", () =>
  following({}, async (f) => {
    await f.synced();
    await eventually(() => assert.equal(f.server.openWatches, 3));
    f.server.duplicate(2);
    f.server.put(service("twice"));
    f.server.put(service("again"));
    const event = (type: string, name: string, version: number): string =>
      JSON.stringify({ type, object: service(name, {}, { resourceVersion: String(version) }) });
    f.server.inject("services", `${event("DELETED", "unknown", 300)}\n${event("MODIFIED", "unheard-of", 301)}\n`);
    await eventually(() => assert.deepEqual(f.services(), ["default/again", "default/twice", "default/unheard-of"]));
    assert.equal(f.server.count({ verb: "list", resource: "services" }), 1);
  }));

test("Fault 44: of two events in the wrong order the newer one's state stays", () =>
  following({}, async (f) => {
    f.server.put(service("web"));
    await f.synced();
    await eventually(() => assert.equal(f.server.openWatches, 3));
    f.server.reorder("services");
    f.server.put(service("web", { clusterIP: "10.0.0.2" }));
    f.server.put(service("web", { clusterIP: "10.0.0.3" }));
    await eventually(() => assert.equal(f.server.count({ verb: "list", resource: "services" }), 2));
    assert.equal(clusterIP(f, "web"), "10.0.0.3");
  }));

test("Fault 30: a server restored from a backup, silent to those from its future, is listed again", () =>
  following({ times: { watch_min_s: 0.7 }, server: { bookmark_ms: 100_000 } }, async (f) => {
    f.server.put(service("before"));
    const backup = f.server.state.backup();
    f.server.put(service("undone"));
    await f.synced();
    await eventually(() => assert.equal(f.services().length, 2));
    f.server.rollbackRV(backup);
    await eventually(() => assert.deepEqual(f.services(), ["default/before"]));
    await eventually(() => assert.equal(f.server.openWatches, 3));
    f.server.put(service("after"));
    await eventually(() => assert.deepEqual(f.services(), ["default/after", "default/before"]));
  }));

test("Fault 30: a version that stands still still brings its changes", () =>
  following({}, async (f) => {
    await f.synced();
    await eventually(() => assert.equal(f.server.openWatches, 3));
    f.server.freezeRV();
    f.server.put(service("a"));
    f.server.put(service("b"));
    f.server.put(service("a", { clusterIP: "10.0.0.7" }));
    await eventually(() => assert.equal(clusterIP(f, "a"), "10.0.0.7"));
    assert.deepEqual(f.services(), ["default/a", "default/b"]);
  }));

test("Fault 32: deleted and made anew while nobody watched, it is the new object", () =>
  following({}, async (f) => {
    f.server.put(service("web", {}, { uid: "first" }));
    await f.synced();
    await eventually(() => assert.equal(f.server.openWatches, 3));
    await f.server.stop();
    f.server.delete("Service", "default", "web");
    f.server.put(service("web", {}, { uid: "second" }));
    f.server.expire();
    await f.server.start();
    await eventually(() => assert.equal(f.source.snapshot().services.get(objectKey("default", "web"))?.uid, "second"));
  }));

test("Fault 48: events in a burst are announced together, and the last state counts", () =>
  following({}, async (f) => {
    await f.synced();
    await eventually(() => assert.equal(f.server.openWatches, 3));
    for (let i = 0; i < 2000; i++) f.server.put(service(`s${i % 50}`, { clusterIP: `10.0.${i >> 8}.${i & 255}` }));
    await eventually(() => assert.equal(clusterIP(f, "s49"), "10.0.7.207"));
    assert.equal(f.services().length, 50);
    assert.ok(f.changes() < 500, `${f.changes()} announcements`);
  }));

test("An object that becomes unusable is gone and named; mended, it is back", () =>
  following({}, async (f) => {
    f.server.put(service("web"));
    f.server.put(slice("web-1", "web", ["10.1.0.1"]));
    await f.synced();
    await eventually(() => assert.equal(f.source.snapshot().slices.size, 1));
    f.server.put({ ...slice("web-1", "web", ["10.1.0.1"]), addressType: "Morse" });
    await eventually(() => assert.equal(f.source.snapshot().slices.size, 0));
    assert.match(f.log.join("\n"), /EndpointSlice default\/web-1 addressType: "Morse" is not one of IPv4, IPv6/);
    assert.equal(f.source.problems().length, 1);
    f.server.put(slice("web-1", "web", ["10.1.0.1"]));
    await eventually(() => assert.equal(f.source.snapshot().slices.size, 1));
    assert.equal(f.source.problems().length, 0);
  }));
