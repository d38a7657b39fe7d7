import assert from "node:assert/strict";
import { test } from "node:test";
import { compile } from "../../src/compile/compile.ts";
import { evaluate } from "../../src/compile/evaluate.ts";
import { desiredToJson, formatDesired } from "../../src/compile/format.ts";
import { makePrefix } from "../../src/model/address.ts";
import type { Packet, Verdict } from "../../src/model/verdict.ts";
import { address, endpoint, options, service, slice, snapshot } from "../lib/snapshots.ts";

const { desired } = compile(
  snapshot(
    [
      service({
        type: "LoadBalancer",
        loadBalancerIPs: [address("198.51.100.7")],
        sourceRanges: [makePrefix(address("203.0.113.0"), 28)],
        externalTrafficPolicy: "Local",
        affinity_timeout_s: 60,
        ports: [{ name: "", protocol: "TCP", port: 80, nodePort: 30080 }],
      }),
    ],
    [slice([endpoint("10.244.1.2"), endpoint("10.244.2.2", { nodeName: "node-b" })])],
  ),
  options,
);

const ask = (place: Packet["from"]["place"], from: string, to: string, port: number): Verdict =>
  evaluate(desired, {
    from: { place, address: address(from) },
    to: { address: address(to), port, protocol: "TCP" },
  });

test("a verdict names the service, the frontend, the scope and the affinity", () => {
  const verdict = ask("pod", "10.244.1.9", "10.96.0.1", 80);
  assert.ok(verdict.kind === "forward");
  assert.deepEqual(verdict.service, { namespace: "default", name: "web", port: "", protocol: "TCP" });
  assert.equal(verdict.frontend.kind, "ClusterIP");
  assert.equal(verdict.scope, "internal");
  assert.equal(verdict.affinity_timeout_s, 60);
});

test("inside keeps the client's address though the backend is remote; outside only when it is local", () => {
  const sources = (verdict: Verdict): readonly string[] =>
    verdict.kind === "forward" ? verdict.backends.map(({ backend, source }) => `${backend.address} ${source}`) : [];
  assert.deepEqual(sources(ask("pod", "10.244.1.9", "192.0.2.11", 30080)), ["10.244.1.2 client", "10.244.2.2 client"]);
  assert.deepEqual(sources(ask("outside", "203.0.113.9", "192.0.2.11", 30080)), ["10.244.1.2 client"]);
  assert.deepEqual(sources(ask("outside", "203.0.113.9", "10.96.0.1", 80)), ["10.244.1.2 client", "10.244.2.2 node"]);
});

test("source ranges are asked before endpoints: a stranger learns nothing", () => {
  const verdict = ask("outside", "203.0.113.99", "198.51.100.7", 80);
  assert.ok(verdict.kind === "drop");
  assert.equal(verdict.reason, "not in source ranges");
});

test("an address of the other family is in no range", () => {
  assert.equal(ask("pod", "fd00:1::9", "198.51.100.7", 80).kind, "drop");
});

test("an IPv6 loopback address is no node address", () => {
  assert.deepEqual(ask("node", "::1", "::1", 30080), { kind: "pass", reason: "not a frontend" });
});

test("a Desired is text: one block a service port, what differs by scope on two lines", () => {
  assert.equal(
    formatDesired(desired),
    `node 127.0.0.1 (loopback) 192.0.2.11 (primary) 2001:db8::11 (primary)

default/web/TCP  affinity 60s  only from 203.0.113.0/28
  10.244.1.2:8080 local active
  10.244.2.2:8080 active
  ClusterIP 10.96.0.1:80 → 10.244.1.2:8080 10.244.2.2:8080
  LoadBalancer 198.51.100.7:80 restricted
    internal → 10.244.1.2:8080 10.244.2.2:8080
    external (Local) → 10.244.1.2:8080
  NodePort IPv4 30080
    internal → 10.244.1.2:8080 10.244.2.2:8080
    external (Local) → 10.244.1.2:8080
`,
  );
});

test("a Desired is JSON of plain objects, choices naming their backends", () => {
  const json = desiredToJson(desired);
  assert.deepEqual(JSON.parse(JSON.stringify(json)), json);
  assert.deepEqual(json.services[0]?.frontends[2], {
    kind: "NodePort",
    family: "IPv4",
    address: null,
    port: 30080,
    restricted: false,
    internal: { kind: "backends", policy: "Cluster", backends: ["10.244.1.2:8080", "10.244.2.2:8080"] },
    external: { kind: "backends", policy: "Local", backends: ["10.244.1.2:8080"] },
  });
});
