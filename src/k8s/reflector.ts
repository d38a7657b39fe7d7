// Keeps a local image of one kind of object: list, then watch from where the list was, for ever. Whatever goes wrong,
// the image ends up as the server has it: an event is taken or listed again, a deletion is never missed. The same
// errors that make client-go list again make this one do so; when in doubt it lists.
import { setTimeout as sleep } from "node:timers/promises";
import { messageOf } from "../lib/errors.ts";
import type { Api } from "./api.ts";
import { ApiError, DistrustError, TooLargeError } from "./api-error.ts";
import { readBody } from "./body.ts";
import { isRecord, show } from "./field.ts";
import { createLineSplitter } from "./lines.ts";
import { statusError } from "./status.ts";

export interface Resource {
  /** `/api/v1/services` */
  readonly path: string;
  /** labelSelector, fieldSelector. */
  readonly selector: Readonly<Record<string, string>>;
}

/** Where the image is kept. `Item` is what is left of an object after reading: its JSON is garbage at once. */
export interface Image<Item> {
  read(raw: unknown): Item;
  /** These are all there are. */
  replace(items: readonly Item[]): void;
  /** Added or changed: the server says both of an object we may know or not. */
  put(item: Item): void;
  /** Gone, whether we knew it or not. */
  remove(raw: unknown): void;
  /** The events that came together have all been given. */
  settle(): void;
}

export interface ReflectorOptions {
  /** 0..1, spreads a thousand agents over time. */
  readonly random: () => number;
  readonly log: (level: "info" | "warn" | "error", message: string, fields?: object) => void;
  readonly times: ReflectorTimes;
  readonly limits: ReflectorLimits;
}

export interface ReflectorTimes {
  /** Back-off with full jitter: up to min, then up to twice that, …, up to max. */
  readonly backoff_min_ms: number;
  readonly backoff_max_ms: number;
  /** A watch is asked to end after min..2·min seconds, so that load moves to another API server now and then. */
  readonly watch_min_s: number;
  /** A list that says nothing for so long is given up. */
  readonly list_idle_ms: number;
  /** A watch that says nothing for so long after it should have ended is given up. */
  readonly watch_margin_ms: number;
}

export interface ReflectorLimits {
  readonly page_items: number;
  readonly page_bytes: number;
  readonly line_bytes: number;
}

export const DEFAULT_TIMES: ReflectorTimes = {
  backoff_min_ms: 800,
  backoff_max_ms: 30_000,
  watch_min_s: 300,
  list_idle_ms: 60_000,
  watch_margin_ms: 15_000,
};

/**
 * A watch that the server ends so much before its time counts as a failure: then the server is going away, and all
 * agents at once look for another.
 */
const EARLY_MS = 1000;

/** etcd takes objects of up to 1.5 MB; a page of typical Services is 0.6 MB. */
export const DEFAULT_LIMITS: ReflectorLimits = { page_items: 500, page_bytes: 64 << 20, line_bytes: 8 << 20 };

/** Runs until the signal says stop. Never rejects. */
export const reflect = async <Item>(
  api: Api,
  resource: Resource,
  image: Image<Item>,
  options: ReflectorOptions,
  signal: AbortSignal,
): Promise<void> => {
  const { times, log } = options;
  const reflector = new Reflection(api, resource, image, options, signal);
  let failures = 0;
  while (!signal.aborted) {
    const started_ms = performance.now();
    try {
      if (!reflector.hasPosition) await reflector.list();
      await reflector.watch(() => {
        if (failures > 0) log("info", `Following ${resource.path} again`);
      });
      failures = 0;
    } catch (error) {
      if (signal.aborted) return;
      if (needsList(error)) reflector.forgetPosition();
      // Only what held for a while was no failure: a stream that breaks after every event must not be a busy loop.
      failures = performance.now() - started_ms > times.backoff_max_ms ? 1 : failures + 1;
      const delay_ms = delayAfter(error, failures, times, options.random());
      // Once is routine: a position that expired, a server that restarts, a load balancer that cuts idle connections.
      const level = failures === 1 ? "info" : "warn";
      const again = reflector.hasPosition ? "watching again" : "listing again";
      log(level, `Cannot follow ${resource.path}: ${messageOf(error)}; ${again} in ${Math.round(delay_ms)} ms`);
      await sleep(delay_ms, undefined, { signal }).catch(() => undefined);
    }
  }
};

/** A lost connection or an overloaded server lost us nothing; what we cannot trust, or is too old, did. */
const needsList = (error: unknown): boolean =>
  error instanceof DistrustError ||
  error instanceof TooLargeError ||
  (error instanceof ApiError && [400, 404, 410, 422].includes(error.status));

/** Full jitter, at least what the server asked for. */
const delayAfter = (error: unknown, failures: number, times: ReflectorTimes, random: number): number => {
  const ceiling_ms = Math.min(times.backoff_max_ms, times.backoff_min_ms * 2 ** Math.min(failures - 1, 30));
  const asked_ms = error instanceof ApiError ? (error.retryAfter_ms ?? 0) : 0;
  return asked_ms + random * ceiling_ms;
};

/** One reflector's position in the server's history. */
class Reflection<Item> {
  readonly #api: Api;
  readonly #resource: Resource;
  readonly #image: Image<Item>;
  readonly #options: ReflectorOptions;
  readonly #signal: AbortSignal;
  /** The resourceVersion up to which the image is true; null: unknown, list first. Opaque but for #advance. */
  #position: string | null = null;
  #pageItems: number;

