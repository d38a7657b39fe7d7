// The addresses that a Service asks to be reached at, port by port, before anybody else's claims are looked at.
import { type Address, type Family, familyOf, formatHostPort } from "../model/address.ts";
import type { Frontend, FrontendKind } from "../model/desired.ts";
import type { Protocol, Service, ServicePort } from "../model/snapshot.ts";

/** A frontend without its choices. */
export type Entrance = Pick<Frontend, "kind" | "family" | "address" | "port" | "restricted">;

/**
 * Families in which a Service is served: those it has a ClusterIP in (external addresses and NodePorts of other
 * families are not its own, as for kube-proxy).
 */
export const familiesOf = (service: Service): readonly Family[] =>
  (["IPv4", "IPv6"] as const).filter((family) => clusterIPs(service).has(family));

/**
 * The entrances of one port, sorted by kind, then address. An address that the Service names twice for one port counts
 * once: as its ClusterIP, else as LoadBalancer (which may be restricted), else as external IP.
 */
export const entrances = (service: Service, port: ServicePort): readonly Entrance[] => {
  const own = clusterIPs(service);
  const seen = new Set<Address>();
  const at = (kind: FrontendKind, addresses: Iterable<Address>): Entrance[] =>
    [...addresses].flatMap((address) => {
      const family = familyOf(address);
      if (!own.has(family) || seen.has(address)) return [];
      seen.add(address);
      const restricted = kind === "LoadBalancer" && service.sourceRanges.some((r) => familyOf(r) === family);
      return [{ kind, family, address, port: port.port, restricted }];
    });
  const found = [
    ...at("ClusterIP", own.values()),
    ...at("LoadBalancer", service.loadBalancerIPs),
    ...at("ExternalIP", service.externalIPs),
    ...nodePorts([...own.keys()], port.nodePort),
  ];
  return found.sort(byKindThenAddress);
};

/** `10.96.0.1:80/TCP`, or `IPv4 NodePort 30080/TCP`: two entrances with one key cannot both be served. */
export const entranceKey = (entrance: Pick<Entrance, "family" | "address" | "port">, protocol: Protocol): string =>
  entrance.address === null
    ? `${entrance.family} NodePort ${entrance.port}/${protocol}`
    : `${formatHostPort(entrance.address, entrance.port)}/${protocol}`;

/** The first ClusterIP of each family. */
const clusterIPs = (service: Service): ReadonlyMap<Family, Address> => {
  const found = new Map<Family, Address>();
  for (const address of service.clusterIPs) {
    const family = familyOf(address);
    if (!found.has(family)) found.set(family, address);
  }
  return found;
};

const nodePorts = (families: readonly Family[], port: number | null): readonly Entrance[] =>
  port === null ? [] : families.map((family) => ({ kind: "NodePort", family, address: null, port, restricted: false }));

// "ClusterIP" < "ExternalIP" < "LoadBalancer" < "NodePort": the order wanted is the order of the words.
const byKindThenAddress = (a: Entrance, b: Entrance): number => {
  const [x, y] = [a, b].map((e) => `${e.kind} ${e.address ?? e.family}`);
  return (x ?? "") < (y ?? "") ? -1 : 1;
};
