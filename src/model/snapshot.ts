// What Kubernetes says, as values: every object has been parsed and checked (k8s/parse.ts), nothing refers to its
// JSON any more. An object that did not change is the same value in the next Snapshot: identity is how compile() knows.
import type { Address, Family, Prefix } from "./address.ts";

export type Protocol = "TCP" | "UDP" | "SCTP";
export type TrafficPolicy = "Cluster" | "Local";

/** `namespace/name`. */
export type ObjectKey = string & { readonly __brand: "ObjectKey" };

export const objectKey = (namespace: string, name: string): ObjectKey => `${namespace}/${name}` as ObjectKey;

/** A Service that this proxy has to care about or to skip knowingly; see `skip`. */
export interface Service {
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
  /** Milliseconds since 1970, 0 when the object does not say. Of two claims to one address the older wins. */
  readonly created_ms: number;
  /** Why this Service has no dataplane, or null. */
  readonly skip: "headless" | "ExternalName" | "service-proxy-name" | "no clusterIP" | null;
  readonly type: "ClusterIP" | "NodePort" | "LoadBalancer" | "ExternalName";
  readonly clusterIPs: readonly Address[];
  readonly externalIPs: readonly Address[];
  /** status.loadBalancer.ingress addresses with ipMode VIP (or none); Proxy ones are left out. */
  readonly loadBalancerIPs: readonly Address[];
  /** Trimmed and canonical. None of a family: everybody of that family may enter. */
  readonly sourceRanges: readonly Prefix[];
  readonly internalTrafficPolicy: TrafficPolicy;
  readonly externalTrafficPolicy: TrafficPolicy;
  /** 0: sessionAffinity None. */
  readonly affinity_timeout_s: number;
  /** null: none needed. */
  readonly healthCheckNodePort: number | null;
  readonly ports: readonly ServicePort[];
}

export interface ServicePort {
  /** "" when the Service has one unnamed port. */
  readonly name: string;
  readonly protocol: Protocol;
  readonly port: number;
  readonly nodePort: number | null;
}

/** One EndpointSlice, or one family of a legacy Endpoints object. */
export interface EndpointSlice {
  readonly namespace: string;
  readonly name: string;
  /** Label kubernetes.io/service-name. */
  readonly serviceName: string;
  readonly family: Family;
  readonly ports: readonly EndpointPort[];
  readonly endpoints: readonly Endpoint[];
  /** Annotation endpoints.kubernetes.io/last-change-trigger-time, milliseconds since 1970, or null. */
  readonly triggered_ms: number | null;
}

export interface EndpointPort {
  readonly name: string;
  readonly protocol: Protocol;
  readonly port: number;
}

export interface Endpoint {
  readonly address: Address;
  /** Conditions with kube-proxy's defaults filled in: ready true, serving true, terminating false. */
  readonly ready: boolean;
  readonly serving: boolean;
  readonly terminating: boolean;
  readonly nodeName: string | null;
  /** hints.forNodes and hints.forZones; empty: no hint. */
  readonly hintNodes: readonly string[];
  readonly hintZones: readonly string[];
}

export interface Node {
  readonly name: string;
  /** status.addresses of type InternalIP, then ExternalIP, in order. */
  readonly addresses: readonly Address[];
  /** Label topology.kubernetes.io/zone. */
  readonly zone: string | null;
  readonly podCIDRs: readonly Prefix[];
  /** metadata.deletionTimestamp is set. */
  readonly deleting: boolean;
  /** Keys of spec.taints. */
  readonly taints: readonly string[];
}

export interface Snapshot {
  readonly services: ReadonlyMap<ObjectKey, Service>;
  /** By the Service they belong to; a slice may come before its Service, or have none. */
  readonly slices: ReadonlyMap<ObjectKey, ReadonlyMap<string, EndpointSlice>>;
  /** Our own Node; null until it has been seen. */
  readonly node: Node | null;
}

/** An object, or a part of one, that is not used; the rest goes on. */
export interface Problem {
  /** `Service shop/web`, `EndpointSlice shop/web-x7k2p`. */
  readonly object: string;
  /** `spec.ports[1].port`, or "" for the object as a whole. */
  readonly path: string;
  /** What is wrong, with the value: `70000 is not a port (1..65535)`. */
  readonly message: string;
}
