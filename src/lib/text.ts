// Text for people: names made safe for a terminal, rows set in columns, durations. Knows nothing of what it prints.

/** Control characters (C0, DEL, C1), line separators, and what turns the direction of text or hides it. */
const UNSAFE = /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufffe\uffff]/g;

/** A name from outside, for a terminal: what could move the cursor, or lie to the eye, is written as \xHH or \uHHHH. */
export const safe = (text: string): string =>
  text.replace(UNSAFE, (c) => {
    const code = c.charCodeAt(0);
    return code < 0x100 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16).padStart(4, "0")}`;
  });

/** Code points, which for everything Kubernetes lets into a name is what a terminal shows. */
const widthOf = (text: string): number => [...text].length;

/**
 * Columns three spaces apart, no borders, nothing cut off, no trailing blanks; a newline after every row. Cells are
 * made safe. `headers` null: none.
 */
export const columns = (headers: readonly string[] | null, rows: readonly (readonly string[])[]): string => {
  const lines = (headers === null ? rows : [headers, ...rows]).map((row) => row.map(safe));
  const widths: number[] = [];
  for (const line of lines) {
    for (const [i, cell] of line.entries()) widths[i] = Math.max(widths[i] ?? 0, widthOf(cell));
  }
  const pad = (cell: string, i: number): string => cell + " ".repeat((widths[i] ?? 0) - widthOf(cell));
  return lines.map((line) => `${line.map(pad).join("   ").trimEnd()}\n`).join("");
};

/** `3s`, `12m`, `5h`, `2d`: the largest unit that is at least one, as kubectl prints an age. */
export const age = (milliseconds: number): string => {
  const seconds = Math.max(0, Math.floor(milliseconds / 1000));
  if (seconds < 120) return `${seconds}s`;
  if (seconds < 2 * 3600) return `${Math.floor(seconds / 60)}m`;
  if (seconds < 2 * 86400) return `${Math.floor(seconds / 3600)}h`;
  return `${Math.floor(seconds / 86400)}d`;
};

/** `a`, `a and b`, `a, b and c`. */
export const list = (words: readonly string[]): string =>
  words.length < 2 ? (words[0] ?? "") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`;

/** `1 service`, `2 services`. */
export const count = (n: number, noun: string): string => `${n} ${noun}${n === 1 ? "" : "s"}`;
