// The agent's configuration: flags over a file over defaults, checked, with every value in its final form. Reads
// `kind: BeelineConfiguration`, `kind: KubeProxyConfiguration`, and the ConfigMap that kubeadm keeps the latter in.
// Every error names the path of its field; a field without meaning here is one warning for all of them.
import { readFileSync } from "node:fs";
import { parse } from "yaml";
import type { z } from "zod";
import { type ByState, CONNECTION_STATES, DEFAULT_TIMEOUTS_S } from "../dataplane/bpf/states.ts";
import { InputError } from "../lib/errors.ts";
import { hint } from "../lib/suggest.ts";
import type { Prefix } from "../model/address.ts";
import type { ConntrackConfig } from "./conntrack.ts";
import { DEFAULT_BPFFS, defaultNodeName, findCgroup } from "./defaults.ts";
import {
  type Bind,
  beelineSchema,
  type ConfigFile,
  type DataplaneName,
  kubeProxySchema,
  parseBind,
  SIZED_MAPS,
  type SizedMap,
  UNUSED_BY,
  WITHOUT_MEANING,
} from "./schema.ts";

export type { Bind, DataplaneName } from "./schema.ts";
export type Level = "error" | "warn" | "info" | "debug" | "trace";

export interface Config {
  readonly nodeName: string;
  readonly dataplane: DataplaneName;
  readonly source:
    | { readonly kind: "manifests"; readonly paths: readonly string[] }
    /** kubeconfig null: in-cluster, else the default kubeconfig. */
    | { readonly kind: "cluster"; readonly kubeconfig: string | null };
  readonly serviceProxyName: string | null;
  /** Empty: every local address. */
  readonly nodePortAddresses: readonly Prefix[] | "primary";
  /** null: no server. */
  readonly healthzBindAddress: Bind | null;
  readonly metricsBindAddress: Bind | null;
  readonly bindAddressHardFail: boolean;
  readonly syncPeriod_ms: number;
  readonly minSyncPeriod_ms: number;
  readonly oomScoreAdj: number;
  readonly logging: { readonly format: "json" | "text"; readonly level: Level };
  readonly iptables: {
    /** auto: the one in use. */
    readonly flavour: "auto" | "nft" | "legacy";
    readonly masqueradeAll: boolean;
    readonly masqueradeBit: number;
    readonly localhostNodePorts: boolean;
  };
  /** How rules tell the traffic of pods. */
  readonly detectLocal: /** Of each family at most one; []: it cannot be told. */
    | { readonly mode: "ClusterCIDR"; readonly cidrs: readonly Prefix[] }
    | { readonly mode: "NodeCIDR" }
    | { readonly mode: "BridgeInterface" | "InterfaceNamePrefix"; readonly name: string };
  /** For rules. */
  readonly conntrack: ConntrackConfig;
  readonly userspace: {
    /** How long a UDP client and its backend may both be silent before it is a new client. */
    readonly udpIdleTimeout_ms: number;
  };
  readonly bpf: {
    readonly attach: "auto" | "tcx" | "clsact";
    /** By which way packets go on: straight, by the kernel, or straight where nothing on the node may refuse them. */
    readonly forwarding: "auto" | "direct" | "kernel";
    /** Native XDP on node devices: where the driver can, nowhere, or else the agent does not start. */
    readonly xdp: "auto" | "off" | "required";
    /** Whose sockets are translated in their system calls: of pods and the host, of the host alone, of nobody. */
    readonly socketLB: "all" | "host" | "off";
    readonly pinPath: string;
    /** null: no cgroup v2 hierarchy is mounted. */
    readonly cgroupPath: string | null;
    /** Patterns with * and ?; empty: found (see host.ts). */
    readonly devices: readonly string[];
    /** Patterns of the node's ends of pods' devices; null: found where pods' sockets are not translated. */
    readonly podDevices: readonly string[] | null;
    readonly mapSizes: Readonly<Partial<Record<SizedMap, number>>>;
    readonly snatPorts: { readonly min: number; readonly max: number };
    /** How long a connection may be silent, by its state. */
    readonly timeouts_s: ByState;
  };
}

/** What the command line may say; each overrides the file. */
export interface Flags {
  readonly config?: string | undefined;
  readonly node?: string | undefined;
  readonly manifests?: readonly string[] | undefined;
  readonly kubeconfig?: string | undefined;
  readonly bpffs?: string | undefined;
  readonly cgroup?: string | undefined;
  readonly device?: readonly string[] | undefined;
  readonly dataplane?: string | undefined;
  readonly attach?: "auto" | "tcx" | "clsact" | undefined;
  readonly forwarding?: "auto" | "direct" | "kernel" | undefined;
  readonly xdp?: "auto" | "off" | "required" | undefined;
  readonly iptables?: "auto" | "nft" | "legacy" | undefined;
  readonly healthzBindAddress?: string | undefined;
  readonly metricsBindAddress?: string | undefined;
  readonly logFormat?: "json" | "text" | undefined;
  readonly logLevel?: Level | undefined;
  /** klog's verbosity: up to 2 info, 3 and 4 debug, from 5 on trace. */
  readonly v?: number | undefined;
}

