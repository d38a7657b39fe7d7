import assert from "node:assert/strict";
import { test } from "node:test";
import { objectKey } from "../../src/model/snapshot.ts";
import { eventually } from "../lib/eventually.ts";
import { clusterIP, following, NODE, service, slice } from "../lib/followed.ts";

test("Fault 33: with the API down at the start nothing is synced; when it comes, everything is", () =>
  following({ before: (server) => server.stop() }, async (f) => {
    await eventually(() => assert.match(f.log.join("\n"), /ECONNREFUSED/));
    assert.equal(f.source.synced(), false);
    assert.equal(f.changes(), 0);
    f.server.put(service("a"));
    await f.server.start();
    await f.synced();
    assert.deepEqual(f.services(), ["default/a"]);
  }));

test("A list is read in pages that show one moment", () =>
  following(
    {
      limits: { page_items: 10 },
      before: (server) => {
        for (let i = 0; i < 35; i++) server.put(service(`s${i}`));
      },
    },
    async (f) => {
      await f.synced();
      assert.equal(f.services().length, 35);
      const lists = f.server.requests.filter((r) => r.verb === "list" && r.resource === "services");
      assert.equal(lists.length, 4);
      assert.ok(lists.every((r) => r.query.get("limit") === "10" && r.query.get("resourceVersion") === null));
    },
  ));

test("What happens between two pages of a list is not lost", () =>
  following(
    {
      limits: { page_items: 2 },
      before: (server) => {
        for (const name of ["a", "b", "c", "d"]) server.put(service(name));
        server.delay(40);
      },
    },
    async (f) => {
      await eventually(() => assert.ok(f.server.count({ verb: "list", resource: "services" }) >= 2));
      f.server.delete("Service", "default", "a");
      f.server.put(service("e"));
      await f.synced();
      await eventually(() => assert.deepEqual(f.services(), ["default/b", "default/c", "default/d", "default/e"]));
    },
  ));

test("Fault 39: a page token that expired starts the list from the beginning", () =>
  following(
    {
      limits: { page_items: 2 },
      before: (server) => {
        for (const name of ["a", "b", "c", "d"]) server.put(service(name));
        server.delay(30);
      },
    },
    async (f) => {
      await eventually(() => assert.equal(f.server.count({ verb: "list", resource: "services" }), 1));
      f.server.delete("Service", "default", "d");
      await eventually(() => assert.ok(f.server.count({ verb: "list", resource: "services" }) >= 2));
      f.server.expire();
      await f.synced();
      await eventually(() => assert.deepEqual(f.services(), ["default/a", "default/b", "default/c"]));
      assert.match(f.log.join("\n"), /410 Expired: The provided continue parameter is too old/);
    },
  ));

test("A page that shows another moment than the first is not trusted", () =>
  following(
    {
      limits: { page_items: 2 },
      before: (server) => {
        for (const name of ["a", "b", "c"]) server.put(service(name));
        server.delay(30);
      },
    },
    async (f) => {
      await eventually(() => assert.equal(f.server.count({ verb: "list", resource: "services" }), 2));
      const body = JSON.stringify({ metadata: { resourceVersion: "100" }, items: [service("stale")] });
      f.server.fail(200, { verb: "list", resource: "services", body });
      await f.synced();
      assert.match(f.log.join("\n"), /the list moved from resourceVersion 203 to 100 between pages/);
      assert.deepEqual(f.services(), ["default/a", "default/b", "default/c"]);
    },
  ));

test("Fault 40: 504 with a time to wait is waited for", () =>
  following(
    {
      before: (server) =>
        server.fail(504, {
          resource: "services",
          body: JSON.stringify({ kind: "Status", code: 504, reason: "Timeout", details: { retryAfterSeconds: 0.4 } }),
        }),
    },
    async (f) => {
      await f.synced();
      const [first, second] = f.server.requests.filter((r) => r.verb === "list" && r.resource === "services");
      assert.ok(first !== undefined && second !== undefined);
      assert.ok(second.at_ms - first.at_ms >= 400, `${second.at_ms - first.at_ms} ms`);
    },
  ));

