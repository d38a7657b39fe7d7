// A drawn cluster as Kubernetes objects: addresses and NodePorts by cluster number and place in it, everything else as
// drawn. Odd and legal parts are written as people write them: white space, leading zeros, absent fields.
import type { Place } from "../lib/network.ts";
import type { Cluster, EndpointDraw, ExternalDraw, PortDraw, ServiceDraw, SliceDraw } from "./cluster.ts";

/** Routed to node1, and to node2, by the wire (labs.ts). */
export const VIP_ROUTES = [
  ["198.18.0.0/16", "node1"],
  ["198.19.0.0/16", "node2"],
  ["fd00:198::/64", "node1"],
  ["fd00:199::/64", "node2"],
] as const;

/** Both nodes with an agent have it, as where a load balancer's addresses are bound to the nodes. Comes in at node1. */
export const EVERYWHERE = { v4: "198.18.255.251", v6: "fd00:198::ff:fb" } as const;

export type V = "v4" | "v6";

/** Clusters of a run until addresses come again: long enough for every old flow and affinity to be gone. */
const NUMBERS = 256;
const PORTS_OF_A_CLUSTER = 200;
const CLUSTERS_OF_PORTS = 13;

export const clusterIP = (number: number, index: number, v: V): string =>
  v === "v4"
    ? `172.30.${number % NUMBERS}.${index + 1}`
    : `fd00:172:30::${((number % NUMBERS) * 256 + index + 1).toString(16)}`;

/** Every second one comes in at node2. */
export const vip = (number: number, index: number, which: "own" | "second" | "shared", v: V): string => {
  const last = which === "shared" ? 250 : index * 4 + (which === "own" ? 1 : 2);
  const second = (which === "shared" ? number : last) % 2 === 0;
  return v === "v4"
    ? `198.${second ? 19 : 18}.${number % NUMBERS}.${last}`
    : `fd00:${second ? 199 : 198}::${(number % NUMBERS).toString(16)}:${last.toString(16)}`;
};

const firstPort = (number: number): number => 30_000 + (number % CLUSTERS_OF_PORTS) * PORTS_OF_A_CLUSTER;

export const nodePort = (number: number, index: number, port: number): number => firstPort(number) + index * 4 + port;

const healthPort = (number: number, index: number): number => firstPort(number) + index * 4 + 3;

export const serviceName = (number: number, index: number): string => `s${number}-${index}`;

/** Every object of a cluster; `places` are the lab's. */
export const clusterObjects = (cluster: Cluster, places: readonly Place[]): readonly object[] => [
  ...places.filter(({ name, node }) => name === node).map((node, i) => nodeObject(node, cluster.zones[i] ?? null)),
  ...cluster.services.flatMap((draw, index) =>
    draw === null
      ? []
      : [
          serviceObject(draw, cluster.number, index),
          ...draw.slices.map((slice, i) => sliceObject(slice, draw, serviceName(cluster.number, index), i, places)),
        ],
  ),
];

const nodeObject = (node: Place, zone: string | null): object => ({
  apiVersion: "v1",
  kind: "Node",
  metadata: { name: node.name, labels: zone === null ? {} : { "topology.kubernetes.io/zone": zone } },
  spec: { podCIDRs: [`10.244.${node.name.slice(4)}.0/24`, `fd00:244:${node.name.slice(4)}::/64`] },
  status: { addresses: [node.v4, node.v6].map((address) => ({ type: "InternalIP", address })) },
});

