// Manifest files become a Snapshot: once, or watched. The objects of all files together are the whole truth, so what
// leaves a file leaves the Snapshot; but a file that cannot be read right now keeps what it held.
import { type FSWatcher, watch } from "node:fs";
import { dirname } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { InputError, messageOf } from "../lib/errors.ts";
import type { Problem, Snapshot } from "../model/snapshot.ts";
import { readDocuments } from "./documents.ts";
import { isBelow, type ListedFile, type Listing, listManifests, withoutSlash } from "./files.ts";
import { gather, type ManifestFile, placeObjects, readManifestFile } from "./manifest-file.ts";
import { createProblemLog } from "./problem-log.ts";
import type { Source, SourceHandlers } from "./source.ts";
import { ObjectStore } from "./store.ts";

/** What a file looked like (`""`: it was missing), and since when. */
interface Look {
  readonly signature: string;
  readonly since_ms: number;
}

/**
 * Reads files and folders of YAML or JSON once. Objects that are not usable are problems, with file and line; a path
 * that does not exist, or a document that is no YAML, is an InputError.
 */
export const readManifests = (
  paths: readonly string[],
  nodeName: string,
): { readonly snapshot: Snapshot; readonly problems: readonly Problem[] } => {
  const listing = listExisting(paths.map(withoutSlash));
  const files = listing.files.map(({ path, signature }) => readManifestFile(path, signature));
  const bad = [...files.flatMap((file) => file.problems), ...unreadable(listing)];
  if (bad[0] !== undefined) {
    const more = bad.length > 1 ? ` (and ${bad.length - 1} more)` : "";
    throw new InputError(`Cannot read ${bad[0].object}: ${bad[0].message}${more}`);
  }
  const store = new ObjectStore(nodeName);
  const problems = gather(files, store).problems;
  return { snapshot: store.snapshot(), problems };
};

/** One text, as one file called `name` would be read: what tests and standard input give. */
export const readManifestText = (
  text: string,
  name: string,
  nodeName: string,
): { readonly snapshot: Snapshot; readonly problems: readonly Problem[] } => {
  const store = new ObjectStore(nodeName);
  const file = placeObjects(name, "", readDocuments(text));
  const { problems } = gather([file], store);
  return { snapshot: store.snapshot(), problems: [...file.problems, ...problems] };
};

export interface WatchTimes {
  /** How long a file must stay as it is before it is read: who writes it should be done. */
  readonly settle_ms: number;
  /** How often everything is looked at although nothing was heard: network file systems tell nothing. */
  readonly poll_ms: number;
}

/**
 * Keeps a Snapshot of files and folders. Throws an InputError when a path does not exist now. Later, a path that is
 * gone, a file that does not parse, or an empty one, keeps the objects it had and is named in problems(); a file that
 * leaves its folder takes its objects with it.
 */
export const watchManifests = (
  paths: readonly string[],
  nodeName: string,
  handlers: SourceHandlers,
  times: WatchTimes = { settle_ms: 50, poll_ms: 2000 },
): Source => new ManifestWatch(paths, nodeName, handlers, times);

class ManifestWatch implements Source {
  readonly description: string;
  readonly #roots: readonly string[];
  readonly #handlers: SourceHandlers;
  readonly #times: WatchTimes;
  readonly #store: ObjectStore;
  readonly #files = new Map<string, ManifestFile>();
  /** Files that differ from what was read, and since when they have looked the same. */
  #unsettled: ReadonlyMap<string, Look> = new Map();
  readonly #watchers = new Map<string, FSWatcher>();
  readonly #logProblems: ReturnType<typeof createProblemLog>;
  readonly #poll: NodeJS.Timeout;
  #next: NodeJS.Timeout | null = null;
  #unreadable: readonly Problem[] = [];
  #problems: readonly Problem[] = [];
  #closed = false;

