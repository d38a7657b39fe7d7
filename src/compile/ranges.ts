// Sets of addresses: prefixes that say the same in other words (overlapping, adjacent, merged by a tool) are equal.
import {
  type Address,
  addressFromBytes,
  addressToBytes,
  type Family,
  familyOf,
  makePrefix,
  type Prefix,
  splitPrefix,
} from "../model/address.ts";

export const sameCover = (a: readonly Prefix[], b: readonly Prefix[]): boolean => coverText(a) === coverText(b);

/** The prefix of all addresses of a family. */
export const everything = (family: Family): Prefix =>
  family === "IPv4" ? ("0.0.0.0/0" as Prefix) : ("::/0" as Prefix);

/** An address as a prefix that holds nothing else. */
export const hostPrefix = (address: Address): Prefix => makePrefix(address, familyOf(address) === "IPv4" ? 32 : 128);

/** The fewest prefixes for the addresses from `first` to `last`; none when they are of two families or not in order. */
export const prefixesOfRange = (first: Address, last: Address): readonly Prefix[] => {
  if (familyOf(first) !== familyOf(last)) return [];
  const bits = familyOf(first) === "IPv4" ? 32 : 128;
  const end = toNumber(last);
  const found: Prefix[] = [];
  let at = toNumber(first);
  while (at <= end) {
    let free = 0; // host bits of the largest block that starts at `at` and does not go beyond `end`
    while (free < bits && (at & (1n << BigInt(free))) === 0n && at + (1n << BigInt(free + 1)) - 1n <= end) free++;
    found.push(makePrefix(toAddress(at), bits - free));
    at += 1n << BigInt(free);
  }
  return found;
};

/** `first-last` of each gapless stretch, in order. IPv4 lives inside IPv6 as ::ffff:a.b.c.d and meets nothing there. */
const coverText = (prefixes: readonly Prefix[]): string => {
  const spans = prefixes.map(spanOf).sort((a, b) => (a.first < b.first ? -1 : a.first > b.first ? 1 : 0));
  const merged: { first: bigint; last: bigint }[] = [];
  for (const span of spans) {
    const before = merged.at(-1);
    if (before === undefined || span.first > before.last + 1n) merged.push({ ...span });
    else if (span.last > before.last) before.last = span.last;
  }
  return merged.map(({ first, last }) => `${first}-${last}`).join();
};

const spanOf = (prefix: Prefix): { readonly first: bigint; readonly last: bigint } => {
  const { address, bits } = splitPrefix(prefix);
  const first = toNumber(address);
  const free = BigInt((familyOf(prefix) === "IPv4" ? 32 : 128) - bits);
  return { first, last: first + (1n << free) - 1n };
};

const toNumber = (address: Address): bigint =>
  addressToBytes(address).reduce((n, byte) => (n << 8n) | BigInt(byte), 0n);

const toAddress = (n: bigint): Address =>
  addressFromBytes(Uint8Array.from({ length: 16 }, (_, i) => Number((n >> BigInt(8 * (15 - i))) & 0xffn)));
