// Source ranges of one service: wider before the commit, narrower after it.
import { familyOf, type Prefix } from "../../model/address.ts";
import type { Holding } from "./actual.ts";
import { encode } from "./codec.ts";
import { type Draft, NOTHING } from "./draft.ts";

/**
 * kube-proxy lets node → VIP pass when one of the node's own addresses is inside a range, because such a packet may carry
 * the VIP as its source. Here nothing is written for that: the programs ask the ranges with the node's address itself.
 * True: something is kept that is not wanted.
 */
export const planRanges = (draft: Draft, holding: Holding, wanted: Holding["ranges"]): boolean => {
  const { actual, changes } = draft;
  let kept = false;
  for (const [prefix, row] of wanted) {
    const old = holding.ranges.get(prefix);
    if (old?.value.allow === row.value.allow) continue;
    const narrows = old !== undefined && row.value.allow === 0;
    if (narrows && !draft.prune) {
      kept = true;
      continue;
    }
    const phase = narrows ? changes.narrow_source_ranges : changes.add_source_ranges;
    phase.push({ key: encode("source_range_key", row.key), value: encode("source_range", row.value) });
    if (old === undefined) actual.room.source_ranges--;
    holding.ranges.set(prefix, row);
  }
  for (const prefix of inOrderOfRemoval(holding)) {
    if (wanted.has(prefix)) continue;
    if (draft.prune) dropRange(draft, holding, prefix);
    else kept = true;
  }
  return kept;
};

/** IPv6 first: an IPv4 row may be what keeps IPv4 clients out of an IPv6 range. */
const inOrderOfRemoval = ({ ranges }: Holding): Prefix[] => {
  const prefixes = [...ranges.keys()];
  return [
    ...prefixes.filter((prefix) => familyOf(prefix) === "IPv6"),
    ...prefixes.filter((prefix) => familyOf(prefix) === "IPv4"),
  ];
};

/** Every one of them. */
export const dropRanges = (draft: Draft, holding: Holding): void => {
  for (const prefix of inOrderOfRemoval(holding)) dropRange(draft, holding, prefix);
};

const dropRange = (draft: Draft, holding: Holding, prefix: Prefix): void => {
  const row = holding.ranges.get(prefix);
  if (row === undefined) return;
  draft.changes.drop_source_ranges.push({ key: encode("source_range_key", row.key), value: NOTHING });
  holding.ranges.delete(prefix);
};
