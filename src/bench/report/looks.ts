// How a mode looks, everywhere on the page: beeline's in blues with solid lines, what it is compared with in earth colours
// with dashed ones, the limit grey and dotted. Colours were searched for the largest least distance (OKLab) as seen with
// normal, protan, deutan and tritan sight, with a contrast of 3 at least to the page; shapes say the same once more.
import type { ModeOfResult } from "../result.ts";
import { isLimit } from "../standing.ts";

export interface Look {
  /** CSS class whose colour is var(--c). */
  readonly name: string;
  readonly dash: string;
  readonly marker: Marker;
}

export type Marker = "disc" | "square" | "diamond" | "triangle";

interface Colour {
  readonly light: string;
  readonly dark: string;
}

const BEELINE: readonly Colour[] = [
  { light: "#4b6ef4", dark: "#2b71f5" },
  { light: "#162f68", dark: "#88dcef" },
  { light: "#8e8ecd", dark: "#32a8fd" },
  { light: "#6035b5", dark: "#755fa0" },
];
const OTHERS: readonly Colour[] = [
  { light: "#cc861b", dark: "#ff9d2a" },
  { light: "#531d17", dark: "#b23a3c" },
  { light: "#b6530c", dark: "#c47723" },
  { light: "#7c3f3a", dark: "#fde183" },
];
const LIMIT: Colour = { light: "#74777d", dark: "#9a9fa8" };

const MARKERS: readonly Marker[] = ["disc", "square", "diamond", "triangle"];

/** By the place among the modes of a kind. With more modes than colours they come round again, in other shapes. */
export const looksOf = (modes: readonly ModeOfResult[]): ReadonlyMap<string, Look> => {
  const looks = new Map<string, Look>();
  const seen = { beeline: 0, other: 0 };
  for (const mode of modes) {
    if (isLimit(mode)) looks.set(mode.name, { name: "limit", dash: "1 4", marker: "disc" });
    else if (mode.beeline) looks.set(mode.name, lookOf("own", BEELINE, seen.beeline++, ""));
    else looks.set(mode.name, lookOf("other", OTHERS, seen.other++, "6 3"));
  }
  return looks;
};

const lookOf = (kind: string, colours: readonly Colour[], i: number, dash: string): Look => ({
  name: `${kind}${i % colours.length}`,
  dash,
  marker: MARKERS[(i + Math.floor(i / colours.length)) % MARKERS.length] ?? "disc",
});

/** The classes of all looks for one scheme. */
export const colourRules = (scheme: "light" | "dark"): string =>
  [
    ...BEELINE.map((colour, i) => `.own${i}{--c:${colour[scheme]}}`),
    ...OTHERS.map((colour, i) => `.other${i}{--c:${colour[scheme]}}`),
    `.limit{--c:${LIMIT[scheme]}}`,
  ].join("");
