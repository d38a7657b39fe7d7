// The node's own addresses: on which NodePorts answer, and as whom remote backends see traffic from outside.
import { type Address, type Family, familyOf, type Prefix, prefixContains } from "../model/address.ts";
import type { NodeAddress } from "../model/desired.ts";
import type { Node } from "../model/snapshot.ts";

/**
 * NodePorts answer on all local addresses, on those inside the given prefixes (a family without a prefix of its own
 * falls back to all), or on the primary one of each family. Never on ::1 (as kube-proxy) nor on link-local IPv6, which
 * mean nothing without an interface. IPv4 loopback is kept and marked.
 */
export const nodeAddresses = (
  local: readonly Address[],
  wanted: readonly Prefix[] | "primary",
  node: Node | null,
): readonly NodeAddress[] => {
  const usable = [...new Set(local)].filter((a) => a !== "::1" && !isLinkLocalV6(a));
  const primaries = (["IPv4", "IPv6"] as const).map((family) => primaryOf(family, usable, node));
  return usable
    .map((address) => {
      const primary = primaries.includes(address);
      const nodePorts = wanted === "primary" ? primary : isWanted(address, wanted);
      return { address, loopback: isLoopback(address), primary, nodePorts };
    })
    .sort(byFamilyThenText);
};

/** The first address of the Node object that is local; else the first local one that is no loopback. */
const primaryOf = (family: Family, local: readonly Address[], node: Node | null): Address | null => {
  const candidates = local.filter((a) => familyOf(a) === family && !isLoopback(a));
  return node?.addresses.find((a) => candidates.includes(a)) ?? candidates[0] ?? null;
};

const isWanted = (address: Address, wanted: readonly Prefix[]): boolean => {
  const ofFamily = wanted.filter((p) => familyOf(p) === familyOf(address));
  return ofFamily.length === 0 || ofFamily.some((p) => prefixContains(p, address));
};

const byFamilyThenText = (a: NodeAddress, b: NodeAddress): number => {
  const [x, y] = [a, b].map(({ address }) => `${familyOf(address)} ${address}`);
  return (x ?? "") < (y ?? "") ? -1 : 1;
};

const isLoopback = (address: Address): boolean => address === "::1" || address.startsWith("127.");

/** fe80::/10. */
const isLinkLocalV6 = (address: Address): boolean => /^fe[89ab]/.test(address);
