// Metrics: kube-proxy's names, labels and buckets, so that dashboards carry over; beeline's own beside them.
import assert from "node:assert/strict";
import { test } from "node:test";
import { changesBetween } from "../../src/agent/changes.ts";
import { createMetrics, type Facts } from "../../src/agent/metrics.ts";
import { NONE_BY_STATE } from "../../src/dataplane/bpf/states.ts";
import { type EndpointSlice, objectKey, type Service, type Snapshot } from "../../src/model/snapshot.ts";

const facts: Facts = {
  maps: () => ({ frontends: { used: 3, capacity: 10 } }),
  packets: () => [
    { hook: "sock", reason: "new_flow", count: 7 },
    { hook: "sock", reason: "no_endpoints", count: 3 },
    { hook: "tc_ingress", reason: "source_range", count: 2 },
    { hook: "tc_ingress", reason: "loopback", count: 1 },
    { hook: "tc_egress", reason: "not_ours", count: 9 },
    { hook: "tc_egress", reason: "of tomorrow", count: 5 },
  ],
  connections: () => ({
    entries: 10,
    connections: { ...NONE_BY_STATE, tcpEstablished: 3, udp: 2 },
    expired: 5,
    healed: 1,
    orphans: 4,
    seconds: 0.02,
  }),
  staleSockets: () => ({ destroyed: 6, left: 1 }),
  problems: () => ({ Service: 2, Node: 0 }),
  pending: () => ({ services: 1, slices: 2 }),
  noLocalEndpoints: () => ({ internal: { IPv4: 1, IPv6: 0 }, external: { IPv4: 0, IPv6: 4 } }),
  backoff_s: () => 0,
  healthCheckFailures: () => 1,
  devices: () => 2,
};

const scrape = async (
  act: (m: ReturnType<typeof createMetrics>) => void,
  dataplane: "bpf" | "iptables" = "bpf",
): Promise<string[]> => {
  const families = ["IPv4", "IPv6"] as const;
  const metrics = createMetrics(facts, { version: "9.9", families, dataplane, now_ms: () => 5_000 });
  act(metrics);
  const text = await metrics.scrape();
  return text.split("\n").filter((line) => /^(kubeproxy|beeline)_/.test(line));
};

test("before anything happened a scrape has what can be asked", async () => {
  const lines = await scrape(() => {});
  assert.deepEqual(
    lines.filter((line) => !line.startsWith("beeline_build_info")),
    [
      "kubeproxy_sync_proxy_rules_service_changes_total 0",
      "kubeproxy_sync_proxy_rules_endpoint_changes_total 0",
      "kubeproxy_sync_proxy_rules_service_changes_pending 1",
      "kubeproxy_sync_proxy_rules_endpoint_changes_pending 2",
      'kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv4",traffic_policy="internal"} 1',
      'kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv6",traffic_policy="internal"} 0',
      'kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv4",traffic_policy="external"} 0',
      'kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv6",traffic_policy="external"} 4',
      'beeline_map_entries{map="frontends"} 3',
      'beeline_map_capacity{map="frontends"} 10',
      'beeline_packets_total{hook="sock",reason="new_flow"} 7',
      'beeline_packets_total{hook="sock",reason="no_endpoints"} 3',
      'beeline_packets_total{hook="tc_ingress",reason="source_range"} 2',
      'beeline_packets_total{hook="tc_ingress",reason="loopback"} 1',
      'beeline_packets_total{hook="tc_egress",reason="not_ours"} 9',
      'beeline_packets_total{hook="tc_egress",reason="of tomorrow"} 5',
      'beeline_drops_total{hook="sock",verdict="refused",direction="to_backend",reason="no_endpoints"} 3',
      'beeline_drops_total{hook="tc_ingress",verdict="dropped",direction="to_backend",reason="source_range"} 2',
      'beeline_drops_total{hook="tc_ingress",verdict="dropped",direction="unknown",reason="loopback"} 1',
      'beeline_connections{state="tcpHalfOpen"} 0',
      'beeline_connections{state="tcpEstablished"} 3',
      'beeline_connections{state="tcpHalfClosed"} 0',
      'beeline_connections{state="tcpClosed"} 0',
      'beeline_connections{state="tcpReset"} 0',
      'beeline_connections{state="udp"} 2',
      'beeline_connections{state="udpStream"} 0',
      "beeline_expiry_seconds 0.02",
      "beeline_connections_expired_total 5",
      "beeline_connections_healed_total 1",
      "beeline_flows_orphaned_total 4",
      'beeline_stale_sockets_total{result="destroyed"} 6',
      'beeline_stale_sockets_total{result="left"} 1',
      'beeline_problems{kind="Service"} 2',
      'beeline_problems{kind="Node"} 0',
      "beeline_backoff_seconds 0",
      "beeline_devices 2",
      "beeline_health_check_listen_failures 1",
      "beeline_apply_failures_total 0",
      "beeline_drifts_total 0",
    ],
  );
});

