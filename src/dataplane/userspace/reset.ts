// Takes the rules of the userspace proxy off this node, in both flavours of iptables: those of a process that was killed.
import { RefusedError } from "../../lib/errors.ts";
import type { Family } from "../../model/address.ts";
import { openIptables, versionOf } from "../iptables/command.ts";
import { hasLegacyTable } from "../iptables/flavour.ts";
import { removeRules } from "./userspace.ts";

/** Answers where there were some: `IPv4 nat (nft)`. */
export const resetUserspace = (families: readonly Family[]): readonly string[] => {
  const flavours = (["nft", "legacy"] as const).filter((flavour) => versionOf(`iptables-${flavour}`) !== null);
  if (flavours.length === 0)
    throw new RefusedError("Cannot remove rules: iptables not found (Debian package iptables)");
  return flavours.flatMap((flavour) => {
    const there = families.filter((family) => flavour === "nft" || hasLegacyTable(family, "nat"));
    return removeRules(there.map((family) => openIptables(family, flavour))).map((where) => `${where} (${flavour})`);
  });
};
