import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type Kind, type ParseResult, parseObject } from "../../src/k8s/parse.ts";
import { ObjectStore } from "../../src/k8s/store.ts";
import { objectKey, type Snapshot } from "../../src/model/snapshot.ts";

const service = (name: string, clusterIP = "10.0.0.1", port: unknown = 80): ParseResult =>
  parseObject({ apiVersion: "v1", kind: "Service", metadata: { name }, spec: { clusterIP, ports: [{ port }] } });

const slice = (name: string, serviceName: string, addresses: readonly string[]): ParseResult =>
  parseObject({
    apiVersion: "discovery.k8s.io/v1",
    kind: "EndpointSlice",
    metadata: { name, labels: { "kubernetes.io/service-name": serviceName } },
    addressType: "IPv4",
    ports: [{ port: 8080 }],
    endpoints: addresses.map((address) => ({ addresses: [address] })),
  });

const endpoints = (name: string, ips: readonly string[]): ParseResult =>
  parseObject({
    apiVersion: "v1",
    kind: "Endpoints",
    metadata: { name },
    subsets: [{ addresses: ips.map((ip) => ({ ip })), ports: [{ port: 8080 }] }],
  });

const node = (name: string): ParseResult =>
  parseObject({ apiVersion: "v1", kind: "Node", metadata: { name, labels: { "topology.kubernetes.io/zone": "z1" } } });

const put = (store: ObjectStore, { parsed, problems }: ParseResult): boolean => store.upsert(parsed, problems);

const WEB = objectKey("default", "web");

/** Slice names and first addresses of a Service. */
const slicesOf = (snapshot: Snapshot, name = "web"): Readonly<Record<string, string | undefined>> =>
  Object.fromEntries(
    [...(snapshot.slices.get(objectKey("default", name)) ?? [])].map(([key, s]) => [key, s.endpoints[0]?.address]),
  );

test("An unchanged object changes nothing: the same value, the same maps, the same snapshot", () => {
  const store = new ObjectStore("n");
  assert.equal(put(store, service("web")), true);
  assert.equal(put(store, slice("web-1", "web", ["10.1.0.1"])), true);
  assert.equal(put(store, node("n")), true);
  const before = store.snapshot();
  assert.equal(put(store, service("web")), false);
  assert.equal(put(store, slice("web-1", "web", ["10.1.0.1"])), false);
  assert.equal(put(store, node("n")), false);
  assert.equal(store.replaceAll("Service", [service("web")]), false);
  assert.equal(store.snapshot(), before);
});

test("What changed is another value, what did not is the same one, in another snapshot", () => {
  const store = new ObjectStore("n");
  for (const object of [
    service("web"),
    service("api"),
    slice("web-1", "web", ["10.1.0.1"]),
    slice("api-1", "api", ["10.1.0.2"]),
  ])
    put(store, object);
  const before = store.snapshot();
  put(store, service("web", "10.0.0.2"));
  put(store, slice("api-2", "api", ["10.1.0.3"]));
  const after = store.snapshot();
  const api = objectKey("default", "api");
  assert.notEqual(after, before);
  assert.notEqual(after.services.get(WEB), before.services.get(WEB));
  assert.equal(after.services.get(api), before.services.get(api));
  assert.equal(after.slices.get(WEB), before.slices.get(WEB));
  assert.equal(after.slices.get(api)?.get("api-1"), before.slices.get(api)?.get("api-1"));
  assert.equal(before.services.get(WEB)?.clusterIPs[0], "10.0.0.1", "an old snapshot stays what it was");
  assert.equal(before.slices.get(api)?.size, 1);
});

test("Fault 23: a slice may come before its Service, and stay after it", () => {
  const store = new ObjectStore("n");
  put(store, slice("web-1", "web", ["10.1.0.1"]));
  assert.deepEqual(slicesOf(store.snapshot()), { "web-1": "10.1.0.1" });
  put(store, service("web"));
  assert.equal(store.remove("Service", WEB), true);
  assert.deepEqual(slicesOf(store.snapshot()), { "web-1": "10.1.0.1" });
});

test("Fault 24: a slice that moves to another Service leaves the first", () => {
  const store = new ObjectStore("n");
  put(store, slice("x", "web", ["10.1.0.1"]));
  put(store, slice("x", "api", ["10.1.0.1"]));
  assert.deepEqual(slicesOf(store.snapshot()), {});
  assert.equal(store.snapshot().slices.has(WEB), false, "no empty group is left behind");
  assert.deepEqual(slicesOf(store.snapshot(), "api"), { x: "10.1.0.1" });
});

test("Slices win over Endpoints, in either order; without slices the Endpoints count", () => {
  const store = new ObjectStore("n");
  put(store, endpoints("web", ["10.9.0.1"]));
  assert.deepEqual(slicesOf(store.snapshot()), { "web-endpoints-0-ipv4": "10.9.0.1" });
  put(store, slice("web-1", "web", ["10.1.0.1"]));
  assert.deepEqual(slicesOf(store.snapshot()), { "web-1": "10.1.0.1" });
  put(store, endpoints("web", ["10.9.0.2"]));
  assert.deepEqual(slicesOf(store.snapshot()), { "web-1": "10.1.0.1" });
  store.remove("EndpointSlice", objectKey("default", "web-1"));
  assert.deepEqual(slicesOf(store.snapshot()), { "web-endpoints-0-ipv4": "10.9.0.2" });
  store.remove("Endpoints", WEB);
  assert.deepEqual(slicesOf(store.snapshot()), {});
});

