// The loop of the node agent: snapshot → compile → apply, whenever something changed, and the checks that go with it
// (devices and addresses of this machine, an audit of the maps). It is told what to use; start.ts opens the real things.
import { isDeepStrictEqual } from "node:util";
import { type Compiled, type CompileMemory, compile, createMemory, type NoLocalEndpoints } from "../compile/compile.ts";
import { isCapacityError } from "../dataplane/bpf/capacity.ts";
import type { Applied, Dataplane } from "../dataplane/dataplane.ts";
import type { Source } from "../k8s/source.ts";
import { messageOf } from "../lib/errors.ts";
import type { Address, Prefix } from "../model/address.ts";
import type { Desired } from "../model/desired.ts";
import type { Problem, Snapshot } from "../model/snapshot.ts";
import { Reconciler } from "../reconcile/reconciler.ts";
import { type Changes, changesBetween } from "./changes.ts";
import type { Config } from "./config.ts";
import { type Health, isEligible } from "./health.ts";
import { HealthCheckServers } from "./healthcheck.ts";
import { chooseDevices, choosePodDevices, type HostView, hasIPv6 } from "./host.ts";
import type { Log } from "./log.ts";
import type { Metrics } from "./metrics.ts";

/** What an agent drives: a dataplane, with what only some of them need. */
export interface AgentDataplane extends Dataplane {
  /** Serves these devices from now on, and no others: for traffic from outside, and of pods. */
  setDevices?(devices: readonly string[], podDevices: readonly string[]): void;
  /** Calls, from now on, when devices or their addresses are not what they were. */
  hearDevices?(changed: () => void): void;
  /** The next apply looks at everything again. */
  forget?(): void;
  /** The pods of this node have these addresses, as far as its Node says so. */
  setPodCIDRs?(podCIDRs: readonly Prefix[]): void;
  /** Names of what is not as the last apply left it, where that is told otherwise than by reading everything back. */
  check?(): readonly string[];
  /** Everything is written again so often, changed or not. */
  readonly refresh_ms?: number;
}

export interface AgentParts {
  readonly config: Config;
  readonly dataplane: AgentDataplane;
  /** Its handler calls changed(). The agent closes it. */
  readonly source: Source;
  readonly readHost: () => HostView;
  readonly health: Health;
  readonly metrics: Pick<Metrics, "queued" | "applied" | "applyFailed" | "drifted">;
  readonly log: Log;
  readonly now_ms: () => number;
  /** How often the machine's devices and addresses are looked at, and the maps are compared. */
  readonly periods_ms?: { readonly host: number; readonly audit: number };
}

const PERIODS_MS = { host: 3_000, audit: 60_000 };
const EMPTY: Snapshot = { services: new Map(), slices: new Map(), node: null };

export class Agent {
  readonly #parts: AgentParts;
  readonly #source: Source;
  readonly #reconciler: Reconciler;
  readonly #healthChecks: HealthCheckServers;
  readonly #timers: NodeJS.Timeout[] = [];
  readonly #started_ms: number;
  readonly #memory: CompileMemory = createMemory();
  #host: HostView;
  #devices: readonly string[] = [];
  #podDevices: readonly string[] = [];
  /** Names and indexes that the dataplane was last told of. */
  #served = "";
  /** What has been applied; null before the first time. */
  #applied: { readonly snapshot: Snapshot; readonly compiled: Compiled } | null = null;
  /** The last apply went through, and nobody has touched the maps since. */
  #clean = false;
  /** How often everything was to be applied again, which may be in the midst of an apply. */
  #doubts = 0;
  #named: ReadonlySet<string> = new Set();
  #backoff_ms = 0;

