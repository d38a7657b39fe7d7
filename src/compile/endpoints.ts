// Which endpoints a Service port has, and which of them traffic may be sent to: kube-proxy's join by port name and
// its CategorizeEndpoints, one family at a time, as each of its proxiers does.
import { type Address, type Family, formatHostPort } from "../model/address.ts";
import type { Endpoint, EndpointSlice, ServicePort } from "../model/snapshot.ts";
import { topologyFilter } from "./topology.ts";

/** What compile() knows of its own node. */
export interface NodeFacts {
  readonly nodeName: string;
  readonly zone: string | null;
}

/** An endpoint at the port that a Service port means there. */
export interface PortEndpoint {
  /** `10.244.1.2:8080`: what makes it the same endpoint, and its place in the order. */
  readonly key: string;
  readonly address: Address;
  readonly port: number;
  readonly local: boolean;
  readonly conditions: Endpoint;
}

/** Where new flows may go. */
export interface Usable {
  /** Under policy Cluster. */
  readonly cluster: readonly PortEndpoint[];
  /** Under policy Local. */
  readonly local: readonly PortEndpoint[];
}

/**
 * Ready endpoints; where there is none, those that terminate but still serve. Each list falls back by itself, so one
 * can hold ready endpoints and the other terminating ones. Topology narrows ready endpoints of the cluster list only.
 * An empty cluster list means that no endpoint anywhere can be used.
 */
export const usableEndpoints = (endpoints: readonly PortEndpoint[], facts: NodeFacts): Usable => {
  const ready = endpoints.filter((e) => e.conditions.ready);
  const terminating = endpoints.filter(servesWhileTerminating);
  const near = ready.filter(topologyFilter(ready, facts));
  const local = ready.filter((e) => e.local);
  return {
    cluster: near.length > 0 ? near : terminating,
    local: local.length > 0 ? local : terminating.filter((e) => e.local),
  };
};

/**
 * The endpoints of one port in one family, in the order of their text. A slice port is the Service port's when name
 * and protocol agree; its number may differ from slice to slice. Of two with the same address and port the better one
 * counts, whatever the order of the slices: not terminating, then ready, then serving, then local.
 */
export const joinEndpoints = (
  slices: readonly EndpointSlice[],
  port: Pick<ServicePort, "name" | "protocol">,
  family: Family,
  facts: NodeFacts,
): readonly PortEndpoint[] => {
  const found = new Map<string, PortEndpoint>();
  for (const slice of slices) {
    if (slice.family !== family) continue;
    for (const { name, protocol, port: number } of slice.ports) {
      if (name !== port.name || protocol !== port.protocol) continue;
      for (const conditions of slice.endpoints) {
        const { address, nodeName } = conditions;
        const key = formatHostPort(address, number);
        const endpoint = { key, address, port: number, local: nodeName === facts.nodeName, conditions };
        const other = found.get(key);
        if (other === undefined || rank(endpoint) > rank(other)) found.set(key, endpoint);
      }
    }
  }
  return [...found.values()].sort((a, b) => (a.key < b.key ? -1 : 1));
};

const servesWhileTerminating = ({ conditions }: PortEndpoint): boolean =>
  !conditions.ready && conditions.serving && conditions.terminating;

const rank = ({ conditions: { terminating, ready, serving }, local }: PortEndpoint): number =>
  (terminating ? 0 : 8) + (ready ? 4 : 0) + (serving ? 2 : 0) + (local ? 1 : 0);
