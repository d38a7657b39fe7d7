// One DesiredService as rows of the tables, before it has ids and slots.
import { type Address, familyOf, formatHostPort, type Prefix, splitPrefix } from "../../model/address.ts";
import type { Backend, Choice, DesiredService, Frontend, FrontendKind } from "../../model/desired.ts";
import type * as abi from "./abi.gen.ts";
import { backend_flag, backend_state, family, frontend_flag, scope, service_flag } from "./abi.gen.ts";
import { encode } from "./codec.ts";
import { frontendText, nodeportText, protoNumbers, type Row, sourceRangeKey } from "./tables.ts";

export const kindFlags: Readonly<Record<FrontendKind, number>> = {
  ClusterIP: frontend_flag.FRONTEND_CLUSTER_IP,
  ExternalIP: frontend_flag.FRONTEND_EXTERNAL_IP,
  LoadBalancer: frontend_flag.FRONTEND_LOAD_BALANCER,
  NodePort: frontend_flag.FRONTEND_NODE_PORT,
};

/** A row of `frontends` or `nodeports` that does not know its service_id and slots yet. */
export interface FrontendRow {
  readonly map: "frontends" | "nodeports";
  /** Names the key: unique over both maps. */
  readonly text: string;
  /** null: a NodePort. */
  readonly address: Address | null;
  readonly key: Uint8Array;
  readonly flags: number;
  readonly affinity_timeout_s: number;
  /** Where the slots point to, in their order; empty: see FRONTEND_DROP. */
  readonly backends: readonly Backend[];
}

/** Two rows for each frontend: one for each scope. */
export const frontendRows = (service: DesiredService): FrontendRow[] =>
  service.frontends.flatMap((frontend) => [
    frontendRow(service, frontend, scope.SCOPE_INTERNAL, frontend.internal),
    frontendRow(service, frontend, scope.SCOPE_EXTERNAL, frontend.external),
  ]);

const frontendRow = (service: DesiredService, frontend: Frontend, inScope: number, choice: Choice): FrontendRow => ({
  ...frontendKey(service, frontend, inScope),
  flags:
    kindFlags[frontend.kind] |
    (choice.policy === "Local" ? frontend_flag.FRONTEND_LOCAL : 0) |
    (choice.kind === "drop" ? frontend_flag.FRONTEND_DROP : 0) |
    (frontend.restricted ? frontend_flag.FRONTEND_SOURCE_RANGES : 0),
  affinity_timeout_s: service.affinity_timeout_s,
  backends: choice.kind === "backends" ? choice.backends : [],
});

const frontendKey = (
  service: DesiredService,
  frontend: Frontend,
  inScope: number,
): Pick<FrontendRow, "map" | "text" | "address" | "key"> => {
  const proto = protoNumbers[service.name.protocol];
  const { address, port } = frontend;
  if (address === null) {
    const number = frontend.family === "IPv6" ? family.FAMILY_IPV6 : family.FAMILY_IPV4;
    const key: abi.NodeportKey = { port, proto, scope: inScope, family: number };
    return { map: "nodeports", text: nodeportText(key), address, key: encode("nodeport_key", key) };
  }
  const key: abi.FrontendKey = { addr: address, port, proto, scope: inScope };
  return { map: "frontends", text: frontendText(key), address, key: encode("frontend_key", key) };
};

export const serviceRow = (service: DesiredService): abi.Service => ({
  namespace: service.name.namespace,
  name: service.name.name,
  port_name: service.name.port,
  proto: protoNumbers[service.name.protocol],
  health_check_port: service.healthCheckNodePort ?? 0,
  flags:
    (service.internalTrafficPolicy === "Local" ? service_flag.SERVICE_INTERNAL_LOCAL : 0) |
    (service.externalTrafficPolicy === "Local" ? service_flag.SERVICE_EXTERNAL_LOCAL : 0),
  affinity_timeout_s: service.affinity_timeout_s,
});

/** A row of `backends` that does not know its generation and service_id yet. */
export type BackendRow = Omit<abi.Backend, "generation" | "service_id">;

/** By `address:port`, which is unique within a service port. */
export const backendRows = (service: DesiredService): Map<string, BackendRow> => {
  const inRun = flagsInRuns(service);
  const proto = protoNumbers[service.name.protocol];
  return new Map(
    service.backends.map((backend): [string, BackendRow] => {
      const text = backendText(backend);
      const state = backend.state === "active" ? backend_state.BACKEND_ACTIVE : backend_state.BACKEND_DRAINING;
      const flags = (backend.local ? backend_flag.BACKEND_LOCAL : 0) | (inRun.get(text) ?? 0);
      return [text, { addr: backend.address, port: backend.port, proto, state, flags }];
    }),
  );
};

export const backendText = (backend: Backend): string => formatHostPort(backend.address, backend.port);

/** Which policies' runs name a backend: what affinity may be followed to. */
const flagsInRuns = (service: DesiredService): Map<string, number> => {
  const flags = new Map<string, number>();
  for (const { internal, external } of service.frontends) {
    for (const choice of [internal, external]) {
      if (choice.kind !== "backends") continue;
      const bit = choice.policy === "Local" ? backend_flag.BACKEND_IN_LOCAL : backend_flag.BACKEND_IN_CLUSTER;
      for (const backend of choice.backends) {
        const text = backendText(backend);
        flags.set(text, (flags.get(text) ?? 0) | bit);
      }
    }
  }
  return flags;
};

/**
 * In the order in which they are to be written. IPv4 clients are ::ffff:a.b.c.d, so an IPv6 range that covers
 * ::ffff:0:0/96 (such as ::/0) would let all of them in: one row before it keeps out those that no IPv4 range names.
 */
export const rangeRows = (
  service_id: number,
  prefixes: readonly Prefix[],
): Map<Prefix, Row<abi.SourceRangeKey, abi.SourceRange>> => {
  const v4 = prefixes.filter((prefix) => familyOf(prefix) === "IPv4");
  const v6 = prefixes.filter((prefix) => familyOf(prefix) === "IPv6");
  const keepsOut = !v4.includes(ALL_IPV4) && v6.some(coversIPv4);
  return new Map([
    ...v4.map((prefix) => rangeRow(service_id, prefix, 1)),
    ...(keepsOut ? [rangeRow(service_id, ALL_IPV4, 0)] : []),
    ...v6.map((prefix) => rangeRow(service_id, prefix, 1)),
  ]);
};

const ALL_IPV4 = "0.0.0.0/0" as Prefix;

const coversIPv4 = (prefix: Prefix): boolean => {
  const { address, bits } = splitPrefix(prefix);
  const V4_MAPPED_ZEROS = 80; // ::ffff:0:0/96 begins with so many
  return address === "::" && bits <= V4_MAPPED_ZEROS;
};

const rangeRow = (
  service_id: number,
  prefix: Prefix,
  allow: number,
): [Prefix, Row<abi.SourceRangeKey, abi.SourceRange>] => [
  prefix,
  { key: sourceRangeKey(service_id, prefix), value: { allow } },
];