/** Below the kernel's ephemeral ports (32768..60999) there are NodePorts (30000..32767); above both there is room. */
const DEFAULT_SNAT_PORTS = { min: 61000, max: 65535 } as const;

const DEFAULT_FORWARDING = "auto";
const HEALTHZ_PORT = 10256;
const METRICS_PORT = 10249;

/** Throws InputError with every mistake of the file on its own line. */
export const loadConfig = (flags: Flags): { readonly config: Config; readonly warnings: readonly string[] } => {
  const file = flags.config === undefined ? null : readConfigFile(flags.config);
  const config = resolve(file?.fields ?? null, flags);
  return { config, warnings: file === null ? [] : warningsOf(flags.config ?? "", file.raw, config.dataplane) };
};

// ---- the file ------------------------------------------------------------------------------------------------------

interface Read {
  readonly raw: Readonly<Record<string, unknown>>;
  readonly fields: ConfigFile;
}

const readConfigFile = (path: string): Read => {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (cause) {
    throw new InputError(`Cannot read the configuration ${path}`, { cause });
  }
  return parseConfig(text, path);
};

/** Reads the text of a configuration file. `path` is for messages only. */
const parseConfig = (text: string, path: string): Read => {
  const raw = parseYaml(text, path);
  const nested = raw.kind === "ConfigMap" ? (raw.data as Record<string, unknown> | null)?.["config.conf"] : undefined;
  if (typeof nested === "string") return parseConfig(nested, `${path} (config.conf)`);
  const parsed = schemaFor(raw, path).safeParse(raw);
  if (!parsed.success)
    throw new InputError([`Cannot use the configuration ${path}:`, ...describe(parsed.error, raw)].join("\n  "));
  return { raw, fields: parsed.data as ConfigFile };
};

const parseYaml = (text: string, path: string): Readonly<Record<string, unknown>> => {
  let raw: unknown;
  try {
    raw = parse(text);
  } catch (cause) {
    throw new InputError(`Cannot read the configuration ${path}`, { cause });
  }
  if (typeof raw === "object" && raw !== null && !Array.isArray(raw)) return raw as Record<string, unknown>;
  throw new InputError(`Cannot use the configuration ${path}: expected fields, got ${show(raw)}`);
};

const schemaFor = (raw: Readonly<Record<string, unknown>>, path: string): z.ZodType => {
  const kinds = [
    { apiVersion: "beeline.dev/v1alpha1", kind: "BeelineConfiguration", schema: beelineSchema },
    { apiVersion: "kubeproxy.config.k8s.io/v1alpha1", kind: "KubeProxyConfiguration", schema: kubeProxySchema },
  ];
  const found = kinds.find((k) => k.apiVersion === raw.apiVersion && k.kind === raw.kind);
  if (found !== undefined) return found.schema;
  const expected = kinds.map((k) => `apiVersion ${k.apiVersion}, kind ${k.kind}`).join(" or ");
  throw new InputError(
    `Cannot use the configuration ${path}: expected ${expected}, got apiVersion ${show(raw.apiVersion)}, kind ${show(raw.kind)}`,
  );
};

const describe = (error: z.ZodError, raw: unknown): string[] =>
  error.issues.flatMap((issue): string[] => {
    const path = issue.path.map(String);
    const value = path.reduce<unknown>((v, key) => (v as Record<string, unknown> | undefined)?.[key], raw);
    if (issue.code === "unrecognized_keys") {
      const known = fieldsAt(path);
      return issue.keys.map((key) => `${[...path, key].join(".")}: unknown field${hint(key, known)}`);
    }
    const expected = issue.code === "custom" ? issue.message : "expected fields";
    return [`${path.join(".")}: ${expected}, got ${show(value)}`];
  });

/** Names of the fields below a path of the schema, for suggestions. */
const fieldsAt = (path: readonly string[]): string[] => {
  let at: unknown = beelineSchema;
  for (const key of path) at = unwrap(at).shape?.[key];
  return Object.keys(unwrap(at).shape ?? {});
};

interface Shaped {
  readonly shape?: Readonly<Record<string, unknown>>;
  readonly unwrap?: () => unknown;
}

