// The fake API server answers as kube-apiserver was recorded to: what the tests of the reflector stand on.
import assert from "node:assert/strict";
import { test } from "node:test";
import { labelSelector } from "../lib/api-selectors.ts";
import { FakeApiServer } from "../lib/api-server.ts";
import { ConflictError } from "../lib/api-state.ts";
import { service } from "../lib/followed.ts";

interface Answer {
  readonly status: number;
  // biome-ignore lint/suspicious/noExplicitAny: the shape is what is tested
  readonly body: any;
}

const withServer = async (
  body: (server: FakeApiServer, get: (path: string) => Promise<Answer>) => Promise<void>,
): Promise<void> => {
  const server = new FakeApiServer({ bookmark_ms: 50 });
  await server.start();
  try {
    await body(server, async (path) => {
      const response = await fetch(`${server.url}${path}`);
      return { status: response.status, body: await response.json() };
    });
  } finally {
    await server.stop();
  }
};

/** The first `count` events of a watch. */
const events = async (server: FakeApiServer, query: string, count: number, meanwhile = (): void => undefined) => {
  const response = await fetch(`${server.url}/api/v1/services?watch=true&${query}`);
  meanwhile();
  let text = "";
  const decoder = new TextDecoder();
  for await (const chunk of response.body ?? []) {
    text += decoder.decode(chunk, { stream: true });
    if (text.split("\n").length > count) break;
  }
  return text
    .trim()
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as Answer["body"]);
};

const shortly = (list: readonly Answer["body"][]): readonly string[] =>
  list.map(({ type, object }) =>
    `${type} ${object.metadata?.name ?? ""} ${object.metadata?.resourceVersion ?? ""}`.trim(),
  );

test("A list has a version, items without kind in the order of their keys, and pages that show one moment", () =>
  withServer(async (server, get) => {
    for (const name of ["c", "a", "b"]) server.put(service(name));
    const first = await get("/api/v1/services?limit=2");
    assert.equal(first.body.kind, "ServiceList");
    assert.deepEqual(
      first.body.items.map((item: Answer["body"]) => item.metadata.name),
      ["a", "b"],
    );
    assert.equal(first.body.items[0].kind, undefined);
    assert.equal(first.body.metadata.remainingItemCount, 1);
    server.delete("Service", "default", "c");
    const second = await get(`/api/v1/services?limit=2&continue=${first.body.metadata.continue}`);
    assert.deepEqual(
      second.body.items.map((item: Answer["body"]) => item.metadata.name),
      ["c"],
    );
    assert.equal(second.body.metadata.resourceVersion, first.body.metadata.resourceVersion);
    assert.equal(second.body.metadata.continue, undefined);
  }));

test("One version counts over all resources; a deletion has its own", () =>
  withServer(async (server) => {
    const a = server.put(service("a"));
    const node = server.put({ apiVersion: "v1", kind: "Node", metadata: { name: "n" } });
    assert.equal(Number(node.metadata.resourceVersion), Number(a.metadata.resourceVersion) + 1);
    const from = `resourceVersion=${node.metadata.resourceVersion}`;
    const [deleted] = await events(server, from, 1, () => void server.delete("Service", "default", "a"));
    assert.equal(Number(deleted.object.metadata.resourceVersion), Number(node.metadata.resourceVersion) + 1);
    assert.equal(deleted.object.kind, "Service", "watch objects do say what they are");
  }));

test("A watch replays what came after its version, then goes on live", () =>
  withServer(async (server) => {
    server.put(service("a"));
    server.put(service("b"));
    server.put(service("a", { clusterIP: "10.0.0.9" }));
    const seen = await events(server, "resourceVersion=201", 3, () => void server.put(service("c")));
    assert.deepEqual(shortly(seen), ["ADDED b 202", "MODIFIED a 203", "ADDED c 204"]);
  }));

test("Version 0, or none, begins with everything there is", () =>
  withServer(async (server) => {
    server.put(service("a"));
    server.put(service("b"));
    for (const version of ["resourceVersion=0", ""])
      assert.deepEqual(shortly(await events(server, version, 2)), ["ADDED a 201", "ADDED b 202"]);
  }));

