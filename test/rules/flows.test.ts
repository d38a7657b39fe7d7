// Source ranges and NodePorts flow by flow: who is let in where, by tracing the rules of one Service under every option
// that concerns it.
import assert from "node:assert/strict";
import { test } from "node:test";
import { compile } from "../../src/compile/compile.ts";
import { DEFAULT_RULE_OPTIONS, type RuleOptions } from "../../src/dataplane/iptables/rules.ts";
import { familyOf, type Prefix, parsePrefix } from "../../src/model/address.ts";
import type { Service } from "../../src/model/snapshot.ts";
import { inputOf, tablesOf } from "../lib/rule-text.ts";
import { outcomeText } from "../lib/rules-meaning.ts";
import { address, endpoint, service, slice, snapshot } from "../lib/snapshots.ts";
import { trace } from "../lib/trace-rules.ts";

const prefix = (text: string): Prefix => {
  const parsed = parsePrefix(text);
  assert.ok(parsed);
  return parsed;
};

const pods: RuleOptions = {
  ...DEFAULT_RULE_OPTIONS,
  localDetector: { kind: "cidr", IPv4: prefix("10.0.0.0/8"), IPv6: prefix("fd00:10::/64") },
};

interface World {
  readonly service: Service;
  readonly endpoints: readonly string[];
  readonly addresses: readonly string[];
  readonly options: RuleOptions;
}

const desiredOf = ({ service, endpoints, addresses, options }: World) => {
  const slices = (["IPv4", "IPv6"] as const).map((family) => {
    const own = endpoints.map((text) => endpoint(text)).filter((e) => familyOf(e.address) === family);
    return slice(own, { name: `web-${family}`, family, ports: [{ name: "", protocol: "TCP", port: 80 }] });
  });
  return compile(snapshot([service], slices), {
    nodeName: "node-a",
    localAddresses: addresses.map(address),
    nodePortAddresses: options.nodePortAddresses,
  }).desired;
};

/** `in` null: the node itself sends it. */
const flow = (world: World, from: string, to: string, port: number, by: string | null = "eth0"): string => {
  const machine = { addresses: world.addresses.map(address) };
  const destination = address(to);
  const packet = { in: by, source: address(from), destination, port, protocol: "TCP" as const };
  return outcomeText(trace(tablesOf(desiredOf(world), familyOf(destination), world.options), machine, packet));
};

test("a load balancer with source ranges: who may enter, and where they do not count", () => {
  const NODE = "192.168.0.2";
  const world = (sourceRanges: readonly string[]): World => ({
    service: service({
      type: "LoadBalancer",
      clusterIPs: [address("172.30.0.41")],
      loadBalancerIPs: ["1.2.3.4", "5.6.7.8"].map(address),
      sourceRanges: sourceRanges.map(prefix),
      ports: [{ name: "", protocol: "TCP", port: 80, nodePort: 3001 }],
    }),
    endpoints: ["10.180.0.1"],
    addresses: [NODE, "127.0.0.1"],
    options: pods,
  });
  const [open, node, far] = [world([]), world(["192.168.0.0/24", "203.0.113.0/25"]), world(["203.0.113.0/25"])];
  const EP = "10.180.0.1:80";
  for (const vip of ["1.2.3.4", "5.6.7.8"]) {
    for (const client of ["203.0.113.2", "203.0.113.130"]) assert.equal(flow(open, client, vip, 80), `${EP}!`);
    assert.equal(flow(node, "203.0.113.2", vip, 80), `${EP}!`);
    assert.equal(flow(node, "203.0.113.130", vip, 80), "dropped");
    assert.equal(flow(node, NODE, vip, 80, null), `${EP}!`, "a range holds the node");
    assert.equal(flow(node, vip, vip, 80, null), `${EP}!`, "so may the load balancer's address");
    assert.equal(flow(far, NODE, vip, 80, null), "dropped");
    assert.equal(flow(far, vip, vip, 80, null), "dropped");
    assert.equal(flow(node, "10.0.0.2", vip, 80), "dropped", "pods are nothing special");
    assert.equal(flow(node, "203.0.113.130", vip, 81), "passed", "another port is nobody's");
  }
  assert.equal(flow(node, "203.0.113.130", NODE, 3001), `${EP}!`, "NodePorts are open");
  assert.equal(flow(node, "203.0.113.130", "172.30.0.41", 80), `${EP}!`, "and so are ClusterIPs");
  assert.equal(flow(node, "10.0.0.2", "172.30.0.41", 80), EP);
});

