// Prometheus metrics: kube-proxy's, by kube-proxy's names, buckets and labels, where they mean something here, and
// beeline's own. What can be asked is asked at the time of a scrape; only what happens in between is counted.
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";
import type { ForwardCount } from "../dataplane/bpf/inspect.ts";
import type { SnatUse } from "../dataplane/bpf/snat.ts";
import type { StaleCounts } from "../dataplane/bpf/stale.ts";
import type { XdpDevice } from "../dataplane/bpf/xdp.ts";
import type { PacketCounts } from "../dataplane/iptables/counters.ts";
import type { Observer } from "../dataplane/iptables/iptables.ts";
import type { Family } from "../model/address.ts";
import { meaningOf } from "../model/reason.ts";
import type { DataplaneName } from "./config.ts";
import type { ExpiryFacts } from "./expiry.ts";

/** Everything a scrape asks. */
export interface Facts {
  /** By map: entries in use, and how many fit. */
  maps(): Readonly<Record<string, { readonly used: number; readonly capacity: number }>>;
  /** Packets and socket calls by hook and reason. */
  packets(): readonly { readonly hook: string; readonly reason: string; readonly count: number }[];
  /** Connections of the packet path; null: there are none, or they have not been counted yet. */
  connections(): ExpiryFacts | null;
  /** Unusable objects by kind. */
  problems(): Readonly<Record<string, number>>;
  /** Changes that no apply has taken up yet. */
  pending(): { readonly services: number; readonly slices: number };
  noLocalEndpoints(): Readonly<Record<"internal" | "external", Readonly<Record<Family, number>>>>;
  /** Seconds until the next attempt, 0: none is waited for. */
  backoff_s(): number;
  healthCheckFailures(): number;
  devices(): number;
  /** UDP sockets that were connected to removed backends; null: nobody looks for them. */
  staleSockets(): StaleCounts | null;
  /** SNAT ports, by destination; null: there is no SNAT of ours. */
  snat?(): SnatUse | null;
  /** By which way packets go on; null: there is no choice. */
  forwarding?(): ForwardingMetrics | null;
  /** What iptables rules count; null: nothing. */
  counted?(): PacketCounts | null;
  /** With --observe: by kind, what differs between the rules of this node and what should be. */
  differences?(): Readonly<Record<string, number>>;
}

export interface ForwardingMetrics {
  readonly mode: "direct" | "kernel";
  readonly bumps: number;
  /** What stands in the way of direct forwarding; null: nobody looks. */
  readonly obstacles: number | null;
  /** Devices that are not fit for it. */
  readonly unfit: number;
  readonly packets: readonly ForwardCount[];
  /** Node devices. */
  readonly xdp: readonly XdpDevice[];
}

/** kube-proxy's: 0.001 s, doubled, 15 of them. */
const SYNC_BUCKETS = Array.from({ length: 15 }, (_, i) => 0.001 * 2 ** i);

const range = (from: number, to: number, step: number): number[] =>
  Array.from({ length: (to - from) / step + 1 }, (_, i) => from + i * step);

/** kube-proxy's: 0.25, 0.5, 1..59 by 1, 60..115 by 5, 120..300 by 30. */
const PROGRAMMING_BUCKETS = [0.25, 0.5, ...range(1, 59, 1), ...range(60, 115, 5), ...range(120, 300, 30)];

export interface Metrics {
  readonly contentType: string;
  scrape(): Promise<string>;
  queued(): void;
  /** One apply that succeeded, with what it took up. */
  applied(apply: {
    readonly seconds: number;
    readonly services: number;
    readonly slices: number;
    readonly triggers: readonly { readonly family: Family; readonly seconds: number }[];
  }): void;
  applyFailed(): void;
  drifted(): void;
  probed(probe: "healthz" | "livez", code: number): void;
  /** Told of every write of rules. */
  readonly rules: Observer;
}

