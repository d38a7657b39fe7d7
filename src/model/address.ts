// IP addresses and prefixes as values. Text is always canonical (RFC 5952), so equal addresses are equal strings;
// bytes are always 16, IPv4 as ::ffff:a.b.c.d. Everything that comes from outside passes through parse*().

export type Family = "IPv4" | "IPv6";

/** Canonical text: `10.0.0.1` or `fd00::1`. Never v4-mapped, never with a zone. */
export type Address = string & { readonly __brand: "Address" };

/** Canonical text `address/length` with host bits cleared: `10.0.0.0/8`. */
export type Prefix = string & { readonly __brand: "Prefix" };

const V4_MAPPED = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff] as const;

/**
 * Reads an address as Kubernetes has always read it: white space around it and decimal leading zeros are accepted
 * (`172.30.0.041` is 172.30.0.41), octal, hexadecimal and short forms, zones and v4-mapped IPv6 are not.
 * Returns null for anything else.
 */
export const parseAddress = (text: string): Address | null => {
  const bytes = parseBytes(text.trim());
  return bytes === null ? null : formatBytes(bytes);
};

/** Reads `address/length`; a bare address is not a prefix. Host bits are cleared. Null for anything else. */
export const parsePrefix = (text: string): Prefix | null => {
  const match = /^([^/]+)\/(\d{1,3})$/.exec(text.trim());
  if (match?.[1] === undefined || match[2] === undefined) return null;
  const bytes = parseBytes(match[1]);
  if (bytes === null) return null;
  const bits = Number(match[2]);
  const v4 = isV4Mapped(bytes);
  if (bits > (v4 ? 32 : 128)) return null;
  clearAfter(bytes, v4 ? bits + 96 : bits);
  return `${formatBytes(bytes)}/${bits}` as Prefix;
};

export const familyOf = (address: Address | Prefix): Family => (address.includes(":") ? "IPv6" : "IPv4");

/** 16 bytes in network order, IPv4 as ::ffff:a.b.c.d. */
export const addressToBytes = (address: Address): Uint8Array => {
  const bytes = parseBytes(address);
  if (bytes === null) throw new Error(`Not an address: ${address}`);
  return bytes;
};

/** The inverse of addressToBytes. The all-zero address is `::`. */
export const addressFromBytes = (bytes: Uint8Array): Address => formatBytes(bytes);

/** The prefix's address and its length in bits of its own family (0..32 or 0..128). */
export const splitPrefix = (prefix: Prefix): { readonly address: Address; readonly bits: number } => {
  const slash = prefix.lastIndexOf("/");
  return { address: prefix.slice(0, slash) as Address, bits: Number(prefix.slice(slash + 1)) };
};

export const makePrefix = (address: Address, bits: number): Prefix => {
  const prefix = parsePrefix(`${address}/${bits}`);
  if (prefix === null) throw new Error(`Not a prefix: ${address}/${bits}`);
  return prefix;
};

export const prefixContains = (prefix: Prefix, address: Address): boolean => {
  if (familyOf(prefix) !== familyOf(address)) return false;
  const { address: network, bits } = splitPrefix(prefix);
  const bytes = addressToBytes(address);
  clearAfter(bytes, familyOf(prefix) === "IPv4" ? bits + 96 : bits);
  return formatBytes(bytes) === network;
};

/** `10.0.0.1:80` or `[fd00::1]:80`. */
export const formatHostPort = (address: Address, port: number): string =>
  familyOf(address) === "IPv6" ? `[${address}]:${port}` : `${address}:${port}`;

const parseBytes = (text: string): Uint8Array | null => (text.includes(":") ? parseV6(text) : parseV4(text));

const parseV4 = (text: string): Uint8Array | null => {
  const parts = text.split(".");
  if (parts.length !== 4) return null;
  const bytes = new Uint8Array(16);
  bytes.set(V4_MAPPED);
  for (const [i, part] of parts.entries()) {
    if (!/^\d{1,4}$/.test(part) || Number(part) > 255) return null;
    bytes[12 + i] = Number(part);
  }
  return bytes;
};

const parseV6 = (text: string): Uint8Array | null => {
  const halves = text.split("::");
  if (halves.length > 2) return null;
  const head = parseGroups(halves[0] ?? "", halves.length === 1);
  const tail = parseGroups(halves[1] ?? "", true);
  if (head === null || tail === null) return null;
  const missing = 8 - head.length - tail.length;
  if (halves.length === 2 ? missing < 1 : missing !== 0) return null;
  const bytes = new Uint8Array(16);
  for (const [i, group] of [...head, ...new Array<number>(missing).fill(0), ...tail].entries()) {
    bytes[2 * i] = group >> 8;
    bytes[2 * i + 1] = group & 0xff;
  }
  return isV4Mapped(bytes) ? null : bytes;
};

/** `dotted`: the last group may be an IPv4 address, which only the end of the whole text may. */
const parseGroups = (text: string, dotted: boolean): number[] | null => {
  if (text === "") return [];
  const groups: number[] = [];
  const parts = text.split(":");
  for (const [i, part] of parts.entries()) {
    if (dotted && i === parts.length - 1 && part.includes(".")) {
      const v4 = parseV4(part);
      if (v4 === null) return null;
      groups.push(((v4[12] ?? 0) << 8) | (v4[13] ?? 0), ((v4[14] ?? 0) << 8) | (v4[15] ?? 0));
      continue;
    }
    if (!/^[0-9a-fA-F]{1,4}$/.test(part)) return null;
    groups.push(Number.parseInt(part, 16));
  }
  return groups;
};

const isV4Mapped = (bytes: Uint8Array): boolean => V4_MAPPED.every((byte, i) => bytes[i] === byte);

const clearAfter = (bytes: Uint8Array, bits: number): void => {
  for (let i = 0; i < 16; i++) {
    const keep = Math.min(8, Math.max(0, bits - 8 * i));
    bytes[i] = (bytes[i] ?? 0) & (0xff << (8 - keep)) & 0xff;
  }
};

const formatBytes = (bytes: Uint8Array): Address => {
  if (isV4Mapped(bytes)) return `${bytes[12]}.${bytes[13]}.${bytes[14]}.${bytes[15]}` as Address;
  const groups = Array.from({ length: 8 }, (_, i) => ((bytes[2 * i] ?? 0) << 8) | (bytes[2 * i + 1] ?? 0));
  const { start, length } = longestZeroRun(groups);
  const hex = (part: readonly number[]): string => part.map((g) => g.toString(16)).join(":");
  if (length < 2) return hex(groups) as Address;
  return `${hex(groups.slice(0, start))}::${hex(groups.slice(start + length))}` as Address;
};

const longestZeroRun = (groups: readonly number[]): { start: number; length: number } => {
  let best = { start: 0, length: 0 };
  for (let i = 0; i < groups.length; i++) {
    let end = i;
    while (groups[end] === 0) end++;
    if (end - i > best.length) best = { start: i, length: end - i };
  }
  return best;
};