/** Through .nullish(), which is optional(nullable(...)), to the object inside. */
const unwrap = (schema: unknown): Shaped => {
  const s = (schema ?? {}) as Shaped;
  return s.shape === undefined && s.unwrap !== undefined ? unwrap(s.unwrap()) : s;
};

const show = (value: unknown): string => {
  const text = value === undefined ? "nothing" : JSON.stringify(value);
  return text.length > 80 ? `${text.slice(0, 80)}…` : text;
};

const warningsOf = (path: string, raw: Readonly<Record<string, unknown>>, dataplane: DataplaneName): string[] => {
  const modes = raw.kind === "KubeProxyConfiguration" && raw.mode !== dataplane ? ["mode"] : [];
  const set = [...modes, ...UNUSED_BY[dataplane], ...WITHOUT_MEANING].filter((field) => {
    const value = field.split(".").reduce<unknown>((v, key) => (v as Record<string, unknown> | null)?.[key], raw);
    return !isZero(value);
  });
  return set.length === 0 ? [] : [`${path}: these fields have no meaning here: ${set.join(", ")}`];
};

/** What Go writes for a field that nobody set. */
const isZero = (value: unknown): boolean => {
  if (typeof value === "string") return value === "" || /^0(s|m|h)?(0s|0m0s)?$/.test(value);
  if (typeof value === "object" && value !== null) return Object.values(value).every(isZero);
  return value === undefined || value === null || value === false || value === 0;
};

// ---- flags over file over defaults ---------------------------------------------------------------------------------

const resolve = (file: ConfigFile | null, flags: Flags): Config => {
  const bpf = file?.bpf;
  const v6 = file?.bindAddress?.includes(":") === true;
  const section = sectionOf(file);
  const syncPeriod_ms = bpf?.syncPeriod || section?.syncPeriod || 30_000;
  const minSyncPeriod_ms = bpf?.minSyncPeriod ?? section?.minSyncPeriod ?? 1_000;
  if (minSyncPeriod_ms > syncPeriod_ms) {
    throw new InputError(`bpf.minSyncPeriod: ${minSyncPeriod_ms} ms is more than bpf.syncPeriod, ${syncPeriod_ms} ms`);
  }
  const snatPorts = bpf?.snatPorts ?? DEFAULT_SNAT_PORTS;
  const [min, max] = [snatPorts.min ?? DEFAULT_SNAT_PORTS.min, snatPorts.max ?? DEFAULT_SNAT_PORTS.max];
  if (min > max) throw new InputError(`bpf.snatPorts: min ${min} is more than max ${max}`);
  const sizes = SIZED_MAPS.flatMap((map) => {
    const size = bpf?.mapSizes?.[map];
    return typeof size === "number" ? [[map, size] as const] : [];
  });
  const timeouts_s = Object.fromEntries(
    CONNECTION_STATES.flatMap((state) => {
      const timeout_ms = bpf?.timeouts?.[state];
      return typeof timeout_ms === "number" ? [[state, Math.ceil(timeout_ms / 1000)] as const] : [];
    }),
  );
  const forwarding = flags.forwarding ?? bpf?.forwarding ?? DEFAULT_FORWARDING;
  const xdp = flags.xdp ?? bpf?.xdp ?? "auto";
  if (xdp === "required" && forwarding === "kernel") {
    throw new InputError(
      "bpf.xdp: required does not go with bpf.forwarding: kernel, where the kernel routes every packet",
    );
  }
  return {
    nodeName: (flags.node || file?.hostnameOverride || defaultNodeName()).trim().toLowerCase(),
    dataplane: dataplaneOf(flags.dataplane, file),
    source: sourceOf(file, flags),
    serviceProxyName: file?.serviceProxyName || null,
    nodePortAddresses: file?.nodePortAddresses ?? [],
    healthzBindAddress: bindOf(
      "--healthz-bind-address",
      flags.healthzBindAddress,
      file?.healthzBindAddress || (v6 ? "::" : "0.0.0.0"),
      HEALTHZ_PORT,
    ),
    metricsBindAddress: bindOf(
      "--metrics-bind-address",
      flags.metricsBindAddress,
      file?.metricsBindAddress || (v6 ? "::1" : "127.0.0.1"),
      METRICS_PORT,
    ),
    bindAddressHardFail: file?.bindAddressHardFail ?? false,
    syncPeriod_ms,
    minSyncPeriod_ms,
    oomScoreAdj: file?.oomScoreAdj ?? -999,
    logging: {
      format: flags.logFormat ?? (file?.logging?.format || "json"),
      level: flags.logLevel ?? levelOf(flags.v ?? file?.logging?.verbosity ?? 0),
    },
    iptables: {
      flavour: flags.iptables ?? file?.iptables?.flavour ?? "auto",
      masqueradeAll: file?.iptables?.masqueradeAll ?? false,
      masqueradeBit: file?.iptables?.masqueradeBit ?? 14,
      localhostNodePorts: file?.iptables?.localhostNodePorts ?? true,
    },
    detectLocal: detectLocalOf(file),
    conntrack: {
      maxPerCore: file?.conntrack?.maxPerCore ?? 32_768,
      min: file?.conntrack?.min ?? 131_072,
      tcpEstablishedTimeout_ms: file?.conntrack?.tcpEstablishedTimeout ?? 24 * 60 * 60_000,
      tcpCloseWaitTimeout_ms: file?.conntrack?.tcpCloseWaitTimeout ?? 60 * 60_000,
      tcpBeLiberal: file?.conntrack?.tcpBeLiberal ?? false,
      udpTimeout_ms: file?.conntrack?.udpTimeout ?? 0,
      udpStreamTimeout_ms: file?.conntrack?.udpStreamTimeout ?? 0,
    },
    userspace: { udpIdleTimeout_ms: file?.udpIdleTimeout || 250 },
    bpf: {
      attach: flags.attach ?? bpf?.attach ?? "auto",
      forwarding,
      xdp,
      socketLB: bpf?.socketLB ?? "all",
      pinPath: absolute("--bpffs", flags.bpffs) ?? bpf?.pinPath ?? DEFAULT_BPFFS,
      cgroupPath: absolute("--cgroup", flags.cgroup) ?? bpf?.cgroupPath ?? findCgroup(),
      devices: flags.device ?? bpf?.devices ?? [],
      podDevices: bpf?.podDevices ?? null,
      mapSizes: Object.fromEntries(sizes),
      snatPorts: { min, max },
      timeouts_s: { ...DEFAULT_TIMEOUTS_S, ...timeouts_s },
    },
  };
};

