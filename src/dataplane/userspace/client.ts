// Who a client is, by the address that it connects from: which policy it meets, and whether it may enter. Pure. An
// address is all that a proxy sees; devices and marks are gone by the time a connection is accepted.
import { type Address, familyOf, type Prefix, prefixContains } from "../../model/address.ts";
import type { Backend, DesiredService, Frontend } from "../../model/desired.ts";

export interface Surroundings {
  /** Of this node's interfaces, loopback included. */
  readonly own: ReadonlySet<Address>;
  /** Where the pods of this node have their addresses. */
  readonly podCIDRs: readonly Prefix[];
  /** Pods of this node that are known as backends. */
  readonly pods: ReadonlySet<Address>;
}

/** Whom a client of a frontend may be sent to; nobody: it may not enter, or its policy leaves none. */
export const listFor = (
  client: Address,
  frontend: Frontend,
  service: DesiredService,
  surroundings: Surroundings,
): { readonly scope: "internal" | "external"; readonly backends: readonly Backend[] } => {
  const scope = scopeOf(client, surroundings);
  const choice = frontend[scope];
  const entered = choice.kind === "backends" && mayEnter(client, frontend, service, surroundings);
  return { scope, backends: entered ? choice.backends : [] };
};

/** Pods of this node and the node itself are inside, everybody else is not. */
export const scopeOf = (client: Address, { own, podCIDRs, pods }: Surroundings): "internal" | "external" =>
  own.has(client) || pods.has(client) || podCIDRs.some((prefix) => prefixContains(prefix, client))
    ? "internal"
    : "external";

/** By the source ranges of a restricted frontend. The node itself may enter with any of its addresses of the family. */
export const mayEnter = (
  client: Address,
  { restricted }: Frontend,
  { sourceRanges }: DesiredService,
  { own }: Surroundings,
): boolean => {
  if (!restricted) return true;
  const sources = own.has(client) ? [...own].filter((address) => isAnother(client, address)) : [client];
  return sources.some((address) => sourceRanges.some((range) => prefixContains(range, address)));
};

/** That a socket of the same host could have. */
const isAnother = (client: Address, address: Address): boolean =>
  familyOf(address) === familyOf(client) && !isLoopback(address);

const isLoopback = (address: Address): boolean => address === "::1" || address.startsWith("127.");
