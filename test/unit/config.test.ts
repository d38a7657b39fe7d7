// Configuration: kube-proxy's fields and beeline's own, and what is said about each mistake.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { type Flags, loadConfig } from "../../src/agent/config.ts";
import { conntrackSettings } from "../../src/agent/conntrack.ts";
import { defaultNodeName, findCgroup } from "../../src/agent/defaults.ts";
import { DEFAULT_TIMEOUTS_S } from "../../src/dataplane/bpf/states.ts";
import { isInputError, messageOf } from "../../src/lib/errors.ts";

const BEELINE = "apiVersion: beeline.dev/v1alpha1\nkind: BeelineConfiguration\n";
const KUBE_PROXY = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

/** Loads `text` as a file called config.yaml. Its folder is written FOLDER in errors. */
const load = (text: string, flags: Flags = {}) => {
  const folder = mkdtempSync(join(tmpdir(), "beeline-config-"));
  const path = join(folder, "config.yaml");
  writeFileSync(path, text);
  try {
    return loadConfig({ ...flags, config: path });
  } finally {
    rmSync(folder, { recursive: true });
  }
};

const mistakes = (text: string): string => {
  try {
    load(text);
  } catch (error) {
    assert.ok(isInputError(error), `not an InputError: ${String(error)}`);
    return messageOf(error).replace(/\/\S*\/config\.yaml/, "config.yaml");
  }
  return assert.fail("no mistake was found");
};

test("without a file and flags everything has kube-proxy's default", () => {
  const { config, warnings } = loadConfig({});
  assert.deepEqual(warnings, []);
  assert.deepEqual(config, {
    nodeName: defaultNodeName(),
    dataplane: "bpf",
    source: { kind: "cluster", kubeconfig: null },
    serviceProxyName: null,
    nodePortAddresses: [],
    healthzBindAddress: { host: "0.0.0.0", port: 10256 },
    metricsBindAddress: { host: "127.0.0.1", port: 10249 },
    bindAddressHardFail: false,
    syncPeriod_ms: 30_000,
    minSyncPeriod_ms: 1_000,
    oomScoreAdj: -999,
    logging: { format: "json", level: "info" },
    iptables: { flavour: "auto", masqueradeAll: false, masqueradeBit: 14, localhostNodePorts: true },
    detectLocal: { mode: "ClusterCIDR", cidrs: [] },
    conntrack: {
      maxPerCore: 32_768,
      min: 131_072,
      tcpEstablishedTimeout_ms: 86_400_000,
      tcpCloseWaitTimeout_ms: 3_600_000,
      tcpBeLiberal: false,
      udpTimeout_ms: 0,
      udpStreamTimeout_ms: 0,
    },
    userspace: { udpIdleTimeout_ms: 250 },
    bpf: {
      attach: "auto",
      forwarding: "auto",
      xdp: "auto",
      socketLB: "all",
      pinPath: "/sys/fs/bpf/beeline",
      cgroupPath: findCgroup(),
      devices: [],
      podDevices: null,
      mapSizes: {},
      snatPorts: { min: 61000, max: 65535 },
      timeouts_s: DEFAULT_TIMEOUTS_S,
    },
  });
});

test("a file sets what it names, and flags override it", () => {
  const text = `${BEELINE}
hostnameOverride: Node-From-File
nodePortAddresses: [10.1.2.3/8, fd00::/64]
healthzBindAddress: 127.0.0.1
metricsBindAddress: "[::1]:9"
bpf:
  attach: clsact
  xdp: off
  pinPath: /sys/fs/bpf/file
  devices: [eth*]
  mapSizes: {flows: 1000, source_ranges: 7}
  snatPorts: {min: 50000, max: 50009}
  timeouts: {tcpHalfOpen: 5s, udp: 1m}
  syncPeriod: 1m30s
  minSyncPeriod: 250ms
`;
  const { config } = load(text, {
    node: "from-flag",
    attach: "tcx",
    xdp: "auto",
    device: ["ens3"],
    healthzBindAddress: "10.0.0.9:1",
  });
  assert.equal(config.nodeName, "from-flag");
  assert.deepEqual(config.nodePortAddresses, ["10.0.0.0/8", "fd00::/64"]);
  assert.deepEqual(config.healthzBindAddress, { host: "10.0.0.9", port: 1 });
  assert.deepEqual(config.metricsBindAddress, { host: "::1", port: 9 });
  assert.equal(config.syncPeriod_ms, 90_000);
  assert.equal(config.minSyncPeriod_ms, 250);
  assert.deepEqual(
    { ...config.bpf, cgroupPath: "" },
    {
      attach: "tcx",
      forwarding: "auto",
      xdp: "auto",
      socketLB: "all",
      pinPath: "/sys/fs/bpf/file",
      cgroupPath: "",
      devices: ["ens3"],
      podDevices: null,
      mapSizes: { flows: 1000, source_ranges: 7 },
      snatPorts: { min: 50000, max: 50009 },
      timeouts_s: { ...DEFAULT_TIMEOUTS_S, tcpHalfOpen: 5, udp: 60 },
    },
  );
  assert.equal(load(text).config.nodeName, "node-from-file");
  assert.equal(load(text).config.bpf.xdp, "off");
  assert.deepEqual(load(text).config.healthzBindAddress, { host: "127.0.0.1", port: 10256 });
});

