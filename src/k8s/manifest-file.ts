// One manifest file as objects with their places, and the objects of several files as one world.
import { readFileSync } from "node:fs";
import { messageOf } from "../lib/errors.ts";
import type { Problem } from "../model/snapshot.ts";
import { type Found, readDocuments } from "./documents.ts";
import { type Kind, type Parsed, type ParseResult, parseObject } from "./parse.ts";
import type { ObjectStore } from "./store.ts";

/** One object and where it stands: `shop.yaml:12`. */
interface Placed {
  readonly place: string;
  readonly result: ParseResult;
}

export interface ManifestFile {
  /** What the file looked like when it was read; "" when it has to be read again. */
  readonly signature: string;
  readonly objects: readonly Placed[];
  /** What of it cannot be read now. */
  readonly problems: readonly Problem[];
}

export const readManifestFile = (path: string, signature: string): ManifestFile => {
  try {
    return placeObjects(path, signature, readDocuments(readFileSync(path, "utf8")));
  } catch (error) {
    return { signature, objects: [], problems: [{ object: path, path: "", message: messageOf(error) }] };
  }
};

export const placeObjects = (path: string, signature: string, found: readonly Found[]): ManifestFile => {
  const objects: Placed[] = [];
  const problems: Problem[] = [];
  for (const one of found) {
    const place = `${path}:${one.line}`;
    if ("error" in one) problems.push({ object: place, path: "", message: one.error });
    else objects.push({ place, result: parseObject(one.value) });
  }
  return { signature, objects, problems };
};

const KINDS: readonly Kind[] = ["Service", "EndpointSlice", "Endpoints", "Node"];

/** Puts the objects of all files into the store. Of several that claim one name the first stands. */
export const gather = (
  files: readonly ManifestFile[],
  store: ObjectStore,
): { readonly changed: boolean; readonly problems: readonly Problem[] } => {
  const objects: Parsed[] = [];
  const problems: Problem[] = [];
  const first = new Map<string, string>();
  for (const { place, result } of files.flatMap((file) => file.objects)) {
    for (const problem of result.problems) problems.push({ ...problem, object: `${problem.object} (${place})` });
    const { parsed } = result;
    if (parsed.kind === "ignored" || parsed.kind === "rejected") continue;
    const object = `${parsed.kind} ${parsed.kind === "Node" ? parsed.value.name : parsed.key}`;
    const other = first.get(object);
    if (other === undefined) {
      first.set(object, place);
      objects.push(parsed);
    } else problems.push({ object: `${object} (${place})`, path: "", message: `is in ${other} already` });
  }
  const changes = KINDS.map((kind) => store.replaceAll(kind, objects));
  return { changed: changes.includes(true), problems };
};
