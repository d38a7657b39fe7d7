// Addresses that must never become a frontend or a backend: with one of them an object could point traffic at the node
// itself or at its neighbours (CVE-2021-25737 for endpoints; the API server's own rule for external IPs).
import type { Address } from "../model/address.ts";
import { type Field, problem } from "./field.ts";

/** Addresses are canonical text, so a range on a byte or hextet border is a pattern. */
const SPECIAL: readonly (readonly [RegExp, string])[] = [
  [/^(?:0\.|::$)/, "is an unspecified address"],
  [/^(?:127\.|::1$)/, "is a loopback address"],
  [/^(?:169\.254\.|fe[89ab][0-9a-f]:)/, "is a link-local address"],
  [/^(?:22[4-9]\.|23\d\.|ff[0-9a-f]{2}:)/, "is a multicast address"],
  [/^255\.255\.255\.255$/, "is the broadcast address"],
];

/** Why this address is of no use to a Service, or null. */
const whySpecial = (address: Address): string | null => SPECIAL.find(([pattern]) => pattern.test(address))?.[1] ?? null;

/** The address, or null with a problem when it is a special one. */
export const refuseSpecial = (field: Field, address: Address | null): Address | null => {
  const why = address === null ? null : whySpecial(address);
  return why === null ? address : problem(field, why);
};
