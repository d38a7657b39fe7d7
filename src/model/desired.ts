// What this node should do, as a value: no Kubernetes object to its left survives here, no Linux to its right is
// known here. Both dataplanes are written from it and read back into it.
import type { Address, Family, Prefix } from "./address.ts";
import type { Protocol, TrafficPolicy } from "./snapshot.ts";

/** `namespace/name:port/TCP`; `namespace/name/TCP` for an unnamed port. */
export type ServicePortKey = string & { readonly __brand: "ServicePortKey" };

export interface ServicePortName {
  readonly namespace: string;
  readonly name: string;
  /** "" for an unnamed port. */
  readonly port: string;
  readonly protocol: Protocol;
}

export const servicePortKey = (n: ServicePortName): ServicePortKey =>
  `${n.namespace}/${n.name}${n.port === "" ? "" : `:${n.port}`}/${n.protocol}` as ServicePortKey;

export interface Desired {
  readonly services: ReadonlyMap<ServicePortKey, DesiredService>;
  /** The node's own, where NodePorts answer and where not. Sorted: IPv4 first, then by text. */
  readonly nodeAddresses: readonly NodeAddress[];
}

export interface NodeAddress {
  readonly address: Address;
  /** 127.0.0.1: only meant when asked from the host's own network namespace. */
  readonly loopback: boolean;
  /** The one of its family that remote backends see as the source of traffic from outside; at most one, no loopback. */
  readonly primary: boolean;
  /** NodePorts answer here; false for an address that nodePortAddresses leaves out. */
  readonly nodePorts: boolean;
}

/** One port of one Service, both families. Unchanged input gives the identical value (===) again. */
export interface DesiredService {
  readonly name: ServicePortName;
  /** 0: none. */
  readonly affinity_timeout_s: number;
  readonly internalTrafficPolicy: TrafficPolicy;
  readonly externalTrafficPolicy: TrafficPolicy;
  /** The Service's, on each of its ports; null: none. */
  readonly healthCheckNodePort: number | null;
  /** Who may enter through restricted frontends; both families, sorted. */
  readonly sourceRanges: readonly Prefix[];
  /** Every backend that takes new flows through some frontend, or keeps the flows it has. In kube-proxy's order:
   * by the text `address:port`. */
  readonly backends: readonly Backend[];
  /** Sorted by kind (ClusterIP, ExternalIP, LoadBalancer, NodePort), then address. */
  readonly frontends: readonly Frontend[];
}

export interface Backend {
  readonly address: Address;
  readonly port: number;
  /** Runs on this node. */
  readonly local: boolean;
  /** active: in some frontend's choice. draining: keeps its flows, gets no new ones. */
  readonly state: "active" | "draining";
}

export type FrontendKind = "ClusterIP" | "ExternalIP" | "LoadBalancer" | "NodePort";

export interface Frontend {
  readonly kind: FrontendKind;
  readonly family: Family;
  /** null: a NodePort, at every node address of its family. */
  readonly address: Address | null;
  readonly port: number;
  /** Only clients in the service's sourceRanges may enter. (Never for NodePorts; never in a family without ranges.) */
  readonly restricted: boolean;
  /** What happens to traffic from pods and the node itself. */
  readonly internal: Choice;
  /** What happens to traffic from elsewhere. */
  readonly external: Choice;
}

/** A choice of policy Local sees only backends of this node. */
export type Choice =
  | { readonly kind: "backends"; readonly policy: TrafficPolicy; readonly backends: readonly Backend[] }
  /** No endpoint anywhere: refuse. */
  | { readonly kind: "reject"; readonly policy: TrafficPolicy }
  /** Policy Local, endpoints elsewhere only: drop. */
  | { readonly kind: "drop"; readonly policy: "Local" };
