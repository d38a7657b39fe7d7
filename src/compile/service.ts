// One Service with its slices: its ports compiled, what it lost to others, its health check.
import type { Address, Family } from "../model/address.ts";
import { type DesiredService, type FrontendKind, type ServicePortKey, servicePortKey } from "../model/desired.ts";
import type { EndpointSlice, Problem, Service } from "../model/snapshot.ts";
import { type Claim, type Claims, claimsOf, lostTo } from "./claims.ts";
import type { NodeFacts } from "./endpoints.ts";
import { equal } from "./equal.ts";
import { type Entrance, familiesOf } from "./frontends.ts";
import { compilePort } from "./service-port.ts";

/** Sorted by name. */
export type NamedSlices = readonly (readonly [name: string, slice: EndpointSlice])[];

export interface ServiceResult {
  readonly ports: readonly (readonly [ServicePortKey, DesiredService])[];
  readonly problems: readonly Problem[];
  readonly healthCheck: HealthCheck | null;
  readonly noLocalEndpoints: NoLocalEndpoints;
}

/** A Service whose health check NodePort a load balancer asks. */
export interface HealthCheck {
  readonly namespace: string;
  readonly name: string;
  readonly port: number;
  /** Distinct addresses of ready endpoints on this node, in the family that has more of them. */
  readonly localEndpoints: number;
}

/**
 * kube-proxy's metric: Service ports whose traffic is dropped because a policy is Local and every endpoint is elsewhere;
 * internal: at ClusterIPs, external: at the other frontends.
 */
export type NoLocalEndpoints = Readonly<Record<"internal" | "external", Readonly<Record<Family, number>>>>;

/** What compileService() has to know of the other Services. */
export interface Others {
  readonly claims: Claims;
  readonly clusterIPs: ReadonlyMap<Address, unknown>;
}

/** What is equal in `before` is answered as the identical value. */
export const compileService = (
  service: Service,
  named: NamedSlices,
  facts: NodeFacts,
  { claims, clusterIPs }: Others,
  before: ServiceResult | null,
): ServiceResult => {
  const problems: Problem[] = [];
  const granted = service.ports.map((): Entrance[] => []);
  for (const [key, claim] of claimsOf(service)) {
    const winner = lostTo(claims, key, claim);
    if (winner === null) granted[claim.port]?.push(claim.entrance);
    else problems.push(lossOf(key, claim, winner));
  }
  const slices = named.map(([, slice]) => withoutLoops(slice, clusterIPs, problems));
  const old = new Map(before?.ports);
  const ports = service.ports.map((port, i) => {
    const desired = compilePort({ service, slices, facts }, port, granted[i] ?? []);
    const key = servicePortKey(desired.name);
    const known = old.get(key);
    return [key, known !== undefined && equal(known, desired) ? known : desired] as const;
  });
  const result = {
    ports,
    problems,
    healthCheck: healthCheckOf(service, slices, facts),
    noLocalEndpoints: countNoLocal(ports.map(([, desired]) => desired)),
  };
  return before !== null && equal(before, result) ? before : result;
};

/**
 * A VIP cannot be an endpoint, as Kubernetes says of Services without selectors: a packet is translated once, so it
 * would leave the node for an address that nobody has.
 */
const withoutLoops = (
  slice: EndpointSlice,
  clusterIPs: ReadonlyMap<Address, unknown>,
  problems: Problem[],
): EndpointSlice => {
  const loops = slice.endpoints.filter(({ address }) => clusterIPs.has(address));
  if (loops.length === 0) return slice;
  for (const loop of loops) {
    problems.push({
      object: `EndpointSlice ${slice.namespace}/${slice.name}`,
      path: "endpoints",
      message: `${loop.address} is the ClusterIP of a Service, which cannot be an endpoint`,
    });
  }
  return { ...slice, endpoints: slice.endpoints.filter((endpoint) => !loops.includes(endpoint)) };
};

const PATHS: Readonly<Record<FrontendKind, string>> = {
  ClusterIP: "spec.clusterIPs",
  ExternalIP: "spec.externalIPs",
  LoadBalancer: "status.loadBalancer.ingress",
  NodePort: "spec.ports",
};

const lossOf = (key: string, { service, entrance }: Claim, winner: Claim): Problem => ({
  object: `Service ${service.namespace}/${service.name}`,
  path: PATHS[entrance.kind],
  message: `${key} belongs to Service ${winner.service.namespace}/${winner.service.name}, ${whyWinner(entrance, winner, service)}`,
});

const whyWinner = (entrance: Entrance, winner: Claim, loser: Service): string => {
  if (winner.service === loser) return "at an earlier port";
  if (winner.entrance.kind === "ClusterIP" && entrance.kind !== "ClusterIP") return "whose ClusterIP it is";
  return winner.service.created_ms === loser.created_ms ? "which comes first by name" : "which is older";
};

const healthCheckOf = (
  service: Service,
  slices: readonly EndpointSlice[],
  { nodeName }: NodeFacts,
): HealthCheck | null => {
  const { namespace, name, healthCheckNodePort: port } = service;
  if (port === null) return null;
  const counts = familiesOf(service).map((family) => {
    const local = slices
      .filter((slice) => slice.family === family)
      .flatMap(({ endpoints }) => endpoints.filter((e) => e.ready && e.nodeName === nodeName));
    return new Set(local.map(({ address }) => address)).size;
  });
  return { namespace, name, port, localEndpoints: Math.max(0, ...counts) };
};

const countNoLocal = (ports: readonly DesiredService[]): NoLocalEndpoints => {
  const count = (clusterIP: boolean, family: Family): number =>
    ports.filter(({ frontends }) =>
      frontends.some(
        (f) => f.family === family && (f.kind === "ClusterIP") === clusterIP && f.external.kind === "drop",
      ),
    ).length;
  return {
    internal: { IPv4: count(true, "IPv4"), IPv6: count(true, "IPv6") },
    external: { IPv4: count(false, "IPv4"), IPv6: count(false, "IPv6") },
  };
};
