// A lab for tests with real sockets: its pods serve, Services have their addresses from a number, its nodes run whichever
// dataplane, and what the agents said is printed when a test fails.
import assert from "node:assert/strict";
import { after, afterEach, before } from "node:test";
import { hasTcx } from "../../src/dataplane/bpf/probe.ts";
import type { AgentOptions } from "./agent.ts";
import { FORWARDING_FIELDS, FORWARDINGS, type Forwarding } from "./forwarding.ts";
import { assertForwards, readForwards } from "./forwards.ts";
import { Lab, type LabOptions } from "./lab.ts";
import type { Manifests, ServiceWords } from "./objects.ts";

/** Those of a lab as it is by default. */
export const PODS = ["pod1a", "pod1b", "pod2a", "pod2b"] as const;

/** For all tests of a file; closed after them. */
export const openLab = async (options: LabOptions = {}): Promise<Lab> => {
  const lab = await Lab.create(options);
  after(() => lab.close());
  afterEach((t) => {
    if ("passed" in t && t.passed === false) console.error(lab.logs());
  });
  return lab;
};

/** Lets these places serve under their own names, and starts the processes of all the others. */
export const serveAt = async (lab: Lab, names: readonly string[] = PODS): Promise<void> => {
  await lab.startHosts();
  for (const name of names) await (await lab.host(name)).serve(name, 8080, "TCP", "UDP");
};

/** With number 10: ClusterIP 172.30.0.10, and the same in IPv6; TCP at 80 and NodePort 30010, UDP at 53 and NodePort 30110. */
export const nodePortServiceOf = (name: string, number: number): ServiceWords => ({
  name,
  type: "NodePort",
  clusterIPs: [`172.30.0.${number}`, `fd00:172:30::${number}`],
  ports: [
    { name: "tcp", port: 80, protocol: "TCP", nodePort: 30000 + number },
    { name: "udp", port: 53, protocol: "UDP", nodePort: 30100 + number },
  ],
});

/** The same with load balancer 198.51.100.10 and external IP 198.51.100.110, and both in IPv6. */
export const serviceOf = (name: string, number: number, words: Partial<ServiceWords> = {}): ServiceWords => ({
  ...nodePortServiceOf(name, number),
  type: "LoadBalancer",
  loadBalancerIPs: [`198.51.100.${number}`, `fd00:198::${number}`],
  externalIPs: [`198.51.100.1${number}`, `fd00:198::1${number}`],
  ...words,
});

/** Addresses of places by name. */
export const addressesIn = (lab: Lab) => {
  const v4 = (name: string): string => lab.place(name).v4;
  const v6 = (name: string): string => lab.place(name).v6;
  /** Of the family of `address`. */
  const own = (name: string, address: string): string => (address.includes(":") ? v6(name) : v4(name));
  return { v4, v6, own };
};

/** All of `pods` see the same client. */
export const seeing = (client: string, pods: readonly string[]): Readonly<Record<string, string>> =>
  Object.fromEntries(pods.map((pod) => [pod, client]));

// ---- dataplanes ----------------------------------------------------------------------------------------------------

/** What the nodes of a lab run. */
export interface LabDataplane {
  readonly title: string;
  readonly name: "bpf" | "iptables";
  /** Of bpf. */
  readonly forwarding: Forwarding | null;
  readonly attach: Attach | null;
  /** As node:test has it. */
  readonly skip: string | false;
  /** With changes applied ten times as often as by default. */
  readonly agent: Pick<AgentOptions, "args" | "bpf" | "config">;
}

type Attach = "tcx" | "clsact";

const NO_TCX = hasTcx() ? false : "this kernel has no tcx (6.6 or later has it)";

const bpf = (forwarding: Forwarding, attach: Attach): LabDataplane => ({
  title: `bpf, forwarding: ${forwarding}, attached by ${attach}`,
  name: "bpf",
  forwarding,
  attach,
  skip: attach === "tcx" ? NO_TCX : false,
  agent: { bpf: { ...FORWARDING_FIELDS[forwarding], attach, minSyncPeriod: "0.1s" } },
});

/** bpf in every way that it forwards, attached as the kernel can. */
export const BPF: readonly LabDataplane[] = FORWARDINGS.map((forwarding) =>
  bpf(forwarding, hasTcx() ? "tcx" : "clsact"),
);
/** The same, attached in both ways. */
export const BPF_ATTACHED: readonly LabDataplane[] = FORWARDINGS.flatMap((forwarding) =>
  (["tcx", "clsact"] as const).map((attach) => bpf(forwarding, attach)),
);

/** kube-proxy's rules, which tell pods of their node from everybody else, as bpf does, by where a packet comes in. */
export const IPTABLES: LabDataplane = {
  title: "kube-proxy's rules",
  name: "iptables",
  forwarding: null,
  attach: null,
  skip: false,
  agent: {
    args: ["--dataplane", "iptables"],
    config: {
      detectLocalMode: "InterfaceNamePrefix",
      detectLocal: { interfaceNamePrefix: "pod" },
      iptables: { minSyncPeriod: "0.1s" },
    },
  },
};

/**
 * Starts an agent on every node before the tests of a `describe`; ends all of the lab and takes everything away after, and
 * looks whether packets went the way that they should. `hasRemote`: is anything sent to a pod of another node from
 * outside?
 */
export const runOnEveryNode = (
  lab: Lab,
  manifests: Manifests,
  dataplane: LabDataplane,
  { hasRemote = true }: { readonly hasRemote?: boolean } = {},
): void => {
  before(async () => {
    const options = { manifests: manifests.path, ...dataplane.agent };
    await Promise.all(lab.nodes().map(({ name }) => lab.startAgent(name, options)));
  });
  after(async () => {
    await Promise.all(lab.agents.map((agent) => agent.stop()));
    try {
      if (dataplane.forwarding !== null)
        assertForwards(dataplane.forwarding, readForwards(lab.nodes().map(({ name }) => lab.bpffs(name))), hasRemote);
    } finally {
      for (const { name } of lab.nodes()) {
        const { status, stderr } = lab.beeline(name, ["reset", "--dataplane", dataplane.name]);
        assert.equal(status, 0, stderr);
      }
    }
  });
};