test("an IPv6 bindAddress moves the servers' default addresses to IPv6", () => {
  const { config } = load(`${BEELINE}bindAddress: "::"\n`);
  assert.deepEqual(config.healthzBindAddress, { host: "::", port: 10256 });
  assert.deepEqual(config.metricsBindAddress, { host: "::1", port: 10249 });
});

test("an empty bind address on the command line switches a server off", () => {
  const { config } = loadConfig({ healthzBindAddress: "", metricsBindAddress: "" });
  assert.equal(config.healthzBindAddress, null);
  assert.equal(config.metricsBindAddress, null);
});

const KUBEADM = `${KUBE_PROXY}bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: ""
  burst: 0
  contentType: ""
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
clusterCIDR: 10.244.0.0/16
configSyncPeriod: 0s
conntrack:
  maxPerCore: null
  min: null
  tcpBeLiberal: false
  tcpCloseWaitTimeout: null
  tcpEstablishedTimeout: 24h0m0s
  udpStreamTimeout: 0s
  udpTimeout: 0s
detectLocal: {bridgeInterface: "", interfaceNamePrefix: ""}
detectLocalMode: ""
enableProfiling: false
healthzBindAddress: ""
hostnameOverride: ""
iptables: {localhostNodePorts: null, masqueradeAll: false, masqueradeBit: null, minSyncPeriod: 0s, syncPeriod: 0s}
ipvs: {excludeCIDRs: null, minSyncPeriod: 0s, scheduler: "", strictARP: false, syncPeriod: 0s, tcpFinTimeout: 0s, tcpTimeout: 0s, udpTimeout: 0s}
logging: {flushFrequency: 0, options: {json: {infoBufferSize: "0"}, text: {infoBufferSize: "0"}}, verbosity: 3}
metricsBindAddress: ""
mode: iptables
nftables: {masqueradeAll: false, masqueradeBit: null, minSyncPeriod: 0s, syncPeriod: 0s}
nodePortAddresses: null
oomScoreAdj: null
portRange: ""
showHiddenMetricsForVersion: ""
winkernel: {enableDSR: false, forwardHealthCheckVip: false, networkName: "", rootHnsEndpointName: "", sourceVip: ""}
`;

test("kubeadm's kube-proxy configuration is read as it is; what has no meaning here is one warning", () => {
  const { config, warnings } = load(KUBEADM);
  assert.deepEqual(config.source, { kind: "cluster", kubeconfig: "/var/lib/kube-proxy/kubeconfig.conf" });
  assert.equal(config.logging.level, "debug");
  assert.equal(config.syncPeriod_ms, 30_000);
  assert.equal(config.minSyncPeriod_ms, 0);
  assert.deepEqual(config.healthzBindAddress, { host: "0.0.0.0", port: 10256 });
  assert.deepEqual(
    warnings.map((w) => w.replace(/^\S*: /, "")),
    ["these fields have no meaning here: mode, clusterCIDR, conntrack.tcpEstablishedTimeout"],
  );
});

test("the ConfigMap around it is read too", () => {
  const data = KUBEADM.replaceAll(/^/gm, "    ");
  const { config } = load(
    `apiVersion: v1\nkind: ConfigMap\nmetadata: {name: kube-proxy}\ndata:\n  config.conf: |\n${data}`,
  );
  assert.equal(config.logging.level, "debug");
});

