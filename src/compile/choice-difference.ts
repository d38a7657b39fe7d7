// What becomes of a client at one frontend, compared: refused, dropped, or sent to which backends, by which policy.
import type { Choice, Frontend } from "../model/desired.ts";
import { choiceWords, exclusive, type Finding, type Found, hostPort, type Sides } from "./finding.ts";
import type { Reading } from "./reading.ts";

export const compareChoices = (a: Found, b: Found, sides: Sides): readonly Finding[] => {
  const { knows } = sides;
  if (!knows.scopes) return compareChoice(soleChoice(a.frontend), soleChoice(b.frontend), sides);
  const inside = compareChoice(a.frontend.internal, b.frontend.internal, sides);
  const outside = compareChoice(a.frontend.external, b.frontend.external, sides);
  const same = (x: Finding, y: Finding): boolean => JSON.stringify(x) === JSON.stringify(y);
  return [
    ...inside.map((f): Finding => (outside.some((g) => same(f, g)) ? f : { ...f, clients: "inside" })),
    ...outside.filter((f) => !inside.some((g) => same(f, g))).map((f): Finding => ({ ...f, clients: "outside" })),
  ];
};

/** What IPVS does, which has one list for everybody: local backends where there are some, else all. */
const soleChoice = ({ internal, external }: Frontend): Choice => (external.kind === "backends" ? external : internal);

const compareChoice = (a: Choice, b: Choice, sides: Sides): readonly Finding[] => {
  const { knows } = sides;
  const verdict = (choice: Choice): string => (choice.kind === "drop" && !knows.drops ? "reject" : choice.kind);
  if (verdict(a) !== verdict(b)) {
    const finding: Finding = { kind: "verdict", left: [choiceWords(a)], right: [choiceWords(b)] };
    return [{ ...finding, intended: onlyLoops(backendsOf(a), backendsOf(b), sides) ? 11 : undefined }];
  }
  const findings: Finding[] = [];
  const told = knows.policies === "always" || (knows.policies === "served" && a.kind !== "reject");
  if (told && a.policy !== b.policy) findings.push({ kind: "policy", left: [a.policy], right: [b.policy] });
  const [left, right] = exclusive(backendsOf(a), backendsOf(b));
  if (left.length + right.length > 0)
    findings.push({ kind: "backends", left, right, intended: onlyLoops(left, right, sides) ? 11 : undefined });
  return findings;
};

const backendsOf = (choice: Choice): readonly string[] =>
  choice.kind === "backends" ? choice.backends.map(hostPort) : [];

/** All that the foreign side has in excess are endpoints at ClusterIPs, which beeline leaves out. */
const onlyLoops = (left: readonly string[], right: readonly string[], { foreign, ...sides }: Sides): boolean => {
  if (foreign === null) return false;
  const [excess, missing] = foreign === "left" ? [left, right] : [right, left];
  if (excess.length === 0 || missing.length > 0) return false;
  const clusterIPs = clusterIPsOf(sides[foreign]);
  return excess.every((text) => clusterIPs.has(text.slice(0, text.lastIndexOf(":")).replace(/^\[|\]$/g, "")));
};

const known = new WeakMap<Reading, ReadonlySet<string>>();

/** Made once for a reading. */
const clusterIPsOf = (reading: Reading): ReadonlySet<string> => {
  const made = known.get(reading);
  if (made !== undefined) return made;
  const addresses = new Set<string>();
  for (const { frontends } of reading.desired.services.values()) {
    for (const { kind, address } of frontends) if (kind === "ClusterIP" && address !== null) addresses.add(address);
  }
  known.set(reading, addresses);
  return addresses;
};