export const createMetrics = (
  facts: Facts,
  options: {
    readonly version: string;
    readonly families: readonly Family[];
    readonly dataplane: DataplaneName;
    readonly now_ms: () => number;
  },
): Metrics => {
  const registers = [new Registry()];
  const registry = registers[0] as Registry;
  const { families } = options;
  collectDefaultMetrics({ register: registry });

  const gauge = (name: string, help: string, labelNames: string[], read: (set: Gauge) => void): void => {
    new Gauge({
      name,
      help,
      labelNames,
      registers,
      collect() {
        this.reset();
        read(this);
      },
    });
  };
  const counter = (name: string, help: string, labelNames: string[] = []): Counter =>
    new Counter({ name, help, labelNames, registers });

  // ---- kube-proxy's ------------------------------------------------------------------------------------------------
  const ip_family = "ip_family";
  const sync = new Histogram({
    name: "kubeproxy_sync_proxy_rules_duration_seconds",
    help: "Duration of one apply, from the snapshot to the last map entry",
    labelNames: [ip_family],
    buckets: SYNC_BUCKETS,
    registers,
  });
  const programming = new Histogram({
    name: "kubeproxy_network_programming_duration_seconds",
    help: "From the change of a Service or Pod (endpoints.kubernetes.io/last-change-trigger-time) to its last map entry",
    labelNames: [ip_family],
    buckets: PROGRAMMING_BUCKETS,
    registers,
  });
  const lastApplied = new Gauge({
    name: "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
    help: "When the last apply succeeded",
    labelNames: [ip_family],
    registers,
  });
  const lastQueued = new Gauge({
    name: "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
    help: "When the last change was seen",
    labelNames: [ip_family],
    registers,
  });
  const serviceChanges = counter("kubeproxy_sync_proxy_rules_service_changes_total", "Changes of Services applied");
  const sliceChanges = counter(
    "kubeproxy_sync_proxy_rules_endpoint_changes_total",
    "Changes of EndpointSlices applied",
  );
  gauge("kubeproxy_sync_proxy_rules_service_changes_pending", "Changes of Services not applied yet", [], (g) =>
    g.set(facts.pending().services),
  );
  gauge("kubeproxy_sync_proxy_rules_endpoint_changes_pending", "Changes of EndpointSlices not applied yet", [], (g) =>
    g.set(facts.pending().slices),
  );
  gauge(
    "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
    "Service ports of policy Local that have endpoints, but none on this node",
    [ip_family, "traffic_policy"],
    (g) => {
      const ports = facts.noLocalEndpoints();
      for (const policy of ["internal", "external"] as const) {
        for (const family of families) g.set({ ip_family: family, traffic_policy: policy }, ports[policy][family]);
      }
    },
  );
  const probes = {
    healthz: counter("kubeproxy_proxy_healthz_total", "Answers of /healthz by status", ["code"]),
    livez: counter("kubeproxy_proxy_livez_total", "Answers of /livez by status", ["code"]),
  };

  const rules = options.dataplane === "iptables" ? ruleMetrics(registers, families, facts.counted) : silent;

  // ---- beeline's own -----------------------------------------------------------------------------------------------
  gauge("beeline_build_info", "1, with the version", ["version", "node_version"], (g) =>
    g.set({ version: options.version, node_version: process.version }, 1),
  );
  gauge("beeline_map_entries", "Entries in use of a BPF map", ["map"], (g) => {
    for (const [map, { used }] of Object.entries(facts.maps())) g.set({ map }, used);
  });
  gauge("beeline_map_capacity", "Entries that fit into a BPF map", ["map"], (g) => {
    for (const [map, { capacity }] of Object.entries(facts.maps())) g.set({ map }, capacity);
  });
  new Counter({
    name: "beeline_packets_total",
    help: "Packets (hooks tc_ingress, tc_egress, xdp) and socket calls (hook sock) by what happened to them",
    labelNames: ["hook", "reason"],
    registers,
    collect() {
      this.reset();
      for (const { hook, reason, count } of facts.packets()) this.inc({ hook, reason }, count);
    },
  });
  new Counter({
    name: "beeline_drops_total",
    help: "Of these, what was refused or dropped, with the way it was going",
    labelNames: ["hook", "verdict", "direction", "reason"],
    registers,
    collect() {
      this.reset();
      for (const { hook, reason, count } of facts.packets()) {
        const { verdict, direction } = meaningOf(hook, reason) ?? {};
        if (verdict !== "refused" && verdict !== "dropped") continue;
        this.inc({ hook, verdict, direction: direction ?? "unknown", reason }, count);
      }
    },
  });
  gauge("beeline_connections", "Connections that the tc hooks translate, by state", ["state"], (g) => {
    for (const [state, count] of Object.entries(facts.connections()?.connections ?? {})) g.set({ state }, count);
  });
  gauge("beeline_expiry_seconds", "How long the last walk over all flows took", [], (g) =>
    g.set(facts.connections()?.seconds ?? 0),
  );
  const counted = (name: string, help: string, pick: (facts: ExpiryFacts) => number) =>
    new Counter({
      name,
      help,
      registers,
      collect() {
        const known = facts.connections();
        this.reset();
        this.inc(known === null ? 0 : pick(known));
      },
    });
  counted("beeline_connections_expired_total", "Connections removed for being silent too long", (f) => f.expired);
  counted("beeline_connections_healed_total", "Connections that had lost a flow and got it back", (f) => f.healed);
  counted("beeline_flows_orphaned_total", "Flows that belonged to no connection, removed", (f) => f.orphans);
  new Counter({
    name: "beeline_stale_sockets_total",
    help: "UDP sockets that were connected to removed backends: destroyed, or left because they could not be",
    labelNames: ["result"],
    registers,
    collect() {
      this.reset();
      for (const [result, count] of Object.entries(facts.staleSockets() ?? {})) this.inc({ result }, count);
    },
  });
  const { snat } = facts;
  if (snat !== undefined) {
    gauge("beeline_snat_ports", "Source ports that SNAT has towards each backend", [], (g) => {
      const use = snat();
      if (use !== null) g.set(use.ports);
    });
    gauge("beeline_snat_ports_taken_most", "Of these, taken towards the backend that has most", [], (g) => {
      const use = snat();
      if (use !== null) g.set(use.destinations[0]?.taken ?? 0);
    });
    gauge("beeline_snat_backends_near_limit", "Backends towards which four fifths of them are taken", [], (g) => {
      const use = snat();
      if (use !== null) g.set(use.destinations.filter((one) => one.nearLimit).length);
    });
  }
  const { forwarding } = facts;
  if (forwarding !== undefined) forwardingMetrics(registers, forwarding);
  gauge("beeline_problems", "Parts of objects that are not used, by kind of object", ["kind"], (g) => {
    for (const [kind, count] of Object.entries(facts.problems())) g.set({ kind }, count);
  });
  gauge("beeline_backoff_seconds", "Time to the next attempt after a failed apply; 0: none failed", [], (g) =>
    g.set(facts.backoff_s()),
  );
  gauge("beeline_devices", "Devices that tc programs are attached to", [], (g) => g.set(facts.devices()));
  gauge("beeline_health_check_listen_failures", "healthCheckNodePorts that cannot be listened on", [], (g) =>
    g.set(facts.healthCheckFailures()),
  );
  const { differences } = facts;
  if (differences !== undefined) {
    gauge("beeline_differences", "Differences between the rules of this node and what should be", ["kind"], (g) => {
      for (const [kind, count] of Object.entries(differences())) g.set({ kind }, count);
    });
  }
  const failures = counter("beeline_apply_failures_total", "Applies that the kernel refused");
  const drifts = counter("beeline_drifts_total", "Audits that found the maps other than they should be");

  return {
    contentType: registry.contentType,
    scrape: () => registry.metrics(),
    queued: () => {
      for (const family of families) lastQueued.set({ ip_family: family }, options.now_ms() / 1000);
    },
    applied: ({ seconds, services, slices, triggers }) => {
      for (const family of families) {
        sync.observe({ ip_family: family }, seconds);
        lastApplied.set({ ip_family: family }, options.now_ms() / 1000);
      }
      serviceChanges.inc(services);
      sliceChanges.inc(slices);
      for (const t of triggers) programming.observe({ ip_family: t.family }, t.seconds);
    },
    applyFailed: () => failures.inc(),
    drifted: () => drifts.inc(),
    probed: (probe, code) => probes[probe].inc({ code: String(code) }),
    rules,
  };
};

