// What a Kubernetes API server remembers: objects, one resourceVersion over all of them, and for each resource the
// history that watches replay. No HTTP here; see api-server.ts.
import { randomUUID } from "node:crypto";
import type { Selectable, Selector } from "./api-selectors.ts";

export interface ApiObject extends Selectable {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: Selectable["metadata"] & {
    readonly uid: string;
    readonly resourceVersion: string;
    readonly creationTimestamp: string;
  };
  readonly [field: string]: unknown;
}

export interface ResourceType {
  readonly apiVersion: string;
  readonly kind: string;
  readonly plural: string;
  readonly namespaced: boolean;
}

export const RESOURCES: readonly ResourceType[] = [
  { apiVersion: "v1", kind: "Service", plural: "services", namespaced: true },
  { apiVersion: "v1", kind: "Endpoints", plural: "endpoints", namespaced: true },
  { apiVersion: "v1", kind: "Node", plural: "nodes", namespaced: false },
  { apiVersion: "v1", kind: "Event", plural: "events", namespaced: true },
  { apiVersion: "discovery.k8s.io/v1", kind: "EndpointSlice", plural: "endpointslices", namespaced: true },
];

export interface ApiEvent {
  readonly version: number;
  readonly type: "ADDED" | "MODIFIED" | "DELETED";
  /** As it is now; of a deletion the last state, with the deletion's version. */
  readonly object: ApiObject;
  /** As it was before. */
  readonly previous: ApiObject | null;
}

interface ResourceState {
  readonly objects: Map<string, ApiObject>;
  history: ApiEvent[];
  /** Watches from an earlier version have expired. */
  oldest: number;
  readonly listeners: Set<(event: ApiEvent) => void>;
}

/** A backup of everything, as of etcd. */
export interface Backup {
  readonly version: number;
  readonly objects: ReadonlyMap<string, ReadonlyMap<string, ApiObject>>;
}

/** A page of a list; `token` is where the next one begins, null after the last. */
export interface Page {
  readonly version: number;
  readonly items: readonly ApiObject[];
  readonly token: string | null;
  readonly remaining: number;
}

