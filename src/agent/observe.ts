// `beeline run --observe`: what should be, compared again and again with what kube-proxy has written on this node. Nothing
// is written or attached; what differs is logged and counted.

import { contestedEntrances } from "../compile/claims.ts";
import { type CompileMemory, compile, createMemory, type NoLocalEndpoints } from "../compile/compile.ts";
import { compare, DIFFERENCE_KINDS, type Difference, type DifferenceKind } from "../compile/difference.ts";
import { type Reading, wholeReading } from "../compile/reading.ts";
import type { Source } from "../k8s/source.ts";
import { messageOf } from "../lib/errors.ts";
import type { Address, Family } from "../model/address.ts";
import type { Problem, Snapshot } from "../model/snapshot.ts";
import { Reconciler } from "../reconcile/reconciler.ts";
import { type Changes, changesBetween } from "./changes.ts";
import type { Config } from "./config.ts";
import { requireRoot } from "./dataplane.ts";
import { createHealth, type Health, isEligible } from "./health.ts";
import { hasIPv6, readHost } from "./host.ts";
import type { HttpServer } from "./http.ts";
import type { Log } from "./log.ts";
import { createMetrics, type Metrics } from "./metrics.ts";
import { readNodeRules } from "./node-rules.ts";
import { serveAll } from "./pages.ts";
import { aborted, countByKind, protectFromOom } from "./start.ts";
import { watchOf } from "./watch.ts";

/** Runs until the signal. */
export const runObserver = async (config: Config, log: Log, version: string, signal: AbortSignal): Promise<void> => {
  requireRoot("read the rules of this node");
  const families: readonly Family[] = hasIPv6() ? ["IPv4", "IPv6"] : ["IPv4"];
  const now_ms = Date.now;
  const metrics = createMetrics(
    {
      maps: () => ({}),
      packets: () => [],
      staleSockets: () => null,
      connections: () => null,
      problems: () => countByKind(observer.problems),
      pending: () => observer.pending,
      noLocalEndpoints: () => observer.noLocalEndpoints,
      backoff_s: () => observer.backoff_s,
      healthCheckFailures: () => 0,
      devices: () => 0,
      differences: () => observer.counts,
    },
    { version, families, dataplane: config.dataplane, now_ms },
  );
  const timeout_ms = 2 * config.syncPeriod_ms;
  const health = createHealth({ families, timeout_ms, now_ms, eligible: () => observer.eligible });
  const watch = await watchOf(config, { events: false });
  const source = watch({ changed: () => observer.changed(), log });
  const readRules = (local: readonly Address[]): Reading => readNodeRules("kube-proxy", local);
  const localAddresses = (): readonly Address[] => readHost().addresses.map(({ address }) => address);
  const observer = new Observer({ config, source, readRules, localAddresses, health, metrics, log });
  const servers: HttpServer[] = [];
  log("info", "Started to observe", { node: config.nodeName, source: source.description, version });
  try {
    protectFromOom(config.oomScoreAdj, log);
    const ready = (): boolean => observer.ready;
    await serveAll({ health, metrics, ready }, { config, log, servers, signal });
    await aborted(signal);
    log("info", "Stopping", { signal: String(signal.reason) });
  } finally {
    for (const server of servers) server.close();
    await observer.close();
  }
};

export interface ObserverParts {
  readonly config: Pick<Config, "nodeName" | "nodePortAddresses" | "syncPeriod_ms" | "minSyncPeriod_ms" | "source">;
  /** Its handler calls changed(). The observer closes it. */
  readonly source: Source;
  /** Throws where there is nothing to compare with. */
  readonly readRules: (localAddresses: readonly Address[]) => Reading;
  readonly localAddresses: () => readonly Address[];
  readonly health: Pick<Health, "queued" | "updated">;
  readonly metrics: Pick<Metrics, "queued" | "applied" | "applyFailed">;
  readonly log: Log;
  /** How long a difference must last before it counts. */
  readonly settle_ms?: number;
}

/** kube-proxy takes its time as well: only what is still there after this long is a difference. */
const SETTLE_MS = 5_000;

const EMPTY: Snapshot = { services: new Map(), slices: new Map(), node: null };

export class Observer {
  readonly #parts: ObserverParts;
  readonly #reconciler: Reconciler;
  readonly #timer: NodeJS.Timeout;
  readonly #memory: CompileMemory = createMemory();
  #settling: NodeJS.Timeout | null = null;
  #compared: Snapshot | null = null;
  #problems: readonly Problem[] = [];
  #noLocalEndpoints: NoLocalEndpoints = { internal: { IPv4: 0, IPv6: 0 }, external: { IPv4: 0, IPv6: 0 } };
  #backoff_ms = 0;
  /** What differed at the last comparison, with the time of the first that found it, by its text. */
  #seen: ReadonlyMap<string, Seen> = new Map();
  /** What has lasted. */
  #lasting: ReadonlyMap<string, Difference> = new Map();
  #intended = 0;

