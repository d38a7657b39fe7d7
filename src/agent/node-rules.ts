// What kube-proxy, or a dataplane like it, has written on this node: read by the programs that list it, whichever mode
// it is. Nothing is written.
import { existsSync, readFileSync } from "node:fs";
import type { Reading } from "../compile/reading.ts";
import { type Flavour, openIptables } from "../dataplane/iptables/command.ts";
import { hasLegacyTable } from "../dataplane/iptables/flavour.ts";
import { readIptables, type SavedText } from "../dataplane/iptables/readback.ts";
import { readIpvs } from "../dataplane/ipvs/readback.ts";
import { listIpvs, listNftables } from "../dataplane/listing.ts";
import { readNftables } from "../dataplane/nftables/readback.ts";
import { isRefusedError, messageOf, RefusedError } from "../lib/errors.ts";
import { count, list } from "../lib/text.ts";
import type { Address, Family } from "../model/address.ts";
import { hasIPv6 } from "./host.ts";

export type Rules = "iptables" | "nftables" | "ipvs";

/** A mode, or whatever kube-proxy left here. */
export type Wanted = Rules | "kube-proxy";

/**
 * Of several that hold frontends (two flavours of iptables, an old mode that was not cleaned up) the one with the most
 * is read; the others are named in its problems. Throws RefusedError when there is none.
 */
export const readNodeRules = (wanted: Wanted, localAddresses: readonly Address[]): Reading => {
  if (process.geteuid?.() !== 0) throw new RefusedError("Cannot read the rules of this node: this needs root");
  const refusals: string[] = [];
  const found = PLACES.filter(({ rules }) => wanted === "kube-proxy" || rules === wanted)
    .flatMap((place) => {
      try {
        return place.read(localAddresses) ?? [];
      } catch (error) {
        if (!(isRefusedError(error) || error instanceof Error)) throw error;
        refusals.push(messageOf(error));
        return [];
      }
    })
    .sort((a, b) => frontendsIn(b) - frontendsIn(a));
  const [first, ...rest] = found.filter((reading) => frontendsIn(reading) > 0);
  if (first === undefined) throw new RefusedError(nothing(wanted, refusals));
  const others = rest.map((reading) => ({
    object: reading.from,
    path: "",
    message: `${count(frontendsIn(reading), "frontend")} here, too, which are not compared`,
  }));
  return { ...first, problems: [...first.problems, ...others] };
};

interface Place {
  readonly rules: Rules;
  /** null: nothing of the kind is here. */
  read(localAddresses: readonly Address[]): Reading | null;
}

const PLACES: readonly Place[] = [
  { rules: "iptables", read: (local) => readFlavour("nft", local) },
  { rules: "iptables", read: (local) => readFlavour("legacy", local) },
  { rules: "nftables", read: (local) => readTables(local) },
  { rules: "ipvs", read: () => (hasIpvs() ? readIpvs(listIpvs(), "IPVS of this node") : null) },
];

const readFlavour = (flavour: Flavour, localAddresses: readonly Address[]): Reading | null => {
  const texts = families().flatMap((family) => savedBy(family, flavour));
  return readIptables(texts, { from: `iptables-${flavour} of this node`, localAddresses });
};

const savedBy = (family: Family, flavour: Flavour): readonly SavedText[] => {
  const iptables = openIptables(family, flavour);
  const name = `${family === "IPv4" ? "iptables" : "ip6tables"}-${flavour}`;
  return (["nat", "filter"] as const).map((table) => {
    const there = flavour === "nft" || hasLegacyTable(family, table);
    // What is not there is known to be empty.
    const text = (there ? iptables.save(table) : "") || `*${table}\nCOMMIT\n`;
    return { text, name: `${name} ${table}`, family };
  });
};

const families = (): readonly Family[] => (hasIPv6() ? ["IPv4", "IPv6"] : ["IPv4"]);

const readTables = (localAddresses: readonly Address[]): Reading | null => {
  const texts = listNftables();
  const options = { from: "nftables of this node", localAddresses, families: families() };
  return texts.length === 0 ? null : readNftables(texts, options);
};

/** The list has three lines of headings. */
const hasIpvs = (): boolean => {
  const path = "/proc/self/net/ip_vs";
  return existsSync(path) && readFileSync(path, "utf8").trim().split("\n").length > 3;
};

const frontendsIn = ({ desired }: Reading): number =>
  [...desired.services.values()].reduce((sum, { frontends }) => sum + frontends.length, 0);

const nothing = (wanted: Wanted, refusals: readonly string[]): string => {
  const what = wanted === "kube-proxy" ? "kube-proxy has left nothing" : `There is no Service in ${wanted}`;
  const where = wanted === "kube-proxy" ? " on this node: no Service in iptables, nftables or IPVS" : " on this node";
  return `${what}${where}${refusals.length === 0 ? "" : ` (${list(refusals)})`}`;
};