test("for rules kube-proxy's fields mean what they mean to kube-proxy, and nothing is said of them", () => {
  const { config, warnings } = load(KUBEADM, { dataplane: "iptables" });
  assert.equal(config.dataplane, "iptables");
  assert.deepEqual(config.detectLocal, { mode: "ClusterCIDR", cidrs: ["10.244.0.0/16"] });
  assert.deepEqual(warnings, [], "its mode is ours");
  const own = load(`${BEELINE}mode: iptables
iptables: {flavour: legacy, masqueradeAll: true, masqueradeBit: 9, localhostNodePorts: false, syncPeriod: 7s}
clusterCIDR: 10.1.2.3/16,fd00:1::/48
`);
  assert.deepEqual(own.warnings, []);
  assert.equal(own.config.dataplane, "iptables");
  const rules = { flavour: "legacy", masqueradeAll: true, masqueradeBit: 9, localhostNodePorts: false };
  assert.deepEqual(own.config.iptables, rules);
  assert.deepEqual(own.config.detectLocal, { mode: "ClusterCIDR", cidrs: ["10.1.0.0/16", "fd00:1::/48"] });
  assert.equal(own.config.syncPeriod_ms, 7_000);
});

test("the userspace proxy waits for UDP as long as kube-proxy's did, and has no use for masquerading", () => {
  const { config, warnings } = load(`${BEELINE}mode: userspace
udpIdleTimeout: 3s
iptables: {flavour: nft, masqueradeAll: true}
clusterCIDR: 10.1.2.3/16
`);
  assert.equal(config.dataplane, "userspace");
  assert.deepEqual(config.userspace, { udpIdleTimeout_ms: 3_000 });
  assert.match(warnings.join(), /have no meaning here: iptables.masqueradeAll$/);
});

test("the four ways of telling the traffic of pods", () => {
  const detects = (text: string) => load(`${BEELINE}mode: iptables\n${text}\n`).config.detectLocal;
  assert.deepEqual(detects(""), { mode: "ClusterCIDR", cidrs: [] });
  assert.deepEqual(detects("detectLocalMode: NodeCIDR"), { mode: "NodeCIDR" });
  const bridge = "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cbr0}";
  assert.deepEqual(detects(bridge), { mode: "BridgeInterface", name: "cbr0" });
  const prefix = "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: veth}";
  assert.deepEqual(detects(prefix), { mode: "InterfaceNamePrefix", name: "veth" });
  assert.match(
    mistakes(`${BEELINE}detectLocalMode: BridgeInterface\n`),
    /detectLocal.bridgeInterface: expected the name of an interface, got ""/,
  );
  for (const cidr of ["10.0.0.0/8,10.1.0.0/16", "10.0.0.0", "10.0.0.0/8,"])
    assert.match(mistakes(`${BEELINE}clusterCIDR: "${cidr}"\n`), /clusterCIDR: expected a prefix like/);
});

test("kube-proxy's periods come from the section of its mode", () => {
  const sections = "iptables: {syncPeriod: 10s, minSyncPeriod: 2s}\nnftables: {syncPeriod: 20s, minSyncPeriod: 3s}\n";
  assert.equal(load(`${KUBE_PROXY}mode: nftables\n${sections}`).config.syncPeriod_ms, 20_000);
  assert.equal(load(`${KUBE_PROXY}${sections}`).config.minSyncPeriod_ms, 2_000);
});

test("XDP is not required where the kernel forwards", () => {
  const text = (forwarding: string): string => `${BEELINE}bpf: {xdp: required, forwarding: ${forwarding}}\n`;
  assert.equal(load(text("direct")).config.bpf.xdp, "required");
  assert.match(mistakes(text("kernel")), /bpf.xdp: required does not go with bpf.forwarding: kernel/);
});

test("every mistake is named by its path, all at once", () => {
  const text = `${BEELINE}
healthzBindAddres: 1
nodePortAddresses: [10.0.0.1]
bindAddressHardFail: "yes"
conntrack: {min: -1}
oomScoreAdj: 2000
bpf:
  mapSizes: {flows: many, slotz: 1}
  attach: xdp
  xdp: generic
  timeouts: {udp: 0s, tcp: 1h}
  snatPorts: {min: 0}
  syncPeriod: 5 minutes
`;
  assert.equal(
    mistakes(text),
    `Cannot use the configuration config.yaml:
  bindAddressHardFail: expected true or false, got "yes"
  nodePortAddresses: expected a list of prefixes like "10.0.0.0/8", or ["primary"], got ["10.0.0.1"]
  oomScoreAdj: expected an integer from -1000 to 1000, got 2000
  conntrack.min: expected an integer from 0 to 2147483647, got -1
  bpf.attach: expected one of "auto", "tcx", "clsact", got "xdp"
  bpf.xdp: expected one of "auto", "off", "required", got "generic"
  bpf.mapSizes.flows: expected a positive integer, got "many"
  bpf.mapSizes.slotz: unknown field (did you mean slots?)
  bpf.timeouts.udp: expected a duration like "30s", from a second to a year, got "0s"
  bpf.timeouts.tcp: unknown field (did you mean udp?)
  bpf.snatPorts.min: expected a port (1..65535), got 0
  bpf.syncPeriod: expected a duration like "30s", got "5 minutes"
  healthzBindAddres: unknown field (did you mean healthzBindAddress?)`,
  );
});