test("Of all Nodes only our own is kept, and problems of others are nobody's", () => {
  const store = new ObjectStore("n");
  assert.equal(put(store, node("other")), false);
  const broken = parseObject({ kind: "Node", metadata: { name: "other" }, spec: { podCIDR: "x" } });
  put(store, broken);
  assert.deepEqual(store.problems(), []);
  put(store, node("n"));
  assert.equal(store.remove("Node", objectKey("default", "other")), false);
  assert.equal(store.snapshot().node?.zone, "z1");
  assert.equal(store.remove("Node", objectKey("default", "n")), true);
  assert.equal(store.snapshot().node, null);
});

test("A rejected object takes its earlier value along, and is named until it is mended or gone", () => {
  const store = new ObjectStore("n");
  put(store, service("web"));
  const broken = parseObject({ apiVersion: "v1", kind: "Service", metadata: { name: "web" }, spec: 5 });
  assert.equal(put(store, broken), true);
  assert.equal(store.snapshot().services.size, 0);
  assert.deepEqual(
    store.problems().map((p) => p.object),
    ["Service default/web"],
  );
  put(store, service("web"));
  assert.deepEqual(store.problems(), []);
  put(store, broken);
  store.remove("Service", WEB);
  assert.deepEqual(store.problems(), []);
});

test("Problems are the same value until one changes", () => {
  const store = new ObjectStore("n");
  put(store, service("web", "10.0.0.1", 70000));
  const before = store.problems();
  put(store, service("web", "10.0.0.2", 70000));
  assert.equal(store.problems(), before);
  put(store, service("web", "10.0.0.2", 70001));
  assert.notEqual(store.problems(), before);
});

test("Fault 45: what a list does not name is gone, and so are its problems", () => {
  const store = new ObjectStore("n");
  for (const object of [service("a"), service("b", "10.0.0.1", 70000), slice("a-1", "a", ["10.1.0.1"])])
    put(store, object);
  assert.equal(store.replaceAll("Service", [service("c")]), true);
  assert.deepEqual([...store.snapshot().services.keys()], ["default/c"]);
  assert.deepEqual(store.problems(), []);
  assert.equal(store.snapshot().slices.size, 1, "another kind is not touched");
});

test("Deleting what is not there is no error and no change", () => {
  const store = new ObjectStore("n");
  for (const kind of ["Service", "EndpointSlice", "Endpoints", "Node"] as const)
    assert.equal(store.remove(kind, objectKey("default", "nothing")), false);
});

/** A small world, so that changes meet. */
const names = fc.constantFrom("a", "b", "c");
const ips = fc.uniqueArray(fc.constantFrom("10.1.0.1", "10.1.0.2", "10.1.0.3"), { maxLength: 3 });
type Step = { readonly kind: Kind; readonly name: string; readonly object: ParseResult | null };
const step: fc.Arbitrary<Step> = fc.oneof(
  fc
    .tuple(names, fc.constantFrom("10.0.0.1", "10.0.0.2", "None", "bad"))
    .map(([name, ip]) => ({ kind: "Service" as const, name, object: service(name, ip) })),
  fc
    .tuple(names, names, ips)
    .map(([name, owner, list]) => ({ kind: "EndpointSlice" as const, name, object: slice(name, owner, list) })),
  fc.tuple(names, ips).map(([name, list]) => ({ kind: "Endpoints" as const, name, object: endpoints(name, list) })),
  fc
    .tuple(fc.constantFrom<Kind>("Service", "EndpointSlice", "Endpoints"), names)
    .map(([kind, name]) => ({ kind, name, object: null })),
);

test("However the objects came, one by one or as lists, with snapshots in between or not, the end is the same", () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), fc.array(fc.boolean()), (steps, looks) => {
      const gradual = new ObjectStore("n");
      const last = new Map<string, Step>();
      for (const [i, s] of steps.entries()) {
        if (s.object === null) gradual.remove(s.kind, objectKey("default", s.name));
        else put(gradual, s.object);
        last.set(`${s.kind} ${s.name}`, s);
        if (looks[i]) gradual.snapshot();
      }
      const atOnce = new ObjectStore("n");
      for (const kind of ["Service", "EndpointSlice", "Endpoints"] as const)
        atOnce.replaceAll(
          kind,
          [...last.values()].flatMap((s) => (s.kind === kind && s.object !== null ? [s.object] : [])),
        );
      assert.deepEqual(gradual.snapshot(), atOnce.snapshot());
      assert.deepEqual(new Set(gradual.problems()), new Set(atOnce.problems()));
    }),
  );
});

test("upsert, remove and replaceAll say truly whether the snapshot differs, but for slices that hide Endpoints", () => {
  const noEndpoints = step.filter((s) => s.kind !== "Endpoints");
  fc.assert(
    fc.property(fc.array(noEndpoints, { maxLength: 30 }), (steps) => {
      const store = new ObjectStore("n");
      for (const s of steps) {
        const before = store.snapshot();
        const changed = s.object === null ? store.remove(s.kind, objectKey("default", s.name)) : put(store, s.object);
        assert.equal(store.snapshot() !== before, changed);
        if (!changed) assert.deepEqual(store.snapshot(), before);
      }
    }),
  );
});
