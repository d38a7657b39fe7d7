// The objects seen so far, and the Snapshot made of them. A value that did not change keeps its identity, through any
// number of updates and relists, because identity is how compile() knows what to leave alone.
import { isDeepStrictEqual } from "node:util";
import {
  type EndpointSlice,
  type Node,
  type ObjectKey,
  objectKey,
  type Problem,
  type Service,
  type Snapshot,
} from "../model/snapshot.ts";
import type { Kind, Parsed, ParseResult } from "./parse.ts";

/** The slices of one owner: an EndpointSlice object holds one, an Endpoints object several. */
type Slices = readonly EndpointSlice[];

export class ObjectStore {
  readonly #nodeName: string;
  readonly #services = new Map<ObjectKey, Service>();
  readonly #endpointSlices = new Map<ObjectKey, Slices>();
  readonly #endpoints = new Map<ObjectKey, Slices>();
  /** Slice keys by the Service they belong to. */
  readonly #slicesOf = new Map<ObjectKey, Set<ObjectKey>>();
  #node: Node | null = null;
  /** By kind and key; "other" is what does not even say what it is. */
  readonly #problems: Readonly<Record<Kind | "other", Map<string, readonly Problem[]>>> = {
    Service: new Map(),
    EndpointSlice: new Map(),
    Endpoints: new Map(),
    Node: new Map(),
    other: new Map(),
  };
  /** All of them, until one changes. */
  #problemList: readonly Problem[] | null = [];
  #snapshot: Snapshot = { services: new Map(), slices: new Map(), node: null };
  /** What the snapshot has not taken up yet. */
  #servicesChanged = false;
  readonly #staleOwners = new Set<ObjectKey>();

  /** Of all Nodes only `nodeName` is kept. */
  constructor(nodeName: string) {
    this.#nodeName = nodeName;
  }

  /** Takes an object as it is now. Returns whether the snapshot differs by it; a rejected object counts as gone. */
  upsert(parsed: Parsed, problems: readonly Problem[] = []): boolean {
    const name = identify(parsed);
    if (name === null || (parsed.kind === "Node" && parsed.value.name !== this.#nodeName)) return false;
    this.#setProblems(name.kind, name.key, problems);
    switch (parsed.kind) {
      case "Service":
        return this.#putService(parsed.key, parsed.value);
      case "EndpointSlice":
        return this.#putSlices(this.#endpointSlices, parsed.key, [parsed.value]);
      case "Endpoints":
        return this.#putSlices(this.#endpoints, parsed.key, parsed.value);
      case "Node":
        return this.#putNode(parsed.value);
      case "rejected":
        return name.kind !== "other" && this.#drop(name.kind, name.key);
      case "ignored":
        return false;
    }
  }

  /** Forgets an object. Returns whether the snapshot differs by it; one that is not known is no error. */
  remove(kind: Kind, key: ObjectKey): boolean {
    this.#setProblems(kind, key, []);
    return this.#drop(kind, key);
  }

  /** Makes these the only objects of a kind, as a list says: what it does not name is gone. */
  replaceAll(kind: Kind, objects: readonly (Parsed | ParseResult)[]): boolean {
    const keep = new Set<string>();
    const known = this.#keysOf(kind);
    for (const key of this.#problems[kind].keys()) this.#setProblems(kind, key, []);
    let changed = false;
    for (const object of objects) {
      const { parsed, problems } = "parsed" in object ? object : { parsed: object, problems: [] };
      const name = identify(parsed);
      if (name === null || name.kind !== kind) continue;
      keep.add(name.key);
      changed = this.upsert(parsed, problems) || changed;
    }
    for (const key of known) if (!keep.has(key)) changed = this.remove(kind, key) || changed;
    return changed;
  }

  /** The same value again as long as nothing changed. Costs one copy of the outer maps when something did. */
  snapshot(): Snapshot {
    if (!this.#servicesChanged && this.#staleOwners.size === 0 && this.#snapshot.node === this.#node)
      return this.#snapshot;
    this.#snapshot = {
      services: this.#servicesChanged ? new Map(this.#services) : this.#snapshot.services,
      slices: this.#staleOwners.size === 0 ? this.#snapshot.slices : this.#regroup(),
      node: this.#node,
    };
    this.#servicesChanged = false;
    this.#staleOwners.clear();
    return this.#snapshot;
  }

  /** The same value again as long as nothing changed. */
  problems(): readonly Problem[] {
    this.#problemList ??= Object.values(this.#problems).flatMap((byKey) => [...byKey.values()].flat());
    return this.#problemList;
  }

  #setProblems(kind: Kind | "other", key: string, problems: readonly Problem[]): void {
    const byKey = this.#problems[kind];
    if (problems.length === 0 ? !byKey.delete(key) : isDeepStrictEqual(byKey.get(key), problems)) return;
    if (problems.length > 0) byKey.set(key, problems);
    this.#problemList = null;
  }

  #putService(key: ObjectKey, value: Service): boolean {
    if (isDeepStrictEqual(this.#services.get(key), value)) return false;
    this.#services.set(key, value);
    this.#servicesChanged = true;
    return true;
  }

  #putNode(value: Node): boolean {
    if (isDeepStrictEqual(this.#node, value)) return false;
    this.#node = value;
    return true;
  }

  #putSlices(into: Map<ObjectKey, Slices>, key: ObjectKey, slices: Slices): boolean {
    const before = into.get(key) ?? [];
    if (isDeepStrictEqual(before, slices)) {
      if (!into.has(key)) into.set(key, slices);
      return false;
    }
    const kept = slices.map((slice) => before.find((old) => isDeepStrictEqual(old, slice)) ?? slice);
    into.set(key, kept);
    for (const slice of before) this.#disown(into, key, slice);
    for (const slice of kept) this.#own(into, key, slice);
    return true;
  }

  #own(into: Map<ObjectKey, Slices>, key: ObjectKey, slice: EndpointSlice): void {
    const owner = objectKey(slice.namespace, slice.serviceName);
    this.#staleOwners.add(owner);
    if (into !== this.#endpointSlices) return;
    const keys = this.#slicesOf.get(owner);
    if (keys === undefined) this.#slicesOf.set(owner, new Set([key]));
    else keys.add(key);
  }

  #disown(from: Map<ObjectKey, Slices>, key: ObjectKey, slice: EndpointSlice): void {
    const owner = objectKey(slice.namespace, slice.serviceName);
    this.#staleOwners.add(owner);
    if (from !== this.#endpointSlices) return;
    const keys = this.#slicesOf.get(owner);
    keys?.delete(key);
    if (keys?.size === 0) this.#slicesOf.delete(owner);
  }

  #drop(kind: Kind, key: string): boolean {
    const objectKey = key as ObjectKey;
    switch (kind) {
      case "Service": {
        const had = this.#services.delete(objectKey);
        this.#servicesChanged ||= had;
        return had;
      }
      case "EndpointSlice":
        return this.#dropSlices(this.#endpointSlices, objectKey);
      case "Endpoints":
        return this.#dropSlices(this.#endpoints, objectKey);
      case "Node": {
        const had = this.#node !== null && key === nodeKey(this.#node.name);
        if (had) this.#node = null;
        return had;
      }
    }
  }

  #dropSlices(from: Map<ObjectKey, Slices>, key: ObjectKey): boolean {
    const slices = from.get(key) ?? [];
    from.delete(key);
    for (const slice of slices) this.#disown(from, key, slice);
    return slices.length > 0;
  }

  #keysOf(kind: Kind): readonly ObjectKey[] {
    switch (kind) {
      case "Service":
        return [...this.#services.keys()];
      case "EndpointSlice":
        return [...this.#endpointSlices.keys()];
      case "Endpoints":
        return [...this.#endpoints.keys()];
      case "Node":
        return this.#node === null ? [] : [nodeKey(this.#node.name)];
    }
  }

  #regroup(): Snapshot["slices"] {
    const slices = new Map(this.#snapshot.slices);
    for (const owner of this.#staleOwners) {
      const group = this.#groupOf(owner);
      if (group.size === 0) slices.delete(owner);
      else slices.set(owner, group);
    }
    return slices;
  }

  /** A Service's slices by name, sorted. Its Endpoints count only where there is no slice: slices mirror them. */
  #groupOf(owner: ObjectKey): ReadonlyMap<string, EndpointSlice> {
    const keys = this.#slicesOf.get(owner);
    const slices =
      keys === undefined
        ? (this.#endpoints.get(owner) ?? [])
        : [...keys].sort().flatMap((key) => this.#endpointSlices.get(key) ?? []);
    return new Map(slices.map((slice) => [slice.name, slice]));
  }
}

const nodeKey = (name: string): ObjectKey => objectKey("default", name);

const identify = (parsed: Parsed): { readonly kind: Kind | "other"; readonly key: string } | null => {
  switch (parsed.kind) {
    case "ignored":
      return null;
    case "Node":
      return { kind: "Node", key: nodeKey(parsed.value.name) };
    case "rejected":
      return { kind: KINDS.find((kind) => kind === parsed.objectKind) ?? "other", key: parsed.key ?? "" };
    default:
      return { kind: parsed.kind, key: parsed.key };
  }
};

const KINDS: readonly Kind[] = ["Service", "EndpointSlice", "Endpoints", "Node"];