const FAMILIES = {
  IPv4: { clusterIP: "172.30.0.41", node: ["192.168.0.2", "192.168.1.2"], localhost: "127.0.0.1", ep: "10.180.0.1" },
  IPv6: { clusterIP: "fd00:172::41", node: ["fd00:192::2", "fd00:193::2"], localhost: "::1", ep: "fd00:10::1" },
} as const;

/** Does the NodePort answer at: the first address, the second, localhost? */
const NODE_PORTS: readonly (readonly [
  family: keyof typeof FAMILIES,
  localhostNodePorts: boolean,
  nodePortAddresses: readonly string[] | "primary",
  first: boolean,
  second: boolean,
  localhost: boolean,
])[] = [
  ["IPv4", true, [], true, true, true],
  ["IPv4", false, [], true, true, false],
  ["IPv4", true, ["192.168.0.0/24"], true, false, false],
  ["IPv4", true, ["192.168.0.0/24", "192.168.1.0/24"], true, true, false],
  ["IPv4", true, ["192.168.1.0/24", "127.0.0.0/8"], false, true, true],
  ["IPv4", false, ["192.168.1.0/24", "127.0.0.0/8"], false, true, false],
  ["IPv4", true, ["127.0.0.1/32"], false, false, true],
  ["IPv4", true, ["0.0.0.0/0"], true, true, true],
  ["IPv4", true, ["fd00:192::/64"], true, true, true],
  ["IPv4", true, "primary", true, false, false],
  ["IPv6", true, [], true, true, false],
  ["IPv6", false, [], true, true, false],
  ["IPv6", true, ["fd00:193::/64"], false, true, false],
  ["IPv6", true, ["::1/128", "fd00:192::/64"], true, false, false],
  ["IPv6", true, ["::/0"], true, true, false],
  ["IPv6", true, ["192.168.0.0/24"], true, true, false],
  ["IPv6", true, "primary", true, false, false],
];

for (const [family, localhostNodePorts, nodePortAddresses, first, second, localhost] of NODE_PORTS) {
  const { clusterIP, node, localhost: loopback, ep } = FAMILIES[family];
  test(`NodePorts of ${family}, at ${nodePortAddresses}, localhostNodePorts ${localhostNodePorts}`, () => {
    const options = {
      ...pods,
      localhostNodePorts,
      nodePortAddresses: nodePortAddresses === "primary" ? nodePortAddresses : nodePortAddresses.map(prefix),
    };
    const world: World = {
      service: service({
        type: "NodePort",
        clusterIPs: [address(clusterIP)],
        ports: [{ name: "", protocol: "TCP", port: 80, nodePort: 3001 }],
      }),
      endpoints: [ep],
      addresses: [...FAMILIES.IPv4.node, ...FAMILIES.IPv6.node, "127.0.0.1", "::1"],
      options,
    };
    const client = family === "IPv4" ? "203.0.113.2" : "fd00:203::2";
    const served = `${ep.includes(":") ? `[${ep}]` : ep}:80!`;
    const expected = [first, second, localhost].map((answers) => (answers ? served : "passed"));
    const [at1, at2] = node;
    assert.deepEqual(
      [flow(world, client, at1, 3001), flow(world, client, at2, 3001), flow(world, loopback, loopback, 3001, null)],
      expected,
    );
    if (family === "IPv6") return;
    const guarded = /-A KUBE-FIREWALL .*-d 127\.0\.0\.0\/8 ! -s 127\.0\.0\.0\/8/.test(
      inputOf(desiredOf(world), family, options),
    );
    assert.equal(guarded, localhost, "127.0.0.0/8 is kept from others where NodePorts answer there");
  });
}