export class ApiState {
  /** A moment ago something else was written: versions neither begin at 1 nor count only what a client sees. */
  #version = 200;
  #frozen = false;
  readonly #resources = new Map<string, ResourceState>(
    RESOURCES.map(({ plural }) => [plural, { objects: new Map(), history: [], oldest: 0, listeners: new Set() }]),
  );
  /** Lists that are being paged through, by version: every page shows the moment of the first one. */
  readonly #pinned = new Map<string, readonly ApiObject[]>();

  get version(): number {
    return this.#version;
  }

  /** Creates or replaces. Throws a ConflictError when the object names a resourceVersion that is not the stored one. */
  put(object: object): ApiObject {
    const given = object as Partial<ApiObject>;
    const { metadata } = given;
    const { plural, namespaced } = typeOf(given);
    if (metadata === undefined) throw new Error("The object has no metadata");
    const namespace = metadata.namespace ?? "default";
    const key = namespaced ? `${namespace}/${metadata.name}` : metadata.name;
    const state = this.#state(plural);
    const previous = state.objects.get(key) ?? null;
    const based = metadata.resourceVersion;
    if (based !== undefined && based !== (previous?.metadata.resourceVersion ?? ""))
      throw new ConflictError(`${plural} "${key}" is at ${previous?.metadata.resourceVersion}, not ${based}`);
    const stored = {
      ...given,
      metadata: {
        ...metadata,
        ...(namespaced ? { namespace } : {}),
        uid: previous?.metadata.uid ?? metadata.uid ?? randomUUID(),
        creationTimestamp: previous?.metadata.creationTimestamp ?? metadata.creationTimestamp ?? secondsNow(),
        resourceVersion: String(this.#next()),
      },
    } as ApiObject;
    state.objects.set(key, stored);
    this.#publish(state, { version: this.#version, type: previous ? "MODIFIED" : "ADDED", object: stored, previous });
    return stored;
  }

  /** Returns whether it was there. */
  delete(kind: string, namespace: string, name: string): boolean {
    const type = RESOURCES.find((r) => r.kind === kind);
    if (type === undefined) throw new Error(`No resource of kind ${kind}`);
    const key = type.namespaced ? `${namespace}/${name}` : name;
    const state = this.#state(type.plural);
    const previous = state.objects.get(key);
    if (previous === undefined) return false;
    state.objects.delete(key);
    const object = at(previous, this.#next());
    this.#publish(state, { version: this.#version, type: "DELETED", object, previous });
    return true;
  }

  get(plural: string, key: string): ApiObject | null {
    return this.#state(plural).objects.get(key) ?? null;
  }

  /** One page of what the selector picks, by key. Throws an ExpiredError for a token from before a compaction. */
  list(plural: string, selects: Selector, limit: number, token: string | null): Page {
    const { pin, start } = token === null ? { pin: `${plural}@${this.#version}`, start: 0 } : readToken(token);
    let all = this.#pinned.get(pin);
    if (token !== null && all === undefined) throw new ExpiredError();
    all ??= [...this.#state(plural).objects].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, object]) => object);
    const items: ApiObject[] = [];
    let next = start;
    while (next < all.length && (limit === 0 || items.length < limit)) {
      const object = all[next++];
      if (object !== undefined && selects(object)) items.push(object);
    }
    const remaining = all.length - next;
    if (remaining > 0) this.#pinned.set(pin, all);
    return {
      version: Number(pin.slice(pin.indexOf("@") + 1)),
      items,
      token: remaining > 0 ? writeToken({ pin, start: next }) : null,
      remaining,
    };
  }

  /** Every event after a version. Throws an ExpiredError when the history does not reach back to it. */
  since(plural: string, version: number): readonly ApiEvent[] {
    const { history, oldest } = this.#state(plural);
    if (version < oldest) throw new ExpiredError(`too old resource version: ${version} (${oldest})`);
    return history.filter((event) => event.version > version);
  }

  /** Returns a function that stops it. */
  listen(plural: string, listener: (event: ApiEvent) => void): () => void {
    const { listeners } = this.#state(plural);
    listeners.add(listener);
    return () => void listeners.delete(listener);
  }

  /** Forgets history: watches from before now, and lists half read, have expired. */
  compact(): void {
    this.#next(); // something was written that no watch of ours saw
    this.#pinned.clear();
    for (const state of this.#resources.values()) {
      state.history = [];
      state.oldest = this.#version;
    }
  }

  /** Writes from now on get the version of the last one, which no real server does. */
  freeze(frozen: boolean): void {
    this.#frozen = frozen;
  }

  backup(): Backup {
    const objects = [...this.#resources].map(([plural, state]) => [plural, new Map(state.objects)] as const);
    return { version: this.#version, objects: new Map(objects) };
  }

  /** The world as it was; versions count on from there. Nobody is told: a restored etcd tells nobody either. */
  restore(backup: Backup): void {
    this.#version = backup.version;
    this.#pinned.clear();
    for (const [plural, state] of this.#resources) {
      state.objects.clear();
      for (const [key, object] of backup.objects.get(plural) ?? []) state.objects.set(key, object);
      state.history = [];
      state.oldest = backup.version;
    }
  }

  #state(plural: string): ResourceState {
    const state = this.#resources.get(plural);
    if (state === undefined) throw new Error(`No resource ${plural}`);
    return state;
  }

  #next(): number {
    if (!this.#frozen) this.#version++;
    return this.#version;
  }

  #publish(state: ResourceState, event: ApiEvent): void {
    state.history.push(event);
    for (const listener of state.listeners) listener(event);
  }
}

/** An event as a watch with this selector sees it: what enters is ADDED, what leaves is DELETED. */
export const seenThrough = (selects: Selector, event: ApiEvent): Pick<ApiEvent, "type" | "object"> | null => {
  const { type, object, previous, version } = event;
  const was = previous !== null && selects(previous);
  const is = type !== "DELETED" && selects(object);
  if (is) return { type: was ? "MODIFIED" : "ADDED", object };
  return was && previous !== null ? { type: "DELETED", object: at(previous, version) } : null;
};

export class ConflictError extends Error {}
export class ExpiredError extends Error {}

const typeOf = ({ kind, apiVersion }: Partial<ApiObject>): ResourceType => {
  const type = RESOURCES.find((r) => r.kind === kind && r.apiVersion === apiVersion);
  if (type === undefined) throw new Error(`No resource for ${apiVersion} ${kind}`);
  return type;
};

const at = (object: ApiObject, version: number): ApiObject => ({
  ...object,
  metadata: { ...object.metadata, resourceVersion: String(version) },
});

const secondsNow = (): string => new Date().toISOString().replace(/\.\d+Z$/, "Z");

const writeToken = (token: { readonly pin: string; readonly start: number }): string =>
  Buffer.from(JSON.stringify(token)).toString("base64url");

/** Throws a SyntaxError for what is no token. */
const readToken = (text: string): { readonly pin: string; readonly start: number } =>
  JSON.parse(Buffer.from(text, "base64url").toString("utf8")) as { pin: string; start: number };
