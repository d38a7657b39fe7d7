// `beeline services`: one row for each service port that the kernel serves, or one service in full.
import { columns, safe } from "../lib/text.ts";
import type { DesiredService, Frontend } from "../model/desired.ts";
import type { Args, Io, Run } from "./command.ts";
import {
  backendIdOf,
  choicesOf,
  choiceText,
  frontendText,
  type Held,
  hostPort,
  readHeld,
  serviceIdOf,
  serviceText,
  sortedServices,
} from "./held.ts";
import { withPinnedMaps } from "./pinned.ts";
import { type Report, type Style, show } from "./report.ts";

export const services: Run = (args: Args, io: Io) =>
  show(args, io, () => withPinnedMaps(args, (store) => serviceReport(readHeld(store), args.name)));

/** `name`: undefined all, `shop/` a namespace, `shop/web` or `web` in full. */
export const serviceReport = (held: Held, name: string | undefined): Report => {
  const chosen = sortedServices(held.desired).filter((service) => isMeant(service.name, name));
  const whole = name !== undefined && !name.endsWith("/");
  return {
    kind: "ServiceList",
    fields: { items: chosen.map((service) => serviceItem(held, service)) },
    failed: whole && chosen.length === 0,
    text: (style) => {
      if (whole && chosen.length === 0) return `no service ${safe(name)} here\n`;
      return whole ? chosen.map((s) => describe(held, s, style)).join("\n") : table(held, chosen, style);
    },
  };
};

/** `wanted`: undefined all, `shop/` a namespace, `shop/web` or `web` one service. */
export const isMeant = (name: { readonly namespace: string; readonly name: string }, wanted?: string): boolean => {
  if (wanted === undefined) return true;
  if (wanted.endsWith("/")) return `${name.namespace}/` === wanted;
  return wanted === name.name || wanted === `${name.namespace}/${name.name}`;
};

const HEADERS = ["SERVICE", "PROTO", "TYPE", "ADDRESS", "BACKENDS", "LOCAL", "POLICY", "AFFINITY"];
const WIDE = ["DRAINING", "NEW-FLOWS", "OPEN-SOCKETS", "ID"];

const table = (held: Held, chosen: readonly DesiredService[], { wide, headers }: Style): string => {
  const rows = chosen.map((service) => {
    const active = service.backends.filter((b) => b.state === "active");
    const row = [
      serviceText(service),
      service.name.protocol,
      unique(service.frontends.map((f) => f.kind)).join(","),
      unique(service.frontends.map(shortText)).join(","),
      String(active.length),
      String(active.filter((b) => b.local).length),
      policyText(service),
      service.affinity_timeout_s === 0 ? "-" : `${service.affinity_timeout_s}s`,
    ];
    if (!wide) return row;
    const stats = statsOf(held, service);
    const draining = service.backends.length - active.length;
    return [...row, draining, stats.new_flows, stats.open_sockets, serviceIdOf(held, service) ?? "-"].map(String);
  });
  return columns(headers ? [...HEADERS, ...(wide ? WIDE : [])] : null, rows);
};

/** Of a NodePort one is enough for both families. */
const shortText = (frontend: Frontend): string =>
  frontend.address === null ? `*:${frontend.port}` : frontendText(frontend);

const unique = (words: readonly string[]): string[] => [...new Set(words)];

const policyText = (service: DesiredService): string => {
  const local = [
    ...(service.internalTrafficPolicy === "Local" ? ["internal=Local"] : []),
    ...(service.externalTrafficPolicy === "Local" ? ["external=Local"] : []),
  ];
  return local.length === 0 ? "-" : local.join(",");
};

const statsOf = (held: Held, service: DesiredService): { new_flows: bigint; open_sockets: bigint } => {
  let [new_flows, open_sockets] = [0n, 0n];
  for (const backend of service.backends) {
    const stats = held.stats.get(backendIdOf(held, service, backend) ?? -1);
    new_flows += stats?.new_flows ?? 0n;
    open_sockets += stats?.open_sockets ?? 0n;
  }
  return { new_flows, open_sockets };
};

const describe = (held: Held, service: DesiredService, { wide, headers }: Style): string => {
  const facts: readonly (readonly [string, string])[] = [
    ["Service:", `${serviceText(service)}/${service.name.protocol}`],
    ["Affinity:", service.affinity_timeout_s === 0 ? "none" : `${service.affinity_timeout_s}s by client address`],
    ["Policy:", `internal ${service.internalTrafficPolicy}, external ${service.externalTrafficPolicy}`],
    ...(service.healthCheckNodePort === null
      ? []
      : [["Health check:", `node port ${service.healthCheckNodePort}`] as const]),
    ["Sources:", service.sourceRanges.length === 0 ? "everybody" : service.sourceRanges.join(", ")],
  ];
  const frontends = service.frontends.flatMap((frontend) =>
    choicesOf(frontend).map(({ from, choice }) => [
      frontend.kind,
      frontendText(frontend),
      from,
      choice.policy,
      choice.kind === "backends" ? choice.backends.map(hostPort).join(" ") : choiceText(choice),
    ]),
  );
  const backends = service.backends.map((backend) => {
    const id = backendIdOf(held, service, backend);
    const stats = held.stats.get(id ?? -1);
    const row = [hostPort(backend), backend.state, backend.local ? "yes" : "no"];
    row.push(String(stats?.new_flows ?? 0n), String(stats?.open_sockets ?? 0n));
    return wide ? [...row, String(id ?? "-")] : row;
  });
  const frontendHeaders = ["TYPE", "ADDRESS", "FROM", "POLICY", "BACKENDS"];
  const backendHeaders = ["ADDRESS", "STATE", "LOCAL", "NEW-FLOWS", "OPEN-SOCKETS", ...(wide ? ["ID"] : [])];
  return [
    columns(null, facts),
    "Frontends:\n",
    indent(columns(headers ? frontendHeaders : null, frontends)),
    backends.length === 0 ? "Backends: none\n" : "Backends:\n",
    backends.length === 0 ? "" : indent(columns(headers ? backendHeaders : null, backends)),
  ].join("");
};

const indent = (text: string): string => text.replace(/^(?=.)/gm, "  ");

const serviceItem = (held: Held, service: DesiredService) => {
  const { name, ...rest } = service;
  return {
    ...name,
    id: serviceIdOf(held, service),
    affinity_timeout_s: rest.affinity_timeout_s,
    internalTrafficPolicy: rest.internalTrafficPolicy,
    externalTrafficPolicy: rest.externalTrafficPolicy,
    healthCheckNodePort: rest.healthCheckNodePort,
    sourceRanges: rest.sourceRanges,
    frontends: service.frontends.map(({ kind, family, address, port, restricted, internal, external }) => ({
      kind,
      family,
      address,
      port,
      restricted,
      internal: { ...internal, ...(internal.kind === "backends" ? { backends: internal.backends.map(hostPort) } : {}) },
      external: { ...external, ...(external.kind === "backends" ? { backends: external.backends.map(hostPort) } : {}) },
    })),
    backends: service.backends.map((backend) => {
      const id = backendIdOf(held, service, backend);
      const stats = held.stats.get(id ?? -1);
      return { ...backend, id, new_flows: stats?.new_flows ?? 0n, open_sockets: stats?.open_sockets ?? 0n };
    }),
  };
};
