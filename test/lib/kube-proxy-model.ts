// kube-proxy's meaning a second time, said as plainly as it can be: straight from the objects to the answer for one
// packet, with no Desired between, nothing shared with src/compile/, and no thought of speed. For properties only.
import { type Address, familyOf, formatHostPort, prefixContains } from "../../src/model/address.ts";
import type { Endpoint, Service, ServicePort, Snapshot } from "../../src/model/snapshot.ts";
import type { Packet } from "../../src/model/verdict.ts";

export interface ModelNode {
  readonly name: string;
  /** Where NodePorts answer; loopback for the node itself. */
  readonly addresses: readonly Address[];
}

/** `pass`, `reject`, `drop`, or the endpoints, sorted, each with `!` when it sees the node instead of the client. */
export const modelAnswer = (snapshot: Snapshot, node: ModelNode, packet: Packet): string => {
  const found = owner(snapshot, node, packet);
  if (found === null) return "pass";
  const { service, port, kind } = found;
  const inside = packet.from.place !== "outside";
  if (kind === "LoadBalancer" && !mayEnter(service, node, packet)) return "drop";
  const endpoints = endpointsOf(snapshot, service, port, packet.to.address);
  const isLocal = (e: Found): boolean => e.endpoint.nodeName === node.name;
  const serving = (list: readonly Found[]): readonly Found[] =>
    list.filter(({ endpoint: e }) => !e.ready && e.serving && e.terminating);
  const ready = endpoints.filter(({ endpoint }) => endpoint.ready);

  const hinted = nearest(ready, node.name, snapshot.node?.zone ?? null);
  const cluster = hinted.length > 0 ? hinted : serving(endpoints);
  const localReady = ready.filter(isLocal);
  const local = localReady.length > 0 ? localReady : serving(endpoints.filter(isLocal));
  if (ready.length === 0 && serving(endpoints).length === 0) return "reject";

  const localOnly =
    kind === "ClusterIP"
      ? service.internalTrafficPolicy === "Local"
      : !inside && service.externalTrafficPolicy === "Local";
  const chosen = localOnly ? local : cluster;
  if (chosen.length === 0) return "drop";
  return chosen
    .map((e) => `${e.key}${!inside && !isLocal(e) ? "!" : ""}`)
    .sort()
    .join(" ");
};

type Kind = "ClusterIP" | "LoadBalancer" | "ExternalIP" | "NodePort";

interface Owner {
  readonly service: Service;
  readonly port: ServicePort;
  readonly kind: Kind;
}

const owner = (snapshot: Snapshot, node: ModelNode, { from, to }: Packet): Owner | null => {
  const family = familyOf(to.address);
  const atAddress: Owner[] = [];
  const atNodePort: Owner[] = [];
  for (const service of snapshot.services.values()) {
    const own = service.clusterIPs.find((ip) => familyOf(ip) === family);
    if (service.skip !== null || own === undefined) continue;
    for (const port of service.ports) {
      if (port.protocol !== to.protocol) continue;
      if (port.nodePort === to.port) atNodePort.push({ service, port, kind: "NodePort" });
      if (port.port !== to.port) continue;
      if (own === to.address) atAddress.push({ service, port, kind: "ClusterIP" });
      else if (service.loadBalancerIPs.includes(to.address)) atAddress.push({ service, port, kind: "LoadBalancer" });
      else if (service.externalIPs.includes(to.address)) atAddress.push({ service, port, kind: "ExternalIP" });
    }
  }
  const reachable = node.addresses.includes(to.address) && (to.address !== "127.0.0.1" || from.place === "node");
  return best(atAddress) ?? (reachable ? best(atNodePort) : null);
};

const best = (claims: readonly Owner[]): Owner | null => {
  const clusterIPs = claims.filter(({ kind }) => kind === "ClusterIP");
  const strong = clusterIPs.length > 0 ? clusterIPs : claims;
  const birth = ({ service }: Owner): number => service.created_ms || Number.POSITIVE_INFINITY;
  const oldest = Math.min(...strong.map(birth));
  const old = strong.filter((claim) => birth(claim) === oldest);
  const names = old.map(({ service }) => service.name).sort();
  return old.find(({ service }) => service.name === names[0]) ?? null;
};

const mayEnter = ({ sourceRanges }: Service, node: ModelNode, { from, to }: Packet): boolean => {
  const ranges = sourceRanges.filter((range) => familyOf(range) === familyOf(to.address));
  if (ranges.length === 0) return true;
  const clients = [from.address, ...(from.place === "node" ? node.addresses.filter((a) => a !== "127.0.0.1") : [])];
  return clients.some((client) => ranges.some((range) => prefixContains(range, client)));
};

interface Found {
  readonly key: string;
  readonly endpoint: Endpoint;
}

const endpointsOf = (snapshot: Snapshot, service: Service, port: ServicePort, to: Address): readonly Found[] => {
  const vips = [...snapshot.services.values()].filter(({ skip }) => skip === null).flatMap((s) => s.clusterIPs);
  const slices = [...snapshot.slices.values()]
    .flatMap((group) => [...group.values()])
    .filter((slice) => slice.namespace === service.namespace && slice.serviceName === service.name)
    .filter((slice) => slice.family === familyOf(to))
    .sort((a, b) => (a.name < b.name ? -1 : 1));
  const all = slices.flatMap((slice) =>
    slice.ports
      .filter(({ name, protocol }) => name === port.name && protocol === port.protocol)
      .flatMap(({ port: number }) =>
        slice.endpoints
          .filter((endpoint) => !vips.includes(endpoint.address))
          .map((endpoint) => ({ key: formatHostPort(endpoint.address, number), endpoint })),
      ),
  );
  const keys = [...new Set(all.map(({ key }) => key))];
  return keys.flatMap((key) => preferred(all.filter((found) => found.key === key)));
};

/** Of several that are one endpoint: each question narrows, unless nobody would be left. */
const preferred = (same: readonly Found[]): readonly Found[] => {
  const questions: readonly ((found: Found) => boolean)[] = [
    ({ endpoint }) => !endpoint.terminating,
    ({ endpoint }) => endpoint.ready,
    ({ endpoint }) => endpoint.serving,
    ({ endpoint }) => endpoint.nodeName === "node-a",
  ];
  return questions.reduce((left, asked) => (left.some(asked) ? left.filter(asked) : left), same).slice(0, 1);
};

const nearest = (ready: readonly Found[], nodeName: string, zone: string | null): readonly Found[] => {
  const everyHintsNode = !ready.some(({ endpoint }) => endpoint.hintNodes.length === 0);
  const here = ready.filter(({ endpoint }) => endpoint.hintNodes.includes(nodeName));
  if (everyHintsNode && here.length > 0) return here;
  const everyHintsZone = !ready.some(({ endpoint }) => endpoint.hintZones.length === 0);
  const inZone = ready.filter(({ endpoint }) => zone !== null && endpoint.hintZones.includes(zone));
  if (everyHintsZone && inZone.length > 0) return inZone;
  return ready;
};
