// What the rules should do to a packet, from evaluate(): its answer, changed by the differences between kube-proxy and
// beeline that docs/semantics.md lists, and by what kube-proxy's rules leave to chance or to others.
import { evaluate } from "../../src/compile/evaluate.ts";
import type { RuleOptions } from "../../src/dataplane/iptables/rules.ts";
import { type Address, familyOf, formatHostPort, type Prefix, prefixContains } from "../../src/model/address.ts";
import type { Desired, DesiredService, Frontend } from "../../src/model/desired.ts";
import { servicePortKey } from "../../src/model/desired.ts";
import { isOfService, type Packet, type Verdict } from "../../src/model/verdict.ts";
import type { Outcome } from "./trace-rules.ts";

/** `passed`, `rejected`, `dropped`, or the endpoints, sorted, each with `!` when it sees the node instead of the client. */
export const outcomeText = (outcomes: readonly Outcome[]): string =>
  [
    ...new Set(
      outcomes.map(({ kind, to, masqueraded }) =>
        kind === "passed" && to !== null ? `${formatHostPort(to.address, to.port)}${masqueraded ? "!" : ""}` : kind,
      ),
    ),
  ]
    .sort()
    .join(" ");

/** `local`: every address of the node, wherever NodePorts answer. */
export const meaningText = (
  desired: Desired,
  packet: Packet,
  options: RuleOptions,
  local: readonly Address[],
): string => {
  const verdict = evaluate(desired, packet);
  if (verdict.kind === "unlisted") return "passed"; // difference 20
  if (verdict.kind === "pass") return local.includes(packet.to.address) ? closedNodePort(desired, packet) : "passed";
  const service = desired.services.get(servicePortKey(verdict.service));
  if (service === undefined) throw new Error("evaluate() names a service that is not there");
  const behind = verdict.kind === "forward" ? null : withoutAddress(desired, packet.to.address);
  if (behind !== null && evaluate(behind, packet).kind === "forward")
    return meaningText(behind, packet, options, local);
  const closed = verdict.frontend[verdict.scope].kind;
  // Difference 17.
  const leaves =
    packet.from.place === "node" && verdict.frontend.kind !== "ClusterIP" && !local.includes(packet.to.address);
  if (closed === "reject") return leaves ? "passed" : "rejected"; // before source ranges are looked at: difference 7
  if (verdict.frontend.restricted && !mayEnter(desired, service, packet)) return "dropped";
  if (closed === "drop") return "dropped";
  return endpointsText(verdict, service, packet, options);
};

/** Difference 19: what is closed at an address of its own goes on to the NodePort behind it. */
const withoutAddress = (desired: Desired, address: Address): Desired => ({
  ...desired,
  services: new Map(
    [...desired.services].map(([key, service]) => [
      key,
      { ...service, frontends: service.frontends.filter((frontend) => frontend.address !== address) },
    ]),
  ),
});

/** Difference 16: nodePortAddresses narrows where a NodePort is served, not where it is refused. */
const closedNodePort = ({ services }: Desired, { to }: Packet): string => {
  for (const { name, frontends } of services.values()) {
    const at = frontends.find((f) => f.address === null && f.port === to.port && f.family === familyOf(to.address));
    if (at === undefined || name.protocol !== to.protocol) continue;
    if (at.external.kind !== "backends") return at.external.kind === "drop" ? "dropped" : "rejected";
  }
  return "passed";
};

const endpointsText = (verdict: Verdict, service: DesiredService, packet: Packet, options: RuleOptions): string => {
  if (!isOfService(verdict)) return "passed";
  const choice = verdict.frontend[verdict.scope];
  const backends = choice.kind === "backends" ? choice.backends : [];
  const masqueraded = isMasqueraded(verdict, service, packet, options);
  return backends
    .map(({ address, port }) => {
      const hairpin = address === packet.from.address; // difference 2
      return `${formatHostPort(address, port)}${masqueraded || hairpin ? "!" : ""}`;
    })
    .sort()
    .join(" ");
};

/** Difference 1. */
const isMasqueraded = (
  verdict: Extract<Verdict, { frontend: Frontend }>,
  service: DesiredService,
  { from }: Packet,
  options: RuleOptions,
): boolean => {
  if (verdict.frontend.kind === "ClusterIP") return options.masqueradeAll || from.place !== "pod";
  return service.externalTrafficPolicy === "Cluster" || from.place === "node";
};

/** By the source that the packet has. Where the node may enter, so may whoever has the load balancer's address. */
const mayEnter = (desired: Desired, service: DesiredService, { from, to }: Packet): boolean => {
  const has = (address: Address): boolean =>
    service.sourceRanges.some((range: Prefix) => prefixContains(range, address));
  const node = desired.nodeAddresses.find((a) => a.primary && familyOf(a.address) === familyOf(to.address));
  const vips = service.frontends.flatMap((f) => (f.kind === "LoadBalancer" && f.address !== null ? [f.address] : []));
  return has(from.address) || (node !== undefined && has(node.address) && vips.includes(from.address));
};
