// Generated clusters: which Services there are, with every field that matters, and which pods of the lab stand behind
// them, as draws that fast-check makes and objects.ts turns into manifests. A draw has no addresses: those follow from
// the cluster's number and the draw's place in it, so that no two clusters of a run share an address or a NodePort.
import fc from "fast-check";

export type Family = "IPv4" | "IPv6";
export type Policy = "Cluster" | "Local";

/** Every field of a Service that decides something, without its addresses. */
export interface ServiceDraw {
  readonly type: "ClusterIP" | "NodePort" | "LoadBalancer";
  readonly families: readonly Family[];
  readonly ports: readonly PortDraw[];
  readonly nodePorts: boolean;
  readonly externalIPs: readonly ExternalDraw[];
  readonly balancers: readonly BalancerDraw[];
  /** Text as in the object. */
  readonly sourceRanges: readonly string[];
  readonly internalTrafficPolicy: Policy | null;
  readonly externalTrafficPolicy: Policy | null;
  /** null: none; 0: ClientIP without a timeout of its own. */
  readonly affinity_timeout_s: number | null;
  readonly oddity: null | "headless" | "headless label" | "ExternalName" | "service-proxy-name" | "leading zeros";
  /** Seconds; the older of two that claim one address wins. */
  readonly created_s: number | null;
  readonly slices: readonly SliceDraw[];
}

export interface PortDraw {
  readonly name: string;
  readonly protocol: "TCP" | "UDP" | "SCTP";
  /** 0: the NodePort of the first Service's first port. */
  readonly port: number;
}

/**
 * Whose address: one of the Service's own, one that several Services name, a node's, one that every node has at a device
 * of its own, the ClusterIP of the first Service.
 */
export type ExternalDraw = "own" | "second" | "shared" | "node1" | "node2" | "at every node" | "a ClusterIP";

export interface BalancerDraw {
  /** A node's: as load balancers without addresses of their own do it. */
  readonly address: "own" | "second" | "shared" | "node1" | "node2" | "at every node";
  readonly ipMode: "VIP" | "Proxy" | null;
}

export interface SliceDraw {
  readonly family: Family;
  /** Added to each port's number at the pods. */
  readonly targetPort: number;
  /** Some name only the first port, or name it otherwise. */
  readonly portNames: "all" | "first" | "other";
  readonly endpoints: readonly EndpointDraw[];
}

export interface EndpointDraw {
  readonly place: string;
  readonly ready: boolean | null;
  readonly serving: boolean | null;
  readonly terminating: boolean | null;
  /** Some endpoints do not say where they run. */
  readonly named: boolean;
  readonly zones: readonly string[];
  readonly nodes: readonly string[];
}

export interface Cluster {
  /** Decides every address. */
  readonly number: number;
  /** Zones of node1, node2, node3; null: no label. */
  readonly zones: readonly (string | null)[];
  /** null: a Service that was deleted. */
  readonly services: readonly (ServiceDraw | null)[];
}

/** Where endpoints are: pods of three nodes (the third runs no agent), and two nodes themselves. */
export const BACKENDS = ["pod1a", "pod1b", "pod2a", "pod2b", "pod3a", "node1", "node2"] as const;
/** What every backend serves, TCP and UDP. */
export const TARGET_PORTS = [8080, 8081] as const;
const ZONES = ["east", "west"] as const;

const oneOf = <const T>(...values: readonly T[]): fc.Arbitrary<T> => fc.constantFrom(...values);
const someOf = <const T>(values: readonly T[], maxLength: number): fc.Arbitrary<T[]> =>
  fc.uniqueArray(fc.constantFrom(...values), { maxLength });

const families: fc.Arbitrary<readonly Family[]> = oneOf(
  ["IPv4", "IPv6"] as const,
  ["IPv4", "IPv6"] as const,
  ["IPv6", "IPv4"] as const,
  ["IPv4"] as const,
  ["IPv6"] as const,
);

const ports: fc.Arbitrary<readonly PortDraw[]> = oneOf(
  [{ name: "", protocol: "TCP", port: 80 }],
  [{ name: "", protocol: "UDP", port: 53 }],
  [
    { name: "web", protocol: "TCP", port: 80 },
    { name: "dns", protocol: "UDP", port: 53 },
  ],
  [
    { name: "dns", protocol: "UDP", port: 53 },
    { name: "dns-tcp", protocol: "TCP", port: 53 },
    { name: "web", protocol: "TCP", port: 443 },
  ],
  [
    { name: "web", protocol: "TCP", port: 80 },
    { name: "sctp", protocol: "SCTP", port: 80 },
  ],
  [
    { name: "odd", protocol: "TCP", port: 0 },
    { name: "odd-udp", protocol: "UDP", port: 0 },
  ],
);

