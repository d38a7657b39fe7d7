// The text of a manifest file, YAML or JSON, becomes the objects in it, each with its line. A document that is none is
// named; those around it stand. What an object means is for parse.ts.
import { type Document, isCollection, isMap, isNode, LineCounter, parseAllDocuments } from "yaml";
import { isRecord } from "./field.ts";

export type Found =
  | { readonly line: number; readonly value: unknown }
  /** A document that cannot be read, and why. */
  | { readonly line: number; readonly error: string };

/** Every object of the text in order, `List`s taken apart. Documents without content are no objects. */
export const readDocuments = (text: string): readonly Found[] => {
  const json = parseJson(text);
  return json === undefined ? splitDocuments(text).flatMap(readYaml) : takeApart(json, () => 1, 1);
};

/** JSON is YAML too, but its own parser reads a large `kubectl get -o json` fifty times faster. */
const parseJson = (text: string): unknown => {
  if (!/^\s*\{/.test(text)) return undefined;
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
};

/** At the `---` lines, before parsing: an unclosed quote would otherwise swallow all documents after it. */
const splitDocuments = (text: string): readonly { readonly text: string; readonly line: number }[] => {
  const chunks: { text: string; line: number }[] = [];
  let start = 0;
  let line = 1;
  for (const { index } of text.matchAll(/^---(?=\s|$)/gm)) {
    if (index === start) continue;
    const chunk = text.slice(start, index);
    chunks.push({ text: chunk, line });
    line += chunk.split("\n").length - 1;
    start = index;
  }
  chunks.push({ text: text.slice(start), line });
  return chunks;
};

const readYaml = (chunk: { readonly text: string; readonly line: number }): readonly Found[] => {
  const counter = new LineCounter();
  const lineAt = (offset: number): number => counter.linePos(offset).line + chunk.line - 1;
  try {
    const documents = parseAllDocuments(chunk.text, { lineCounter: counter, prettyErrors: false });
    return Array.isArray(documents) ? documents.flatMap((document) => readDocument(document, lineAt)) : [];
  } catch (cause) {
    return [{ line: chunk.line, error: cause instanceof Error ? cause.message : String(cause) }];
  }
};

const readDocument = (document: Document, lineAt: (offset: number) => number): readonly Found[] => {
  const error = document.errors[0];
  if (error !== undefined) return [{ line: lineAt(error.pos[0]), error: error.message }];
  const { contents } = document;
  const line = lineAt(contents?.range?.[0] ?? document.range?.[0] ?? 0);
  try {
    const value: unknown = document.toJS(); // throws on an alias that names nothing, or multiplies beyond reason
    if (value === null) return [];
    const list = isMap(contents) ? contents.get("items", true) : null;
    const elements = isCollection(list) ? list.items : [];
    const lineOf = (i: number): number => {
      const element = elements[i];
      return isNode(element) && element.range ? lineAt(element.range[0]) : line;
    };
    return takeApart(value, lineOf, line);
  } catch (cause) {
    return [{ line, error: cause instanceof Error ? cause.message : String(cause) }];
  }
};

/** kubectl nests a List in a List only by hand; deeper than this is an attack. */
const MAX_NESTED = 4;

/** A `List`, or a `ServiceList` whose items do not name their kind, becomes its items; anything else stays itself. */
const takeApart = (value: unknown, lineOf: (item: number) => number, line: number, depth = 0): readonly Found[] => {
  const { kind, apiVersion, items } = isRecord(value) ? value : {};
  if (typeof kind !== "string" || !kind.endsWith("List") || !Array.isArray(items)) return [{ line, value }];
  if (depth === MAX_NESTED) return [{ line, error: `Lists are nested more than ${MAX_NESTED} deep` }];
  const implied = kind === "List" ? {} : { kind: kind.slice(0, -"List".length), apiVersion };
  return items.flatMap((item: unknown, i) => {
    const own = isRecord(item) ? { ...implied, ...item } : item;
    return takeApart(own, () => lineOf(i), lineOf(i), depth + 1);
  });
};