  constructor(paths: readonly string[], nodeName: string, handlers: SourceHandlers, times: WatchTimes) {
    this.description = `manifests in ${paths.join(", ")}`;
    this.#roots = paths.map(withoutSlash);
    this.#handlers = handlers;
    this.#times = times;
    this.#store = new ObjectStore(nodeName);
    this.#logProblems = createProblemLog(handlers.log);
    const listing = listExisting(this.#roots);
    // "": read once more when it has settled, since somebody may be writing it at this moment.
    for (const { path } of listing.files) this.#files.set(path, readManifestFile(path, ""));
    this.#gather(listing);
    this.#listen(listing);
    this.#poll = setInterval(() => this.#look(), times.poll_ms);
    this.#next = setTimeout(() => {
      this.#logProblems(this.#problems);
      this.#handlers.changed();
      this.#look();
    }, 0);
  }

  snapshot(): Snapshot {
    return this.#store.snapshot();
  }

  synced(): boolean {
    return true;
  }

  problems(): readonly Problem[] {
    return this.#problems;
  }

  /** The log has said it; files have no owner to tell. */
  recordProblems(): void {}

  close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#poll);
    if (this.#next !== null) clearTimeout(this.#next);
    for (const watcher of this.#watchers.values()) watcher.close();
    this.#watchers.clear();
    return Promise.resolve();
  }

  #look(): void {
    if (this.#next !== null) clearTimeout(this.#next);
    this.#next = null;
    const listing = listManifests(this.#roots);
    this.#listen(listing);
    const listed = new Set(listing.files.map((file) => file.path));
    const unsettled = new Map<string, Look>();
    let different = false;
    for (const file of listing.files) {
      if (this.#files.get(file.path)?.signature === file.signature) continue;
      if (!this.#settled(file.path, file.signature, unsettled)) continue;
      this.#files.set(file.path, this.#reread(file));
      different = true;
    }
    for (const path of this.#files.keys()) {
      if (listed.has(path) || this.#keptFor(path, listing) || !this.#settled(path, "", unsettled)) continue;
      this.#files.delete(path);
      different = true;
    }
    this.#unsettled = unsettled;
    if (unsettled.size > 0) this.#lookIn(this.#times.settle_ms);
    if (different || !isDeepStrictEqual(unreadable(listing), this.#unreadable)) this.#take(listing);
  }

  #take(listing: Listing): void {
    const changed = this.#gather(listing);
    this.#logProblems(this.#problems);
    if (changed) this.#handlers.changed();
  }

  /** Whether a file has looked like this for long enough; if not, it is noted in `unsettled` for the next look. */
  #settled(path: string, signature: string, unsettled: Map<string, Look>): boolean {
    const now_ms = performance.now();
    const seen = this.#unsettled.get(path);
    const since_ms = seen?.signature === signature ? seen.since_ms : now_ms;
    if (now_ms - since_ms >= this.#times.settle_ms) return true;
    unsettled.set(path, { signature, since_ms });
    return false;
  }

  /** A root, or anything below a folder, that cannot be looked at: nobody said that its objects are gone. */
  #keptFor(path: string, listing: Listing): boolean {
    return [...listing.unreadable.keys()].some((gone) => isBelow(path, gone));
  }

  #reread({ path, signature, empty }: ListedFile): ManifestFile {
    const before = this.#files.get(path);
    if (before === undefined) return readManifestFile(path, signature);
    const halfWritten = { object: path, path: "", message: "the file is empty (delete it to remove its objects)" };
    const { problems, objects } = empty ? { problems: [halfWritten], objects: [] } : readManifestFile(path, signature);
    return { signature, problems, objects: problems.length > 0 ? before.objects : objects };
  }

  #gather(listing: Listing): boolean {
    const roots = this.#roots;
    const rank = (path: string): number => roots.findIndex((root) => isBelow(path, root));
    const files = [...this.#files].sort(([a], [b]) => rank(a) - rank(b) || (a < b ? -1 : 1)).map(([, file]) => file);
    const { changed, problems } = gather(files, this.#store);
    this.#unreadable = unreadable(listing);
    this.#problems = [...this.#unreadable, ...files.flatMap((file) => file.problems), ...problems];
    return changed;
  }

  #lookIn(delay_ms: number): void {
    if (!this.#closed) this.#next ??= setTimeout(() => this.#look(), delay_ms);
  }

  /** One listener for each folder there is now; a folder that was made anew is another one. */
  #listen(listing: Listing): void {
    const wanted = new Map([...listing.folders].map(([folder, id]) => [`${id} ${folder}`, folder]));
    for (const root of this.#roots) if (!listing.folders.has(root)) wanted.set(`of ${root}`, dirname(root));
    for (const [key, watcher] of this.#watchers) {
      if (wanted.has(key)) continue;
      watcher.close();
      this.#watchers.delete(key);
    }
    for (const [key, folder] of wanted) {
      if (this.#watchers.has(key)) continue;
      try {
        const watcher = watch(folder, () => this.#lookIn(1));
        watcher.on("error", () => watcher.close()); // the poll goes on
        this.#watchers.set(key, watcher);
      } catch {
        // No inotify watch to be had, or the folder is gone again: the poll finds what changes.
      }
    }
  }
}

const listExisting = (paths: readonly string[]): Listing => {
  const listing = listManifests(paths);
  for (const path of paths) {
    const error = listing.unreadable.get(path);
    if (error !== undefined) throw new InputError(`Cannot read ${path}: ${messageOf(error)}`, { cause: error });
  }
  return listing;
};

const unreadable = (listing: Listing): readonly Problem[] =>
  [...listing.unreadable].map(([path, error]) => ({ object: path, path: "", message: messageOf(error) }));