test("a section that is no section is a mistake", () => {
  assert.match(mistakes(`${BEELINE}bpf: 3\n`), /bpf: expected fields, got 3$/);
});

test("what is not a configuration is refused with what it is", () => {
  assert.match(
    mistakes("kind: Pod\napiVersion: v1\n"),
    /expected apiVersion beeline.* or .*, got apiVersion "v1", kind "Pod"$/,
  );
  assert.match(mistakes("[]"), /expected fields, got \[\]$/);
  assert.match(mistakes("a: b: c"), /^Cannot read the configuration config.yaml: /);
  assert.throws(() => loadConfig({ config: "/nowhere/x.yaml" }), /Cannot read the configuration \/nowhere\/x.yaml/);
});

test("kube-proxy's configuration has no section bpf", () => {
  assert.match(mistakes(`${KUBE_PROXY}bpf: {}\n`), /bpf: unknown field/);
});

test("conflicts are mistakes", () => {
  const conflict = (flags: Flags) => () => loadConfig(flags);
  assert.throws(conflict({ manifests: ["a"], kubeconfig: "b" }), /only one source at a time/);
  assert.throws(conflict({ dataplane: "ipvs" }), /--dataplane: expected bpf, iptables or userspace, got "ipvs"/);
  assert.throws(conflict({ bpffs: "relative" }), /--bpffs: expected an absolute path, got "relative"/);
  assert.throws(conflict({ metricsBindAddress: "localhost:1" }), /--metrics-bind-address: expected an address/);
  assert.match(mistakes(`${BEELINE}mode: nftables\n`), /mode: expected bpf, iptables or userspace, got "nftables"/);
  assert.match(mistakes(`${BEELINE}bpf: {snatPorts: {min: 9, max: 8}}\n`), /bpf.snatPorts: min 9 is more than max 8/);
  assert.match(
    mistakes(`${BEELINE}bpf: {syncPeriod: 1s, minSyncPeriod: 2s}\n`),
    /bpf.minSyncPeriod: 2000 ms is more than/,
  );
});

test("the cgroup is the first cgroup2 mount", () => {
  const mounts = "cgroup /sys/fs/cgroup/pids cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/a\\040b cgroup2 rw 0 0\n";
  assert.equal(findCgroup(mounts), "/sys/fs/cgroup/a b");
  assert.equal(findCgroup("proc /proc proc rw 0 0\n"), null);
});

test("connection tracking is set as kube-proxy sets it; 0 leaves a setting as it is", () => {
  const { config } = load(KUBEADM, { dataplane: "iptables" });
  assert.deepEqual(conntrackSettings(config.conntrack, 2), [
    ["nf_conntrack_max", 131_072],
    ["nf_conntrack_tcp_timeout_established", 86_400],
    ["nf_conntrack_tcp_timeout_close_wait", 3_600],
  ]);
  const fields = "maxPerCore: 1000, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s, tcpBeLiberal: true";
  const own = load(`${BEELINE}conntrack: {${fields}, udpTimeout: 90s, udpStreamTimeout: 3m}\n`, {
    dataplane: "iptables",
  });
  assert.deepEqual(own.warnings, []);
  assert.deepEqual(conntrackSettings(own.config.conntrack, 64), [
    ["nf_conntrack_max", 64_000],
    ["nf_conntrack_tcp_be_liberal", 1],
    ["nf_conntrack_udp_timeout", 90],
    ["nf_conntrack_udp_timeout_stream", 180],
  ]);
  const none = load(`${BEELINE}conntrack: {maxPerCore: 0}\n`, { dataplane: "iptables" }).config.conntrack;
  assert.equal(
    conntrackSettings(none, 4).some(([name]) => name === "nf_conntrack_max"),
    false,
  );
});
