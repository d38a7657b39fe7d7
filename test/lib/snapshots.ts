// Snapshots made by hand for tests, and arbitrary ones for properties: small worlds in which everything meets everything.
import fc from "fast-check";
import type { CompileOptions } from "../../src/compile/compile.ts";
import { type Address, familyOf, makePrefix } from "../../src/model/address.ts";
import {
  type Endpoint,
  type EndpointSlice,
  type Node,
  objectKey,
  type Service,
  type Snapshot,
} from "../../src/model/snapshot.ts";
import type { Packet } from "../../src/model/verdict.ts";
import { readAddress } from "./addresses.ts";

export const address = readAddress;

/** The node that tests compile for: node-a, with one address of each family. */
export const options: CompileOptions = {
  nodeName: "node-a",
  localAddresses: ["127.0.0.1", "::1", "192.0.2.11", "2001:db8::11"].map(address),
  nodePortAddresses: [],
};

/** A ClusterIP Service default/web with port 80 at 10.96.0.1, and what `fields` say otherwise. */
export const service = (fields: Partial<Service> = {}): Service => ({
  namespace: "default",
  name: "web",
  uid: "",
  created_ms: 0,
  skip: null,
  type: "ClusterIP",
  clusterIPs: [address("10.96.0.1")],
  externalIPs: [],
  loadBalancerIPs: [],
  sourceRanges: [],
  internalTrafficPolicy: "Cluster",
  externalTrafficPolicy: "Cluster",
  affinity_timeout_s: 0,
  healthCheckNodePort: null,
  ports: [{ name: "", protocol: "TCP", port: 80, nodePort: null }],
  ...fields,
});

/** A ready endpoint on node-a. */
export const endpoint = (text: string, fields: Partial<Endpoint> = {}): Endpoint => ({
  address: address(text),
  ready: true,
  serving: true,
  terminating: false,
  nodeName: "node-a",
  hintNodes: [],
  hintZones: [],
  ...fields,
});

/** An IPv4 slice of default/web with port 8080. */
export const slice = (endpoints: readonly Endpoint[], fields: Partial<EndpointSlice> = {}): EndpointSlice => ({
  namespace: "default",
  name: "web-1",
  serviceName: "web",
  family: "IPv4",
  ports: [{ name: "", protocol: "TCP", port: 8080 }],
  endpoints,
  triggered_ms: null,
  ...fields,
});

export const snapshot = (
  services: readonly Service[],
  slices: readonly EndpointSlice[] = [],
  node: Node | null = null,
): Snapshot => {
  const groups = new Map<ReturnType<typeof objectKey>, Map<string, EndpointSlice>>();
  for (const one of slices) {
    const key = objectKey(one.namespace, one.serviceName);
    groups.set(key, (groups.get(key) ?? new Map<string, EndpointSlice>()).set(one.name, one));
  }
  return {
    services: new Map(services.map((one) => [objectKey(one.namespace, one.name), one])),
    slices: groups,
    node,
  };
};

const some = <T>(values: readonly T[], maxLength = values.length): fc.Arbitrary<T[]> =>
  fc.uniqueArray(fc.constantFrom(...values), { maxLength });

const policy = fc.constantFrom("Cluster" as const, "Local" as const);

/** Few addresses for many, so that claims collide and endpoints are VIPs now and then. */
const vips = ["198.51.100.7", "198.51.100.8", "10.96.0.1", "10.96.0.2", "2001:db8:5::7", "fd00:96::1"].map(address);
const clusterIPs = ["10.96.0.1", "10.96.0.2", "10.96.0.3", "fd00:96::1", "fd00:96::2"].map(address);
const podIPs = ["10.244.1.2", "10.244.1.3", "10.244.2.2", "10.244.2.3", "10.96.0.2"].map(address);
const podIPv6s = ["fd00:1::2", "fd00:2::2", "fd00:2::3"].map(address);
const ports = [
  { name: "http", protocol: "TCP" },
  { name: "dns", protocol: "UDP" },
  { name: "", protocol: "TCP" },
] as const;

const arbitraryPort = fc.record({
  identity: fc.constantFrom(...ports),
  port: fc.constantFrom(80, 443),
  nodePort: fc.constantFrom(null, 30080, 30081),
});