const forwardingMetrics = (registers: Registry[], read: () => ForwardingMetrics | null): void => {
  const gauge = (
    name: string,
    help: string,
    labelNames: string[],
    fill: (g: Gauge, facts: ForwardingMetrics) => void,
  ) =>
    new Gauge({
      name: `beeline_forwarding_${name}`,
      help,
      labelNames,
      registers,
      collect() {
        const facts = read();
        this.reset();
        if (facts !== null) fill(this, facts);
      },
    });
  gauge("mode", "1 for the way that packets go on by: direct, or kernel", ["mode"], (g, { mode }) => {
    for (const one of ["direct", "kernel"]) g.set({ mode: one }, Number(one === mode));
  });
  gauge(
    "obstacles",
    "What was found that may refuse or change packets (bpf.forwarding: auto)",
    [],
    (g, { obstacles }) => g.set(obstacles ?? 0),
  );
  gauge("unfit_devices", "Devices by which packets cannot be sent on directly", [], (g, { unfit }) => g.set(unfit));
  gauge("xdp", "Node devices: 1 with native XDP, 0 without, and why", ["device", "why_not"], (g, { xdp }) => {
    for (const { device, why_not } of xdp) g.set({ device, why_not: why_not ?? "" }, Number(why_not === null));
  });
  new Counter({
    name: "beeline_forwarding_changes_total",
    help: "Changes of routes, neighbours or devices after which flows found their next hops anew",
    registers,
    collect() {
      this.reset();
      this.inc(read()?.bumps ?? 0);
    },
  });
  new Counter({
    name: "beeline_forwarding_packets_total",
    help: "Translated packets by how they went on; way kernel: for which reason they were not sent on directly",
    labelNames: ["hook", "way", "how"],
    registers,
    collect() {
      this.reset();
      for (const { hook, isDirect, how, count } of read()?.packets ?? []) {
        this.inc({ hook, way: isDirect ? "direct" : "kernel", how }, count);
      }
    },
  });
};

