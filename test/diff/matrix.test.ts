// Who reaches which endpoints, and whether they see the client or the node: kube-proxy's thirty flows (every kind of
// client to every kind of frontend under every policy) as real traffic, through its rules and through bpf.
import assert from "node:assert/strict";
import { test } from "node:test";
import { serviceObject, sliceObjects } from "../lib/objects.ts";
import type { Cell, Client, FrontendName, Policy } from "../lib/thirty-flows.ts";
import { complaintsOf } from "./ask.ts";
import { type Answers, type Case, caseOf } from "./differences.ts";
import type { DataplaneName, Expected } from "./expected.ts";
import { CLIENTS, flowObjects, flowsOf, numberOf, PORT, serversOf } from "./flows.ts";
import { BY_INTERFACE, type Flavour, Labs } from "./labs.ts";
import { clusterObjects } from "./objects.ts";
import { formatDisagreement } from "./report.ts";
import { placeOf, type World } from "./world.ts";

/** The configuration, and what it makes of a cell; null: the reply would go astray, which is why one tells pods apart. */
interface Configuration {
  readonly fields: object;
  readonly cell: (cell: Cell, client: Client, frontend: FrontendName, policy: Policy) => Cell | null;
}

const CIDRS = { detectLocalMode: "ClusterCIDR", clusterCIDR: "10.244.0.0/16,fd00:244::/32" };
const masqueraded = (cell: Cell): Cell => (cell.startsWith("all") ? "all masq" : "local masq");
const untold = (cell: Cell, client: Client, frontend: FrontendName, policy: Policy): Cell | null => {
  if (frontend === "ClusterIP") return client === "ext" ? null : cell;
  return client === "pod" && policy === "external" ? "local" : cell;
};

const CONFIGURATIONS: Readonly<Record<string, Configuration>> = {
  "by their interfaces": { fields: BY_INTERFACE, cell: (cell) => cell },
  "by the cluster's addresses": { fields: CIDRS, cell: (cell) => cell },
  "by the node's addresses": { fields: { detectLocalMode: "NodeCIDR" }, cell: (cell) => cell },
  "by the cluster's addresses, with masqueradeAll": {
    fields: { ...CIDRS, iptables: { masqueradeAll: true } },
    cell: (cell, _, frontend) => (frontend === "ClusterIP" ? masqueraded(cell) : cell),
  },
  "not at all": { fields: { detectLocalMode: "ClusterCIDR", clusterCIDR: "" }, cell: untold },
};

const casesOf = (world: World, { cell: cellOf }: Configuration): readonly Case[] =>
  flowsOf(world.places).flatMap(({ client, frontend, policy, cell: best, family, probe }): readonly Case[] => {
    const cell = cellOf(best, client, frontend, policy);
    if (cell === null) return [];
    return [{ ...caseOf(world, probe), answers: answersOf(world, client, best, cell, family) }];
  });

/** bpf reaches the same endpoints as kube-proxy at its best, and shows the client wherever the reply comes back. */
const answersOf = (world: World, client: Client, best: Cell, cell: Cell, family: "v4" | "v6"): Answers => {
  const own = placeOf(world.places, CLIENTS[client])[family];
  const node = placeOf(world.places, "node1")[family];
  const reached = (servers: readonly (readonly [string, string])[]): Expected => ({
    kind: "reached",
    sticky: false,
    servers: new Map(servers),
  });
  return {
    bpf: reached(serversOf(best).map((name) => [name, client === "ext" && name.startsWith("pod2a") ? node : own])),
    iptables: reached(serversOf(cell).map((name) => [name, cell.endsWith("masq") ? node : own])),
    userspace: reached(serversOf(best).map((name) => [name, node])),
  };
};

/** At node1, which is another node to pod2b. */
const STICKY_TARGETS = [
  ["172.30.0.71", PORT],
  ["192.168.0.1", 32_071],
  ["198.51.100.71", PORT],
  ["198.51.100.171", PORT],
] as const;
const isVip = (address: string): boolean => !address.startsWith("192.168.");

