import assert from "node:assert/strict";
import { test } from "node:test";
import { mayEnter, type Surroundings, scopeOf } from "../../src/dataplane/userspace/client.ts";
import type { Address, Prefix } from "../../src/model/address.ts";
import { externalIP, loadBalancer, serviceOf } from "../lib/services.ts";

const address = (text: string): Address => text as Address;

const surroundings: Surroundings = {
  own: new Set(["127.0.0.1", "192.168.0.1", "fd00:192::1"].map(address)),
  podCIDRs: ["10.244.1.0/24", "fd00:244:1::/64"] as Prefix[],
  pods: new Set(["10.9.9.9"].map(address)),
};

test("The node, its pods by their prefix and its backends are inside; pods of other nodes are outside", () => {
  const scopes = (...clients: readonly string[]) => clients.map((client) => scopeOf(address(client), surroundings));
  const inside = ["127.0.0.1", "192.168.0.1", "fd00:192::1", "10.244.1.7", "fd00:244:1::7", "10.9.9.9"];
  assert.deepEqual(new Set(scopes(...inside)), new Set(["internal"]));
  const outside = ["203.0.113.2", "192.168.0.2", "10.244.2.7", "fd00:244:2::7", "10.9.9.8"];
  assert.deepEqual(new Set(scopes(...outside)), new Set(["external"]));
});

test("Source ranges hold for restricted frontends, of pods, too; the node enters with any of its addresses", () => {
  const service = serviceOf("web", ["10.0.0.1"], [loadBalancer("198.51.100.1"), externalIP("198.51.100.2")], {
    sourceRanges: ["203.0.113.0/25", "192.168.0.0/24"],
  });
  const [open, restricted] = service.frontends;
  assert.ok(open !== undefined && restricted !== undefined);
  assert.deepEqual([open.restricted, restricted.restricted], [false, true]);
  const enters = (frontend: typeof open, client: string) => mayEnter(address(client), frontend, service, surroundings);
  assert.deepEqual(
    ["203.0.113.2", "203.0.113.130", "10.244.1.7", "192.168.0.1", "127.0.0.1"].map((c) => enters(restricted, c)),
    [true, false, false, true, true],
  );
  assert.ok(enters(open, "203.0.113.130"));
});

test("The node's addresses of one family do not let it in by the other", () => {
  const vips = [loadBalancer("198.51.100.1"), loadBalancer("fd00:198::1")];
  const ofNode = serviceOf("web", ["10.0.0.1"], vips, { sourceRanges: ["192.168.0.0/24", "fd00:203::/64"] });
  const enters = ofNode.frontends.map((frontend) => {
    const client = frontend.family === "IPv4" ? "192.168.0.1" : "fd00:192::1";
    return [frontend.family, frontend.restricted, mayEnter(address(client), frontend, ofNode, surroundings)];
  });
  assert.deepEqual(enters, [
    ["IPv4", true, true],
    ["IPv6", true, false],
  ]);
});