for (const status of [403, 429, 500, 503]) {
  test(`Fault 41: ${status} on list and watch is survived, and named in the log`, () =>
    following(
      {
        before: (server) => {
          server.put(service("a"));
          server.fail(status, { verb: "list", resource: "services", times: 2 });
          server.fail(status, { verb: "watch", resource: "services", times: 2 });
        },
      },
      async (f) => {
        await f.synced();
        await eventually(() => assert.equal(f.server.openWatches, 3));
        f.server.put(service("b"));
        await eventually(() => assert.deepEqual(f.services(), ["default/a", "default/b"]));
        assert.equal(f.log.filter((line) => line.includes(` ${status} `)).length, 4);
        assert.equal(f.server.count({ verb: "list", resource: "services" }), 3, "the watch kept its position");
      },
    ));
}

test("Fault 41: Retry-After is obeyed", () =>
  following({ before: (server) => server.fail(429, { resource: "services", retryAfter_s: 1 }) }, async (f) => {
    await f.synced();
    const [first, second] = f.server.requests.filter((r) => r.verb === "list" && r.resource === "services");
    assert.ok(first !== undefined && second !== undefined);
    assert.ok(second.at_ms - first.at_ms >= 1000, `${second.at_ms - first.at_ms} ms`);
  }));

test("Fault 47: retries come further and further apart, up to the limit, and never in step", () =>
  following({ before: (server) => server.fail(503, { times: 100 }), times: { backoff_max_ms: 160 } }, async (f) => {
    const lists = (): readonly number[] =>
      f.server.requests.filter((r) => r.resource === "services").map((r) => r.at_ms);
    await eventually(() => assert.ok(lists().length >= 7));
    const gaps = lists().flatMap((at, i, all) => (i === 0 ? [] : [at - (all[i - 1] ?? 0)]));
    // 20 ms doubling to 160, half of each because random() says 0.5.
    for (const [i, expected] of [10, 20, 40, 80, 80].entries())
      assert.ok((gaps[i] ?? 0) >= expected - 2, `gap ${i}: ${gaps[i]} ms, expected ${expected}`);
  }));

for (const [what, body] of [
  ["HTML", "<html>bad gateway</html>"],
  ["a list without items", '{"kind":"ServiceList","metadata":{"resourceVersion":"1"}}'],
  ["a list without version", '{"kind":"ServiceList","metadata":{},"items":[]}'],
  ["half a list", '{"kind":"ServiceList","metadata":{"resourceVersion":"1"},"items":[{"metad'],
  ["null", "null"],
] as const) {
  test(`An answer 200 with ${what} deletes nothing`, () =>
    following({}, async (f) => {
      f.server.put(service("a"));
      await f.synced();
      await eventually(() => assert.equal(f.server.openWatches, 3));
      f.server.fail(200, { verb: "list", resource: "services", body });
      f.server.inject("services", "makes it list again\n");
      await eventually(() => assert.equal(f.server.count({ verb: "list", resource: "services" }), 3));
      assert.deepEqual(f.services(), ["default/a"]);
    }));
}

test("A list whose items are null, as Go writes an empty one, is empty", () =>
  following(
    {
      before: (server) =>
        server.fail(200, {
          verb: "list",
          resource: "services",
          body: '{"kind":"ServiceList","metadata":{"resourceVersion":"200"},"items":null}',
        }),
    },
    async (f) => {
      await f.synced();
      assert.equal(f.server.count({ verb: "list", resource: "services" }), 1);
    },
  ));