export const arbitraryService: fc.Arbitrary<Service> = fc.record({
  namespace: fc.constant("default"),
  name: fc.constantFrom("a", "b", "c"),
  uid: fc.constantFrom("1", "2"),
  created_ms: fc.constantFrom(0, 1000, 2000),
  skip: fc.constantFrom(null, null, null, null, "headless" as const),
  type: fc.constantFrom("ClusterIP" as const, "NodePort" as const, "LoadBalancer" as const),
  clusterIPs: fc.uniqueArray(fc.constantFrom(...clusterIPs), { minLength: 1, maxLength: 3 }),
  externalIPs: some(vips, 2),
  loadBalancerIPs: some(vips, 2),
  sourceRanges: some(
    ["203.0.113.0", "192.0.2.0", "2001:db8:9::"].map((net) => makePrefix(address(net), net.includes(":") ? 48 : 24)),
    1,
  ),
  internalTrafficPolicy: policy,
  externalTrafficPolicy: policy,
  affinity_timeout_s: fc.constantFrom(0, 10800),
  healthCheckNodePort: fc.constantFrom(null, 32000),
  ports: fc
    .uniqueArray(arbitraryPort, { minLength: 1, maxLength: 3, selector: ({ identity }) => identity.name })
    .map((list) => list.map(({ identity, port, nodePort }) => ({ ...identity, port, nodePort }))),
});

const arbitraryEndpoint = (addresses: readonly Address[]): fc.Arbitrary<Endpoint> =>
  fc.record({
    address: fc.constantFrom(...addresses),
    ready: fc.boolean(),
    serving: fc.constantFrom(true, true, false),
    terminating: fc.boolean(),
    nodeName: fc.constantFrom("node-a", "node-b", null),
    hintNodes: some(["node-a", "node-b"]),
    hintZones: some(["east", "west"]),
  });

const arbitrarySlice: fc.Arbitrary<EndpointSlice> = fc.constantFrom("IPv4" as const, "IPv6" as const).chain((family) =>
  fc.record({
    namespace: fc.constant("default"),
    name: fc.constantFrom("s1", "s2", "s3", "s4", "s5", "s6"),
    serviceName: fc.constantFrom("a", "a", "b", "b", "c", "unknown"),
    family: fc.constant(family),
    ports: fc.constantFrom(
      ports.map((port) => ({ ...port, port: 8080 })),
      ports.map((port) => ({ ...port, port: 9090 })),
      [{ ...ports[0], port: 8080 }],
    ),
    endpoints: fc.array(arbitraryEndpoint(family === "IPv4" ? podIPs : podIPv6s), { maxLength: 4 }),
    triggered_ms: fc.constant(null),
  }),
);

const arbitraryNode: fc.Arbitrary<Node | null> = fc.constantFrom("east", "west", null).map((zone) => ({
  name: "node-a",
  addresses: [address("192.0.2.11")],
  zone,
  podCIDRs: [],
  deleting: false,
  taints: [],
}));

/** Objects in order of arrival: of two with one name the later replaces the earlier. */
export const arbitraryObjects = fc.record({
  services: fc.array(arbitraryService, { minLength: 1, maxLength: 5 }),
  slices: fc.array(arbitrarySlice, { maxLength: 8 }),
  node: fc.option(arbitraryNode, { nil: null }),
});

export const arbitrarySnapshot: fc.Arbitrary<Snapshot> = arbitraryObjects.map(({ services, slices, node }) =>
  snapshot(services, uniqueByName(slices), node),
);

/** A slice has one owner: the last one to name it. */
const uniqueByName = (slices: readonly EndpointSlice[]): readonly EndpointSlice[] => [
  ...new Map(slices.map((one) => [one.name, one])).values(),
];

const clients = {
  pod: ["10.244.1.9", "fd00:1::9"],
  node: ["192.0.2.11", "127.0.0.1", "2001:db8::11"],
  outside: ["203.0.113.9", "198.18.0.9", "2001:db8:9::9", "2001:db8:8::9"],
} as const;

/** Every client of that world to every destination in it, of one family each. */
export const everyPacket: readonly Packet[] = (["pod", "node", "outside"] as const).flatMap((place) =>
  clients[place].flatMap((client) =>
    [...new Set([...vips, ...clusterIPs, ...options.localAddresses])]
      .filter((to) => familyOf(to) === familyOf(address(client)))
      .flatMap((to) =>
        [80, 443, 30080, 30081].flatMap((port) =>
          (["TCP", "UDP"] as const).map((protocol) => ({
            from: { place, address: address(client) },
            to: { address: to, port, protocol },
          })),
        ),
      ),
  ),
);
