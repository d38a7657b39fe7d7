// Who may enter by a frontend, compared: the same addresses in other words are no difference.
import { type Address, type Family, familyOf, type Prefix } from "../model/address.ts";
import { bothServed, type Finding, type Found, isServed, type Sides } from "./finding.ts";
import type { IntendedNumber } from "./intended.ts";
import { everything, hostPrefix, sameCover } from "./ranges.ts";

export const compareRanges = (a: Found, b: Found, sides: Sides): readonly Finding[] => {
  const { knows } = sides;
  if (knows.sourceRanges === "never") return [];
  if (!bothServed(a, b, knows.sourceRanges)) return unheard(a, b, sides);
  const { family } = a.frontend;
  const [x, y] = [a, b].map((found) => allowed(found, family, knows.ownAddressInRanges));
  if (x === undefined || y === undefined || sameCover(x, y)) return [];
  return [{ kind: "source_ranges", left: words(x), right: words(y), intended: opened(a, b, sides) }];
};

/** kube-proxy's iptables mode refuses everybody where there is no endpoint; beeline drops who may not enter. */
const unheard = (a: Found, b: Found, { left, right, foreign }: Sides): readonly Finding[] => {
  if (foreign === null || isServed(a.frontend) || isServed(b.frontend)) return [];
  const [own, other] = foreign === "left" ? [b, left] : [a, right];
  if (!own.frontend.restricted || other.expresses.sourceRanges !== "served") return [];
  const strict = [`others than ${words(rangesOf(own, own.frontend.family))} dropped`];
  const open = ["everybody refused"];
  return [
    foreign === "left"
      ? { kind: "source_ranges", left: open, right: strict, intended: 7 }
      : { kind: "source_ranges", left: strict, right: open, intended: 7 },
  ];
};

/** The foreign side has ranges, but an external IP's rule at the same address comes before them. */
const opened = (a: Found, b: Found, { foreign }: Sides): IntendedNumber | undefined => {
  if (foreign === null) return undefined;
  const [own, other] = foreign === "left" ? [b, a] : [a, b];
  const shadowed = other.frontend.kind === "LoadBalancer" && rangesOf(other, other.frontend.family).length > 0;
  return shadowed && own.frontend.restricted && !other.frontend.restricted ? 8 : undefined;
};

const rangesOf = ({ service }: Found, family: Family): readonly Prefix[] =>
  service.sourceRanges.filter((range) => familyOf(range) === family);

const allowed = (found: Found, family: Family, own: boolean): readonly Prefix[] => {
  if (!found.frontend.restricted) return [everything(family)];
  const ranges = rangesOf(found, family);
  if (own) return ranges;
  const vips = new Set(ownAddresses(found).map(hostPrefix));
  return ranges.filter((range) => !vips.has(range));
};

/** kube-proxy lets the node in with the address of any load balancer of the service. */
const ownAddresses = ({ service }: Found): readonly Address[] =>
  service.frontends.flatMap(({ kind, address }) => (kind === "LoadBalancer" && address !== null ? [address] : []));

const words = (ranges: readonly Prefix[]): readonly string[] => {
  if (ranges.some((range) => range.endsWith("/0"))) return ["everybody"];
  return ranges.length === 0 ? ["nobody"] : ranges;
};
