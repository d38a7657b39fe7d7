// Tables read back into a Desired: the inverse of plan(), so that what the kernel holds can be compared with what it
// should hold. Rows that belong to no named service are not shown; they are nobody's wish.
import { type Address, type Family, familyOf, formatHostPort, type Prefix } from "../../model/address.ts";
import {
  type Backend,
  type Choice,
  type Desired,
  type DesiredService,
  type Frontend,
  type FrontendKind,
  type NodeAddress,
  type ServicePortKey,
  servicePortKey,
} from "../../model/desired.ts";
import type { TrafficPolicy } from "../../model/snapshot.ts";
import type * as abi from "./abi.gen.ts";
import {
  backend_flag,
  backend_state,
  family,
  frontend_flag,
  node_address_flag,
  scope,
  service_flag,
} from "./abi.gen.ts";
import { protocolOf } from "./actual.ts";
import { kindFlags } from "./rows.ts";
import { NO_ADDRESS, type Row, sourceRangePrefix, type Tables } from "./tables.ts";

export const tablesToDesired = (tables: Tables): Desired => {
  const parts = new Map<number, Parts>();
  const partsOf = (id: number): Parts => parts.get(id) ?? setNew(parts, id);
  for (const [id, row] of tables.backends) {
    if (row.state !== backend_state.BACKEND_NONE) partsOf(row.service_id).backends.set(id, backendOf(row));
  }
  for (const { key, value } of tables.source_ranges) {
    if (value.allow !== 0) partsOf(key.service_id).ranges.push(sourceRangePrefix(key));
  }
  for (const row of tables.frontends) partsOf(row.value.service_id).pointers.push(frontendPointer(row));
  for (const row of tables.nodeports) partsOf(row.value.service_id).pointers.push(nodeportPointer(row));
  const services: [ServicePortKey, DesiredService][] = [];
  for (const [id, row] of tables.services) {
    const service = serviceOf(row, partsOf(id), tables.slots);
    if (service !== null) services.push([servicePortKey(service.name), service]);
  }
  services.sort(([a], [b]) => (a < b ? -1 : 1));
  return { services: new Map(services), nodeAddresses: nodeAddressesOf(tables) };
};

/** What the tables hold of one service_id. */
interface Parts {
  readonly backends: Map<number, Backend>;
  readonly ranges: Prefix[];
  readonly pointers: Pointer[];
}

/** A row of `frontends` or `nodeports`. */
interface Pointer {
  readonly address: Address | null;
  readonly family: Family;
  readonly port: number;
  readonly scope: number;
  readonly value: abi.Frontend;
}

const setNew = (parts: Map<number, Parts>, id: number): Parts => {
  const fresh: Parts = { backends: new Map(), ranges: [], pointers: [] };
  parts.set(id, fresh);
  return fresh;
};

const frontendPointer = ({ key, value }: Row<abi.FrontendKey, abi.Frontend>): Pointer => ({
  address: key.addr,
  family: familyOf(key.addr),
  port: key.port,
  scope: key.scope,
  value,
});

const nodeportPointer = ({ key, value }: Row<abi.NodeportKey, abi.Frontend>): Pointer => ({
  address: null,
  family: key.family === family.FAMILY_IPV6 ? "IPv6" : "IPv4",
  port: key.port,
  scope: key.scope,
  value,
});

const backendOf = (row: abi.Backend): Backend => ({
  address: row.addr,
  port: row.port,
  local: (row.flags & backend_flag.BACKEND_LOCAL) !== 0,
  state: row.state === backend_state.BACKEND_ACTIVE ? "active" : "draining",
});