const stickyObjects = (labs: Labs): readonly object[] => {
  const words = {
    name: "sticky",
    type: "LoadBalancer" as const,
    clusterIPs: ["172.30.0.71"],
    loadBalancerIPs: ["198.51.100.71"],
    externalIPs: ["198.51.100.171"],
    ports: [{ port: PORT, nodePort: 32_071 }],
    affinity_timeout_s: 600,
  };
  const endpoints = ["pod1a", "pod2a", "pod3a"].map((name) => placeOf(labs.places, name));
  return [
    ...clusterObjects({ number: 0, zones: [], services: [] }, labs.places),
    serviceObject(words),
    ...sliceObjects(words, endpoints),
  ];
};

/** The rules are the same for both flavours: every configuration with one of them, the two extremes with the other. */
const FLAVOURS = { nft: Object.keys(CONFIGURATIONS), legacy: ["by their interfaces", "not at all"] } as const;

for (const [flavour, names] of Object.entries(FLAVOURS)) {
  test(`thirty flows through bpf and through kube-proxy's rules, iptables-${flavour}`, async (t) => {
    const labs = await Labs.create({ flavour: flavour as Flavour });
    t.after(() => labs.close());
    await labs.apply(flowObjects(labs.places));
    for (const name of names) {
      await t.test(`pods are told from others ${name}`, async () => {
        const configuration = CONFIGURATIONS[name] as Configuration;
        await labs.restart("iptables", configuration.fields);
        const cases = casesOf(await labs.apply(flowObjects(labs.places)), configuration);
        const found = await Promise.all(
          [...labs.labs].map(async ([dataplane, lab]) => {
            const wrong = await complaintsOf(lab, dataplane, cases);
            const cluster = { number: 0, zones: [], services: [] };
            return [...wrong].map(([one, complaint]) =>
              formatDisagreement({ dataplane, forwarding: labs.forwarding, cluster, one, complaint }),
            );
          }),
        );
        assert.deepEqual(found.flat(), [], labs.logs());
      });
    }
    await t.test("affinity: a client meets one endpoint, whichever frontend it asks", async () => {
      await labs.restart("iptables", BY_INTERFACE);
      await labs.apply(stickyObjects(labs));
      for (const [name, lab] of labs.labs) {
        for (const from of ["pod1b", "node1", "client", "pod2b"]) {
          const host = await lab.host(from);
          const tries = [...STICKY_TARGETS, ...STICKY_TARGETS].map(([address, port]) => {
            return { transport: "TCP" as const, address, port };
          });
          const [answers] = await host.tryAll([tries.filter(({ address }) => from !== "pod2b" || !isVip(address))]);
          const names = new Set(answers?.map((answer) => (answer.ok ? answer.name : answer.code)));
          assert.equal(names.size, 1, `${name}: ${from} met ${[...names].join(", ")}`);
          assert.match([...names].join(), /^pod/, `${name}: ${from}`);
        }
      }
    });
    if (flavour !== "nft") return;
    await t.test(
      "difference 12: by the cluster's addresses a pod of another node passes for one of this node",
      async () => {
        await labs.restart("iptables", CIDRS);
        await labs.apply(flowObjects(labs.places));
        const seen = async (name: DataplaneName): Promise<ReadonlySet<string>> => {
          const lab = labs.labs.get(name);
          const address = placeOf(labs.places, "node1").v4;
          const one = { transport: "TCP" as const, address, port: 32_000 + numberOf("external"), timeout_ms: 400 };
          const answers = await (await lab?.host("pod2b"))?.tryAll(Array.from({ length: 24 }, () => [one]));
          return new Set(
            answers?.flat().map((answer) => (answer.ok ? `${answer.name} ${answer.client}` : answer.code)),
          );
        };
        const local = `pod1a:8080 ${placeOf(labs.places, "pod2b").v4}`;
        assert.deepEqual([...(await seen("bpf"))], [local]);
        // The endpoint on the client's own node is chosen, too, and answers the client directly: nobody expects it.
        assert.deepEqual([...(await seen("iptables"))].sort(), ["TIMEOUT", local].sort());
      },
    );
  });
}
