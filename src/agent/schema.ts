// The shape of a configuration file, for both kinds, as a zod schema: kube-proxy's fields with kube-proxy's names and
// types, and beeline's own under `bpf`. Values come out parsed (durations in milliseconds, prefixes canonical); null
// is the same as absent, as in Kubernetes. Defaults are not filled in here: config.ts knows them.
import { z } from "zod";
import type { MapName } from "../dataplane/bpf/mapstore.ts";
import { CONNECTION_STATES, type ConnectionState } from "../dataplane/bpf/states.ts";
import { parseDuration } from "../lib/duration.ts";
import { familyOf, type Prefix, parseAddress, parsePrefix } from "../model/address.ts";

/** A value that `parse` understands (not undefined); the error message says what was expected. */
const leaf = <T>(expected: string, parse: (value: unknown) => T | undefined) =>
  z
    .unknown()
    .transform((value, context): T => {
      const parsed = parse(value);
      if (parsed !== undefined) return parsed;
      context.addIssue({ code: "custom", message: `expected ${expected}` });
      return z.NEVER;
    })
    .nullish();

const string = leaf("a string", (v) => (typeof v === "string" ? v : undefined));
const boolean = leaf("true or false", (v) => (typeof v === "boolean" ? v : undefined));
const number = leaf("a number", (v) => (typeof v === "number" ? v : undefined));
const integer = (low: number, high: number, expected = `an integer from ${low} to ${high}`) =>
  leaf(expected, (v) =>
    Number.isInteger(v) && (v as number) >= low && (v as number) <= high ? (v as number) : undefined,
  );
const oneOf = <const W extends string>(...words: readonly W[]) =>
  leaf(`one of ${words.map((w) => JSON.stringify(w)).join(", ")}`, (v) => words.find((w) => w === v));
const strings = leaf("a list of strings", (v) =>
  Array.isArray(v) && v.every((s) => typeof s === "string") ? (v as readonly string[]) : undefined,
);
/** Milliseconds. */
const duration = leaf('a duration like "30s"', (v) => {
  if (v === 0) return 0;
  return typeof v === "string" ? (parseDuration(v) ?? undefined) : undefined;
});
/** A year at most, in milliseconds. */
const timeout = leaf('a duration like "30s", from a second to a year', (v) => {
  const parsed_ms = typeof v === "string" ? parseDuration(v) : null;
  return parsed_ms !== null && parsed_ms >= 1000 && parsed_ms <= 366 * 86_400_000 ? parsed_ms : undefined;
});
const anything = z.unknown().optional();

export interface Bind {
  /** "" in no case: an address to listen at. */
  readonly host: string;
  /** 0: any that is free. */
  readonly port: number;
}

/** `10.0.0.1:80`, `[::1]:80`, or an address alone, which takes `port`. Undefined: neither. */
export const parseBind = (text: string, port: number): Bind | undefined => {
  const alone = parseAddress(text);
  if (alone !== null) return { host: alone, port };
  const match = /^(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})$/.exec(text);
  const host = parseAddress(match?.[1] ?? match?.[2] ?? "");
  const given = Number(match?.[3]);
  return host === null || !(given <= 65535) ? undefined : { host, port: given };
};

const bind = leaf("an address, or address:port", (v) =>
  typeof v === "string" && (v === "" || parseBind(v, 0) !== undefined) ? v : undefined,
);

const nodePortAddresses = leaf('a list of prefixes like "10.0.0.0/8", or ["primary"]', (v) => {
  if (!Array.isArray(v)) return undefined;
  if (v.length === 1 && v[0] === "primary") return "primary" as const;
  const prefixes = v.map((text) => (typeof text === "string" ? parsePrefix(text) : null));
  return prefixes.every((p) => p !== null) ? prefixes : undefined;
});

/** Undefined: not one prefix, or two of different families. */
const parseClusterCIDR = (value: unknown): readonly Prefix[] | undefined => {
  if (value === "") return [];
  const prefixes = typeof value === "string" ? value.split(",").map(parsePrefix) : [null];
  if (!prefixes.every((p) => p !== null)) return undefined;
  return prefixes.length === new Set(prefixes.map(familyOf)).size ? prefixes : undefined;
};

/** Maps whose size can be chosen. backend_stats is as large as backends, frontend_addresses as frontends; the others have one possible size. */
export const SIZED_MAPS = [
  "services",
  "frontends",
  "nodeports",
  "slots",
  "backends",
  "source_ranges",
  "node_addresses",
  "affinity",
  "flows",
  "expendables",
  "tcp_peers",
  "fragments",
  "parked_fragments",
] as const satisfies readonly MapName[];

const entries = integer(1, 2 ** 31 - 1, "a positive integer");
const port = integer(1, 65535, "a port (1..65535)");

const bpf = z
  .strictObject({
    attach: oneOf("auto", "tcx", "clsact"),
    forwarding: oneOf("auto", "direct", "kernel"),
    xdp: oneOf("auto", "off", "required"),
    socketLB: oneOf("all", "host", "off"),
    pinPath: leaf("an absolute path", (v) => (typeof v === "string" && v.startsWith("/") ? v : undefined)),
    cgroupPath: leaf("an absolute path", (v) => (typeof v === "string" && v.startsWith("/") ? v : undefined)),
    devices: strings,
    podDevices: strings,
    mapSizes: z
      .strictObject(Object.fromEntries(SIZED_MAPS.map((map) => [map, entries])) as Record<SizedMap, typeof entries>)
      .nullish(),
    timeouts: z
      .strictObject(
        Object.fromEntries(CONNECTION_STATES.map((state) => [state, timeout])) as Record<
          ConnectionState,
          typeof timeout
        >,
      )
      .nullish(),
    snatPorts: z.strictObject({ min: port, max: port }).nullish(),
    syncPeriod: duration,
    minSyncPeriod: duration,
  })
  .nullish();

