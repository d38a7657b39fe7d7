// Takes the rules of kube-proxy's iptables mode off this node, in both flavours, whoever wrote them.
import { RefusedError } from "../../lib/errors.ts";
import type { Family } from "../../model/address.ts";
import { deleteCounter, openIptables, versionOf } from "./command.ts";
import { hasLegacyTable } from "./flavour.ts";
import { TABLES } from "./jumps.ts";
import { COUNTERS } from "./names.ts";
import { removal } from "./saved.ts";

export interface Removed {
  /** `IPv4 nat: 12 chains (nft)`. */
  readonly removed: readonly string[];
  /** What a stranger's rule still uses. */
  readonly kept: readonly string[];
}

/** KUBE-FIREWALL stays, with the jumps to it: it is kubelet's as well. */
export const resetIptables = (families: readonly Family[]): Removed => {
  const flavours = (["nft", "legacy"] as const).filter((flavour) => versionOf(`iptables-${flavour}`) !== null);
  if (flavours.length === 0) {
    throw new RefusedError("Cannot remove rules: iptables not found (Debian package iptables)");
  }
  const removed: string[] = [];
  const kept: string[] = [];
  for (const flavour of flavours) {
    for (const family of families) {
      for (const table of TABLES) {
        if (flavour === "legacy" && !hasLegacyTable(family, table)) continue;
        const iptables = openIptables(family, flavour);
        const found = removal(table, iptables.save(table));
        if (found === null) continue;
        iptables.restore(found.input);
        const where = `${family} ${table}`;
        removed.push(`${where}: ${found.removed.length} chains (${flavour})`);
        kept.push(...found.kept.map((chain) => `${where}: ${chain}, which another rule uses (${flavour})`));
      }
    }
  }
  if (versionOf("nfacct") !== null)
    removed.push(...COUNTERS.filter(deleteCounter).map((name) => `packet counter ${name}`));
  return { removed, kept };
};