/** The lab's client and its other address, pods, nodes, everybody; with host bits, with white space. */
const ranges = [
  "203.0.113.2/32",
  " 203.0.113.128/25",
  "203.0.113.77/24",
  "10.244.1.0/24",
  "10.244.0.0/16 ",
  "192.168.0.1/32",
  "192.168.0.0/24",
  "0.0.0.0/0",
  "fd00:203::2/128",
  "fd00:203::/64",
  "fd00:244:2::/64",
  "fd00:192::2/128",
] as const;

/** Hints count only where every ready endpoint has some: either nobody has any, or nearly everybody does. */
const endpoint = (hints: "none" | "zones" | "nodes" | "both"): fc.Arbitrary<EndpointDraw> =>
  fc.record({
    place: fc.constantFrom(...BACKENDS),
    ready: oneOf(true, true, true, null, false, false),
    serving: oneOf(true, null, false),
    terminating: oneOf(false, false, null, true),
    named: oneOf(true, true, true, true, true, false),
    zones: hints === "zones" || hints === "both" ? hintsAmong(ZONES) : fc.constant([]),
    nodes: hints === "nodes" || hints === "both" ? hintsAmong(["node1", "node2", "node3"]) : fc.constant([]),
  });

const hintsAmong = (names: readonly string[]): fc.Arbitrary<readonly string[]> =>
  fc.oneof(
    { weight: 9, arbitrary: fc.uniqueArray(fc.constantFrom(...names), { minLength: 1, maxLength: 2 }) },
    { weight: 1, arbitrary: fc.constant([]) },
  );

const slice = (hints: "none" | "zones" | "nodes" | "both"): fc.Arbitrary<SliceDraw> =>
  fc.record({
    family: oneOf("IPv4", "IPv4", "IPv6"),
    targetPort: fc.constantFrom(...TARGET_PORTS),
    portNames: oneOf("all", "all", "all", "all", "first", "other"),
    endpoints: lengths(0, 1, 2, 3, 4).chain((length) =>
      fc.array(endpoint(hints), { minLength: length, maxLength: length }),
    ),
  });

/** A length that is not drawn towards zero, as fast-check's own are. */
const lengths = (...values: readonly number[]): fc.Arbitrary<number> => fc.constantFrom(...values);

const arbitrarySlices: fc.Arbitrary<readonly SliceDraw[]> = fc
  .tuple(oneOf("none", "none", "none", "zones", "nodes", "both"), lengths(0, 1, 2, 2, 3, 3, 4))
  .chain(([hints, length]) => fc.array(slice(hints), { minLength: length, maxLength: length }));

export const arbitraryService: fc.Arbitrary<ServiceDraw> = fc.record({
  type: oneOf("ClusterIP", "NodePort", "LoadBalancer", "LoadBalancer"),
  families,
  ports,
  nodePorts: oneOf(true, true, true, false),
  externalIPs: fc.oneof(
    fc.constant([]),
    someOf(["own", "own", "second", "shared", "node1", "node2", "at every node", "a ClusterIP"] as const, 2),
  ),
  balancers: fc.uniqueArray(
    fc.record({
      address: oneOf("own", "own", "second", "shared", "node1", "node2"),
      ipMode: oneOf("VIP", null, null, "Proxy"),
    }),
    { minLength: 0, maxLength: 2, selector: ({ address }) => address },
  ),
  sourceRanges: fc.oneof(fc.constant([]), someOf(ranges, 3)),
  internalTrafficPolicy: oneOf("Cluster", "Cluster", null, "Local"),
  externalTrafficPolicy: oneOf("Cluster", "Cluster", null, "Local", "Local"),
  affinity_timeout_s: oneOf(null, null, null, null, 0, 300),
  oddity: oneOf(
    ...Array<null>(14).fill(null),
    "headless",
    "headless label",
    "ExternalName",
    "service-proxy-name",
    "leading zeros",
  ),
  created_s: oneOf(null, 1000, 2000, 3000),
  slices: arbitrarySlices,
});

const MOST_SERVICES = 50;

const arbitraryCluster = (number: number): fc.Arbitrary<Cluster> =>
  lengths(1, 3, 6, 6, 8, 8, 10, 12, 20, MOST_SERVICES).chain((length) =>
    fc.record({
      number: fc.constant(number),
      zones: fc.tuple(oneOf("east", "west", null), oneOf("east", "west", null), oneOf("east", "west")),
      services: fc.array(arbitraryService, { minLength: length, maxLength: length }),
    }),
  );

/** The cluster of this number in the run of this seed: the same again at any time, alone. */
export const drawCluster = (seed: number, number: number): Cluster => draw(arbitraryCluster(number), seed, number);

/** One value; every number of a run has random bits of its own. */
export const draw = <T>(arbitrary: fc.Arbitrary<T>, seed: number, number: number): T => {
  const [value] = fc.sample(arbitrary, { seed: (Math.imul(seed, 1_000_003) + number) | 0, numRuns: 1 });
  if (value === undefined) throw new Error("fast-check has drawn nothing");
  return value;
};
