// What the kernel holds, put together for people: tables, the Desired they mean, and the ids between the two.
import type { Backend as BackendRow } from "../dataplane/bpf/abi.gen.ts";
import { backend_state } from "../dataplane/bpf/abi.gen.ts";
import { decode } from "../dataplane/bpf/codec.ts";
import { type BackendStats, readBackendStats } from "../dataplane/bpf/inspect.ts";
import type { MapStore } from "../dataplane/bpf/mapstore.ts";
import { tablesToDesired } from "../dataplane/bpf/readback.ts";
import { protoName, readTables, type Tables } from "../dataplane/bpf/tables.ts";
import { formatHostPort } from "../model/address.ts";
import type { Backend, Choice, Desired, DesiredService, Frontend } from "../model/desired.ts";
import { servicePortKey } from "../model/desired.ts";
import type { Protocol } from "../model/snapshot.ts";

export interface Held {
  readonly tables: Tables;
  readonly desired: Desired;
  /** By the text of the service port. */
  readonly serviceIds: ReadonlyMap<string, number>;
  /** By service_id and address: `7 10.244.1.2:8080`. */
  readonly backendIds: ReadonlyMap<string, number>;
  readonly stats: ReadonlyMap<number, BackendStats>;
}

export const readHeld = (store: MapStore): Held => {
  const tables = readTables(store);
  const services = [...tables.services].map(([id, row]) => [keyOfRow(row), id] as const);
  const backends = [...tables.backends]
    .filter(([, row]) => row.state !== backend_state.BACKEND_NONE)
    .map(([id, row]) => [backendText(row.service_id, row), id] as const);
  return {
    tables,
    desired: tablesToDesired(tables),
    serviceIds: new Map(services),
    backendIds: new Map(backends),
    stats: readBackendStats(store),
  };
};

const keyOfRow = (row: { namespace: string; name: string; port_name: string; proto: number }): string =>
  servicePortKey({
    namespace: row.namespace,
    name: row.name,
    port: row.port_name,
    protocol: protoName(row.proto) as Protocol,
  });

/** `shop/web:http/TCP` by service_id, without reading anything else. */
export const readServiceNames = (store: MapStore): ReadonlyMap<number, string> =>
  new Map(
    Array.from(store.entries("services"), ([k, v]) => [decode("u32", k), keyOfRow(decode("service", v))] as const),
  );

const backendText = (service_id: number, row: BackendRow): string =>
  `${service_id} ${formatHostPort(row.addr, row.port)}`;

export const serviceIdOf = (held: Held, service: DesiredService): number | null =>
  held.serviceIds.get(servicePortKey(service.name)) ?? null;

export const backendIdOf = (held: Held, service: DesiredService, backend: Backend): number | null => {
  const id = held.backendIds.get(`${serviceIdOf(held, service)} ${hostPort(backend)}`);
  return id ?? null;
};

/** Sorted by service port. */
export const sortedServices = (desired: Desired): readonly DesiredService[] =>
  [...desired.services.values()].sort((a, b) => (servicePortKey(a.name) < servicePortKey(b.name) ? -1 : 1));

// ---- words that several commands print -----------------------------------------------------------------------------

/** `shop/web:http`, `shop/web` for an unnamed port. */
export const serviceText = ({ name }: DesiredService): string =>
  `${name.namespace}/${name.name}${name.port === "" ? "" : `:${name.port}`}`;

export const hostPort = ({ address, port }: Backend): string => formatHostPort(address, port);

/** `10.96.0.10:80`; a NodePort is `0.0.0.0:30080` or `[::]:30080`. */
export const frontendText = ({ address, family, port }: Frontend): string =>
  address === null ? `${family === "IPv4" ? "0.0.0.0" : "[::]"}:${port}` : formatHostPort(address, port);

/** What a choice comes to: the number of backends, or why there is none. */
export const choiceText = (choice: Choice): string => {
  switch (choice.kind) {
    case "backends":
      return String(choice.backends.length);
    case "reject":
      return "refused";
    case "drop":
      return "dropped";
  }
};

/** The same for clients inside and outside, or each. `from` as people say it. */
export const choicesOf = (frontend: Frontend): readonly { readonly from: string; readonly choice: Choice }[] => {
  const { internal, external } = frontend;
  const same =
    internal.kind === external.kind &&
    internal.policy === external.policy &&
    backendsOf(internal) === backendsOf(external);
  if (same) return [{ from: "anywhere", choice: internal }];
  return [
    { from: "inside", choice: internal },
    { from: "outside", choice: external },
  ];
};

const backendsOf = (choice: Choice): string => (choice.kind === "backends" ? choice.backends.map(hostPort).join() : "");
