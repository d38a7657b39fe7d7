// Small Desireds for tests, in a line or two: services, their backends, their frontends.
import { type Address, familyOf, formatHostPort, type Prefix } from "../../src/model/address.ts";
import {
  type Backend,
  type Choice,
  type Desired,
  type DesiredService,
  type Frontend,
  type FrontendKind,
  type NodeAddress,
  servicePortKey,
} from "../../src/model/desired.ts";
import type { Protocol, TrafficPolicy } from "../../src/model/snapshot.ts";

export interface Entrance {
  readonly kind: FrontendKind;
  readonly address: string | null;
  readonly port: number;
}

export const clusterIP = (address: string, port = 80): Entrance => ({ kind: "ClusterIP", address, port });
export const externalIP = (address: string): Entrance => ({ kind: "ExternalIP", address, port: 80 });
export const loadBalancer = (address: string): Entrance => ({ kind: "LoadBalancer", address, port: 80 });
export const nodePort = (port: number): Entrance => ({ kind: "NodePort", address: null, port });

export interface ServiceParts {
  readonly namespace?: string;
  readonly port?: string;
  readonly protocol?: Protocol;
  readonly affinity_timeout_s?: number;
  readonly healthCheckNodePort?: number;
  readonly internal?: TrafficPolicy;
  readonly external?: TrafficPolicy;
  readonly sourceRanges?: readonly string[];
  /** Addresses of this node's backends. */
  readonly local?: readonly string[];
  readonly draining?: readonly string[];
}

/** Backends at port 8080. LoadBalancer frontends are restricted when there are source ranges. IPv4 NodePorts. */
export const serviceOf = (
  name: string,
  addresses: readonly string[],
  entrances: readonly Entrance[],
  parts: ServiceParts = {},
): DesiredService => {
  const backend = (address: string, state: Backend["state"]): Backend => ({
    address: address as Address,
    port: 8080,
    local: parts.local?.includes(address) ?? false,
    state,
  });
  const active = addresses.map((address) => backend(address, "active"));
  const draining = (parts.draining ?? []).map((address) => backend(address, "draining"));
  const ranges = (parts.sourceRanges ?? []) as Prefix[];
  const choice = (policy: TrafficPolicy): Choice => {
    const usable = policy === "Cluster" ? active : active.filter((one) => one.local);
    if (usable.length > 0) return { kind: "backends", policy, backends: usable };
    return policy === "Local" && active.length > 0 ? { kind: "drop", policy: "Local" } : { kind: "reject", policy };
  };
  const frontend = ({ kind, address, port }: Entrance): Frontend => {
    const own = choice(parts.internal ?? "Cluster");
    return {
      kind,
      family: address === null ? "IPv4" : familyOf(address as Address),
      address: address as Address | null,
      port,
      restricted: kind === "LoadBalancer" && ranges.length > 0,
      internal: kind === "ClusterIP" ? own : choice("Cluster"),
      external: kind === "ClusterIP" ? own : choice(parts.external ?? "Cluster"),
    };
  };
  return {
    name: {
      namespace: parts.namespace ?? "shop",
      name,
      port: parts.port ?? "",
      protocol: parts.protocol ?? "TCP",
    },
    affinity_timeout_s: parts.affinity_timeout_s ?? 0,
    internalTrafficPolicy: parts.internal ?? "Cluster",
    externalTrafficPolicy: parts.external ?? "Cluster",
    healthCheckNodePort: parts.healthCheckNodePort ?? null,
    sourceRanges: [...ranges].sort(),
    backends: [...active, ...draining].sort((a, b) =>
      formatHostPort(a.address, a.port) < formatHostPort(b.address, b.port) ? -1 : 1,
    ),
    frontends: entrances
      .map(frontend)
      .sort((a, b) => (`${a.kind} ${a.address ?? a.family}` < `${b.kind} ${b.address ?? b.family}` ? -1 : 1)),
  };
};

export const desiredOf = (...services: readonly DesiredService[]): Desired => desiredOn([], ...services);

export const desiredOn = (nodeAddresses: readonly NodeAddress[], ...services: readonly DesiredService[]): Desired => ({
  services: new Map(services.map((service) => [servicePortKey(service.name), service])),
  nodeAddresses,
});

export const nodeAddress = (address: string, parts: Partial<NodeAddress> = {}): NodeAddress => ({
  address: address as Address,
  loopback: false,
  primary: false,
  nodePorts: true,
  ...parts,
});
