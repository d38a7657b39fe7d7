// A Service object as a value. Whatever in it is not usable is left out and named; the rest stands.
import { type Address, type Family, familyOf, type Prefix, parsePrefix } from "../model/address.ts";
import type { Service, ServicePort } from "../model/snapshot.ts";
import {
  address,
  at,
  type Field,
  integer,
  isAbsent,
  isLabel,
  isRecord,
  items,
  member,
  oneOf,
  port,
  problem,
  remark,
  text,
  time,
} from "./field.ts";
import { hasLabel, LABEL_HEADLESS, LABEL_PROXY_NAME, labelField, type Meta } from "./meta.ts";
import { refuseSpecial } from "./special.ts";

const POLICIES = ["Cluster", "Local"] as const;
const TYPES = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"] as const;
const PROTOCOLS = ["TCP", "UDP", "SCTP"] as const;

/** The API's default and limit for sessionAffinityConfig.clientIP.timeoutSeconds. */
const AFFINITY_DEFAULT_S = 10800;
const AFFINITY_MAX_S = 86400;

/**
 * A source range that no packet comes from. It stands for ranges that could not be read, so that a Service whose
 * author meant to close it is never open to everybody.
 */
const NOBODY: Readonly<Record<Family, Prefix>> = {
  IPv4: "255.255.255.255/32" as Prefix,
  IPv6: "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128" as Prefix,
};

/** Null when there is nothing in it. `proxyName`: the value of label service-proxy-name that is ours; null: no label. */
export const readService = (meta: Meta, proxyName: string | null): Service | null => {
  const spec = member(meta.root, "spec");
  if (!isRecord(spec.value)) return remark(spec, "the Service has no spec");
  const type = oneOf(member(spec, "type"), TYPES) ?? "ClusterIP";
  const externalTrafficPolicy = oneOf(member(spec, "externalTrafficPolicy"), POLICIES) ?? "Cluster";
  const clusterIPs = readClusterIPs(spec);
  const created = at(meta.root, "metadata", "creationTimestamp");
  return {
    namespace: meta.namespace,
    name: meta.name,
    uid: text(at(meta.root, "metadata", "uid")) ?? "",
    created_ms: time(created) ?? 0,
    skip: whySkipped(meta, proxyName, type, clusterIPs),
    type,
    clusterIPs: clusterIPs === "None" ? [] : clusterIPs,
    externalIPs: distinct(items(member(spec, "externalIPs")).map(readVip)),
    loadBalancerIPs: readLoadBalancerIPs(meta),
    sourceRanges: readSourceRanges(member(spec, "loadBalancerSourceRanges")),
    internalTrafficPolicy: oneOf(member(spec, "internalTrafficPolicy"), POLICIES) ?? "Cluster",
    externalTrafficPolicy,
    affinity_timeout_s: readAffinity(spec),
    healthCheckNodePort:
      type === "LoadBalancer" && externalTrafficPolicy === "Local"
        ? readOptionalPort(member(spec, "healthCheckNodePort"))
        : null,
    ports: readPorts(member(spec, "ports")),
  };
};

const whySkipped = (
  meta: Meta,
  proxyName: string | null,
  type: Service["type"],
  clusterIPs: readonly Address[] | "None",
): Service["skip"] => {
  const label = labelField(meta, LABEL_PROXY_NAME);
  if (proxyName === null ? !isAbsent(label) : label.value !== proxyName) return "service-proxy-name";
  if (type === "ExternalName") return "ExternalName";
  if (clusterIPs === "None" || hasLabel(meta, LABEL_HEADLESS)) return "headless";
  return clusterIPs.length === 0 ? "no clusterIP" : null;
};

/** At most one of each family, in the object's order: spec.clusterIPs, or spec.clusterIP where there is no list. */
const readClusterIPs = (spec: Field): readonly Address[] | "None" => {
  const single = member(spec, "clusterIP");
  const list = items(member(spec, "clusterIPs"));
  const fields = list.length > 0 ? list : [single];
  if (single.value === "None" || fields.some((f) => f.value === "None")) return "None";
  const found: Address[] = [];
  for (const field of fields) {
    if (field.value === "") continue;
    const ip = readVip(field);
    if (ip === null) continue;
    if (found.some((other) => familyOf(other) === familyOf(ip))) problem(field, `is a second ${familyOf(ip)} address`);
    else found.push(ip);
  }
  return found;
};

