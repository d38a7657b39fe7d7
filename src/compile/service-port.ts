// One port of one Service, with its slices, becomes a DesiredService. Depends on nothing but its arguments, so the
// result can be kept as long as they stay the same.
import { type Family, familyOf } from "../model/address.ts";
import type { Backend, Choice, DesiredService, Frontend } from "../model/desired.ts";
import type { EndpointSlice, Service, ServicePort, TrafficPolicy } from "../model/snapshot.ts";
import { joinEndpoints, type NodeFacts, type PortEndpoint, type Usable, usableEndpoints } from "./endpoints.ts";
import { type Entrance, familiesOf } from "./frontends.ts";

export interface PortInput {
  readonly service: Service;
  readonly slices: readonly EndpointSlice[];
  readonly facts: NodeFacts;
}

/** `granted`: the entrances of this port that nobody has a better right to, sorted. */
export const compilePort = (input: PortInput, port: ServicePort, granted: readonly Entrance[]): DesiredService => {
  const { service } = input;
  const outcomes = familiesOf(service).map((family) => compileFamily(input, port, family, granted));
  const frontends = granted.flatMap((entrance) =>
    outcomes
      .filter(({ family }) => family === entrance.family)
      .map(
        ({ clusterIP, internal, external }): Frontend =>
          entrance.kind === "ClusterIP"
            ? { ...entrance, internal: clusterIP, external: clusterIP }
            : { ...entrance, internal, external },
      ),
  );
  return {
    name: { namespace: service.namespace, name: service.name, port: port.name, protocol: port.protocol },
    affinity_timeout_s: service.affinity_timeout_s,
    internalTrafficPolicy: service.internalTrafficPolicy,
    externalTrafficPolicy: service.externalTrafficPolicy,
    healthCheckNodePort: service.healthCheckNodePort,
    sourceRanges: service.sourceRanges
      .filter((range) => frontends.some((f) => f.restricted && f.family === familyOf(range)))
      .sort(),
    backends: outcomes.flatMap(({ backends }) => backends),
    frontends,
  };
};

interface Outcome {
  readonly family: Family;
  readonly backends: readonly Backend[];
  /** For ClusterIPs, whoever asks: internalTrafficPolicy is about the address, not about the client. */
  readonly clusterIP: Choice;
  /** For the other frontends, asked by a pod or the node: as if it had gone out to the load balancer and come back. */
  readonly internal: Choice;
  /** For the other frontends, asked from outside. */
  readonly external: Choice;
}

const compileFamily = (
  { service, slices, facts }: PortInput,
  port: ServicePort,
  family: Family,
  granted: readonly Entrance[],
): Outcome => {
  const endpoints = joinEndpoints(slices, port, family, facts);
  const usable = usableEndpoints(endpoints, facts);
  const kinds = new Set(granted.filter((e) => e.family === family).map((e) => e.kind === "ClusterIP"));
  const chosen = new Set<PortEndpoint>([
    ...(kinds.has(true) ? under(service.internalTrafficPolicy, usable) : []),
    ...(kinds.has(false) ? [...usable.cluster, ...under(service.externalTrafficPolicy, usable)] : []),
  ]);
  const backends = new Map<PortEndpoint, Backend>();
  for (const endpoint of endpoints) {
    const { address, port, local, conditions } = endpoint;
    if (chosen.has(endpoint)) backends.set(endpoint, { address, port, local, state: "active" });
    else if (conditions.ready || conditions.serving)
      backends.set(endpoint, { address, port, local, state: "draining" });
  }
  const choose = (policy: TrafficPolicy): Choice => {
    const list = under(policy, usable).flatMap((endpoint) => backends.get(endpoint) ?? []);
    if (list.length > 0) return { kind: "backends", policy, backends: list };
    return policy === "Local" && usable.cluster.length > 0 ? { kind: "drop", policy } : { kind: "reject", policy };
  };
  return {
    family,
    backends: [...backends.values()],
    clusterIP: choose(service.internalTrafficPolicy),
    internal: choose("Cluster"),
    external: choose(service.externalTrafficPolicy),
  };
};

const under = (policy: TrafficPolicy, usable: Usable): readonly PortEndpoint[] =>
  policy === "Local" ? usable.local : usable.cluster;
