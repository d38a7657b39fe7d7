// "Did you mean …?" for flags, commands and configuration fields.

/** The known word nearest to what was written, when it is near enough to have been meant; else null. */
export const suggest = (written: string, known: readonly string[]): string | null => {
  let best: string | null = null;
  let bestDistance = Math.max(2, Math.floor(written.length / 3)) + 1;
  for (const word of known) {
    const distance = editDistance(written.toLowerCase(), word.toLowerCase());
    if (distance < bestDistance) [best, bestDistance] = [word, distance];
  }
  return best;
};

/** ` (did you mean x?)`, or nothing. */
export const hint = (written: string, known: readonly string[]): string => {
  const word = suggest(written, known);
  return word === null ? "" : ` (did you mean ${word}?)`;
};

/** Levenshtein: insertions, deletions and replacements of one character. */
const editDistance = (a: string, b: string): number => {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
};
