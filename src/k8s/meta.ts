// What every object has: namespace, name, labels, annotations. A name that is none makes the object unusable.
import { type ObjectKey, objectKey, type Problem } from "../model/snapshot.ts";
import {
  at,
  type Field,
  isAbsent,
  isLabel,
  isRecord,
  isSubdomain,
  member,
  problem,
  remark,
  rootField,
  show,
  text,
} from "./field.ts";

export interface Meta {
  readonly root: Field;
  readonly namespace: string;
  readonly name: string;
  readonly key: ObjectKey;
}

export const LABEL_PROXY_NAME = "service.kubernetes.io/service-proxy-name";
export const LABEL_HEADLESS = "service.kubernetes.io/headless";
export const LABEL_SERVICE_NAME = "kubernetes.io/service-name";

/**
 * Reads what identifies an object. `names` says what its kind may be called: a label (63 characters) or a subdomain
 * (253, with dots). Null, with a problem, when it has no usable name.
 */
export const readMeta = (
  kind: string,
  raw: unknown,
  names: "label" | "subdomain",
  report: (problem: Problem) => void,
): Meta | null => {
  const root = rootField(raw, describe(kind, raw), report);
  const namespaceField = at(root, "metadata", "namespace");
  const nameField = at(root, "metadata", "name");
  const namespace = isAbsent(namespaceField) ? "default" : text(namespaceField);
  const name = text(nameField);
  if (isAbsent(nameField)) return remark(nameField, "the object has no name");
  if (namespace === null || name === null) return null;
  if (!isLabel(namespace)) return problem(namespaceField, "is not a namespace (a label of up to 63 characters)");
  if (names === "label" && !isLabel(name)) return problem(nameField, "is not a name (a label of up to 63 characters)");
  if (!isSubdomain(name)) return problem(nameField, "is not a name (labels and dots, up to 253 characters)");
  return { root, namespace, name, key: objectKey(namespace, name) };
};

/** The key of an object as it calls itself, usable name or not: what a deletion names. Null without a name. */
export const keyOf = (raw: unknown): ObjectKey | null => {
  const metadata = isRecord(raw) && isRecord(raw.metadata) ? raw.metadata : {};
  const { name, namespace } = metadata;
  if (typeof name !== "string") return null;
  return objectKey(typeof namespace === "string" ? namespace : "default", name);
};

/** Whether the label is there, with any value. */
export const hasLabel = (meta: Meta, label: string): boolean => !isAbsent(labelField(meta, label));

export const labelField = (meta: Meta, label: string): Field => member(at(meta.root, "metadata", "labels"), label);

export const annotationField = (meta: Meta, name: string): Field =>
  member(at(meta.root, "metadata", "annotations"), name);

const describe = (kind: string, raw: unknown): string => {
  const key = keyOf(raw);
  if (key === null) return kind;
  const printable = /^[a-z0-9./-]{1,317}$/.test(key);
  return `${kind} ${printable ? (kind === "Node" ? key.slice(key.indexOf("/") + 1) : key) : show(key)}`;
};
