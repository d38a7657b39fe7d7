// What differs between two snapshots, by identity: an object that did not change is the same value.
import type { Family } from "../model/address.ts";
import type { EndpointSlice, Snapshot } from "../model/snapshot.ts";

export interface Changes {
  /** Services added, changed and removed. */
  readonly services: number;
  readonly slices: number;
  /** When the oldest cause of each changed slice happened, with its family. */
  readonly triggers: readonly { readonly family: Family; readonly at_ms: number }[];
}

export const changesBetween = (before: Snapshot, after: Snapshot): Changes => {
  const services = differing(before.services, after.services).length;
  let slices = 0;
  const triggers: { family: Family; at_ms: number }[] = [];
  const none: ReadonlyMap<string, EndpointSlice> = new Map();
  for (const owner of differing(before.slices, after.slices)) {
    const [old, now] = [before.slices.get(owner) ?? none, after.slices.get(owner) ?? none];
    for (const name of differing(old, now)) {
      slices++;
      const slice = now.get(name);
      const at_ms = slice?.triggered_ms ?? null;
      // The annotation stays when something else in the slice changes: then it says nothing about this change.
      if (slice !== undefined && at_ms !== null && at_ms !== old.get(name)?.triggered_ms) {
        triggers.push({ family: slice.family, at_ms });
      }
    }
  }
  return { services, slices, triggers };
};

/** Keys whose value was added, removed or is another one. */
const differing = <K, V>(before: ReadonlyMap<K, V>, after: ReadonlyMap<K, V>): readonly K[] => {
  if (before === after) return [];
  const keys = [...after].filter(([key, value]) => before.get(key) !== value).map(([key]) => key);
  for (const key of before.keys()) if (!after.has(key)) keys.push(key);
  return keys;
};
