// What a configuration means for rules.
import assert from "node:assert/strict";
import { test } from "node:test";
import { type Config, loadConfig } from "../../src/agent/config.ts";
import { ruleOptions } from "../../src/agent/rules.ts";
import { isRefusedError } from "../../src/lib/errors.ts";
import { type Prefix, parsePrefix } from "../../src/model/address.ts";

const { config } = loadConfig({ dataplane: "iptables" });
const prefixes = (...texts: readonly string[]): readonly Prefix[] => texts.flatMap((text) => parsePrefix(text) ?? []);
const detectorOf = (detectLocal: Config["detectLocal"], podCIDRs: readonly Prefix[] = []) =>
  ruleOptions({ ...config, detectLocal }, podCIDRs).localDetector;

test("pods are told by the first prefix of each family; without any they cannot be told", () => {
  assert.deepEqual(detectorOf({ mode: "ClusterCIDR", cidrs: [] }), { kind: "none" });
  const cidrs = prefixes("fd00:1::/48", "10.244.0.0/16");
  assert.deepEqual(detectorOf({ mode: "ClusterCIDR", cidrs }), {
    kind: "cidr",
    IPv4: "10.244.0.0/16",
    IPv6: "fd00:1::/48",
  });
  assert.deepEqual(detectorOf({ mode: "ClusterCIDR", cidrs: prefixes("10.1.0.0/16") }), {
    kind: "cidr",
    IPv4: "10.1.0.0/16",
    IPv6: null,
  });
});

test("NodeCIDR waits for the Node's podCIDRs", () => {
  const found = detectorOf({ mode: "NodeCIDR" }, prefixes("10.244.7.0/24", "10.245.0.0/24"));
  assert.deepEqual(found, { kind: "cidr", IPv4: "10.244.7.0/24", IPv6: null });
  assert.throws(() => detectorOf({ mode: "NodeCIDR" }), isRefusedError);
});

test("pods are told by their interface", () => {
  assert.deepEqual(detectorOf({ mode: "BridgeInterface", name: "cbr0" }), { kind: "bridge", name: "cbr0" });
  assert.deepEqual(detectorOf({ mode: "InterfaceNamePrefix", name: "veth" }), { kind: "prefix", name: "veth" });
});