const silent: Observer = { synced: () => {}, failed: () => {}, cleaned: () => {} };

/** kube-proxy's, of its iptables mode. */
const ruleMetrics = (
  registers: Registry[],
  families: readonly Family[],
  counted: Facts["counted"] = () => null,
): Observer => {
  const ip_family = "ip_family";
  const packets = (name: string, help: string, which: keyof PacketCounts): void => {
    new Counter({
      name: `kubeproxy_iptables_${name}_packets_total`,
      help,
      registers,
      collect() {
        const counts = counted();
        this.reset();
        if (counts === null) this.remove();
        else this.inc(counts[which]);
      },
    });
  };
  packets("ct_state_invalid_dropped", "Packets dropped that conntrack calls INVALID", "invalidDropped");
  packets("localhost_nodeports_accepted", "First packets to NodePorts at 127.0.0.1", "localhostAccepted");
  const histogram = (name: string, help: string): Histogram =>
    new Histogram({ name: `kubeproxy_${name}`, help, labelNames: [ip_family], buckets: SYNC_BUCKETS, registers });
  const counter = (name: string, help: string): Counter => {
    const made = new Counter({ name: `kubeproxy_${name}`, help, labelNames: [ip_family], registers });
    for (const family of families) made.inc({ ip_family: family }, 0);
    return made;
  };
  const gauge = (name: string, help: string): Gauge =>
    new Gauge({ name: `kubeproxy_${name}`, help, labelNames: [ip_family, "table"], registers });
  const full = histogram("sync_full_proxy_rules_duration_seconds", "Duration of one write of all rules");
  const partial = histogram("sync_partial_proxy_rules_duration_seconds", "Duration of one write of changed rules");
  const total = gauge("sync_proxy_rules_iptables_total", "Rules that are there");
  const last = gauge("sync_proxy_rules_iptables_last", "Rules of the last write");
  const failures = counter("sync_proxy_rules_iptables_restore_failures_total", "Writes that failed");
  const partialFailures = counter(
    "sync_proxy_rules_iptables_partial_restore_failures_total",
    "Writes of changed rules that failed; everything is written next",
  );
  const cleaning = histogram("conntrack_reconciler_sync_duration_seconds", "Duration of one look for stale UDP flows");
  const deleted = counter("conntrack_reconciler_deleted_entries_total", "Stale UDP flows that were deleted");
  return {
    synced: (sync) => {
      (sync.full ? full : partial).observe({ ip_family: sync.family }, sync.seconds);
      for (const [table, count] of Object.entries(sync.rules)) {
        total.set({ ip_family: sync.family, table }, count.total);
        last.set({ ip_family: sync.family, table }, count.written);
      }
    },
    failed: (family, wasFull) => {
      failures.inc({ ip_family: family });
      if (!wasFull) partialFailures.inc({ ip_family: family });
    },
    cleaned: (family, seconds, count) => {
      cleaning.observe({ ip_family: family }, seconds);
      deleted.inc({ ip_family: family }, count);
    },
  };
};