test("an apply is observed for both families, with the changes it took up", async () => {
  const lines = await scrape((m) => {
    m.queued();
    m.applied({ seconds: 0.003, services: 2, slices: 5, triggers: [{ family: "IPv6", seconds: 0.4 }] });
    m.applyFailed();
    m.drifted();
    m.probed("healthz", 200);
    m.probed("livez", 503);
  });
  for (const expected of [
    'kubeproxy_sync_proxy_rules_duration_seconds_bucket{le="0.002",ip_family="IPv4"} 0',
    'kubeproxy_sync_proxy_rules_duration_seconds_bucket{le="0.004",ip_family="IPv4"} 1',
    'kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv6"} 1',
    'kubeproxy_network_programming_duration_seconds_bucket{le="0.25",ip_family="IPv6"} 0',
    'kubeproxy_network_programming_duration_seconds_bucket{le="0.5",ip_family="IPv6"} 1',
    'kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"} 5',
    'kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family="IPv6"} 5',
    "kubeproxy_sync_proxy_rules_service_changes_total 2",
    "kubeproxy_sync_proxy_rules_endpoint_changes_total 5",
    'kubeproxy_proxy_healthz_total{code="200"} 1',
    'kubeproxy_proxy_livez_total{code="503"} 1',
    "beeline_apply_failures_total 1",
    "beeline_drifts_total 1",
  ]) {
    assert.ok(lines.includes(expected), `${expected}\nis not in\n${lines.join("\n")}`);
  }
});

test("the buckets are kube-proxy's", async () => {
  const lines = await scrape((m) =>
    m.applied({ seconds: 0, services: 0, slices: 0, triggers: [{ family: "IPv4", seconds: 0 }] }),
  );
  const buckets = (name: string): number[] =>
    lines
      .filter(
        (line) => line.startsWith(`${name}_bucket{`) && line.includes('ip_family="IPv4"') && !line.includes("+Inf"),
      )
      .map((line) => Number(/le="([^"]+)"/.exec(line)?.[1]));
  assert.deepEqual(
    buckets("kubeproxy_sync_proxy_rules_duration_seconds"),
    [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384],
  );
  const programming = buckets("kubeproxy_network_programming_duration_seconds");
  assert.deepEqual(programming.slice(0, 4), [0.25, 0.5, 1, 2]);
  assert.deepEqual(programming.slice(60, 64), [59, 60, 65, 70]);
  assert.deepEqual(programming.slice(-3), [240, 270, 300]);
  assert.equal(programming.length, 2 + 59 + 12 + 7);
});

// ---- what changed between two snapshots -------------------------------------------------------------------------------

const service = (name: string): Service => ({ namespace: "a", name }) as Service;
const slice = (name: string, triggered_ms: number | null): EndpointSlice =>
  ({ namespace: "a", name, serviceName: "s", family: "IPv4", triggered_ms }) as EndpointSlice;
const snapshot = (services: Service[], slices: EndpointSlice[]): Snapshot => ({
  services: new Map(services.map((s) => [objectKey("a", s.name), s])),
  slices: new Map([[objectKey("a", "s"), new Map(slices.map((s) => [s.name, s]))]]),
  node: null,
});

test("changes are counted by identity: added, replaced and removed", () => {
  const [kept, gone] = [service("kept"), service("gone")];
  const [same, old] = [slice("same", 1), slice("x", 1)];
  const before = snapshot([kept, gone, service("replaced")], [same, old]);
  const after = snapshot([kept, service("replaced"), service("new")], [same, slice("x", 2), slice("y", null)]);
  assert.deepEqual(changesBetween(before, after), { services: 3, slices: 2, triggers: [{ family: "IPv4", at_ms: 2 }] });
  assert.deepEqual(changesBetween(after, after), { services: 0, slices: 0, triggers: [] });
});

test("a slice that changed without a new trigger time says nothing about latency", () => {
  const changes = changesBetween(snapshot([], [slice("x", 1)]), snapshot([], [slice("x", 1)]));
  assert.deepEqual(changes, { services: 0, slices: 1, triggers: [] });
});

test("writes of rules are counted by family and table, by kube-proxy's names", async () => {
  const lines = await scrape(({ rules }) => {
    const counts = { filter: { total: 9, written: 9 }, nat: { total: 20, written: 7 } };
    rules.synced({ family: "IPv4", full: false, seconds: 0.003, rules: counts });
    rules.failed("IPv6", false);
    rules.failed("IPv6", true);
    rules.cleaned("IPv4", 0.5, 3);
  }, "iptables");
  assert.deepEqual(
    lines.filter((line) => /_packets_total/.test(line) && line.startsWith("kubeproxy_")),
    [],
  );
  for (const line of [
    'kubeproxy_sync_partial_proxy_rules_duration_seconds_bucket{le="0.004",ip_family="IPv4"} 1',
    'kubeproxy_sync_proxy_rules_iptables_total{ip_family="IPv4",table="nat"} 20',
    'kubeproxy_sync_proxy_rules_iptables_last{ip_family="IPv4",table="nat"} 7',
    'kubeproxy_sync_proxy_rules_iptables_restore_failures_total{ip_family="IPv4"} 0',
    'kubeproxy_sync_proxy_rules_iptables_restore_failures_total{ip_family="IPv6"} 2',
    'kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total{ip_family="IPv6"} 1',
    'kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family="IPv4"} 3',
  ])
    assert.ok(lines.includes(line), line);
});

test("what rules count is asked for at a scrape", async () => {
  const counted = () => ({ invalidDropped: 4, localhostAccepted: 9 });
  const about = { version: "9.9", families: ["IPv4"], dataplane: "iptables", now_ms: () => 5_000 } as const;
  const metrics = createMetrics({ ...facts, counted }, about);
  for (const text of [await metrics.scrape(), await metrics.scrape()]) {
    assert.match(text, /^kubeproxy_iptables_ct_state_invalid_dropped_packets_total 4$/m);
    assert.match(text, /^kubeproxy_iptables_localhost_nodeports_accepted_packets_total 9$/m);
  }
});
