// Who reaches which endpoints, and whether they see the client or the node: every kind of client to every kind of
// frontend, under every policy, with every way of masquerading. What kube-proxy's iptables mode does, by tracing the rules.
import assert from "node:assert/strict";
import { test } from "node:test";
import { compile } from "../../src/compile/compile.ts";
import { DEFAULT_RULE_OPTIONS, type RuleOptions } from "../../src/dataplane/iptables/rules.ts";
import { makePrefix } from "../../src/model/address.ts";
import { tablesOf } from "../lib/rule-text.ts";
import { address, endpoint, service, slice, snapshot } from "../lib/snapshots.ts";
import {
  type Client,
  type FrontendName,
  POLICIES,
  POLICY_NAMES,
  type Policy,
  THIRTY_FLOWS,
} from "../lib/thirty-flows.ts";
import { trace } from "../lib/trace-rules.ts";

const LOCAL = "10.180.0.1";
const REMOTE = "10.180.2.1";
const NODE = "192.168.0.2";

const CLIENTS = { pod: "10.0.0.2", node: NODE, localhost: "127.0.0.1", ext: "203.0.113.2" } as const;

const FRONTENDS = {
  ClusterIP: { to: "172.30.0.41", port: 80 },
  NodePort: { to: NODE, port: 3001 },
  LoadBalancer: { to: "1.2.3.4", port: 80 },
} as const;

const pods: RuleOptions = {
  ...DEFAULT_RULE_OPTIONS,
  localDetector: { kind: "cidr", IPv4: makePrefix(address("10.0.0.0"), 8), IPv6: null },
};

const CONFIGURATIONS: Readonly<Record<string, RuleOptions>> = {
  "pods are known by clusterCIDR": pods,
  "pods cannot be told from others": { ...pods, localDetector: { kind: "none" } },
  masqueradeAll: { ...pods, masqueradeAll: true },
  "masqueradeAll, and pods cannot be told from others": {
    ...pods,
    masqueradeAll: true,
    localDetector: { kind: "none" },
  },
  "pods are known by their bridge": { ...pods, localDetector: { kind: "bridge", name: "cbr0" } },
  "pods are known by the prefix of their interface": { ...pods, localDetector: { kind: "prefix", name: "cb" } },
};

/** What the configuration makes of a cell. */
const expected = (cell: string, client: Client, to: FrontendName, policy: Policy, options: RuleOptions): string => {
  const told = options.localDetector.kind !== "none";
  const which = cell.split(" ")[0] ?? "";
  if (to === "ClusterIP") {
    if (options.masqueradeAll) return `${which} masq`;
    return told ? cell : which;
  }
  return !told && client === "pod" && policy === "external" ? "local" : cell;
};

const answer = (options: RuleOptions, policy: Policy, client: Client, { to, port }: { to: string; port: number }) => {
  const web = service({
    type: "LoadBalancer",
    clusterIPs: [address("172.30.0.41")],
    loadBalancerIPs: [address("1.2.3.4")],
    ports: [{ name: "", protocol: "TCP", port: 80, nodePort: 3001 }],
    ...POLICIES[policy],
  });
  const slices = [slice([endpoint(LOCAL), endpoint(REMOTE, { nodeName: "node-b" })])];
  const machine = { addresses: [NODE, "127.0.0.1"].map(address) };
  const { desired } = compile(snapshot([web], slices), {
    nodeName: "node-a",
    localAddresses: machine.addresses,
    nodePortAddresses: [],
  });
  const outcomes = trace(tablesOf(desired, "IPv4", options), machine, {
    in: client === "pod" ? "cbr0" : client === "ext" ? "eth0" : null,
    source: address(CLIENTS[client]),
    destination: address(to),
    port,
    protocol: "TCP",
  });
  for (const { kind, probability } of outcomes) {
    assert.equal(kind, "passed");
    assert.ok(Math.abs(probability - 1 / outcomes.length) < 1e-6, `${probability} of ${outcomes.length}`);
  }
  const reached = outcomes.map((outcome) => outcome.to?.address).sort();
  const which = reached.join() === LOCAL ? "local" : reached.join() === `${LOCAL},${REMOTE}` ? "all" : reached.join();
  const masqueraded = new Set(outcomes.map((outcome) => outcome.masqueraded));
  assert.equal(masqueraded.size, 1);
  return masqueraded.has(true) ? `${which} masq` : which;
};

for (const [name, options] of Object.entries(CONFIGURATIONS)) {
  test(`thirty flows when ${name}`, () => {
    for (const [client, frontend, ...cells] of THIRTY_FLOWS) {
      for (const [i, policy] of POLICY_NAMES.entries()) {
        assert.equal(
          answer(options, policy, client, FRONTENDS[frontend]),
          expected(cells[i] ?? "", client, frontend, policy, options),
          `${client} to ${frontend}, ${policy}`,
        );
      }
    }
  });
}

test("a pod that reaches itself is masqueraded, whatever the policy", () => {
  for (const policy of POLICY_NAMES) {
    const { to, port } = FRONTENDS.ClusterIP;
    const machine = { addresses: [address(NODE)] };
    const web = service({ clusterIPs: [address(to)], ...POLICIES[policy] });
    const { desired } = compile(snapshot([web], [slice([endpoint(LOCAL)])]), {
      nodeName: "node-a",
      localAddresses: machine.addresses,
      nodePortAddresses: [],
    });
    const outcomes = trace(tablesOf(desired, "IPv4", pods), machine, {
      in: "cbr0",
      source: address(LOCAL),
      destination: address(to),
      port,
      protocol: "TCP",
    });
    assert.deepEqual(outcomes, [
      { kind: "passed", to: { address: LOCAL, port: 8080 }, masqueraded: true, probability: 1 },
    ]);
  }
});
