// The examples are what they claim to be: no problem in them, and each frontend leads to the pods it should.
import assert from "node:assert/strict";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { compile } from "../../src/compile/compile.ts";
import { evaluate } from "../../src/compile/evaluate.ts";
import { readManifests } from "../../src/k8s/manifests.ts";
import type { Address } from "../../src/model/address.ts";
import type { Packet } from "../../src/model/verdict.ts";

const EXAMPLES = fileURLToPath(new URL("../../examples", import.meta.url));
const outside = (address: string, port: number, protocol: "TCP" | "UDP" = "TCP"): Packet => ({
  from: { place: "outside", address: "203.0.113.2" as Address },
  to: { address: address as Address, port, protocol },
});

test("examples compile on both nodes without a problem", () => {
  for (const nodeName of ["node1", "node2"]) {
    const { snapshot, problems } = readManifests([EXAMPLES], nodeName);
    assert.deepEqual(problems, []);
    const localAddresses = snapshot.node?.addresses ?? [];
    assert.equal(localAddresses.length, 2);
    const compiled = compile(snapshot, { nodeName, localAddresses, nodePortAddresses: [] });
    assert.deepEqual(compiled.problems, []);

    const names = [...compiled.desired.services.keys()].sort();
    const expected = ["edge:http/TCP", "dns:dns-tcp/TCP", "dns:dns/UDP", "shop:http/TCP", "web:http/TCP"];
    assert.deepEqual(names, expected.map((name) => `default/${name}`).sort());
    const backends = (packet: Packet): readonly string[] => {
      const verdict = evaluate(compiled.desired, packet);
      return verdict.kind === "forward" ? verdict.backends.map(({ backend }) => backend.address) : [verdict.kind];
    };
    const node = localAddresses[0] ?? "";
    assert.deepEqual(backends(outside(node, 30080)), ["10.244.1.11", "10.244.2.11"]);
    assert.deepEqual(backends(outside("198.51.100.10", 80)), ["10.244.1.13", "10.244.2.13"]);
    assert.deepEqual(backends(outside("198.51.100.53", 53, "UDP")), ["10.244.1.12", "10.244.2.12"]);
    assert.deepEqual(backends(outside("198.51.100.20", 80)), [nodeName === "node2" ? "10.244.2.14" : "drop"]);
  }
});
