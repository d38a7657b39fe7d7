// A running node agent: opens the dataplane, the source, the health and metrics servers, and ends them together.
import { writeFileSync } from "node:fs";
import type { BpfDataplane } from "../dataplane/bpf/bpf.ts";
import { countEntries, readCounters } from "../dataplane/bpf/inspect.ts";
import { interfaceIndex } from "../dataplane/bpf/libbpf.ts";
import type { MapName, MapStore } from "../dataplane/bpf/mapstore.ts";
import { watchManifests } from "../k8s/manifests.ts";
import type { Source, SourceHandlers } from "../k8s/source.ts";
import { messageOf, RefusedError } from "../lib/errors.ts";
import { type Family, formatHostPort, parseAddress } from "../model/address.ts";
import { Agent } from "./agent.ts";
import type { Bind, Config } from "./config.ts";
import { openDataplane, requireRoot } from "./dataplane.ts";
import { createHealth, type Health } from "./health.ts";
import { hasIPv6, readHost } from "./host.ts";
import { type HttpServer, json, type Reply, serve, text } from "./http.ts";
import type { Log } from "./log.ts";
import { createMetrics, type Metrics } from "./metrics.ts";

/** Runs until the signal; then leaves everything attached, so that a restart disturbs nobody. */
export const runAgent = async (config: Config, log: Log, version: string, signal: AbortSignal): Promise<void> => {
  requireRoot("run the node agent");
  const servers: HttpServer[] = [];
  const agent = createAgent(config, await sourceOf(config), log, version);
  try {
    protectFromOom(config.oomScoreAdj, log);
    const serving = { config, log, servers, signal };
    await keepServing("healthz", config.healthzBindAddress, answers(healthPages(agent)), serving);
    await keepServing("metrics", config.metricsBindAddress, answers(metricsPages(config, agent.metrics)), serving);
    await aborted(signal);
    log("info", "Stopping; what is attached stays", { signal: String(signal.reason) });
  } finally {
    for (const server of servers) server.close();
    await agent.close();
  }
};

interface Running {
  readonly health: Health;
  readonly metrics: Metrics;
  /** Something is programmed. */
  ready(): boolean;
  close(): Promise<void>;
}

type Watch = (handlers: SourceHandlers) => Source;

/** The source comes first: with input that cannot be used, nothing is opened that could be half attached. */
const createAgent = (config: Config, watch: Watch, log: Log, version: string): Running => {
  const source = watch({ changed: () => agent.changed(), log });
  let dataplane: BpfDataplane;
  try {
    dataplane = openDataplane(config, log);
  } catch (error) {
    void source.close();
    throw error;
  }
  const flowUse = remember(() => useOf(dataplane.store, ["flows", "affinity"]), 60_000);
  const families: readonly Family[] = hasIPv6() ? ["IPv4", "IPv6"] : ["IPv4"];
  const now_ms = Date.now;
  const health = createHealth({
    families,
    timeout_ms: 2 * config.syncPeriod_ms,
    now_ms,
    eligible: () => agent.eligible,
  });
  const metrics = createMetrics(
    {
      maps: () => ({ ...dataplane.pressure(), ...flowUse() }),
      packets: () => readCounters(dataplane.store),
      problems: () => countByKind(agent),
      pending: () => agent.pending,
      noLocalEndpoints: () => agent.noLocalEndpoints,
      backoff_s: () => agent.backoff_s,
      healthCheckFailures: () => agent.healthCheckFailures,
      devices: () => agent.devices.length,
    },
    { version, families, now_ms },
  );
  const host = () => readHost(interfaceIndex);
  const agent = new Agent({ config, dataplane, source, readHost: host, health, metrics, log, now_ms });
  log("info", "Started", { node: config.nodeName, source: source.description, version });
  const close = async (): Promise<void> => {
    await agent.close();
    dataplane.close();
  };
  return { health, metrics, ready: () => agent.desired !== null, close };
};

/** The Kubernetes client is large: loaded only where there is a cluster to ask. */
const sourceOf = async ({ source, nodeName, serviceProxyName }: Config): Promise<Watch> => {
  if (source.kind === "manifests") return (handlers) => watchManifests(source.paths, nodeName, handlers);
  const { watchCluster } = await import("../k8s/cluster.ts");
  const options = { kubeconfig: source.kubeconfig, nodeName, serviceProxyName };
  return (handlers) => watchCluster(options, handlers);
};

