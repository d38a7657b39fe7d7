// Which manifest files there are under some paths, and whether one is still the file it was. Reads no content.
import { type BigIntStats, readdirSync, statSync } from "node:fs";
import { extname } from "node:path";

export interface Listing {
  /** Roots in the order given, the files of a folder by path. */
  readonly files: readonly ListedFile[];
  /** Every folder looked into, and those that hold the named files: where to listen for changes. */
  readonly folders: ReadonlyMap<string, string>;
  /** What could not be looked at, and why. */
  readonly unreadable: ReadonlyMap<string, Error>;
}

export interface ListedFile {
  readonly path: string;
  /** Differs when the file was replaced or written to. */
  readonly signature: string;
  /** It has no byte: somebody is about to write it, or has just begun. */
  readonly empty: boolean;
}

const EXTENSIONS: readonly string[] = [".yaml", ".yml", ".json"];

/**
 * Lists files and folders, these with all below them. Hidden names are passed over (`.x.swp`, `.#x`, a ConfigMap
 * volume's `..data`), and so is what has another extension (`x.yaml~`, `#x.yaml#`); a file named as a root is taken
 * whatever it is called. Symbolic links are followed, but not in circles.
 */
export const listManifests = (roots: readonly string[]): Listing => {
  const files = new Map<string, ListedFile>();
  const folders = new Map<string, string>();
  const unreadable = new Map<string, Error>();

  const visit = (path: string, isRoot: boolean, above: readonly string[]): void => {
    try {
      const stats = statSync(path, { bigint: true });
      const id = `${stats.dev}:${stats.ino}`;
      if (stats.isDirectory()) {
        if (above.includes(id)) return;
        folders.set(path, id);
        for (const name of readdirSync(path).sort()) {
          if (!name.startsWith(".")) visit(`${path}/${name}`, false, [...above, id]);
        }
      } else if (isRoot || (stats.isFile() && EXTENSIONS.includes(extname(path)))) {
        files.set(path, { path, signature: signatureOf(stats), empty: stats.size === 0n });
      }
    } catch (error) {
      const mayMatter = isRoot || EXTENSIONS.includes(extname(path)) || codeOf(error) !== "ENOENT";
      if (mayMatter) unreadable.set(path, error instanceof Error ? error : new Error(String(error)));
    }
  };

  for (const root of roots) visit(root, true, []);
  return { files: [...files.values()], folders, unreadable };
};

/** Whether a listed path is this root, or is below it. */
export const isBelow = (path: string, root: string): boolean => path === root || path.startsWith(`${root}/`);

/** Roots as the listing writes them: `examples/` is `examples`, so that what is below is `examples/a.yaml`. */
export const withoutSlash = (root: string): string => root.replace(/(?<=.)\/+$/, "");

const signatureOf = (stats: BigIntStats): string =>
  [stats.dev, stats.ino, stats.size, stats.mtimeNs, stats.ctimeNs].join(":");

const codeOf = (error: unknown): unknown => (error as { readonly code?: unknown } | null)?.code;
