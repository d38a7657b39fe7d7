// What does not fit: which services, which maps, and which setting makes room.

import type { Refused } from "./draft.ts";
import type { MapName } from "./mapstore.ts";

/** Some services could not be programmed. The others were, and what was there before goes on working. */
export class CapacityError extends Error {
  override readonly name = "CapacityError";
  readonly refused: readonly Refused[];
  /** Entries that everything together needs, by map that is too small. */
  readonly needed: Readonly<Partial<Record<MapName, number>>>;

  constructor(
    refused: readonly Refused[],
    capacity: (map: MapName) => number,
    used: Readonly<Partial<Record<MapName, number>>>,
  ) {
    const needed = totals(refused, used);
    const lines = [
      ...Object.entries(needed).map(([map, need]) => needText(map as MapName, need, capacity(map as MapName))),
      ...refused.filter((one) => one.reason !== "").map((one) => `${one.service}: ${one.reason}`),
    ];
    super(`Cannot program ${names(refused)}: ${lines.join("; ")}`);
    this.refused = refused;
    this.needed = needed;
  }
}

export const isCapacityError = (error: unknown): error is CapacityError => error instanceof CapacityError;

const needText = (map: MapName, need: number, have: number): string =>
  `map ${map} needs ${need} entries and has ${have}: raise bpf.mapSizes.${map}`;

const totals = (
  refused: readonly Refused[],
  used: Readonly<Partial<Record<MapName, number>>>,
): Partial<Record<MapName, number>> => {
  const total: Partial<Record<MapName, number>> = {};
  for (const { needs } of refused) {
    for (const [map, need] of Object.entries(needs) as [MapName, number][]) {
      total[map] = (total[map] ?? used[map] ?? 0) + need;
    }
  }
  return total;
};

const names = (refused: readonly Refused[]): string => {
  const shown = refused.slice(0, 3).map((one) => one.service ?? "a node address");
  return refused.length > shown.length
    ? `${shown.join(", ")} and ${refused.length - shown.length} more`
    : shown.join(", ");
};
