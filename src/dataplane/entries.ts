// What readers of other people's rules find, put together as a Desired: an entry for each frontend, whatever the rules
// look like. Pure.
import { type Address, type Family, familyOf, formatHostPort, type Prefix } from "../model/address.ts";
import {
  type Backend,
  type Choice,
  type Desired,
  type DesiredService,
  type Frontend,
  type FrontendKind,
  type NodeAddress,
  type ServicePortKey,
  type ServicePortName,
  servicePortKey,
} from "../model/desired.ts";
import type { Protocol, TrafficPolicy } from "../model/snapshot.ts";

/** A frontend as rules have it. */
export interface Entry {
  /** An empty namespace: the source knows no names, and `name` is the address. */
  readonly name: ServicePortName;
  readonly kind: FrontendKind;
  readonly family: Family;
  readonly address: Address | null;
  readonly port: number;
  readonly restricted: boolean;
  readonly internal: Listed;
  readonly external: Listed;
  /** Of its service, in its family. */
  readonly sourceRanges: readonly Prefix[];
  readonly affinity_timeout_s: number;
}

/** A Choice whose backends are addresses yet. */
export type Listed =
  | { readonly kind: "backends"; readonly policy: TrafficPolicy; readonly endpoints: readonly Target[] }
  | Exclude<Choice, { kind: "backends" }>;

export interface Target {
  readonly address: Address;
  readonly port: number;
}

/**
 * One service for each name and protocol, sorted as compile() sorts. A backend is local where a list of policy Local
 * has it; `healthChecks`: ports by `namespace/name:port`.
 */
export const desiredOf = (
  entries: Iterable<Entry>,
  nodeAddresses: readonly NodeAddress[],
  healthChecks: ReadonlyMap<string, number> = new Map(),
): Desired => {
  const byService = new Map<ServicePortKey, Entry[]>();
  for (const entry of entries) {
    const key = servicePortKey(entry.name);
    const known = byService.get(key);
    if (known === undefined) byService.set(key, [entry]);
    else known.push(entry);
  }
  const services = [...byService].map(([key, list]) => [key, serviceOf(list, healthChecks)] as const);
  return {
    services: new Map(services.sort(([a], [b]) => (a < b ? -1 : 1))),
    nodeAddresses: [...nodeAddresses].sort((a, b) => (addressText(a) < addressText(b) ? -1 : 1)),
  };
};

const serviceOf = (entries: readonly Entry[], healthChecks: ReadonlyMap<string, number>): DesiredService => {
  const backends = backendsOf(entries);
  const frontends = entries.map(({ kind, family, address, port, restricted, internal, external }): Frontend => {
    const [inside, outside] = [choiceOf(internal, backends), choiceOf(external, backends)];
    return { kind, family, address, port, restricted, internal: inside, external: outside };
  });
  frontends.sort((a, b) => (frontendText(a) < frontendText(b) ? -1 : 1));
  const name = entries[0]?.name ?? { namespace: "", name: "", port: "", protocol: "TCP" };
  return {
    name,
    affinity_timeout_s: Math.max(0, ...entries.map((e) => e.affinity_timeout_s)),
    internalTrafficPolicy: policyOf(frontends.filter(({ kind }) => kind === "ClusterIP")),
    externalTrafficPolicy: policyOf(frontends.filter(({ kind }) => kind !== "ClusterIP")),
    healthCheckNodePort: healthChecks.get(nameText(name)) ?? null,
    sourceRanges: [...new Set(entries.flatMap(({ sourceRanges }) => sourceRanges))].sort(),
    backends: [...backends.values()],
    frontends,
  };
};

/** `shop/web:http`, as comments of rules have it. */
export const nameText = ({ namespace, name, port }: ServicePortName): string =>
  `${namespace}/${name}${port === "" ? "" : `:${port}`}`;

/** The inverse of nameText, null for anything else. */
export const parseName = (text: string, protocol: Protocol): ServicePortName | null => {
  const match = /^([^\s/:]+)\/([^\s/:]+)(?::([^\s/:]+))?$/.exec(text);
  if (match?.[1] === undefined || match[2] === undefined) return null;
  return { namespace: match[1], name: match[2], port: match[3] ?? "", protocol };
};

const backendsOf = (entries: readonly Entry[]): ReadonlyMap<string, Backend> => {
  const [found, local] = [new Map<string, Target>(), new Set<string>()];
  for (const choice of entries.flatMap(({ internal, external }) => [internal, external])) {
    if (choice.kind !== "backends") continue;
    for (const target of choice.endpoints) {
      found.set(targetText(target), target);
      if (choice.policy === "Local") local.add(targetText(target));
    }
  }
  const sorted = [...found].sort(([a], [b]) => (a < b ? -1 : 1));
  // IPv4 first, as compile() has it.
  const families = (["IPv4", "IPv6"] as const).flatMap((f) =>
    sorted.filter(([, { address }]) => familyOf(address) === f),
  );
  return new Map(families.map(([text, t]) => [text, { ...t, local: local.has(text), state: "active" } as const]));
};

const choiceOf = (listed: Listed, backends: ReadonlyMap<string, Backend>): Choice =>
  listed.kind === "backends"
    ? {
        kind: "backends",
        policy: listed.policy,
        backends: listed.endpoints.flatMap((target) => backends.get(targetText(target)) ?? []),
      }
    : listed;

const targetText = ({ address, port }: Target): string => formatHostPort(address, port);

const policyOf = (frontends: readonly Frontend[]): TrafficPolicy =>
  frontends.some(({ external }) => external.policy === "Local") ? "Local" : "Cluster";

const frontendText = ({ kind, address, family, port }: Frontend): string => `${kind} ${address ?? family} ${port}`;

const addressText = ({ address }: NodeAddress): string => `${familyOf(address)} ${address}`;

export const protocolOf = (text: string | null): Protocol | null => PROTOCOLS.get(text?.toLowerCase() ?? "") ?? null;

const PROTOCOLS: ReadonlyMap<string, Protocol> = new Map([
  ["tcp", "TCP"],
  ["udp", "UDP"],
  ["sctp", "SCTP"],
  ["6", "TCP"],
  ["17", "UDP"],
  ["132", "SCTP"],
]);

export const portOf = (text: string | null): number | null => {
  const port = text !== null && /^\d{1,5}$/.test(text) ? Number(text) : 0;
  return port >= 1 && port <= 65535 ? port : null;
};