  constructor(api: Api, resource: Resource, image: Image<Item>, options: ReflectorOptions, signal: AbortSignal) {
    this.#api = api;
    this.#resource = resource;
    this.#image = image;
    this.#options = options;
    this.#signal = signal;
    this.#pageItems = options.limits.page_items;
  }

  get hasPosition(): boolean {
    return this.#position !== null;
  }

  forgetPosition(): void {
    this.#position = null;
  }

  /**
   * All objects, page by page. Without a resourceVersion, so that it is never older than what was seen before; the
   * server pins the following pages to the first one's.
   */
  async list(): Promise<void> {
    const items: Item[] = [];
    let version: string | null = null;
    let token = "";
    do {
      const page = await this.#page(token);
      version ??= page.version;
      if (page.version !== version)
        throw new DistrustError(`the list moved from resourceVersion ${version} to ${page.version} between pages`);
      for (const raw of page.items) items.push(this.#image.read(raw));
      token = page.token;
    } while (token !== "");
    this.#image.replace(items);
    this.#position = version;
  }

  async #page(token: string): Promise<{ version: string; items: readonly unknown[]; token: string }> {
    const { page_bytes } = this.#options.limits;
    const query = { ...this.#resource.selector, limit: String(this.#pageItems), ...(token && { continue: token }) };
    const body = await this.#api.get(this.#resource.path, query, this.#options.times.list_idle_ms, this.#signal);
    try {
      return readPage(parseJson((await readBody(body, page_bytes)).toString("utf8")));
    } catch (error) {
      if (!(error instanceof TooLargeError) || this.#pageItems === 1) throw error;
      this.#pageItems = Math.ceil(this.#pageItems / 4);
      return this.#page(token);
    }
  }

  /**
   * Takes events until the server ends the stream; `begun` hears that it has started. A watch that was silent to its end is followed by a list: a server
   * restored from a backup is silent to those who come from its future.
   */
  async watch(begun: () => void): Promise<void> {
    const { times, limits, random } = this.#options;
    const timeout_s = Math.max(1, Math.round(times.watch_min_s * (1 + random())));
    const query = {
      ...this.#resource.selector,
      watch: "true",
      allowWatchBookmarks: "true",
      resourceVersion: this.#position ?? "",
      timeoutSeconds: String(timeout_s),
    };
    const idle_ms = timeout_s * 1000 + times.watch_margin_ms;
    const started_ms = performance.now();
    let heard = false;
    const body = await this.#api.get(this.#resource.path, query, idle_ms, this.#signal);
    begun();
    const split = createLineSplitter(limits.line_bytes);
    for await (const chunk of body) {
      heard = true;
      try {
        for (const line of split(chunk)) this.#take(parseJson(line));
      } finally {
        this.#image.settle();
      }
    }
    const lived_ms = performance.now() - started_ms;
    if (lived_ms < timeout_s * 1000 - EARLY_MS)
      throw new Error(`the watch ended after ${Math.round(lived_ms)} ms, before its time`);
    if (!heard) this.forgetPosition();
  }

  #take(event: unknown): void {
    const { type, object } = isRecord(event) ? event : {};
    switch (type) {
      case "ADDED":
      case "MODIFIED":
        this.#advance(requiredVersion(type, object));
        this.#image.put(this.#image.read(object));
        break;
      case "DELETED":
        this.#advance(requiredVersion(type, object));
        this.#image.remove(object);
        break;
      case "BOOKMARK": {
        const version = versionOf(object);
        if (version !== null) this.#advance(version);
        break;
      }
      case "ERROR": {
        const error = statusError(object, `watch ${this.#resource.path}`);
        throw error.status === 410 ? error : new DistrustError(error.message, { cause: error });
      }
      default:
        throw new DistrustError(`an event is of the unknown type ${show(type)}`);
    }
  }

  /** Inside one stream a version never goes back; where one does, an older object may follow a newer one. */
  #advance(version: string): void {
    if (this.#position !== null && isOlder(version, this.#position))
      throw new DistrustError(`the stream went back from resourceVersion ${this.#position} to ${version}`);
    this.#position = version;
  }
}

const readPage = (page: unknown): { version: string; items: readonly unknown[]; token: string } => {
  const version = versionOf(page);
  const { items, metadata } = isRecord(page) ? page : {};
  // Go writes an empty list as null.
  const list: unknown = items === null ? [] : items;
  if (version === null || !Array.isArray(list)) throw new DistrustError(`the answer is no list: ${show(page)}`);
  const token: unknown = isRecord(metadata) ? metadata.continue : "";
  return { version, items: list as readonly unknown[], token: typeof token === "string" ? token : "" };
};

const requiredVersion = (type: string, object: unknown): string => {
  const version = versionOf(object);
  if (version === null) throw new DistrustError(`an event ${type} has no object with a resourceVersion`);
  return version;
};

const versionOf = (object: unknown): string | null => {
  const metadata: unknown = isRecord(object) ? object.metadata : null;
  const version: unknown = isRecord(metadata) ? metadata.resourceVersion : null;
  return typeof version === "string" && version !== "" ? version : null;
};

/** Both are decimal numbers (KEP-5504 makes them so) and `a` is the smaller; anything else is not comparable. */
const isOlder = (a: string, b: string): boolean => {
  const decimal = /^[1-9]\d{0,30}$/;
  return decimal.test(a) && decimal.test(b) && (a.length === b.length ? a < b : a.length < b.length);
};

const parseJson = (text: string): unknown => {
  try {
    return JSON.parse(text) as unknown;
  } catch (cause) {
    throw new DistrustError(`the answer is no JSON: ${show(text)}`, { cause });
  }
};
