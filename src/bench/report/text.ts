// How wide a text will be, without a browser: enough to keep labels apart and inside. The reader's font is not known, so
// widths are those of a wide one (DejaVu Sans); in any other there is only more room.

const FONT_PX = 12;

const WIDTHS: readonly (readonly [RegExp, number])[] = [
  [/[ijl.,:;|'!\s()[\]]/u, 0.4],
  [/[mwMW@%]/u, 1],
  [/[A-Z]/u, 0.72],
  [/[\u0020-\u017f–×µ·]/u, 0.64],
];

/** Of a text in bold letters a tenth more. */
export const BOLD = 1.12;

export const textWidth = (text: string, size = FONT_PX): number => {
  let em = 0;
  for (const c of text) em += WIDTHS.find(([kind]) => kind.test(c))?.[1] ?? 1;
  return em * size;
};

/** The text, or as much of it as fits, ended by an ellipsis. */
export const fitted = (text: string, width: number): string => {
  if (textWidth(text) <= width) return text;
  const kept = [...text];
  while (kept.length > 1 && textWidth(`${kept.join("")}…`) > width) kept.pop();
  return `${kept.join("").trimEnd()}…`;
};