  constructor(parts: ObserverParts) {
    this.#parts = parts;
    this.#reconciler = new Reconciler({
      apply: () => this.#compare(),
      min_interval_ms: parts.config.minSyncPeriod_ms,
      onResult: (result) => {
        this.#backoff_ms = result.ok ? 0 : result.retry_ms;
        if (result.ok) return;
        parts.metrics.applyFailed();
        const in_ms = Math.round(result.retry_ms);
        parts.log("error", "Cannot compare; trying again", { error: messageOf(result.error), in_ms });
      },
    });
    this.#timer = setInterval(() => this.#reconciler.trigger(), parts.config.syncPeriod_ms);
  }

  async close(): Promise<void> {
    clearInterval(this.#timer);
    if (this.#settling !== null) clearTimeout(this.#settling);
    await this.#reconciler.close();
    await this.#parts.source.close();
  }

  /** By kind, `intended` among them; zeros included. */
  get counts(): Readonly<Record<string, number>> {
    const counts: Record<string, number> = Object.fromEntries(DIFFERENCE_KINDS.map((kind) => [LABELS[kind], 0]));
    for (const { kind } of this.#lasting.values()) counts[LABELS[kind]] = (counts[LABELS[kind]] ?? 0) + 1;
    return { ...counts, intended: this.#intended };
  }

  get ready(): boolean {
    return this.#compared !== null;
  }

  get eligible(): boolean {
    const { source, config } = this.#parts;
    const { node } = source.snapshot();
    return this.ready && (isEligible(node) || (node === null && config.source.kind === "manifests"));
  }

  get problems(): readonly Problem[] {
    return [...this.#parts.source.problems(), ...this.#problems];
  }

  get pending(): Changes {
    return changesBetween(this.#compared ?? EMPTY, this.#parts.source.snapshot());
  }

  get noLocalEndpoints(): NoLocalEndpoints {
    return this.#noLocalEndpoints;
  }

  get backoff_s(): number {
    return this.#backoff_ms / 1000;
  }

  /** The source is not what it was. */
  changed(): void {
    this.#parts.health.queued();
    this.#parts.metrics.queued();
    this.#reconciler.trigger();
  }

  #compare(): void {
    const { config, source, readRules, localAddresses, health, metrics } = this.#parts;
    if (!source.synced()) return;
    const started_ms = performance.now();
    const snapshot = source.snapshot();
    const local = localAddresses();
    const { nodeName, nodePortAddresses } = config;
    const compiled = compile(snapshot, { nodeName, nodePortAddresses, localAddresses: local }, this.#memory);
    this.#problems = compiled.problems;
    this.#noLocalEndpoints = compiled.noLocalEndpoints;
    const rules = readRules(local);
    const contested = contestedEntrances(snapshot.services.values());
    const desired = wholeReading("desired", source.description, compiled.desired, contested);
    const { differences, intended } = compare(rules, desired);
    this.#intended = intended.length;
    const { services, slices } = changesBetween(this.#compared ?? EMPTY, snapshot);
    this.#compared = snapshot;
    this.#take(differences, rules.from, performance.now());
    metrics.applied({ seconds: (performance.now() - started_ms) / 1000, services, slices, triggers: [] });
    health.updated();
  }

  /** A difference counts once it has lasted; what is gone is gone at once. */
  #take(differences: readonly Difference[], from: string, at_ms: number): void {
    const settle_ms = this.#parts.settle_ms ?? SETTLE_MS;
    const now = new Map(differences.map((difference) => [sentence(difference), difference]));
    this.#seen = new Map(
      [...now].map(([text, difference]) => [text, this.#seen.get(text) ?? { difference, since_ms: at_ms }]),
    );
    const lasting = new Map(
      [...this.#seen].flatMap(([text, { difference, since_ms }]) =>
        at_ms - since_ms >= settle_ms ? [[text, difference] as const] : [],
      ),
    );
    if (lasting.size < this.#seen.size) this.#lookAgain(settle_ms);
    const appeared = [...lasting.keys()].filter((text) => !this.#lasting.has(text));
    const vanished = [...this.#lasting.keys()].filter((text) => !lasting.has(text));
    this.#lasting = lasting;
    if (appeared.length + vanished.length > 0) this.#log(appeared, vanished, from);
    this.#parts.log("debug", "Compared", { rules: from, found: now.size, lasting: lasting.size });
  }

  #lookAgain(settle_ms: number): void {
    if (this.#settling !== null) return;
    this.#settling = setTimeout(() => {
      this.#settling = null;
      this.#reconciler.trigger();
    }, settle_ms);
  }

  #log(appeared: readonly string[], vanished: readonly string[], rules: string): void {
    const some = (texts: readonly string[]): readonly string[] => texts.slice(0, 10);
    const count = this.#lasting.size;
    if (count === 0) this.#parts.log("info", "No difference any more", { rules, gone: some(vanished) });
    else {
      const fields = { rules, count, appeared: some(appeared), gone: some(vanished) };
      this.#parts.log("warn", "The rules of this node are not what they should be", fields);
    }
  }
}

interface Seen {
  readonly difference: Difference;
  readonly since_ms: number;
}

/** Values of the label `kind`: left is what is on the node, right what should be. */
const LABELS: Readonly<Record<DifferenceKind, string>> = {
  unreached: "unreached",
  only_left: "not_desired",
  only_right: "missing",
  service: "service",
  kind: "kind",
  verdict: "verdict",
  policy: "policy",
  backends: "backends",
  source_ranges: "source_ranges",
  affinity: "affinity",
  health_check: "health_check",
  local: "local",
  draining: "draining",
  node_addresses: "node_addresses",
};

/** `shop/web:http 10.96.0.1:80/TCP backends: here 10.244.9.9:8080, wanted 10.244.1.2:8080`. */
const sentence = ({ kind, service, frontend, clients, left, right }: Difference): string => {
  const about = [service, frontend, clients === null ? null : `from ${clients}`, LABELS[kind]];
  const sides = [
    ...(left.length > 0 ? [`here ${left.join(" ")}`] : []),
    ...(right.length > 0 ? [`wanted ${right.join(" ")}`] : []),
  ];
  return `${about.filter((word) => word !== null).join(" ")}: ${sides.join(", ")}`;
};
