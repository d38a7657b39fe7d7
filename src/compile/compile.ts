// Snapshot → Desired: what kube-proxy would do with these Services on this node, as a value. Pure; with a memory, one
// change costs one Service, plus a look at the identity of every other.
import type { Address, Family, Prefix } from "../model/address.ts";
import type { Desired, NodeAddress } from "../model/desired.ts";
import type { EndpointSlice, Problem, Snapshot } from "../model/snapshot.ts";
import { equal } from "./equal.ts";
import { type CompileMemory, createMemory, replaceServices } from "./memory.ts";
import { nodeAddresses } from "./node-addresses.ts";
import { compileService, type HealthCheck, type NamedSlices, type NoLocalEndpoints } from "./service.ts";

export { type CompileMemory, createMemory } from "./memory.ts";
export type { HealthCheck, NoLocalEndpoints } from "./service.ts";

export interface CompileOptions {
  readonly nodeName: string;
  /** Of this node's interfaces, loopback included. */
  readonly localAddresses: readonly Address[];
  /** []: every local address. A family without a prefix of its own: every local address of it. */
  readonly nodePortAddresses: readonly Prefix[] | "primary";
}

export interface Compiled {
  readonly desired: Desired;
  /** What is left out, and why; sorted by object. */
  readonly problems: readonly Problem[];
  /** Sorted by namespace and name. */
  readonly healthChecks: readonly HealthCheck[];
  readonly noLocalEndpoints: NoLocalEndpoints;
}

/**
 * The answer depends on the snapshot and the options only, not on the order of anything nor on the memory. With the
 * memory of an earlier call a DesiredService that would be equal is the identical value (===), and so is the whole
 * answer when nothing changed.
 */
export const compile = (
  snapshot: Snapshot,
  options: CompileOptions,
  memory: CompileMemory = createMemory(),
): Compiled => {
  const changed = recompile(snapshot, options, memory);
  const { last } = memory;
  const addresses = nodeAddresses(options.localAddresses, options.nodePortAddresses, snapshot.node);
  const known = last?.desired.nodeAddresses;
  const moved = known === undefined || !equal(addresses, known);
  if (last !== null && !changed && !moved) return last;
  memory.last = collect(memory, moved ? addresses : known);
  return memory.last;
};

/** Brings the memory up to date; false when every result is as it was. */
const recompile = (snapshot: Snapshot, { nodeName }: CompileOptions, memory: CompileMemory): boolean => {
  const dirty = replaceServices(memory, snapshot.services);
  const facts = { nodeName, zone: snapshot.node?.zone ?? null };
  const moved = !equal(facts, memory.facts);
  memory.facts = facts;

  let changed = false;
  for (const key of memory.results.keys()) {
    if (!memory.services.has(key)) changed = memory.results.delete(key);
  }
  for (const [key, service] of memory.services) {
    const before = memory.results.get(key);
    const clean = before !== undefined && !moved && !dirty.has(key);
    if (clean && sameSlices(before.slices, snapshot.slices.get(key))) continue;
    const sorted = [...(snapshot.slices.get(key) ?? [])].sort(([a], [b]) => (a < b ? -1 : 1));
    const result = compileService(service, sorted, facts, memory, before?.result ?? null);
    if (result !== before?.result) changed = true;
    memory.results.set(key, { slices: sorted, result });
  }
  return changed;
};

const sameSlices = (before: NamedSlices, now: ReadonlyMap<string, EndpointSlice> | undefined): boolean =>
  before.length === (now?.size ?? 0) && before.every(([name, slice]) => now?.get(name) === slice);

const collect = (memory: CompileMemory, addresses: readonly NodeAddress[]): Compiled => {
  const results = [...memory.results.values()].map(({ result }) => result);
  const noLocal = (kind: keyof NoLocalEndpoints, family: Family): number =>
    results.reduce((sum, { noLocalEndpoints }) => sum + noLocalEndpoints[kind][family], 0);
  const healthChecks = results.flatMap(({ healthCheck }) => healthCheck ?? []);
  return {
    desired: { services: new Map(results.flatMap(({ ports }) => ports)), nodeAddresses: addresses },
    problems: results.flatMap(({ problems }) => problems).sort(byText(({ object, path }) => `${object} ${path}`)),
    healthChecks: healthChecks.sort(byText(({ namespace, name }) => `${namespace}/${name}`)),
    noLocalEndpoints: {
      internal: { IPv4: noLocal("internal", "IPv4"), IPv6: noLocal("internal", "IPv6") },
      external: { IPv4: noLocal("external", "IPv4"), IPv6: noLocal("external", "IPv6") },
    },
  };
};

const byText =
  <T>(text: (value: T) => string): ((a: T, b: T) => number) =>
  (a, b) =>
    text(a) < text(b) ? -1 : text(a) > text(b) ? 1 : 0;
