// Random Desireds as compile() would make them: consistent choices, no address claimed twice, equal parts identical.
import fc from "fast-check";
import type { Address, Family, Prefix } from "../../src/model/address.ts";
import type {
  Backend,
  Choice,
  Desired,
  DesiredService,
  Frontend,
  FrontendKind,
  NodeAddress,
} from "../../src/model/desired.ts";
import { servicePortKey } from "../../src/model/desired.ts";
import type { TrafficPolicy } from "../../src/model/snapshot.ts";

interface ServiceSpec {
  readonly name: number;
  readonly port: "" | "http" | "dns";
  readonly protocol: "TCP" | "UDP";
  readonly affinity: boolean;
  readonly internal: TrafficPolicy;
  readonly external: TrafficPolicy;
  readonly ranges: readonly Prefix[];
  /** By number: absent, ready on this node, ready elsewhere, or leaving. */
  readonly endpoints: readonly ("absent" | "here" | "there" | "leaving")[];
  readonly clusterIP: number;
  readonly externalIP: number | null;
  readonly loadBalancer: number | null;
  readonly nodePort: number | null;
  readonly dual: boolean;
}

const policy = fc.constantFrom<TrafficPolicy>("Cluster", "Local");
const few = fc.integer({ min: 0, max: 3 });
const maybe = fc.option(few, { nil: null });
const RANGES = ["10.0.0.0/8", "192.168.7.0/24", "0.0.0.0/0", "fd00::/16", "::/0"] as Prefix[];

const serviceSpec: fc.Arbitrary<ServiceSpec> = fc.record({
  name: few,
  port: fc.constantFrom("" as const, "http" as const, "dns" as const),
  protocol: fc.constantFrom("TCP" as const, "UDP" as const),
  affinity: fc.boolean(),
  internal: policy,
  external: policy,
  ranges: fc.subarray(RANGES, { maxLength: 3 }),
  endpoints: fc.array(fc.constantFrom("absent", "here", "there", "leaving"), { maxLength: 4 }),
  clusterIP: few,
  externalIP: maybe,
  loadBalancer: maybe,
  nodePort: maybe,
  dual: fc.boolean(),
});

const NODE_ADDRESSES: readonly NodeAddress[] = [
  { address: "127.0.0.1" as Address, loopback: true, primary: false, nodePorts: true },
  { address: "192.168.0.1" as Address, loopback: false, primary: true, nodePorts: true },
  { address: "192.168.1.1" as Address, loopback: false, primary: false, nodePorts: true },
  { address: "fd00::1" as Address, loopback: false, primary: true, nodePorts: false },
];

/** Lists of Desireds that follow one another, each a few services of the same small world. */
export const desiredLists = (): fc.Arbitrary<readonly Desired[]> =>
  fc
    .array(
      fc.record({
        services: fc.array(serviceSpec, { maxLength: 4 }),
        nodes: fc.subarray([...NODE_ADDRESSES]),
      }),
      { minLength: 1, maxLength: 4 },
    )
    .map((steps) => {
      const made = new Map<string, DesiredService>();
      return steps.map(({ services, nodes }) => ({ services: servicesOf(services, made), nodeAddresses: nodes }));
    });

const servicesOf = (specs: readonly ServiceSpec[], made: Map<string, DesiredService>): Desired["services"] => {
  const services = new Map<ReturnType<typeof servicePortKey>, DesiredService>();
  const claimed = new Set<string>();
  for (const spec of specs) {
    const service = remembered(made, serviceOf(spec, claimed));
    const key = servicePortKey(service.name);
    if (services.has(key)) continue;
    services.set(key, service);
    for (const frontend of service.frontends) claimed.add(claimOf(service, frontend));
  }
  return services;
};

const remembered = (made: Map<string, DesiredService>, service: DesiredService): DesiredService => {
  const text = JSON.stringify(service);
  const known = made.get(text) ?? service;
  made.set(text, known);
  return known;
};

const claimOf = (
  service: Pick<DesiredService, "name">,
  frontend: Pick<Frontend, "address" | "family" | "port">,
): string => `${frontend.address ?? frontend.family} ${frontend.port} ${service.name.protocol}`;

