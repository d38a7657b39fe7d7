// The rules of two whole clusters and the names in them, as kube-proxy's iptables mode would write them.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { compile } from "../../src/compile/compile.ts";
import { endpointChain, serviceChains } from "../../src/dataplane/iptables/names.ts";
import { DEFAULT_RULE_OPTIONS, type RuleOptions, rulesOf } from "../../src/dataplane/iptables/rules.ts";
import { restoreInput } from "../../src/dataplane/iptables/text.ts";
import { makePrefix } from "../../src/model/address.ts";
import type { Service } from "../../src/model/snapshot.ts";
import { address, endpoint, service, slice, snapshot } from "../lib/snapshots.ts";

const name = (namespace: string, name: string, port: string) => ({ namespace, name, port, protocol: "TCP" }) as const;

test("a Service port's chains are named by the hash of its name and protocol", () => {
  assert.deepEqual(serviceChains(name("ns1", "svc1", "p80")), {
    cluster: "KUBE-SVC-XPGD46QRK7WJZT7O",
    local: "KUBE-SVL-XPGD46QRK7WJZT7O",
    external: "KUBE-EXT-XPGD46QRK7WJZT7O",
    firewall: "KUBE-FW-XPGD46QRK7WJZT7O",
  });
  assert.equal(serviceChains(name("default", "kubernetes", "https")).cluster, "KUBE-SVC-NPX46M4PTMTKRN6Y");
  assert.equal(serviceChains(name("ns5", "svc5", "p80")).cluster, "KUBE-SVC-NUKIZ6OKUXPJNT4C");
});

test("an endpoint's chain is named by the hash of its Service port, address and port", () => {
  const at = { address: address("10.180.0.1"), port: 80 };
  assert.equal(endpointChain(name("ns1", "svc1", "p80"), at), "KUBE-SEP-SXIVWICOYRO3J4NJ");
});

const web = (fields: Partial<Service> = {}): Service =>
  service({
    namespace: "ns1",
    name: "svc1",
    type: "LoadBalancer",
    clusterIPs: [address("172.30.0.41")],
    loadBalancerIPs: [address("1.2.3.4")],
    ports: [{ name: "p80", protocol: "TCP", port: 80, nodePort: 3001 }],
    ...fields,
  });

const endpoints = slice([endpoint("10.180.0.1"), endpoint("10.180.2.1", { nodeName: "node-b" })], {
  namespace: "ns1",
  serviceName: "svc1",
  ports: [{ name: "p80", protocol: "TCP", port: 80 }],
});

const pods: RuleOptions = {
  ...DEFAULT_RULE_OPTIONS,
  localDetector: { kind: "cidr", IPv4: makePrefix(address("10.0.0.0"), 8), IPv6: null },
};

const written = (one: Service): string => {
  const options = {
    nodeName: "node-a",
    localAddresses: ["127.0.0.1", "192.168.0.2"].map(address),
    nodePortAddresses: [],
  };
  return restoreInput(rulesOf(compile(snapshot([one], [endpoints]), options).desired, "IPv4", pods));
};

const sample = (file: string): string => readFileSync(new URL(file, import.meta.url), "utf8");

test("ClusterIP, NodePort and LoadBalancer of policy Cluster", () => {
  assert.equal(written(web()), sample("sample-cluster.rules"));
});

test("policy Local with source ranges that hold the node, affinity and a health check", () => {
  const local = web({
    externalTrafficPolicy: "Local",
    healthCheckNodePort: 30000,
    sourceRanges: [makePrefix(address("192.168.0.0"), 24), makePrefix(address("203.0.113.0"), 25)],
    affinity_timeout_s: 10800,
  });
  assert.equal(written(local), sample("sample-local.rules"));
});