test("A page that is too large to hold is asked for in smaller ones", () =>
  following(
    {
      limits: { page_bytes: 20_000 },
      before: (server) => {
        for (let i = 0; i < 40; i++) server.put(service(`s${i}`, {}, { annotations: { note: "x".repeat(1000) } }));
      },
    },
    async (f) => {
      await f.synced();
      assert.equal(f.services().length, 40);
      const limits = f.server.requests.filter((r) => r.resource === "services").map((r) => r.query.get("limit"));
      assert.deepEqual(limits.slice(0, 4), ["500", "125", "32", "8"]);
    },
  ));

test("Fault 36: a list that does not answer is given up", () =>
  following({ before: (server) => server.stall() }, async (f) => {
    await eventually(() => assert.match(f.log.join("\n"), /services: the API server has been silent for 0.3 s/));
    f.server.resume();
    await f.synced();
  }));

test("Faults 45 and 46: a new list deletes what it does not name, and is never older than what was seen", () =>
  following({}, async (f) => {
    f.server.put(service("web"));
    f.server.put(service("gone"));
    await f.synced();
    await eventually(() => assert.equal(f.server.openWatches, 3));
    f.server.put(service("web", { clusterIP: "10.0.0.2" }));
    await eventually(() => assert.equal(clusterIP(f, "web"), "10.0.0.2"));
    f.server.corruptLine();
    f.server.delete("Service", "default", "gone");
    await eventually(() => assert.deepEqual(f.services(), ["default/web"]));
    assert.equal(clusterIP(f, "web"), "10.0.0.2");
    const lists = f.server.requests.filter((r) => r.verb === "list" && r.resource === "services");
    assert.equal(lists.length, 2);
    assert.ok(
      lists.every((r) => !r.query.has("resourceVersion")),
      "unset: the most recent state",
    );
  }));

test("Hostile objects do not stop the others, by list or by watch", () =>
  following(
    {
      before: (server) => {
        server.put(service("bad-port", { ports: [{ port: 70000 }, { name: "ok", port: 443 }] }));
        server.put({ apiVersion: "v1", kind: "Service", metadata: { name: "no-spec" }, spec: null });
        server.put(service("good"));
      },
    },
    async (f) => {
      await f.synced();
      assert.deepEqual(f.services(), ["default/bad-port", "default/good"]);
      assert.equal(f.source.snapshot().services.get(objectKey("default", "bad-port"))?.ports.length, 1);
      f.server.put(slice("good-1", "good", ["127.0.0.1", "10.1.0.1"]));
      await eventually(() => {
        const found = f.source.snapshot().slices.get(objectKey("default", "good"))?.get("good-1");
        assert.deepEqual(
          found?.endpoints.map((e) => e.address),
          ["10.1.0.1"],
        );
      });
      assert.equal(f.source.problems().length, 3);
      assert.equal(f.log.filter((line) => line.includes("70000")).length, 1);
    },
  ));

test("One node is asked for, and it may come and go", () =>
  following({}, async (f) => {
    await f.synced();
    assert.equal(f.source.snapshot().node, null);
    f.server.put({ apiVersion: "v1", kind: "Node", metadata: { name: NODE } });
    await eventually(() => assert.equal(f.source.snapshot().node?.name, NODE));
    f.server.delete("Node", "", NODE);
    await eventually(() => assert.equal(f.source.snapshot().node, null));
    const list = f.server.requests.find((r) => r.verb === "list" && r.resource === "nodes");
    assert.equal(list?.query.get("fieldSelector"), `metadata.name=${NODE}`);
  }));

test("Ten thousand Services and slices are listed in pages, at the cost of their values alone", () =>
  following({ before: (server) => server.fill(10_000, 2), times: { list_idle_ms: 20_000 } }, async (f) => {
    await eventually(() => assert.equal(f.source.synced(), true), 30_000);
    assert.equal(f.source.snapshot().services.size, 10_000);
    assert.equal(f.source.snapshot().slices.size, 10_000);
    assert.equal(f.server.count({ verb: "list", resource: "services" }), 20);
  }));
