// What a configuration means for the reference dataplane: options of its rules, and the dataplane itself.
import { availableParallelism } from "node:os";
import { readCounts } from "../dataplane/iptables/counters.ts";
import { type Observer, openIptablesDataplane } from "../dataplane/iptables/iptables.ts";
import type { LocalDetector, RuleOptions } from "../dataplane/iptables/rules.ts";
import { RefusedError } from "../lib/errors.ts";
import { type Family, familyOf, type Prefix } from "../model/address.ts";
import type { Config } from "./config.ts";
import { conntrackSettings, setConntrack } from "./conntrack.ts";
import type { Opened } from "./dataplane.ts";
import { hasIPv6 } from "./host.ts";
import type { Log } from "./log.ts";

/** Throws RefusedError where there is no iptables. */
export const openIptables = (config: Config, log: Log, observer?: Observer): Opened => {
  setConntrack(conntrackSettings(config.conntrack, availableParallelism()), log);
  const dataplane = openIptablesDataplane({
    rules: (podCIDRs) => ruleOptions(config, podCIDRs),
    families: hasIPv6() ? ["IPv4", "IPv6"] : ["IPv4"],
    flavour: config.iptables.flavour,
    syncPeriod_ms: config.syncPeriod_ms,
    now_ms: () => performance.now(),
    log,
    ...(observer === undefined ? {} : { observer }),
  });
  log("info", "Rules are written with iptables", { flavour: dataplane.flavour });
  return { dataplane, maps: () => ({}), packets: () => [], counted: readCounts, audit_ms: config.syncPeriod_ms };
};

/** `podCIDRs`: of this node's Node, for detectLocalMode NodeCIDR. */
export const ruleOptions = (config: Config, podCIDRs: readonly Prefix[]): RuleOptions => ({
  masqueradeAll: config.iptables.masqueradeAll,
  masqueradeBit: config.iptables.masqueradeBit,
  localDetector: localDetector(config, podCIDRs),
  nodePortAddresses: config.nodePortAddresses,
  localhostNodePorts: config.iptables.localhostNodePorts,
  dropInvalid: true,
  randomFully: true,
  countPackets: false, // the dataplane finds out whether it can
});

const localDetector = ({ detectLocal }: Config, podCIDRs: readonly Prefix[]): LocalDetector => {
  switch (detectLocal.mode) {
    case "ClusterCIDR":
      return byPrefix(detectLocal.cidrs);
    case "NodeCIDR":
      if (podCIDRs.length > 0) return byPrefix(podCIDRs);
      throw new RefusedError(
        "Cannot tell the traffic of pods (detectLocalMode NodeCIDR): the Node has no podCIDRs yet",
      );
    case "BridgeInterface":
      return { kind: "bridge", name: detectLocal.name };
    case "InterfaceNamePrefix":
      return { kind: "prefix", name: detectLocal.name };
  }
};

/** The first of each family. */
const byPrefix = (prefixes: readonly Prefix[]): LocalDetector => {
  const first = (family: Family): Prefix | null => prefixes.find((prefix) => familyOf(prefix) === family) ?? null;
  return prefixes.length === 0 ? { kind: "none" } : { kind: "cidr", IPv4: first("IPv4"), IPv6: first("IPv6") };
};
