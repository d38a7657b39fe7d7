// HTML and SVG as a template string: what is put in is escaped unless it is Markup itself, so that no text of a result (a
// CPU's name, a mode's title) can become an element or an attribute.

export interface Markup {
  readonly markup: string;
}

/** Numbers are coordinates: two decimals are a hundredth of a pixel. */
export type Part = Markup | string | number | readonly Part[];

export const markup = (strings: TemplateStringsArray, ...parts: readonly Part[]): Markup => ({
  markup: strings.reduce((done, text, i) => `${done}${write(parts[i - 1] ?? "")}${text}`),
});

export const NOTHING: Markup = { markup: "" };

const write = (part: Part): string => {
  if (typeof part === "number") return String(Math.round(part * 100) / 100);
  if (typeof part === "string") return escapeText(part);
  return "markup" in part ? part.markup : part.map(write).join("");
};

const ENTITIES: Readonly<Record<string, string>> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
  "'": "&#39;",
};

/** Control characters have no place in a page or an SVG file: XML refuses them. */
const escapeText = (text: string): string =>
  text
    .replace(/[&<>"']/g, (c) => ENTITIES[c] ?? c)
    .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/g, "\ufffd");

/** A value inside a script element of a type that is not run: no text in it can end the element. */
export const embedJson = (value: unknown): Markup => ({
  markup: JSON.stringify(value)
    .replaceAll("<", "\\u003c")
    .replaceAll("\u2028", "\\u2028")
    .replaceAll("\u2029", "\\u2029"),
});
