// The meaning of a Desired, executable: what happens to a packet. explain, the scenarios and the differential tests ask
// it; the dataplanes must answer the same, but for the differences that docs/semantics.md lists.
import { type Address, familyOf, prefixContains } from "../model/address.ts";
import type { Desired, DesiredService, Frontend, FrontendKind } from "../model/desired.ts";
import type { Packet, Scope, Verdict } from "../model/verdict.ts";
import { entranceKey } from "./frontends.ts";

/** What a new connection, or a first datagram, meets. Affinity is named, not remembered: every backend is answered. */
export const evaluate = (desired: Desired, packet: Packet): Verdict => {
  const scope: Scope = packet.from.place === "outside" ? "external" : "internal";
  const found = findFrontend(desired, packet);
  if (found === null)
    return refuses(desired, packet.to.address, scope)
      ? { kind: "unlisted", scope }
      : { kind: "pass", reason: "not a frontend" };
  const { service, frontend } = found;
  const where = { service: service.name, frontend, scope };
  if (frontend.restricted && !mayEnter(desired, service, packet))
    return { kind: "drop", ...where, reason: "not in source ranges" };
  const choice = frontend[scope];
  switch (choice.kind) {
    case "reject":
      return { kind: "reject", ...where, reason: "no endpoints" };
    case "drop":
      return { kind: "drop", ...where, reason: "no local endpoints" };
    case "backends":
      return {
        kind: "forward",
        ...where,
        // The client's address is kept unless the reply could not come back through this node.
        backends: choice.backends.map((backend) => ({
          backend,
          source: scope === "external" && !backend.local ? "node" : "client",
        })),
        affinity_timeout_s: service.affinity_timeout_s,
      };
  }
};

interface Found {
  readonly service: DesiredService;
  readonly frontend: Frontend;
}

/** An address of its own comes before a NodePort at the same address. */
const findFrontend = (desired: Desired, { from, to }: Packet): Found | null => {
  const family = familyOf(to.address);
  const frontends = indexOf(desired);
  const vip = frontends.get(entranceKey({ family, address: to.address, port: to.port }, to.protocol));
  if (vip !== undefined) return vip;
  const node = desired.nodeAddresses.find(({ address, nodePorts }) => nodePorts && address === to.address);
  if (node === undefined || (node.loopback && from.place !== "node")) return null;
  return frontends.get(entranceKey({ family, address: null, port: to.port }, to.protocol)) ?? null;
};

/**
 * A VIP, to which nothing else is ever sent. To whoever is inside only a ClusterIP: what is sent to the other ports of a
 * load balancer's or external IP leaves the node, and may be served out there.
 */
const refuses = (desired: Desired, address: Address, scope: Scope): boolean => {
  const kinds = addressesOf(desired).get(address);
  if (kinds === undefined || desired.nodeAddresses.some((node) => node.address === address)) return false;
  return scope === "external" || kinds.has("ClusterIP");
};

/**
 * Pods are checked like everybody else. The node itself may enter with any of its addresses: which one a packet of its
 * own will carry is not decided yet when a socket connects, and where the VIP is bound to an interface it is the VIP.
 */
const mayEnter = ({ nodeAddresses }: Desired, { sourceRanges }: DesiredService, { from, to }: Packet): boolean => {
  const own = from.place === "node" ? nodeAddresses.filter((a) => !a.loopback).map((a) => a.address) : [];
  const sources = [from.address, ...own].filter((address) => familyOf(address) === familyOf(to.address));
  return sources.some((address) => sourceRanges.some((range) => prefixContains(range, address)));
};

const addresses = new WeakMap<Desired, ReadonlyMap<Address, ReadonlySet<FrontendKind>>>();

/** What every address is that a frontend has of its own; made once for a Desired. */
const addressesOf = (desired: Desired): ReadonlyMap<Address, ReadonlySet<FrontendKind>> => {
  const known = addresses.get(desired);
  if (known !== undefined) return known;
  const kinds = new Map<Address, Set<FrontendKind>>();
  for (const { address, kind } of [...desired.services.values()].flatMap(({ frontends }) => frontends)) {
    if (address !== null) kinds.set(address, (kinds.get(address) ?? new Set()).add(kind));
  }
  addresses.set(desired, kinds);
  return kinds;
};

const indexes = new WeakMap<Desired, ReadonlyMap<string, Found>>();

/** Every frontend by entranceKey(); made once for a Desired. */
const indexOf = (desired: Desired): ReadonlyMap<string, Found> => {
  const known = indexes.get(desired);
  if (known !== undefined) return known;
  const index = new Map<string, Found>();
  for (const service of desired.services.values()) {
    for (const frontend of service.frontends)
      index.set(entranceKey(frontend, service.name.protocol), { service, frontend });
  }
  indexes.set(desired, index);
  return index;
};
