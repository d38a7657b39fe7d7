// An EndpointSlice, or a legacy Endpoints object, as values. An endpoint or port that is not usable is left out and named.
import { type Address, familyOf } from "../model/address.ts";
import type { Endpoint, EndpointPort, EndpointSlice } from "../model/snapshot.ts";
import {
  address,
  at,
  type Field,
  flag,
  isAbsent,
  isLabel,
  items,
  member,
  oneOf,
  port,
  problem,
  remark,
  text,
  time,
} from "./field.ts";
import {
  annotationField,
  hasLabel,
  LABEL_HEADLESS,
  LABEL_PROXY_NAME,
  LABEL_SERVICE_NAME,
  labelField,
  type Meta,
} from "./meta.ts";
import { readPortName, readProtocol } from "./service.ts";
import { refuseSpecial } from "./special.ts";

const FAMILIES = ["IPv4", "IPv6"] as const;

/** Null for a slice that is no use to us: of names (FQDN), of another proxy or of a headless Service; or a broken one. */
export const readEndpointSlice = (meta: Meta, proxyName: string | null): EndpointSlice | null => {
  const type = member(meta.root, "addressType");
  if (type.value === "FQDN" || hasLabel(meta, LABEL_HEADLESS)) return null;
  const owner = labelField(meta, LABEL_PROXY_NAME);
  if (proxyName === null ? !isAbsent(owner) : owner.value !== proxyName) return null;
  const serviceName = readServiceName(labelField(meta, LABEL_SERVICE_NAME));
  const family = isAbsent(type) ? remark(type, "the slice has no addressType") : oneOf(type, FAMILIES);
  if (serviceName === null || family === null) return null;
  return {
    namespace: meta.namespace,
    name: meta.name,
    serviceName,
    family,
    ports: readPorts(member(meta.root, "ports")),
    endpoints: items(member(meta.root, "endpoints")).flatMap((item) => readEndpoint(item, family)),
    triggered_ms: readTriggered(meta),
  };
};

const readServiceName = (field: Field): string | null => {
  if (isAbsent(field)) return remark(field, "the slice does not say which Service it belongs to");
  const name = text(field);
  return name === null || isLabel(name) ? name : problem(field, "is not the name of a Service");
};

/** Only the first address counts, as with kube-proxy: the others are the same endpoint's. */
const readEndpoint = (item: Field, family: EndpointSlice["family"]): readonly Endpoint[] => {
  const first = items(member(item, "addresses"))[0];
  if (first === undefined || isAbsent(first)) {
    remark(item, "the endpoint has no address");
    return [];
  }
  const ip = refuseSpecial(first, address(first));
  if (ip === null) return [];
  if (familyOf(ip) !== family) {
    problem(first, `is not an ${family} address, as the slice's addressType says`);
    return [];
  }
  const conditions = member(item, "conditions");
  return [
    {
      address: ip,
      ready: flag(member(conditions, "ready")) ?? true,
      serving: flag(member(conditions, "serving")) ?? true,
      terminating: flag(member(conditions, "terminating")) ?? false,
      nodeName: text(member(item, "nodeName")),
      hintNodes: readHints(at(item, "hints", "forNodes")),
      hintZones: readHints(at(item, "hints", "forZones")),
    },
  ];
};

const readHints = (field: Field): readonly string[] =>
  items(field).flatMap((item) => {
    const name = text(member(item, "name"));
    return name === null ? [] : [name];
  });

/** A port without a number would mean "every port": no Service can use it, so it is left out in silence. */
const readPorts = (field: Field): readonly EndpointPort[] => {
  const ports: EndpointPort[] = [];
  for (const item of items(field)) {
    const numberField = member(item, "port");
    if (isAbsent(numberField)) continue;
    const name = readPortName(member(item, "name"));
    const protocol = readProtocol(member(item, "protocol"));
    const number = port(numberField);
    if (name === null || protocol === null || number === null) continue;
    if (ports.some((other) => other.name === name && other.protocol === protocol))
      problem(member(item, "name"), "names an earlier port already");
    else ports.push({ name, protocol, port: number });
  }
  return ports;
};

const readTriggered = (meta: Meta): number | null =>
  time(annotationField(meta, "endpoints.kubernetes.io/last-change-trigger-time"));

/** One slice for each subset and family that has an address. */
export const readEndpoints = (meta: Meta): readonly EndpointSlice[] => {
  const triggered_ms = readTriggered(meta);
  return items(member(meta.root, "subsets")).flatMap((subset, i) => {
    const ports = readPorts(member(subset, "ports"));
    const endpoints = [
      ...items(member(subset, "addresses")).flatMap((item) => readLegacy(item, true)),
      ...items(member(subset, "notReadyAddresses")).flatMap((item) => readLegacy(item, false)),
    ];
    return FAMILIES.flatMap((family): readonly EndpointSlice[] => {
      const own = endpoints.filter((endpoint) => familyOf(endpoint.address) === family);
      if (own.length === 0) return [];
      const name = `${meta.name}-endpoints-${i}-${family.toLowerCase()}`;
      const { namespace, name: serviceName } = meta;
      return [{ namespace, name, serviceName, family, ports, endpoints: own, triggered_ms }];
    });
  });
};

const readLegacy = (item: Field, ready: boolean): readonly Endpoint[] => {
  const field = member(item, "ip");
  const ip: Address | null = isAbsent(field)
    ? remark(field, "the endpoint has no address")
    : refuseSpecial(field, address(field));
  if (ip === null) return [];
  const nodeName = text(member(item, "nodeName"));
  return [{ address: ip, ready, serving: ready, terminating: false, nodeName, hintNodes: [], hintZones: [] }];
};
