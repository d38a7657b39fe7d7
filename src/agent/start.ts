// A running node agent: opens the dataplane, the source, the health and metrics servers, and ends them together.
import { writeFileSync } from "node:fs";
import { messageOf } from "../lib/errors.ts";
import type { Family } from "../model/address.ts";
import type { Problem } from "../model/snapshot.ts";
import { Agent } from "./agent.ts";
import type { Config } from "./config.ts";
import { deviceFacts, type Opened, openDataplane, requireRoot } from "./dataplane.ts";
import { createHealth } from "./health.ts";
import { hasIPv6, readHost } from "./host.ts";
import type { HttpServer } from "./http.ts";
import type { Log } from "./log.ts";
import { createMetrics } from "./metrics.ts";
import { type Answering, serveAll } from "./pages.ts";
import { type Watch, watchOf } from "./watch.ts";

/** Runs until the signal; then leaves everything attached, so that a restart disturbs nobody. */
export const runAgent = async (config: Config, log: Log, version: string, signal: AbortSignal): Promise<void> => {
  requireRoot("run the node agent");
  const servers: HttpServer[] = [];
  const agent = createAgent(config, await watchOf(config, { events: true }), log, version);
  try {
    protectFromOom(config.oomScoreAdj, log);
    await serveAll(agent, { config, log, servers, signal });
    await aborted(signal);
    const stays = config.dataplane === "userspace" ? "" : "; what is attached stays";
    log("info", `Stopping${stays}`, { signal: String(signal.reason) });
  } finally {
    for (const server of servers) server.close();
    await agent.close();
  }
};

/** How often the machine's devices and addresses are looked at, whether or not we have heard of a change. */
const HOST_MS = 3_000;

interface Running extends Answering {
  close(): Promise<void>;
}

/** The source comes first: with input that cannot be used, nothing is opened that could be half attached. */
const createAgent = (config: Config, watch: Watch, log: Log, version: string): Running => {
  const source = watch({ changed: () => agent.changed(), log });
  const families: readonly Family[] = hasIPv6() ? ["IPv4", "IPv6"] : ["IPv4"];
  const now_ms = Date.now;
  const metrics = createMetrics(
    {
      maps: () => opened.maps(),
      packets: () => opened.packets(),
      counted: () => opened.counted?.() ?? null,
      connections: () => opened.connections?.() ?? null,
      snat: () => opened.snat?.() ?? null,
      ...(config.dataplane === "bpf" ? { forwarding: () => opened.forwarding?.() ?? null } : {}),
      staleSockets: () => opened.staleSockets?.() ?? null,
      problems: () => countByKind(agent.problems),
      pending: () => agent.pending,
      noLocalEndpoints: () => agent.noLocalEndpoints,
      backoff_s: () => agent.backoff_s,
      healthCheckFailures: () => agent.healthCheckFailures,
      devices: () => agent.devices.length,
    },
    { version, families, dataplane: config.dataplane, now_ms },
  );
  let opened: Opened;
  try {
    opened = openDataplane(config, log, metrics.rules);
  } catch (error) {
    void source.close();
    throw error;
  }
  const { dataplane } = opened;
  const health = createHealth({
    families,
    timeout_ms: 2 * config.syncPeriod_ms,
    now_ms,
    eligible: () => agent.eligible,
  });
  const host = () => readHost(deviceFacts);
  const periods_ms = { host: HOST_MS, audit: opened.audit_ms };
  const agent = new Agent({ config, dataplane, source, readHost: host, health, metrics, log, now_ms, periods_ms });
  log("info", "Started", { node: config.nodeName, dataplane: dataplane.name, source: source.description, version });
  const close = async (): Promise<void> => {
    await agent.close();
    dataplane.close();
  };
  return { health, metrics, ready: () => agent.desired !== null, close };
};

export const countByKind = (problems: readonly Problem[]): Record<string, number> => {
  const counts: Record<string, number> = { Service: 0, EndpointSlice: 0, Endpoints: 0, Node: 0, other: 0 };
  for (const { object } of problems) {
    const kind = object.split(" ")[0] ?? "";
    const known = kind in counts ? kind : "other";
    counts[known] = (counts[known] ?? 0) + 1;
  }
  return counts;
};

export const aborted = (signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });

/** A node that runs out of memory should not lose its services first. */
export const protectFromOom = (score: number, log: Log): void => {
  try {
    writeFileSync("/proc/self/oom_score_adj", String(score));
  } catch (error) {
    log("info", "Cannot set oom_score_adj, it stays as it is", { score, error: messageOf(error) });
  }
};