const serviceObject = (draw: ServiceDraw, number: number, index: number): object => {
  const vs = draw.families.map((family): V => (family === "IPv4" ? "v4" : "v6"));
  const clusterIPs = draw.oddity === "headless" ? ["None"] : vs.map((v) => clusterIP(number, index, v));
  const both = (addresses: (v: V) => readonly string[]): readonly string[] =>
    (["v4", "v6"] as const).flatMap(addresses);
  return {
    apiVersion: "v1",
    kind: "Service",
    metadata: {
      name: serviceName(number, index),
      namespace: "default",
      uid: `uid-${number}-${index}`,
      ...(draw.created_s === null ? {} : { creationTimestamp: new Date(draw.created_s * 1000).toISOString() }),
      labels: labelsOf(draw.oddity),
    },
    spec: {
      type: draw.oddity === "ExternalName" ? "ExternalName" : draw.type,
      ...(draw.oddity === "ExternalName" ? { externalName: "example.org" } : {}),
      clusterIP: zeroed(draw, clusterIPs[0] ?? ""),
      clusterIPs: clusterIPs.map((ip) => zeroed(draw, ip)),
      ports: draw.ports.map((port, i) => ({
        ...(port.name === "" ? {} : { name: port.name }),
        port: port.port === 0 ? nodePort(number, 0, 0) : port.port,
        protocol: port.protocol,
        ...(draw.type !== "ClusterIP" && draw.nodePorts ? { nodePort: nodePort(number, index, i) } : {}),
      })),
      ...present("internalTrafficPolicy", draw.internalTrafficPolicy),
      ...(draw.type === "ClusterIP" && draw.externalIPs.length === 0
        ? {}
        : present("externalTrafficPolicy", draw.externalTrafficPolicy)),
      ...(draw.type === "LoadBalancer" && draw.externalTrafficPolicy === "Local"
        ? { healthCheckNodePort: healthPort(number, index) }
        : {}),
      externalIPs: both((v) => draw.externalIPs.map((which) => zeroed(draw, addressOf(which, number, index, v)))),
      ...(draw.type === "LoadBalancer" && draw.sourceRanges.length > 0
        ? { loadBalancerSourceRanges: draw.sourceRanges }
        : {}),
      ...affinityOf(draw.affinity_timeout_s),
    },
    status: {
      loadBalancer: {
        ingress:
          draw.type !== "LoadBalancer"
            ? []
            : [
                ...draw.balancers.flatMap(({ address, ipMode }) =>
                  both((v) => [addressOf(address, number, index, v)]).map((ip) => ({
                    ip,
                    ...present("ipMode", ipMode),
                  })),
                ),
                { hostname: "lb.example.org" },
              ],
      },
    },
  };
};

const labelsOf = (oddity: ServiceDraw["oddity"]): object => {
  if (oddity === "headless label") return { "service.kubernetes.io/headless": "" };
  return oddity === "service-proxy-name" ? { "service.kubernetes.io/service-proxy-name": "another" } : {};
};

const present = (field: string, value: unknown): object => (value === null ? {} : { [field]: value });

/** `172.30.0.1` as `172.30.000.01`: old objects hold such text, and it is decimal. */
const zeroed = ({ oddity }: ServiceDraw, ip: string): string =>
  oddity === "leading zeros" && ip.includes(".") ? ip.replace(/\.(\d)\.(\d+)$/, ".00$1.0$2") : ip;

const addressOf = (which: ExternalDraw, number: number, index: number, v: V): string => {
  switch (which) {
    case "own":
    case "second":
    case "shared":
      return vip(number, index, which, v);
    case "node1":
      return v === "v4" ? "192.168.0.1" : "fd00:192::1";
    case "node2":
      return v === "v4" ? "192.168.0.2" : "fd00:192::2";
    case "at every node":
      return EVERYWHERE[v];
    case "a ClusterIP":
      return clusterIP(number, 0, v);
  }
};

const affinityOf = (timeout_s: number | null): object => {
  if (timeout_s === null) return { sessionAffinity: "None" };
  if (timeout_s === 0) return { sessionAffinity: "ClientIP" };
  return { sessionAffinity: "ClientIP", sessionAffinityConfig: { clientIP: { timeoutSeconds: timeout_s } } };
};

const sliceObject = (
  draw: SliceDraw,
  { ports }: ServiceDraw,
  service: string,
  i: number,
  places: readonly Place[],
): object => ({
  apiVersion: "discovery.k8s.io/v1",
  kind: "EndpointSlice",
  metadata: { name: `${service}-${i}`, namespace: "default", labels: { "kubernetes.io/service-name": service } },
  addressType: draw.family,
  ports: portsOf(draw, ports),
  endpoints: draw.endpoints.map((one) => endpointObject(one, draw.family === "IPv4" ? "v4" : "v6", places)),
});

const portsOf = ({ portNames, targetPort }: SliceDraw, ports: readonly PortDraw[]): readonly object[] =>
  (portNames === "first" ? ports.slice(0, 1) : ports).map(({ name, protocol }) => ({
    name: portNames === "other" ? `${name}x` : name,
    protocol,
    port: targetPort,
  }));

const endpointObject = (draw: EndpointDraw, v: V, places: readonly Place[]): object => {
  const place = places.find(({ name }) => name === draw.place);
  const hints = {
    ...(draw.zones.length === 0 ? {} : { forZones: draw.zones.map((name) => ({ name })) }),
    ...(draw.nodes.length === 0 ? {} : { forNodes: draw.nodes.map((name) => ({ name })) }),
  };
  return {
    addresses: [place?.[v]],
    conditions: {
      ...present("ready", draw.ready),
      ...present("serving", draw.serving),
      ...present("terminating", draw.terminating),
    },
    ...(draw.named ? { nodeName: place?.node } : {}),
    ...(Object.keys(hints).length === 0 ? {} : { hints }),
  };
};