/** By walking the maps, which costs: not for every scrape. */
const useOf = (store: MapStore, names: readonly MapName[]) =>
  Object.fromEntries(names.map((map) => [map, { used: countEntries(store, map), capacity: store.capacity(map) }]));

/** Answers what `ask` answered, for so long. */
const remember = <T>(ask: () => T, for_ms: number): (() => T) => {
  let known: { readonly answer: T; readonly at_ms: number } | null = null;
  return () => {
    const now_ms = performance.now();
    if (known === null || now_ms - known.at_ms >= for_ms) known = { answer: ask(), at_ms: now_ms };
    return known.answer;
  };
};

const countByKind = (agent: Agent): Record<string, number> => {
  const counts: Record<string, number> = { Service: 0, EndpointSlice: 0, Endpoints: 0, Node: 0, other: 0 };
  for (const { object } of agent.problems) {
    const kind = object.split(" ")[0] ?? "";
    const known = kind in counts ? kind : "other";
    counts[known] = (counts[known] ?? 0) + 1;
  }
  return counts;
};

// ---- pages ---------------------------------------------------------------------------------------------------------

type Pages = Readonly<Record<string, () => Reply | Promise<Reply>>>;

const healthPages = ({ health, metrics, ready }: Running): Pages => {
  const counted = (probe: "healthz" | "livez", reply: Reply): Reply => {
    metrics.probed(probe, reply.status);
    return reply;
  };
  return {
    "/healthz": () => counted("healthz", health.healthz()),
    "/livez": () => counted("livez", health.livez()),
    "/readyz": () => (ready() ? text(200, "ok") : text(503, "nothing is programmed yet")),
  };
};

const metricsPages = (config: Config, metrics: Metrics): Pages => ({
  "/metrics": async () => ({
    status: 200,
    headers: { "Content-Type": metrics.contentType, "X-Content-Type-Options": "nosniff" },
    body: await metrics.scrape(),
  }),
  "/healthz": () => text(200, "ok"),
  "/proxyMode": () => text(200, "bpf"),
  "/configz": () => json(200, `${JSON.stringify({ "beeline.dev": config }, null, 2)}\n`),
});

const answers =
  (pages: Pages) =>
  (path: string): Reply | Promise<Reply> =>
    pages[path]?.() ?? text(404, "not found\n");

// ---- servers -------------------------------------------------------------------------------------------------------

const RETRY_MS = 5_000;

/**
 * Serves at `bind` (null: not at all). A port that cannot be had is tried again every five seconds, as kube-proxy does;
 * with bindAddressHardFail it is a RefusedError.
 */
const keepServing = async (
  name: string,
  bind: Bind | null,
  answer: (path: string) => Reply | Promise<Reply>,
  run: { readonly config: Config; readonly log: Log; readonly servers: HttpServer[]; readonly signal: AbortSignal },
): Promise<void> => {
  if (bind === null) return;
  const address = formatBind(bind);
  try {
    const server = await serve(bind, answer);
    run.servers.push(server);
    run.log("info", `Serving ${name}`, { address: server.address });
    if (run.signal.aborted) server.close();
  } catch (error) {
    const message = `Cannot serve ${name} at ${address}`;
    if (run.config.bindAddressHardFail) throw new RefusedError(`${message}: ${messageOf(error)}`, { cause: error });
    run.log("error", `${message}; trying again`, { error: messageOf(error), in_ms: RETRY_MS });
    const timer = setTimeout(() => void keepServing(name, bind, answer, run), RETRY_MS);
    run.signal.addEventListener("abort", () => clearTimeout(timer), { once: true });
  }
};

const formatBind = ({ host, port }: Bind): string => {
  const address = parseAddress(host);
  return address === null ? `${host}:${port}` : formatHostPort(address, port);
};

// ---- the process ---------------------------------------------------------------------------------------------------

const aborted = (signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });

/** A node that runs out of memory should not lose its services first. */
const protectFromOom = (score: number, log: Log): void => {
  try {
    writeFileSync("/proc/self/oom_score_adj", String(score));
  } catch (error) {
    log("info", "Cannot set oom_score_adj, it stays as it is", { score, error: messageOf(error) });
  }
};
