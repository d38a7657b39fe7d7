// Kubernetes objects, as JSON or YAML gives them, become the model's values. Nothing here throws: what cannot be used is
// left out and named, whatever its type, and the rest of the object and of the cluster goes on. Pure.
import type { EndpointSlice, Node, ObjectKey, Problem, Service } from "../model/snapshot.ts";
import { readEndpointSlice, readEndpoints } from "./endpointslice.ts";
import { isRecord, show } from "./field.ts";
import { keyOf, type Meta, readMeta } from "./meta.ts";
import { readNode } from "./node.ts";
import { readService } from "./service.ts";

export type Kind = "Service" | "EndpointSlice" | "Endpoints" | "Node";

export type Parsed =
  | { readonly kind: "Service"; readonly key: ObjectKey; readonly value: Service }
  /** The key is the slice's own. */
  | { readonly kind: "EndpointSlice"; readonly key: ObjectKey; readonly value: EndpointSlice }
  /** The key is the Service's too; one slice for each subset and family. */
  | { readonly kind: "Endpoints"; readonly key: ObjectKey; readonly value: readonly EndpointSlice[] }
  | { readonly kind: "Node"; readonly value: Node }
  /** A kind that is none of ours. */
  | { readonly kind: "ignored" }
  /** One of our kinds with nothing usable in it; without a problem when it is simply not for us (a slice of names). */
  | { readonly kind: "rejected"; readonly key: ObjectKey | null; readonly objectKind: string };

export interface ParseResult {
  readonly parsed: Parsed;
  readonly problems: readonly Problem[];
}

export interface ParseOptions {
  /** Which Services are ours: those with this value of label service-proxy-name; null: those without the label. */
  readonly serviceProxyName: string | null;
}

const OURS: ParseOptions = { serviceProxyName: null };

/** Reads an object that says itself what it is. */
export const parseObject = (raw: unknown, options: ParseOptions = OURS): ParseResult => {
  if (!isRecord(raw)) return unknownObject(`${show(raw)} is not a Kubernetes object`);
  const { kind, apiVersion } = raw;
  if (typeof kind !== "string") return unknownObject("the object has no kind");
  const known = kindOf(kind, typeof apiVersion === "string" ? apiVersion : "");
  return known === null ? { parsed: { kind: "ignored" }, problems: [] } : parseKind(known, raw, options);
};

/** Reads an object whose kind the context says: items of an API list do not name theirs. */
export const parseKind = (kind: Kind, raw: unknown, options: ParseOptions = OURS): ParseResult => {
  const problems: Problem[] = [];
  const report = (problem: Problem): void => void problems.push(problem);
  const label = kind === "Service" || kind === "Endpoints";
  const meta = readMeta(kind, raw, label ? "label" : "subdomain", report);
  const parsed = meta === null ? null : parseKnown(kind, meta, options);
  return { parsed: parsed ?? { kind: "rejected", key: keyOf(raw), objectKind: kind }, problems };
};

const parseKnown = (kind: Kind, meta: Meta, options: ParseOptions): Parsed | null => {
  const { key } = meta;
  switch (kind) {
    case "Service": {
      const value = readService(meta, options.serviceProxyName);
      return value && { kind, key, value };
    }
    case "EndpointSlice": {
      const value = readEndpointSlice(meta, options.serviceProxyName);
      return value && { kind, key, value };
    }
    case "Endpoints":
      return { kind, key, value: readEndpoints(meta) };
    case "Node":
      return { kind, value: readNode(meta) };
  }
};

/** Other groups have kinds of the same name (Knative's Service): the group decides. */
const kindOf = (kind: string, apiVersion: string): Kind | null => {
  const slash = apiVersion.indexOf("/");
  const group = slash < 0 ? "" : apiVersion.slice(0, slash);
  if (kind === "EndpointSlice") return group === "discovery.k8s.io" || apiVersion === "" ? kind : null;
  const ours = kind === "Service" || kind === "Endpoints" || kind === "Node";
  return ours && group === "" ? kind : null;
};

const unknownObject = (message: string): ParseResult => ({
  parsed: { kind: "rejected", key: null, objectKind: "object" },
  problems: [{ object: "object", path: "", message }],
});