test("An object that enters or leaves a selector is added or deleted to who looks through it", () =>
  withServer(async (server) => {
    const query = "resourceVersion=200&labelSelector=mine";
    const seen = await events(server, query, 3, () => {
      server.put(service("a"));
      server.put(service("a", {}, { labels: { mine: "" } }));
      server.put(service("a", { clusterIP: "10.0.0.9" }, { labels: { mine: "" } }));
      server.put(service("a"));
      server.delete("Service", "default", "a");
    });
    assert.deepEqual(shortly(seen), ["ADDED a 202", "MODIFIED a 203", "DELETED a 204"]);
    assert.deepEqual(seen[2].object.metadata.labels, { mine: "" }, "the state it had when it was last seen");
  }));

test("Bookmarks come to those who asked", () =>
  withServer(async (server) => {
    server.put({ apiVersion: "v1", kind: "Node", metadata: { name: "n" } });
    assert.deepEqual(shortly(await events(server, "resourceVersion=200&allowWatchBookmarks=true", 1)), [
      "BOOKMARK  201",
    ]);
    assert.deepEqual(await events(server, "resourceVersion=200&timeoutSeconds=0.2", 1), []);
  }));

test("sendInitialEvents ends with an annotated bookmark", () =>
  withServer(async (server) => {
    server.put(service("a"));
    const [added, bookmark] = await events(server, "sendInitialEvents=true&resourceVersionMatch=NotOlderThan", 2);
    assert.equal(added.type, "ADDED");
    assert.equal(bookmark.object.metadata.annotations["k8s.io/initial-events-end"], "true");
  }));

test("Errors are Status objects with the codes of the real server", () =>
  withServer(async (server, get) => {
    for (const [path, status, reason] of [
      ["/api/v1/pods", 404, "NotFound"],
      ["/api/v1/services?resourceVersion=abc", 500, "InternalError"],
      ["/api/v1/services?resourceVersion=9999", 504, "Timeout"],
      ["/api/v1/services?continue=garbage", 400, "BadRequest"],
      ["/api/v1/services?labelSelector=a,,(", 400, "BadRequest"],
      ["/api/v1/services?fieldSelector=spec.x=1", 400, "BadRequest"],
    ] as const) {
      const answer = await get(path);
      assert.deepEqual(
        [answer.status, answer.body.kind, answer.body.code, answer.body.reason],
        [status, "Status", status, reason],
        path,
      );
    }
    server.accept(["secret"]);
    assert.equal((await get("/api/v1/services")).status, 401);
  }));

test("A version from before a compaction is expired, in the stream or as the answer", () =>
  withServer(async (server, get) => {
    server.put(service("a"));
    server.expire();
    const [error] = await events(server, "resourceVersion=200", 1);
    assert.deepEqual([error.type, error.object.code, error.object.reason], ["ERROR", 410, "Expired"]);
    server.expire("http");
    assert.equal((await get("/api/v1/services?watch=true&resourceVersion=200")).status, 410);
  }));

test("Writing over a version that is not the stored one is a conflict", () =>
  withServer(async (server) => {
    const a = server.put(service("a"));
    server.put(service("a", { clusterIP: "10.0.0.9" }));
    assert.throws(() => server.put(a), ConflictError);
    assert.equal(server.put(service("a")).metadata.uid, a.metadata.uid, "it is still the same object");
  }));

test("One object is found by its name, others' namespaces are left out", () =>
  withServer(async (server, get) => {
    server.put(service("a"));
    server.put(service("a", {}, { namespace: "other" }));
    assert.equal((await get("/api/v1/namespaces/other/services/a")).body.metadata.namespace, "other");
    assert.equal((await get("/api/v1/namespaces/other/services")).body.items.length, 1);
    assert.equal((await get("/api/v1/services")).body.items.length, 2);
    assert.equal((await get("/api/v1/namespaces/other/services/b")).status, 404);
  }));

test("Label selectors: existence, absence, equality, sets", () => {
  const object = { metadata: { name: "x", labels: { a: "1", "k.io/b": "" } } };
  for (const [selector, expected] of [
    ["", true],
    ["a", true],
    ["!a", false],
    ["!c", true],
    ["k.io/b,!c", true],
    ["a=1", true],
    ["a==2", false],
    ["a!=2", true],
    ["c!=2", true],
    ["a in (1, 2),k.io/b", true],
    ["a notin (1,2)", false],
    ["c notin (1)", true],
    ["c in (1)", false],
    ["toString", false],
  ] as const)
    assert.equal(labelSelector(selector)(object), expected, selector);
});
