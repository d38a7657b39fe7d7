// Objects that are loaded once and used by one test after another: each finds every map as empty as if it had just been
// loaded. Loading goes through the verifier, which takes longer than most tests.
import { maps } from "../../src/dataplane/bpf/abi.gen.ts";
import { type StructName, sizeOf } from "../../src/dataplane/bpf/codec.ts";
import type { MapName } from "../../src/dataplane/bpf/mapstore.ts";
import { mapDelete, mapInfo, mapNextKey, mapUpdateBatch, possibleCpus } from "../../src/dataplane/bpf/system/map.ts";
import type { LoadedObject } from "../../src/dataplane/bpf/system/object.ts";

/** By what they were loaded with; the one that was used last comes last. */
const idle: { readonly recipe: string; readonly object: LoadedObject }[] = [];
/** So many that a file that uses two others besides its own loads none of them twice. */
const IDLE = 3;

/** One of this recipe that nobody uses, or a new one. */
export const takeObject = (recipe: string, load: () => LoadedObject): LoadedObject => {
  const at = idle.findLastIndex((one) => one.recipe === recipe);
  return idle.splice(at, Number(at !== -1))[0]?.object ?? load();
};

/** Empties it for the next one. */
export const giveBack = (recipe: string, object: LoadedObject): void => {
  for (const name of Object.keys(maps) as MapName[]) emptyMap(object, name);
  if (object.programs.includes("tc_ingress")) zero(object.map("ways_taken")); // its own, not pinned
  idle.push({ recipe, object });
  const oldest = idle.length > IDLE ? idle.shift() : undefined;
  if (oldest === undefined) return;
  for (const one of sharers.get(oldest.object)?.values() ?? []) one.close();
  sharers.delete(oldest.object);
  oldest.object.close();
};

/** Objects that share the maps of another, and live as long. */
const sharers = new Map<LoadedObject, Map<string, LoadedObject>>();

export const takeSharer = (of: LoadedObject, recipe: string, load: () => LoadedObject): LoadedObject => {
  const those = sharers.get(of) ?? new Map<string, LoadedObject>();
  sharers.set(of, those);
  const sharer = those.get(recipe) ?? load();
  those.set(recipe, sharer);
  return sharer;
};

const [ARRAY, PERCPU_ARRAY, SK_STORAGE] = [2, 6, 24];

const emptyMap = (object: LoadedObject, name: MapName): void => {
  const { type, key } = maps[name];
  if (type === SK_STORAGE) return;
  const map = object.map(name);
  if (type === ARRAY || type === PERCPU_ARRAY) return zero(map);
  const size = sizeOf(key as StructName);
  for (let first = mapNextKey(map, null, size); first !== null; first = mapNextKey(map, null, size)) {
    mapDelete(map, first);
  }
};

/** An array, of each CPU or of all. */
const zero = (map: number): void => {
  const { type, max_entries, value_size } = mapInfo(map);
  const bytes = type === PERCPU_ARRAY ? Math.ceil(value_size / 8) * 8 * possibleCpus() : value_size;
  const keys = Uint32Array.from({ length: max_entries }, (_, i) => i);
  const { errno } = mapUpdateBatch(map, new Uint8Array(keys.buffer), new Uint8Array(max_entries * bytes), max_entries);
  if (errno !== 0) throw new Error(`Cannot empty a map: errno ${errno}`);
};
