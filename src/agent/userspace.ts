// What a configuration means for the userspace proxy, and the proxy itself.
import { openUserspaceDataplane } from "../dataplane/userspace/userspace.ts";
import type { Config } from "./config.ts";
import type { Opened } from "./dataplane.ts";
import { hasIPv6, readHost } from "./host.ts";
import type { Log } from "./log.ts";

/** Throws RefusedError where there is no iptables. */
export const openUserspace = (config: Config, log: Log): Opened => {
  const { detectLocal } = config;
  const dataplane = openUserspaceDataplane({
    families: hasIPv6() ? ["IPv4", "IPv6"] : ["IPv4"],
    flavour: config.iptables.flavour,
    udpIdleTimeout_ms: config.userspace.udpIdleTimeout_ms,
    localAddresses: () => readHost().addresses.map(({ address }) => address),
    clusterCIDRs: detectLocal.mode === "ClusterCIDR" ? detectLocal.cidrs : [],
    now_ms: () => performance.now(),
    log,
  });
  log("info", "Connections are copied by this process", { flavour: dataplane.flavour });
  return { dataplane, maps: () => ({}), packets: () => [], audit_ms: config.syncPeriod_ms };
};
