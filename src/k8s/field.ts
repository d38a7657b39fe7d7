// A cursor over an untrusted value: reads one field at a time, as the type that is asked for, and notes what is wrong
// with its path and value. Nothing here throws, whatever the JSON holds; an absent field is null and no problem.
import { safe } from "../lib/text.ts";
import { type Address, parseAddress } from "../model/address.ts";
import type { Problem } from "../model/snapshot.ts";

export interface Field {
  readonly value: unknown;
  readonly parent: Field | null;
  /** `.spec`, `[3]`, `["a.b/c"]`: how the parent names it; "" for the object itself. */
  readonly step: string;
  readonly report: (problem: Problem) => void;
  /** What problems call the object. */
  readonly object: string;
}

export const rootField = (value: unknown, object: string, report: (problem: Problem) => void): Field => ({
  value,
  parent: null,
  step: "",
  report,
  object,
});

/** Only own properties count: a field called `__proto__` or `constructor` is data like any other. */
export const member = (of: Field, name: string): Field => {
  const value = isRecord(of.value) && Object.hasOwn(of.value, name) ? of.value[name] : undefined;
  const step = /^[A-Za-z_]\w*$/.test(name) ? `.${name}` : `[${JSON.stringify(name)}]`;
  return { value, parent: of, step, report: of.report, object: of.object };
};

/** `member` of a member of …: at(root, "spec", "ports"). */
export const at = (of: Field, ...names: readonly string[]): Field => names.reduce(member, of);

const pathOf = (field: Field): string =>
  field.parent === null ? "" : `${pathOf(field.parent)}${field.step}`.replace(/^\./, "");

/** Notes that a field is not used, and why: `problem(f, "is not a port (1..65535)")`. */
export const problem = (field: Field, why: string): null => {
  field.report({ object: field.object, path: pathOf(field), message: `${show(field.value)} ${why}` });
  return null;
};

/** Notes something about a field that its value does not show. */
export const remark = (field: Field, message: string): null => {
  field.report({ object: field.object, path: pathOf(field), message });
  return null;
};

export const isAbsent = (field: Field): boolean => field.value === undefined || field.value === null;

export const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** The elements of a list; none when it is absent or no list. */
export const items = (field: Field): readonly Field[] => {
  if (isAbsent(field)) return [];
  if (!Array.isArray(field.value)) {
    problem(field, "is not a list");
    return [];
  }
  return field.value.map((value: unknown, i) => ({
    value,
    parent: field,
    step: `[${i}]`,
    report: field.report,
    object: field.object,
  }));
};

export const text = (field: Field): string | null => {
  if (isAbsent(field)) return null;
  return typeof field.value === "string" ? field.value : problem(field, "is not text");
};

export const flag = (field: Field): boolean | null => {
  if (isAbsent(field)) return null;
  return typeof field.value === "boolean" ? field.value : problem(field, "is neither true nor false");
};

/** A whole number of the range, or null; `80.5`, `"80"` and 1e400 are none. */
export const integer = (field: Field, min: number, max: number, what: string): number | null => {
  if (isAbsent(field)) return null;
  const { value } = field;
  const fits = typeof value === "number" && Number.isInteger(value) && value >= min && value <= max;
  return fits ? value : problem(field, `is not ${what} (${min}..${max})`);
};

export const port = (field: Field): number | null => integer(field, 1, 65535, "a port");

/** One of the words, or null; the API's words are case sensitive. */
export const oneOf = <Word extends string>(field: Field, words: readonly Word[]): Word | null => {
  if (isAbsent(field)) return null;
  const word = words.find((w) => w === field.value);
  return word ?? problem(field, `is not one of ${words.join(", ")}`);
};

export const address = (field: Field): Address | null => {
  if (isAbsent(field)) return null;
  const parsed = typeof field.value === "string" ? parseAddress(field.value) : null;
  return parsed ?? problem(field, "is not an IP address");
};

/** Milliseconds since 1970 of an RFC 3339 time, or null. */
export const time = (field: Field): number | null => {
  const value = text(field);
  if (value === null) return null;
  const at_ms = /^\d{4}-\d\d-\d\dT/.test(value) ? Date.parse(value) : Number.NaN;
  return Number.isNaN(at_ms) ? problem(field, "is not a time (RFC 3339)") : at_ms;
};

/** RFC 1123: up to 63 lower-case letters, digits and dashes, neither end a dash. */
export const isLabel = (name: string): boolean => /^[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?$/.test(name);

/** RFC 1123 labels joined by dots, up to 253 characters. */
export const isSubdomain = (name: string): boolean => name.length <= 253 && name.split(".").every(isLabel);

/** A value as it goes into a message: JSON, on one line, cut short, without control characters. */
export const show = (value: unknown): string => {
  const long = typeof value === "number" || value === undefined ? String(value) : toJson(value);
  return safe(long.length > 80 ? `${long.slice(0, 79)}…` : long);
};

const toJson = (value: unknown): string => {
  try {
    return JSON.stringify(value) ?? typeof value;
  } catch {
    return typeof value; // cyclic (YAML anchors can do that), too deep, or a bigint
  }
};
