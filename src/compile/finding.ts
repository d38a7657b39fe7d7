// What a difference is, and the small words of which comparisons are made. difference.ts puts them together.
import { formatHostPort } from "../model/address.ts";
import type { Backend, Choice, DesiredService, Frontend } from "../model/desired.ts";
import type { IntendedNumber } from "./intended.ts";
import type { Expressible, Reading, Says } from "./reading.ts";

/** In the order in which they are listed for one frontend. */
export const DIFFERENCE_KINDS = [
  "unreached",
  "only_left",
  "only_right",
  "service",
  "kind",
  "verdict",
  "policy",
  "backends",
  "source_ranges",
  "affinity",
  "health_check",
  "local",
  "draining",
  "node_addresses",
] as const;

export type DifferenceKind = (typeof DIFFERENCE_KINDS)[number];

export interface Difference {
  readonly kind: DifferenceKind;
  /** `shop/web:http`, by the left side's name where both have one; null where neither has, or it is about the node. */
  readonly service: string | null;
  /** entranceKey(); null: the service, or the node, as a whole. */
  readonly frontend: string | null;
  /** Which clients notice: inside (pods and the node) or outside; null: both. */
  readonly clients: "inside" | "outside" | null;
  /** What only the left side says, in words: backends, addresses, a policy, `refused`. Empty: nothing. */
  readonly left: readonly string[];
  readonly right: readonly string[];
}

export interface IntendedDifference extends Difference {
  /** Its number in docs/semantics.md. */
  readonly intended: IntendedNumber;
}

export interface Comparison {
  readonly differences: readonly Difference[];
  readonly intended: readonly IntendedDifference[];
}

/** A frontend with its service, as one side has it. */
export interface Found {
  readonly service: DesiredService;
  readonly frontend: Frontend;
}

/** Both sides, and what they can both say. */
export interface Sides {
  readonly left: Reading;
  readonly right: Reading;
  readonly knows: Expressible;
  /** The side that kube-proxy (or a dataplane like it) wrote, where the other one is beeline's own. */
  readonly foreign: "left" | "right" | null;
}

/** A difference before it has a place, with the number of the intended one that it is. */
export type Finding = Pick<Difference, "kind" | "left" | "right"> & {
  readonly clients?: Difference["clients"];
  readonly intended?: IntendedNumber | undefined;
};

/** What a side that says it of served frontends only says of both. */
export const bothServed = (a: Found, b: Found, says: Says): boolean =>
  says === "always" || (says === "served" && isServed(a.frontend) && isServed(b.frontend));

export const isServed = ({ internal, external }: Frontend): boolean =>
  internal.kind !== "reject" || external.kind !== "reject";

export const hasBackends = ({ internal, external }: Frontend): boolean =>
  internal.kind === "backends" || external.kind === "backends";

/** `refused`, `dropped`, `2 backends`. */
export const choiceWords = (choice: Choice): string => {
  switch (choice.kind) {
    case "reject":
      return "refused";
    case "drop":
      return "dropped";
    case "backends":
      return choice.backends.length === 1 ? "1 backend" : `${choice.backends.length} backends`;
  }
};

export const hostPort = ({ address, port }: Backend): string => formatHostPort(address, port);

/** What only one of two lists has, each in its order. */
export const exclusive = (
  a: readonly string[],
  b: readonly string[],
): readonly [readonly string[], readonly string[]] => {
  const [here, there] = [new Set(a), new Set(b)];
  return [[...here].filter((text) => !there.has(text)), [...there].filter((text) => !here.has(text))];
};