const serviceOf = (spec: ServiceSpec, claimed: ReadonlySet<string>): DesiredService => {
  const name = { namespace: "ns", name: `s${spec.name}`, port: spec.port, protocol: spec.protocol };
  const families: readonly Family[] = spec.dual ? ["IPv4", "IPv6"] : ["IPv4"];
  const parts = families.map((family) => partOf(spec, family));
  const frontends = parts
    .flatMap((part) => part.frontends)
    .filter((frontend) => !claimed.has(claimOf({ name }, frontend)))
    .sort((a, b) => (sortText(a) < sortText(b) ? -1 : 1))
    .filter((frontend, i, all) => i === all.findIndex((one) => claimOf({ name }, one) === claimOf({ name }, frontend)));
  const named = new Set(
    frontends.flatMap(({ internal, external }) => [...backendsOf(internal), ...backendsOf(external)]),
  );
  return {
    name,
    affinity_timeout_s: spec.affinity ? 600 : 0,
    internalTrafficPolicy: spec.internal,
    externalTrafficPolicy: spec.external,
    healthCheckNodePort: spec.external === "Local" ? 32000 : null,
    sourceRanges: [...spec.ranges].sort(),
    backends: parts
      .flatMap((part) => part.backends)
      .filter((backend) => backend.state === "draining" || named.has(backend)),
    frontends,
  };
};

const sortText = (frontend: Frontend): string => `${frontend.kind} ${frontend.address ?? frontend.family}`;

const backendsOf = (choice: Choice): readonly Backend[] => (choice.kind === "backends" ? choice.backends : []);

const partOf = (spec: ServiceSpec, family: Family): { backends: readonly Backend[]; frontends: Frontend[] } => {
  const backends = spec.endpoints.flatMap((endpoint, i): Backend[] => {
    const address = (family === "IPv4" ? `10.244.0.${i + 1}` : `fd01::${i + 1}`) as Address;
    if (endpoint === "absent") return [];
    return [{ address, port: 8080, local: endpoint === "here", state: endpoint === "leaving" ? "draining" : "active" }];
  });
  const active = backends.filter((backend) => backend.state === "active");
  const choice = (asked: TrafficPolicy): Choice => {
    const usable = asked === "Cluster" ? active : active.filter((backend) => backend.local);
    if (usable.length > 0) return { kind: "backends", policy: asked, backends: usable };
    return asked === "Local" && active.length > 0
      ? { kind: "drop", policy: "Local" }
      : { kind: "reject", policy: asked };
  };
  const frontend = (kind: FrontendKind, number: number | null): Frontend[] => {
    if (number === null) return [];
    const own = kind === "ClusterIP";
    const isNodePort = kind === "NodePort";
    const ranged = spec.ranges.some((range) => range.includes(":") === (family === "IPv6"));
    return [
      {
        kind,
        family,
        address: isNodePort ? null : ADDRESSES[kind](family, number),
        port: isNodePort ? 30_000 + number : 80,
        restricted: kind === "LoadBalancer" && ranged,
        internal: choice(own ? spec.internal : "Cluster"),
        external: choice(own ? spec.internal : spec.external),
      },
    ];
  };
  return {
    backends,
    frontends: [
      ...frontend("ClusterIP", spec.clusterIP),
      ...frontend("ExternalIP", spec.externalIP),
      ...frontend("LoadBalancer", spec.loadBalancer),
      ...frontend("NodePort", spec.nodePort),
    ],
  };
};

const ADDRESSES: Readonly<Record<Exclude<FrontendKind, "NodePort">, (family: Family, number: number) => Address>> = {
  ClusterIP: (family, number) => (family === "IPv4" ? `10.96.0.${number + 1}` : `fd02::${number + 1}`) as Address,
  // The same addresses for both, so that an address changes its kind, too.
  ExternalIP: (family, number) => (family === "IPv4" ? `198.51.100.${number + 1}` : `fd03::${number + 1}`) as Address,
  LoadBalancer: (family, number) => (family === "IPv4" ? `198.51.100.${number + 3}` : `fd03::${number + 3}`) as Address,
};