const readVip = (field: Field): Address | null => refuseSpecial(field, address(field));

const distinct = (addresses: readonly (Address | null)[]): readonly Address[] => [
  ...new Set(addresses.filter((a) => a !== null)),
];

/** Only what the load balancer delivers unchanged: no host names, nothing with ipMode Proxy (KEP-1860). */
const readLoadBalancerIPs = (meta: Meta): readonly Address[] =>
  distinct(
    items(at(meta.root, "status", "loadBalancer", "ingress")).map((ingress) => {
      const ip = member(ingress, "ip");
      if (ip.value === "") return null;
      const mode = member(ingress, "ipMode");
      const delivered = isAbsent(mode) || oneOf(mode, ["VIP", "Proxy"]) === "VIP";
      return delivered ? readVip(ip) : null;
    }),
  );

/**
 * An unreadable range closes every family that has no readable one: who restricts a Service and mistypes must not get
 * an open one. Ranges of one family alone leave the other open, as with kube-proxy.
 */
const readSourceRanges = (field: Field): readonly Prefix[] => {
  const ranges: Prefix[] = [];
  let unreadable = !isAbsent(field) && !Array.isArray(field.value);
  for (const item of items(field)) {
    const range = typeof item.value === "string" ? parsePrefix(item.value) : null;
    if (range !== null) ranges.push(range);
    else {
      unreadable = true;
      problem(item, "is not an address range; where no other range is left, nobody may enter");
    }
  }
  if (unreadable) {
    for (const family of ["IPv4", "IPv6"] as const)
      if (!ranges.some((range) => familyOf(range) === family)) ranges.push(NOBODY[family]);
  }
  return [...new Set(ranges)];
};

const readAffinity = (spec: Field): number => {
  if (oneOf(member(spec, "sessionAffinity"), ["ClientIP", "None"]) !== "ClientIP") return 0;
  const field = at(spec, "sessionAffinityConfig", "clientIP", "timeoutSeconds");
  const timeout_s = integer(field, 1, AFFINITY_MAX_S, "an affinity timeout in seconds");
  if (timeout_s !== null) return timeout_s;
  const tooLong = typeof field.value === "number" && field.value > AFFINITY_MAX_S;
  return tooLong ? AFFINITY_MAX_S : AFFINITY_DEFAULT_S;
};

/** Each name and each (port, protocol) once: the first stands, as the API server would have it. */
const readPorts = (field: Field): readonly ServicePort[] => {
  const ports: ServicePort[] = [];
  for (const item of items(field)) {
    const found = readPort(item);
    if (found === null) continue;
    const clash = ports.find(
      (other) => other.name === found.name || (other.port === found.port && other.protocol === found.protocol),
    );
    if (clash === undefined) ports.push(found);
    else if (clash.name === found.name) problem(member(item, "name"), "names an earlier port already");
    else problem(member(item, "port"), `is taken by port ${JSON.stringify(clash.name)} for ${found.protocol} already`);
  }
  return ports;
};

const readPort = (item: Field): ServicePort | null => {
  const name = readPortName(member(item, "name"));
  const protocol = readProtocol(member(item, "protocol"));
  const number = readRequiredPort(member(item, "port"));
  if (name === null || protocol === null || number === null) return null;
  return { name, protocol, port: number, nodePort: readOptionalPort(member(item, "nodePort")) };
};

/** "" when it has none, null when it is not one. */
export const readPortName = (field: Field): string | null => {
  if (isAbsent(field) || field.value === "") return "";
  const name = text(field);
  return name === null || isLabel(name) ? name : problem(field, "is not a port name (a label of up to 63 characters)");
};

/** TCP when it has none, null when it is not one. */
export const readProtocol = (field: Field): ServicePort["protocol"] | null =>
  isAbsent(field) || field.value === "" ? "TCP" : oneOf(field, PROTOCOLS);

const readRequiredPort = (field: Field): number | null =>
  isAbsent(field) ? remark(field, "the port has no number") : port(field);

/** The API writes 0 for none. */
const readOptionalPort = (field: Field): number | null => (field.value === 0 ? null : port(field));
