// Where the kernel's own chains enter kube-proxy's, as values, in the order in which each is made sure of: every rule is
// put first in its chain, so that a fresh node ends with the reverse order.
import {
  KUBE_EXTERNAL_SERVICES,
  KUBE_FIREWALL,
  KUBE_FORWARD,
  KUBE_NODEPORTS,
  KUBE_POSTROUTING,
  KUBE_PROXY_FIREWALL,
  KUBE_SERVICES,
} from "./names.ts";

export type Table = "filter" | "nat" | "mangle";

export const TABLES: readonly Table[] = ["mangle", "nat", "filter"];

export interface Jump {
  readonly table: Table;
  readonly from: "INPUT" | "FORWARD" | "OUTPUT" | "PREROUTING" | "POSTROUTING";
  readonly to: string;
  /** Arguments before `-j`. */
  readonly match: readonly string[];
}

const comment = (text: string): readonly string[] => ["-m", "comment", "--comment", text];
const NEW = ["-m", "conntrack", "--ctstate", "NEW"];

const jump = (table: Table, from: Jump["from"], to: string, ...match: readonly string[]): Jump => ({
  table,
  from,
  to,
  match,
});

const visible = [...NEW, ...comment("kubernetes externally-visible service portals")];
const healthCheck = comment("kubernetes health check service ports");
const portals = comment("kubernetes service portals");
const firewall = [...NEW, ...comment("kubernetes load balancer firewall")];

export const JUMPS: readonly Jump[] = [
  jump("filter", "INPUT", KUBE_EXTERNAL_SERVICES, ...visible),
  jump("filter", "FORWARD", KUBE_EXTERNAL_SERVICES, ...visible),
  jump("filter", "INPUT", KUBE_NODEPORTS, ...healthCheck),
  jump("filter", "FORWARD", KUBE_SERVICES, ...NEW, ...portals),
  jump("filter", "OUTPUT", KUBE_SERVICES, ...NEW, ...portals),
  jump("filter", "FORWARD", KUBE_FORWARD, ...comment("kubernetes forwarding rules")),
  jump("filter", "INPUT", KUBE_PROXY_FIREWALL, ...firewall),
  jump("filter", "OUTPUT", KUBE_PROXY_FIREWALL, ...firewall),
  jump("filter", "FORWARD", KUBE_PROXY_FIREWALL, ...firewall),
  jump("nat", "OUTPUT", KUBE_SERVICES, ...portals),
  jump("nat", "PREROUTING", KUBE_SERVICES, ...portals),
  jump("nat", "POSTROUTING", KUBE_POSTROUTING, ...comment("kubernetes postrouting rules")),
  jump("filter", "INPUT", KUBE_FIREWALL), // as kubelet does; neither ever removes them
  jump("filter", "OUTPUT", KUBE_FIREWALL),
];