const serviceOf = (row: abi.Service, parts: Parts, slots: readonly number[]): DesiredService | null => {
  const protocol = protocolOf(row.proto);
  if (protocol === null) return null;
  const policy = (flag: number): TrafficPolicy => ((row.flags & flag) !== 0 ? "Local" : "Cluster");
  return {
    name: { namespace: row.namespace, name: row.name, port: row.port_name, protocol },
    affinity_timeout_s: row.affinity_timeout_s,
    internalTrafficPolicy: policy(service_flag.SERVICE_INTERNAL_LOCAL),
    externalTrafficPolicy: policy(service_flag.SERVICE_EXTERNAL_LOCAL),
    healthCheckNodePort: row.health_check_port === 0 ? null : row.health_check_port,
    sourceRanges: parts.ranges.sort(),
    backends: [...parts.backends.values()].sort(byText),
    frontends: frontendsOf(parts, slots),
  };
};

const byText = (a: Backend, b: Backend): number =>
  formatHostPort(a.address, a.port) < formatHostPort(b.address, b.port) ? -1 : 1;

/** Two rows, one for each scope, are one frontend. A missing row reads as "refuse". */
const frontendsOf = (parts: Parts, slots: readonly number[]): Frontend[] => {
  const pairs = new Map<string, Pointer[]>();
  for (const pointer of parts.pointers) {
    const text = `${pointer.address ?? pointer.family} ${pointer.port}`;
    pairs.set(text, [...(pairs.get(text) ?? []), pointer]);
  }
  const frontends = [...pairs.values()].flatMap((pointers) => {
    const [first] = pointers;
    if (first === undefined) return [];
    const choice = (inScope: number): Choice =>
      choiceOf(pointers.find((pointer) => pointer.scope === inScope)?.value, parts, slots);
    return {
      kind: kindOf(first.value.flags),
      family: first.family,
      address: first.address,
      port: first.port,
      restricted: (first.value.flags & frontend_flag.FRONTEND_SOURCE_RANGES) !== 0,
      internal: choice(scope.SCOPE_INTERNAL),
      external: choice(scope.SCOPE_EXTERNAL),
    };
  });
  return frontends.sort(byKindThenAddress);
};

const kindOf = (flags: number): FrontendKind =>
  (Object.keys(kindFlags) as FrontendKind[]).find((kind) => (flags & kindFlags[kind]) !== 0) ?? "ClusterIP";

const byKindThenAddress = (a: Frontend, b: Frontend): number => (sortText(a) < sortText(b) ? -1 : 1);

const sortText = (f: Frontend): string => `${f.kind} ${f.address ?? f.family} ${String(f.port).padStart(5, "0")}`;

const choiceOf = (value: abi.Frontend | undefined, parts: Parts, slots: readonly number[]): Choice => {
  const flags = value?.flags ?? 0;
  const policy: TrafficPolicy = (flags & frontend_flag.FRONTEND_LOCAL) !== 0 ? "Local" : "Cluster";
  if (value === undefined || value.slot_count === 0) {
    return (flags & frontend_flag.FRONTEND_DROP) !== 0 ? { kind: "drop", policy: "Local" } : { kind: "reject", policy };
  }
  const run = slots.slice(value.slot_base, value.slot_base + value.slot_count);
  return { kind: "backends", policy, backends: run.flatMap((id) => parts.backends.get(id) ?? []) };
};

/** IPv4 first, then by text. A primary address that is no row (it had no room) is one where no NodePort answers. */
const nodeAddressesOf = ({ node_addresses, config }: Tables): NodeAddress[] => {
  const primary = [config.snat_addr_v4, config.snat_addr_v6].filter((address) => address !== NO_ADDRESS);
  const all = new Set([...node_addresses.keys(), ...primary]);
  return [...all]
    .map((address) => {
      const flags = node_addresses.get(address)?.flags ?? node_address_flag.NODE_ADDRESS_NO_NODEPORTS;
      return {
        address,
        loopback: (flags & node_address_flag.NODE_ADDRESS_LOOPBACK) !== 0,
        primary: primary.includes(address),
        nodePorts: (flags & node_address_flag.NODE_ADDRESS_NO_NODEPORTS) === 0,
      };
    })
    .sort((a, b) => (nodeAddressText(a) < nodeAddressText(b) ? -1 : 1));
};

const nodeAddressText = ({ address }: NodeAddress): string => `${familyOf(address)} ${address}`;
