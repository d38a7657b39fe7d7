// Every checksum in a frame as the error it has: 0 is right, and an error that stays the same was neither mended nor made
// worse. One's complement sums, RFC 1071, modulo 65535.
import type { Dissection, Quoted, WithPorts } from "./dissect.ts";

export interface Checksum {
  readonly name: string;
  /** Offset of its field in the frame. */
  readonly at: number;
  /** Sum of all that it covers, modulo 65535; 0: right. Of what is there, where a fragment or a quote is not whole. */
  readonly error: number;
  /** UDP: 0 in the field means that there is none. */
  readonly zeroIsNone: boolean;
  readonly field: number;
}

const [TCP, UDP] = [6, 17];

const sum = (frame: Uint8Array, from: number, to: number): number => {
  let total = 0;
  for (let i = from; i < to; i += 2) total += ((frame[i] ?? 0) << 8) | (i + 1 < to ? (frame[i + 1] ?? 0) : 0);
  return total;
};

/** By the offsets of `found`, which may be those of the frame before it was changed. */
export const checksumsOf = (frame: Uint8Array, found: Dissection): readonly Checksum[] => {
  if (found.what === "nothing") return [];
  const { family, l3, l4, end } = found;
  const outer = family === 4 ? [header(frame, "IP header", l3, l3 + ((frame[l3] ?? 0) & 15) * 4)] : [];
  if (found.what === "later") return outer;
  if (found.what === "ports") return [...outer, ...transport(frame, "transport", found, end)];
  const pseudo = family === 6 ? sum(frame, l3 + 8, l3 + 40) + found.proto + (end - l4) : 0;
  const message = checksum(frame, "ICMP", l4 + 2, pseudo + sum(frame, l4, end));
  if (found.quoted === null) return [...outer, message];
  const { quoted } = found;
  const inner = family === 4 ? [header(frame, "quoted IP header", quoted.l3, quoted.l4)] : [];
  return [...outer, message, ...inner, ...transport(frame, "quoted transport", quoted, end)];
};

const checksum = (frame: Uint8Array, name: string, at: number, total: number, zeroIsNone = false): Checksum => ({
  name,
  at,
  error: total % 65535,
  zeroIsNone,
  field: ((frame[at] ?? 0) << 8) | (frame[at + 1] ?? 0),
});

const header = (frame: Uint8Array, name: string, from: number, to: number): Checksum =>
  checksum(frame, name, from + 10, sum(frame, from, to));

/** None where the field is not there. SCTP's covers no address, and none is changed. */
const transport = (frame: Uint8Array, name: string, of: WithPorts | Quoted, end: number): readonly Checksum[] => {
  const { family, l3, l4, proto } = of;
  if (proto !== TCP && proto !== UDP) return [];
  const at = l4 + (proto === TCP ? 16 : 6);
  if (at + 2 > end) return [];
  const addresses = family === 4 ? sum(frame, l3 + 12, l3 + 20) : sum(frame, l3 + 8, l3 + 40);
  return [checksum(frame, name, at, addresses + proto + (end - l4) + sum(frame, l4, end), proto === UDP)];
};

/** What is wrong with the checksums of a frame that was changed; null: nothing. */
export const changedChecksum = (before: Uint8Array, after: Uint8Array, found: Dissection): string | null => {
  const now = checksumsOf(after, found);
  for (const [i, old] of checksumsOf(before, found).entries()) {
    const { name, error, field } = now[i] ?? old;
    const none = old.zeroIsNone && old.field === 0;
    if (none && field !== 0) return `${name} checksum: there was none, now there is ${field.toString(16)}`;
    if (none) continue;
    if (old.zeroIsNone && field === 0) return `${name} checksum: 0, which says that there is none`;
    if (error !== old.error) return `${name} checksum: its error was ${old.error} and is ${error}`;
  }
  return null;
};
