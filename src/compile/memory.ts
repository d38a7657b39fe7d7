// What compile() remembers between two snapshots, so that one change costs one Service: who claims which address, which
// addresses are ClusterIPs, and what every Service was made of. Only compile() looks inside.
import type { Address } from "../model/address.ts";
import type { ObjectKey, Service } from "../model/snapshot.ts";
import { type Claims, replaceClaims } from "./claims.ts";
import type { Compiled } from "./compile.ts";
import type { NodeFacts } from "./endpoints.ts";
import type { NamedSlices, ServiceResult } from "./service.ts";

export interface CompileMemory {
  /** Services that have a dataplane. */
  readonly services: Map<ObjectKey, Service>;
  readonly claims: Claims;
  /** Every ClusterIP, with the number of Services that have it. */
  readonly clusterIPs: Map<Address, number>;
  readonly results: Map<ObjectKey, Made>;
  facts: NodeFacts | null;
  last: Compiled | null;
}

/** What became of a Service, and the slices it was made of. */
export interface Made {
  readonly slices: NamedSlices;
  readonly result: ServiceResult;
}

export const createMemory = (): CompileMemory => ({
  services: new Map(),
  claims: new Map(),
  clusterIPs: new Map(),
  results: new Map(),
  facts: null,
  last: null,
});

/**
 * Takes in which Services there are. Answers those that must be compiled again on that account: the changed ones, those
 * that claim an address together with one, and those with an endpoint at an address that became a ClusterIP or is none
 * any more.
 */
export const replaceServices = (memory: CompileMemory, wanted: ReadonlyMap<ObjectKey, Service>): Set<ObjectKey> => {
  const dirty = new Set<ObjectKey>();
  const moved = new Set<Address>();
  const replace = (key: ObjectKey, after: Service | null): void => {
    const before = memory.services.get(key) ?? null;
    for (const rival of replaceClaims(memory.claims, before, after)) dirty.add(rival);
    for (const address of new Set(before?.clusterIPs)) countClusterIP(memory, address, -1, moved);
    for (const address of new Set(after?.clusterIPs)) countClusterIP(memory, address, 1, moved);
    if (after === null) memory.services.delete(key);
    else memory.services.set(key, after);
    dirty.add(key);
  };
  const served = (key: ObjectKey): Service | null => {
    const service = wanted.get(key);
    return service === undefined || service.skip !== null ? null : service;
  };
  for (const key of memory.services.keys()) if (served(key) === null) replace(key, null);
  for (const [key, service] of wanted) {
    if (service.skip === null && memory.services.get(key) !== service) replace(key, service);
  }
  if (moved.size > 0) {
    for (const [key, { slices }] of memory.results) {
      if (slices.some(([, slice]) => slice.endpoints.some((e) => moved.has(e.address)))) dirty.add(key);
    }
  }
  return dirty;
};

/** `moved`: addresses that began or ceased to be a ClusterIP since it was empty. */
const countClusterIP = (memory: CompileMemory, address: Address, by: 1 | -1, moved: Set<Address>): void => {
  const before = memory.clusterIPs.get(address) ?? 0;
  const after = before + by;
  if (after === 0) memory.clusterIPs.delete(address);
  else memory.clusterIPs.set(address, after);
  if (before > 0 && after > 0) return;
  if (!moved.delete(address)) moved.add(address);
};
