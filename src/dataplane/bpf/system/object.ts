// BPF objects: opening a file, its maps and options, and loading it through the verifier.
import { checkLibbpf, SystemError } from "./errors.ts";
import { libbpf, libbpfLog } from "./libbpf.ts";
import { errno } from "./libc.ts";

export interface LoadOptions {
  /** Maps are pinned here by their name, and taken from here when they exist. A bpffs directory. Omit: not pinned. */
  readonly pinDirectory?: string;
  /** Entries by map name; others keep their default. */
  readonly maxEntries?: Readonly<Record<string, number>>;
  /** Shares the maps that would be pinned with an object that is loaded. */
  readonly mapsOf?: LoadedObject;
  /** Bytes of `struct options`, for the section .rodata.options. */
  readonly options: Uint8Array;
}

/** A loaded BPF object: its programs are in the kernel until it is closed (and beyond, when linked or pinned). */
export interface LoadedObject {
  /** Names of its programs. */
  readonly programs: readonly string[];
  /** File descriptor, owned by the object. Throws when there is no such program. */
  program(name: string): number;
  /** File descriptor, owned by the object. Throws when there is no such map. */
  map(name: string): number;
  close(): void;
}

const MAP_TYPES_WITHOUT_SIZE = [24 /* BPF_MAP_TYPE_SK_STORAGE */];

/** Opens, sets sizes and options, loads through the verifier. Throws SystemError; its `log` is the verifier's. */
export const loadObject = (path: string, options: LoadOptions): LoadedObject => {
  const l = libbpf();
  libbpfLog.forget();
  const object: unknown = l.object_open(path, null);
  if (object === null) throw new SystemError(`Cannot open BPF object ${path}`, errno(), libbpfLog.text());
  const mapFds = new Map<string, unknown>();
  const close = (): void => void l.object_close(object);
  try {
    for (let map = l.object_next_map(object, null); map !== null; map = l.object_next_map(object, map)) {
      const name = l.map_name(map) as string;
      mapFds.set(name, map);
      prepareMap(map, name, options);
    }
    const answer = l.object_load(object) as number;
    if (answer < 0) throw new SystemError(`Cannot load BPF object ${path}`, -answer, libbpfLog.text());
  } catch (error) {
    close();
    throw error;
  }
  const programs: string[] = [];
  for (let p = l.object_next_program(object, null); p !== null; p = l.object_next_program(object, p)) {
    programs.push(l.program_name(p) as string);
  }
  return {
    programs,
    program(name) {
      const program: unknown = l.object_find_program(object, name);
      if (program === null) throw new Error(`${path} has no program ${name}`);
      return checkLibbpf(`Cannot use program ${name} of ${path}`, l.program_fd(program) as number);
    },
    map(name) {
      const map = mapFds.get(name);
      if (map === undefined) throw new Error(`${path} has no map ${name}`);
      return checkLibbpf(`Cannot use map ${name} of ${path}`, l.map_fd(map) as number);
    },
    close,
  };
};

const prepareMap = (map: unknown, name: string, options: LoadOptions): void => {
  const l = libbpf();
  if (name === ".rodata.options") {
    const answer = l.map_set_initial_value(map, options.options, options.options.length) as number;
    return void checkLibbpf(`Cannot set the options of a BPF object (${options.options.length} bytes)`, answer);
  }
  if (name.includes(".")) return; // .rodata, .bss: libbpf's own
  if (l.map_pin_path(map) === null) return; // each object has its own
  if (options.mapsOf !== undefined) {
    checkLibbpf(`Cannot set the pin path of map ${name}`, l.map_set_pin_path(map, null) as number);
    return void checkLibbpf(`Cannot share map ${name}`, l.map_reuse_fd(map, options.mapsOf.map(name)) as number);
  }
  const path = options.pinDirectory === undefined ? null : `${options.pinDirectory}/${name}`;
  checkLibbpf(`Cannot set the pin path of map ${name}`, l.map_set_pin_path(map, path) as number);
  const entries = options.maxEntries?.[name];
  if (entries !== undefined && !MAP_TYPES_WITHOUT_SIZE.includes(l.map_type(map) as number)) {
    checkLibbpf(`Cannot set map ${name} to ${entries} entries`, l.map_set_max_entries(map, entries) as number);
  }
};
