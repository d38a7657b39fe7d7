// Which iptables this node uses: rules of two flavours are both seen by every packet, so the one that is in use counts.

import { readFileSync } from "node:fs";
import { RefusedError } from "../../lib/errors.ts";
import type { Family } from "../../model/address.ts";
import { type Flavour, openIptables, versionOf } from "./command.ts";
import type { Table } from "./jumps.ts";

/**
 * The flavour in which kubelet or a kube-proxy has left chains (nft first); else what `iptables` is on this machine; else
 * the one that is there. Throws RefusedError where there is none, or not the one that is asked for.
 */
export const chooseFlavour = (wanted: Flavour | "auto"): Flavour => {
  const there = (["nft", "legacy"] as const).filter((flavour) => versionOf(`iptables-${flavour}`) !== null);
  if (wanted !== "auto") {
    if (there.includes(wanted)) return wanted;
    throw new RefusedError(`Cannot write iptables rules: iptables-${wanted} not found (Debian package iptables)`);
  }
  const [first] = there;
  if (first === undefined)
    throw new RefusedError("Cannot write iptables rules: iptables not found (Debian package iptables)");
  return there.find(isInUse) ?? there.find((flavour) => flavour === alternative()) ?? first;
};

/** Chains that Kubernetes' own programs leave for others to see which flavour they chose. */
const HINTS = /^:KUBE-(IPTABLES-HINT|KUBELET-CANARY|PROXY-CANARY) /m;

const isInUse = (flavour: Flavour): boolean => {
  if (flavour === "legacy" && !hasLegacyTable("IPv4", "mangle")) return false;
  return HINTS.test(openIptables("IPv4", flavour).save("mangle"));
};

/** Asking iptables-legacy for a table makes the table, in which every packet would then be looked up. */
export const hasLegacyTable = (family: Family, table: Table): boolean => {
  try {
    return readFileSync(`/proc/self/net/${family === "IPv4" ? "ip" : "ip6"}_tables_names`, "utf8")
      .split("\n")
      .includes(table);
  } catch {
    return false;
  }
};

/** `iptables v1.8.9 (nf_tables)`. */
const alternative = (): Flavour | null => {
  const version = versionOf("iptables");
  if (version === null) return null;
  return version.includes("nf_tables") ? "nft" : "legacy";
};