  constructor(parts: AgentParts) {
    this.#parts = parts;
    this.#source = parts.source;
    this.#started_ms = parts.now_ms();
    this.#host = parts.readHost();
    this.#healthChecks = new HealthCheckServers({
      healthy: () => parts.health.healthy(),
      log: parts.log,
      failed: (problem) => parts.source.recordProblems([problem]),
    });
    this.#reconciler = this.#createReconciler();
    const periods = parts.periods_ms ?? PERIODS_MS;
    this.#timers.push(
      setInterval(() => this.#guard("look at this machine", () => this.#look()), periods.host),
      setInterval(() => this.#guard("compare the maps", () => this.#audit()), periods.audit),
    );
    const { refresh_ms, hearDevices } = parts.dataplane;
    hearDevices?.(() => this.#guard("look at this machine", () => this.#look()));
    if (refresh_ms !== undefined) this.#timers.push(setInterval(() => this.#again(), refresh_ms));
  }

  /** Ends the loop. What is attached and pinned stays as it is: traffic goes on. */
  async close(): Promise<void> {
    for (const timer of this.#timers) clearInterval(timer);
    await this.#reconciler.close();
    this.#healthChecks.close();
    await this.#source.close();
  }

  get desired(): Desired | null {
    return this.#applied?.compiled.desired ?? null;
  }

  get noLocalEndpoints(): NoLocalEndpoints {
    const none = { IPv4: 0, IPv6: 0 };
    return this.#applied?.compiled.noLocalEndpoints ?? { internal: none, external: none };
  }

  get devices(): readonly string[] {
    return this.#devices;
  }

  /** The wait for the next attempt; 0: the last one went through. */
  get backoff_s(): number {
    return this.#backoff_ms / 1000;
  }

  get healthCheckFailures(): number {
    return this.#healthChecks.failed;
  }

  /** Whether load balancers may send traffic here: something is programmed, and the Node is there to stay. */
  get eligible(): boolean {
    if (this.#applied === null) return false;
    const { node } = this.#source.snapshot();
    return isEligible(node) || (node === null && this.#parts.config.source.kind === "manifests");
  }

  /** Everything of the sources and the compiler that is not used. */
  get problems(): readonly Problem[] {
    return [...this.#source.problems(), ...(this.#applied?.compiled.problems ?? [])];
  }

  /** What the source knows and no apply has taken up. */
  get pending(): Changes {
    return changesBetween(this.#applied?.snapshot ?? EMPTY, this.#source.snapshot());
  }

  /** The source, or this machine, is not what it was. */
  changed(): void {
    this.#parts.health.queued();
    this.#parts.metrics.queued();
    this.#reconciler.trigger();
  }

  /** One apply. Rejects when the kernel refuses; the reconciler comes back. */
  async #sync(): Promise<void> {
    const { config, health } = this.#parts;
    // Half a picture is worse than none: a Service whose slices have not been seen would be refused to its clients.
    if (!this.#source.synced()) return;
    const started_ms = performance.now();
    const snapshot = this.#source.snapshot();
    this.#serveDevices();
    this.#parts.dataplane.setPodCIDRs?.(snapshot.node?.podCIDRs ?? []);
    const compiled = compile(snapshot, compileOptions(config, this.#host), this.#memory);
    this.#nameProblems(compiled.problems);
    this.#source.recordProblems(compiled.problems);
    const { applied, refused } = await this.#apply(compiled.desired);
    const before = this.#applied?.snapshot ?? EMPTY;
    this.#applied = { snapshot, compiled };
    void this.#healthChecks.update(compiled.healthChecks, healthCheckHosts(config, compiled.desired));
    if (applied !== null) this.#report(applied, changesBetween(before, snapshot), started_ms);
    if (refused !== null) throw refused;
    health.updated();
    const { services, slices } = this.pending;
    if (services + slices > 0) health.queued(); // what came meanwhile waits since then
  }

  /** What was written; null when there was nothing to do. What did not fit is refused, and all the rest is written. */
  async #apply(desired: Desired): Promise<{ readonly applied: Applied | null; readonly refused: Error | null }> {
    if (this.#clean && desired === this.desired) return { applied: null, refused: null };
    this.#clean = false;
    const doubts = this.#doubts;
    try {
      const applied = await this.#parts.dataplane.apply(desired, { prune: true });
      this.#clean = doubts === this.#doubts;
      return { applied, refused: null };
    } catch (error) {
      if (!isCapacityError(error)) throw error;
      return { applied: { written: {}, removed: {} }, refused: error };
    }
  }

  /** One log line and the metrics of an apply. */
  #report({ written, removed }: Applied, changes: Changes, started_ms: number): void {
    const { metrics, log, now_ms } = this.#parts;
    const took_ms = performance.now() - started_ms;
    const ended_ms = now_ms();
    const triggers = changes.triggers
      .filter(({ at_ms }) => at_ms >= this.#started_ms)
      .map(({ family, at_ms }) => ({ family, seconds: Math.max(0, (ended_ms - at_ms) / 1000) }));
    const { services, slices } = changes;
    metrics.applied({ seconds: took_ms / 1000, services, slices, triggers });
    const servicePorts = this.desired?.services.size ?? 0;
    const ms = Math.round(took_ms * 10) / 10;
    log("info", "Applied", { ms, changed: { services, slices }, servicePorts, written, removed });
  }

  #createReconciler(): Reconciler {
    const { config, metrics, log } = this.#parts;
    return new Reconciler({
      apply: () => this.#sync(),
      min_interval_ms: config.minSyncPeriod_ms,
      onResult: (result) => {
        this.#backoff_ms = result.ok ? 0 : result.retry_ms;
        if (result.ok) return;
        metrics.applyFailed();
        log("error", "Cannot apply; trying again", {
          error: messageOf(result.error),
          in_ms: Math.round(result.retry_ms),
        });
      },
    });
  }

  /** Tells the dataplane which devices to serve, when that is news (a new device behind an old name is). */
  #serveDevices(): void {
    const { config, dataplane, log } = this.#parts;
    if (dataplane.setDevices === undefined) return;
    const node = this.#source.snapshot().node;
    const devices = chooseDevices(this.#host, config.bpf.devices, node?.addresses ?? []);
    const podDevices = choosePodDevices(this.#host, config.bpf, devices);
    const served = JSON.stringify([
      this.#host.devices.filter(({ name }) => devices.includes(name) || podDevices.includes(name)),
      this.#host.addresses.filter(({ device }) => devices.includes(device)),
    ]);
    if (served === this.#served) return;
    if (devices.length > 0) log("info", "Devices that are served", { devices, podDevices, before: this.#devices });
    else
      log("warn", "No device is served: traffic from outside is not translated (see --device)", {
        before: this.#devices,
      });
    dataplane.setDevices(devices, podDevices);
    this.#devices = devices;
    this.#podDevices = podDevices;
    this.#served = served;
  }

  /** What fails in a check is tried again at the next one; it must not end the agent. */
  #guard(what: string, check: () => void): void {
    try {
      check();
    } catch (error) {
      this.#parts.log("error", `Cannot ${what}`, { error: messageOf(error) });
    }
  }

  /** The machine may have changed: devices come and go, addresses too. */
  #look(): void {
    if (this.#healthChecks.failed > 0) void this.#healthChecks.retry();
    const before = this.#host;
    this.#host = this.#parts.readHost();
    if (!isDeepStrictEqual(addressesOf(before), addressesOf(this.#host))) this.changed();
    else if (this.#source.synced()) this.#serveDevices();
  }

  /** What the kernel holds is what it should: else somebody else wrote, or we have a bug. Repaired either way. */
  #audit(): void {
    const { dataplane, metrics, log } = this.#parts;
    const desired = this.desired;
    if (desired === null || !this.#clean) return;
    dataplane.setDevices?.(this.#devices, this.#podDevices); // repairs what somebody detached
    const different = dataplane.check?.() ?? differences(desired, dataplane.readBack());
    if (different.length === 0) return;
    metrics.drifted();
    log("warn", "The kernel does not hold what it should: applying everything again", {
      different: different.slice(0, 10),
      count: different.length,
    });
    this.#again();
  }

  /** Applies everything, whatever is there. */
  #again(): void {
    this.#doubts++;
    this.#clean = false;
    this.#parts.dataplane.forget?.();
    this.changed();
  }

  /** Each once, until it changes. The source names its own. */
  #nameProblems(problems: readonly Problem[]): void {
    const texts = problems.map(({ object, path, message }) => `${object}${path && ` ${path}`}: ${message}`);
    for (const text of texts) if (!this.#named.has(text)) this.#parts.log("warn", text);
    this.#named = new Set(texts);
  }
}

const addressesOf = (host: HostView): readonly Address[] => host.addresses.map((a) => a.address);

const compileOptions = (config: Config, host: HostView) => ({
  nodeName: config.nodeName,
  localAddresses: addressesOf(host),
  nodePortAddresses: config.nodePortAddresses,
});

/** kube-proxy's rule: everywhere, or on each address that nodePortAddresses chooses. */
const healthCheckHosts = (config: Config, desired: Desired): readonly string[] =>
  config.nodePortAddresses !== "primary" && config.nodePortAddresses.length === 0
    ? [hasIPv6() ? "::" : "0.0.0.0"]
    : desired.nodeAddresses.filter((a) => a.nodePorts && !a.loopback).map((a) => a.address);

/** Names of what two Desireds do not have in common: service ports, and `node addresses`. */
export const differences = (a: Desired, b: Desired): readonly string[] => {
  const keys = new Set([...a.services.keys(), ...b.services.keys()]);
  const services = [...keys].filter((key) => !isDeepStrictEqual(a.services.get(key), b.services.get(key)));
  return isDeepStrictEqual(a.nodeAddresses, b.nodeAddresses) ? services : ["node addresses", ...services];
};