const sourceOf = (file: ConfigFile | null, flags: Flags): Config["source"] => {
  const paths = flags.manifests ?? [];
  if (paths.length === 0) {
    return { kind: "cluster", kubeconfig: flags.kubeconfig || file?.clientConnection?.kubeconfig || null };
  }
  if (flags.kubeconfig !== undefined) throw new InputError("--manifests and --kubeconfig: only one source at a time");
  return { kind: "manifests", paths };
};

/** kube-proxy takes its periods from the section of its mode. */
const sectionOf = (file: ConfigFile | null) => {
  if (file?.mode === "ipvs") return file.ipvs;
  return file?.mode === "nftables" ? file.nftables : file?.iptables;
};

/** `--dataplane`, or `mode` of a BeelineConfiguration. The mode of a kube-proxy is another program's. */
const dataplaneOf = (flag: string | undefined, file: ConfigFile | null): DataplaneName => {
  const mode = file?.kind === "BeelineConfiguration" ? file.mode || undefined : undefined;
  const [name, value] = flag !== undefined ? ["--dataplane", flag] : ["mode", mode ?? "bpf"];
  if (value === "bpf" || value === "iptables" || value === "userspace") return value;
  throw new InputError(`${name}: expected bpf, iptables or userspace, got ${show(value)}`);
};

const detectLocalOf = (file: ConfigFile | null): Config["detectLocal"] => {
  const mode = file?.detectLocalMode || "ClusterCIDR";
  const named = (field: "bridgeInterface" | "interfaceNamePrefix"): string => {
    const name = file?.detectLocal?.[field] || "";
    if (/^[^\s/+!]{1,15}$/.test(name)) return name;
    throw new InputError(`detectLocal.${field}: expected the name of an interface, got ${show(name)}`);
  };
  switch (mode) {
    case "ClusterCIDR":
      return { mode, cidrs: file?.clusterCIDR ?? [] };
    case "NodeCIDR":
      return { mode };
    case "BridgeInterface":
      return { mode, name: named("bridgeInterface") };
    case "InterfaceNamePrefix":
      return { mode, name: named("interfaceNamePrefix") };
  }
};

const bindOf = (name: string, flag: string | undefined, file: string, port: number): Bind | null => {
  if (flag === "") return null;
  const bind = parseBind(flag ?? file, port);
  if (bind !== undefined) return bind;
  throw new InputError(`${name}: expected an address, or address:port, got ${show(flag)}`);
};

const absolute = (name: string, path: string | undefined): string | undefined => {
  if (path === undefined || path.startsWith("/")) return path;
  throw new InputError(`${name}: expected an absolute path, got ${show(path)}`);
};

const levelOf = (verbosity: number): Level => {
  if (verbosity >= 5) return "trace";
  return verbosity >= 3 ? "debug" : "info";
};
