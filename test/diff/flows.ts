// kube-proxy's thirty flows as Services and probes of a lab, and who has to be reached then; what a dataplane shows to the
// servers is for its tests to say.

import { readAddress } from "../lib/addresses.ts";
import type { Place } from "../lib/network.ts";
import { serviceObject, sliceObjects } from "../lib/objects.ts";
import {
  type Cell,
  type Client,
  type FrontendName,
  POLICIES,
  POLICY_NAMES,
  type Policy,
  THIRTY_FLOWS,
} from "../lib/thirty-flows.ts";
import { clusterObjects } from "./objects.ts";
import { type Probe, placeOf } from "./world.ts";

/** Everything is asked at node1, where pod1a is; pod2a is on node2. */
export const CLIENTS = { pod: "pod1b", node: "node1", localhost: "node1", ext: "client" } as const;

export const PORT = 80;
export const numberOf = (policy: Policy): number => 61 + POLICY_NAMES.indexOf(policy);
const vipOf = (policy: Policy, frontend: FrontendName, family: "v4" | "v6"): string => {
  const last = numberOf(policy);
  if (frontend === "ClusterIP") return family === "v4" ? `172.30.0.${last}` : `fd00:172:30::${last}`;
  return family === "v4" ? `198.51.100.${last}` : `fd00:198::${last}`;
};

export const flowObjects = (places: readonly Place[]): readonly object[] => [
  ...clusterObjects({ number: 0, zones: [], services: [] }, places), // the Nodes, which say their pods' addresses
  ...POLICY_NAMES.flatMap((policy) => {
    const nodePort = 32_000 + numberOf(policy);
    const words = {
      name: policy,
      type: "LoadBalancer" as const,
      clusterIPs: [vipOf(policy, "ClusterIP", "v4"), vipOf(policy, "ClusterIP", "v6")],
      loadBalancerIPs: [vipOf(policy, "LoadBalancer", "v4"), vipOf(policy, "LoadBalancer", "v6")],
      ports: [
        { name: "tcp", port: PORT, protocol: "TCP" as const, nodePort },
        { name: "udp", port: PORT, protocol: "UDP" as const, nodePort },
      ],
      ...POLICIES[policy],
    };
    return [serviceObject(words), ...sliceObjects(words, [placeOf(places, "pod1a"), placeOf(places, "pod2a")])];
  }),
];

/** A flow asked in one way; `cell`: who is reached, and whether kube-proxy masquerades. */
export interface Flow {
  readonly client: Client;
  readonly frontend: FrontendName;
  readonly policy: Policy;
  readonly cell: Cell;
  readonly family: "v4" | "v6";
  readonly probe: Probe;
}

/** The thirty flows, TCP and UDP, of both families (127.0.0.1 of one). */
export const flowsOf = (places: readonly Place[]): readonly Flow[] =>
  THIRTY_FLOWS.flatMap(([client, frontend, ...cells]) =>
    POLICY_NAMES.flatMap((policy, i) =>
      (client === "localhost" ? (["v4"] as const) : (["v4", "v6"] as const)).flatMap((family) =>
        (["TCP", "UDP"] as const).map((transport): Flow => {
          const node = client === "localhost" ? "127.0.0.1" : placeOf(places, "node1")[family];
          const address = readAddress(frontend === "NodePort" ? node : vipOf(policy, frontend, family));
          const port = frontend === "NodePort" ? 32_000 + numberOf(policy) : PORT;
          const how = { bound: "no", connected: true, mapped: false, sharedPort: false } as const;
          const probe = { from: CLIENTS[client], transport, address, port, ...how };
          return { client, frontend, policy, cell: cells[i] as Cell, family, probe };
        }),
      ),
    ),
  );

/** Those whom a cell reaches. */
export const serversOf = (cell: Cell): readonly string[] =>
  cell.startsWith("all") ? ["pod1a:8080", "pod2a:8080"] : ["pod1a:8080"];