export type SizedMap = (typeof SIZED_MAPS)[number];

const proxySection = {
  masqueradeBit: integer(0, 31),
  masqueradeAll: boolean,
  syncPeriod: duration,
  minSyncPeriod: duration,
};

const iptables = z.strictObject({ ...proxySection, localhostNodePorts: boolean });

const kubeProxyFields = {
  apiVersion: z.string(),
  kind: z.string(),
  featureGates: anything,
  clientConnection: z
    .strictObject({ kubeconfig: string, acceptContentTypes: string, contentType: string, qps: number, burst: number })
    .nullish(),
  logging: z
    .strictObject({
      format: oneOf("", "json", "text"),
      flushFrequency: anything,
      verbosity: integer(0, 100),
      vmodule: anything,
      options: anything,
    })
    .nullish(),
  hostnameOverride: string,
  bindAddress: leaf("an address", (v) =>
    v === "" ? "" : typeof v === "string" ? (parseAddress(v) ?? undefined) : undefined,
  ),
  healthzBindAddress: bind,
  metricsBindAddress: bind,
  bindAddressHardFail: boolean,
  enableProfiling: boolean,
  showHiddenMetricsForVersion: string,
  serviceProxyName: string,
  mode: string,
  iptables: iptables.nullish(),
  ipvs: z
    .strictObject({
      syncPeriod: duration,
      minSyncPeriod: duration,
      scheduler: string,
      excludeCIDRs: strings,
      strictARP: boolean,
      tcpTimeout: duration,
      tcpFinTimeout: duration,
      udpTimeout: duration,
    })
    .nullish(),
  nftables: z.strictObject(proxySection).nullish(),
  winkernel: z
    .strictObject({
      networkName: string,
      sourceVip: string,
      enableDSR: boolean,
      rootHnsEndpointName: string,
      forwardHealthCheckVip: boolean,
    })
    .nullish(),
  detectLocalMode: oneOf("", "ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"),
  detectLocal: z.strictObject({ bridgeInterface: string, interfaceNamePrefix: string }).nullish(),
  clusterCIDR: leaf('a prefix like "10.244.0.0/16", or two of different families with a comma', parseClusterCIDR),
  nodePortAddresses,
  udpIdleTimeout: duration, // kube-proxy's, as long as it had a userspace mode
  oomScoreAdj: integer(-1000, 1000),
  conntrack: z
    .strictObject({
      maxPerCore: integer(0, 2 ** 31 - 1),
      min: integer(0, 2 ** 31 - 1),
      tcpEstablishedTimeout: duration,
      tcpCloseWaitTimeout: duration,
      tcpBeLiberal: boolean,
      udpTimeout: duration,
      udpStreamTimeout: duration,
    })
    .nullish(),
  configSyncPeriod: duration,
  portRange: string,
  windowsRunAsService: boolean,
};

export const beelineSchema = z.strictObject({
  ...kubeProxyFields,
  iptables: iptables.extend({ flavour: oneOf("auto", "nft", "legacy") }).nullish(),
  bpf,
});
export const kubeProxySchema = z.strictObject(kubeProxyFields);

/** What either kind parses to. */
export type ConfigFile = z.output<typeof beelineSchema>;

export type DataplaneName = "bpf" | "iptables" | "userspace";

const MASQUERADING = ["iptables.masqueradeBit", "iptables.masqueradeAll", "iptables.localhostNodePorts"];
const BY_DEVICE = ["detectLocal.bridgeInterface", "detectLocal.interfaceNamePrefix"];

const CONNTRACK = [
  "conntrack.maxPerCore",
  "conntrack.min",
  "conntrack.tcpEstablishedTimeout",
  "conntrack.tcpCloseWaitTimeout",
  "conntrack.tcpBeLiberal",
  "conntrack.udpTimeout",
  "conntrack.udpStreamTimeout",
];

/** Fields that others have a use for. */
export const UNUSED_BY: Readonly<Record<DataplaneName, readonly string[]>> = {
  bpf: [
    ...MASQUERADING,
    "iptables.flavour",
    "detectLocalMode",
    ...BY_DEVICE,
    "clusterCIDR",
    "udpIdleTimeout",
    ...CONNTRACK,
  ],
  iptables: ["udpIdleTimeout"],
  userspace: [...MASQUERADING, ...BY_DEVICE, ...CONNTRACK],
};

/** Fields that no dataplane here has a use for. Setting one to more than nothing is worth a warning. */
export const WITHOUT_MEANING: readonly string[] = [
  "featureGates",
  "clientConnection.acceptContentTypes",
  "clientConnection.contentType",
  "clientConnection.qps",
  "clientConnection.burst",
  "logging.flushFrequency",
  "logging.vmodule",
  "logging.options",
  "enableProfiling",
  "showHiddenMetricsForVersion",
  "ipvs.scheduler",
  "ipvs.excludeCIDRs",
  "ipvs.strictARP",
  "ipvs.tcpTimeout",
  "ipvs.tcpFinTimeout",
  "ipvs.udpTimeout",
  "nftables.masqueradeBit",
  "nftables.masqueradeAll",
  "winkernel.networkName",
  "winkernel.sourceVip",
  "winkernel.enableDSR",
  "winkernel.rootHnsEndpointName",
  "winkernel.forwardHealthCheckVip",
  "configSyncPeriod",
  "portRange",
  "windowsRunAsService",
];
