// Foreign calls: libbpf.so.1 (1.1 or later) and a few of libc, through koffi (those of netlink: netlink.ts). Thin and typed;
// who decides what to load, pin and attach is elsewhere. Every failure is a SystemError that says what could not be done.
import koffi from "koffi";

/** A call that the kernel, libbpf or libc refused. `errno` is positive. */
export class SystemError extends Error {
  override readonly name = "SystemError";
  readonly errno: number;
  /** What libbpf printed while it tried: the verifier's log, for a program that was rejected. */
  readonly log: string;

  constructor(what: string, errno: number, log = "") {
    super(`${what}: ${errnoText(errno)}`);
    this.errno = errno;
    this.log = log;
  }
}

export const isSystemError = (error: unknown, errno?: number): error is SystemError =>
  error instanceof SystemError && (errno === undefined || error.errno === errno);

export const EPERM = 1;
export const ENOENT = 2;
export const E2BIG = 7;
export const EAGAIN = 11;
export const ENOMEM = 12;
export const EBUSY = 16;
export const EEXIST = 17;
export const ENODEV = 19;
export const EINVAL = 22;
export const ENOSPC = 28;

/** enum bpf_attach_type, the ones in use. */
export const attachType = {
  cgroup_inet_sock_release: 34,
  cgroup_inet4_connect: 10,
  cgroup_inet6_connect: 11,
  cgroup_udp4_sendmsg: 14,
  cgroup_udp6_sendmsg: 15,
  cgroup_udp4_recvmsg: 19,
  cgroup_udp6_recvmsg: 20,
  cgroup_inet4_getpeername: 29,
  cgroup_inet6_getpeername: 30,
  trace_iter: 28,
  xdp: 37,
  tcx_ingress: 46,
  tcx_egress: 47,
} as const;

export type AttachType = keyof typeof attachType;

// ---- binding -------------------------------------------------------------------------------------------------------

const bind = () => {
  const libc = koffi.load("libc.so.6");
  const bpf = loadLibbpf();
  const print = koffi.proto("int libbpf_print(int level, const char *format, void *args)");
  return {
    strerror: libc.func("const char *strerror(int errno)"),
    open: libc.func("int open(const char *path, int flags)"),
    close: libc.func("int close(int fd)"),
    flock: libc.func("int flock(int fd, int operation)"),
    syscall: libc.func("long syscall(long number, long a, long b, long c)"),
    ioctl: libc.func("int ioctl(int fd, unsigned long request, void *argument)"),
    setns: libc.func("int setns(int fd, int type)"),
    socket: libc.func("int socket(int domain, int type, int protocol)"),
    getsockopt: libc.func("int getsockopt(int fd, int level, int name, void *value, void *length)"),
    if_nametoindex: libc.func("uint32_t if_nametoindex(const char *name)"),
    if_indextoname: libc.func("char *if_indextoname(uint32_t index, void *name)"),
    mmap: libc.func("void *mmap(void *address, size_t length, int protection, int flags, int fd, int64_t offset)"),
    munmap: libc.func("int munmap(void *address, size_t length)"),
    getpagesize: libc.func("int getpagesize()"),
    clock_gettime: libc.func("int clock_gettime(int clock, void *time)"),
    vsnprintf: libc.func("int vsnprintf(void *buffer, size_t size, const char *format, void *args)"),
    object_open: bpf.func("void *bpf_object__open_file(const char *path, const void *options)"),
    object_load: bpf.func("int bpf_object__load(void *object)"),
    object_close: bpf.func("void bpf_object__close(void *object)"),
    object_next_map: bpf.func("void *bpf_object__next_map(void *object, void *map)"),
    object_find_program: bpf.func("void *bpf_object__find_program_by_name(void *object, const char *name)"),
    object_next_program: bpf.func("void *bpf_object__next_program(void *object, void *program)"),
    map_name: bpf.func("const char *bpf_map__name(void *map)"),
    map_set_max_entries: bpf.func("int bpf_map__set_max_entries(void *map, uint32_t entries)"),
    map_reuse_fd: bpf.func("int bpf_map__reuse_fd(void *map, int fd)"),
    map_pin_path: bpf.func("const char *bpf_map__pin_path(void *map)"),
    map_set_pin_path: bpf.func("int bpf_map__set_pin_path(void *map, const char *path)"),
    map_type: bpf.func("int bpf_map__type(void *map)"),
    map_set_initial_value: bpf.func("int bpf_map__set_initial_value(void *map, const void *data, size_t size)"),
    map_fd: bpf.func("int bpf_map__fd(void *map)"),
    program_fd: bpf.func("int bpf_program__fd(void *program)"),
    program_name: bpf.func("const char *bpf_program__name(void *program)"),
    set_print: bpf.func("void *libbpf_set_print(libbpf_print *print)"),
    map_create: bpf.func(
      "int bpf_map_create(int type, const char *name, uint32_t key_size, uint32_t value_size, uint32_t max_entries, const void *options)",
    ),
    update_elem: bpf.func("int bpf_map_update_elem(int fd, const void *key, const void *value, uint64_t flags)"),
    lookup_elem: bpf.func("int bpf_map_lookup_elem(int fd, const void *key, void *value)"),
    delete_elem: bpf.func("int bpf_map_delete_elem(int fd, const void *key)"),
    get_next_key: bpf.func("int bpf_map_get_next_key(int fd, const void *key, void *next)"),
    update_batch: bpf.func(
      "int bpf_map_update_batch(int fd, const void *keys, const void *values, void *count, const void *options)",
    ),
    delete_batch: bpf.func("int bpf_map_delete_batch(int fd, const void *keys, void *count, const void *options)"),
    lookup_batch: bpf.func(
      "int bpf_map_lookup_batch(int fd, void *in, void *out, void *keys, void *values, void *count, const void *options)",
    ),
    obj_pin: bpf.func("int bpf_obj_pin(int fd, const char *path)"),
    obj_get: bpf.func("int bpf_obj_get(const char *path)"),
    info_by_fd: bpf.func("int bpf_obj_get_info_by_fd(int fd, void *info, void *length)"),
    link_create: bpf.func("int bpf_link_create(int program, int target, int type, const void *options)"),
    iter_create: bpf.func("int bpf_iter_create(int link)"),
    link_update: bpf.func("int bpf_link_update(int link, int program, const void *options)"),
    link_detach: bpf.func("int bpf_link_detach(int link)"),
    xdp_attach: bpf.func("int bpf_xdp_attach(int ifindex, int program, uint32_t flags, const void *options)"),
    xdp_detach: bpf.func("int bpf_xdp_detach(int ifindex, uint32_t flags, const void *options)"),
    xdp_query: bpf.func("int bpf_xdp_query(int ifindex, int flags, void *options)"),
    prog_query: bpf.func(
      "int bpf_prog_query(int target, int type, uint32_t flags, void *attach_flags, void *ids, void *count)",
    ),
    test_run: bpf.func("int bpf_prog_test_run_opts(int program, void *options)"),
    tc_hook_create: bpf.func("int bpf_tc_hook_create(void *hook)"),
    tc_hook_destroy: bpf.func("int bpf_tc_hook_destroy(void *hook)"),
    tc_attach: bpf.func("int bpf_tc_attach(const void *hook, void *options)"),
    tc_detach: bpf.func("int bpf_tc_detach(const void *hook, const void *options)"),
    tc_query: bpf.func("int bpf_tc_query(const void *hook, void *options)"),
    possible_cpus: bpf.func("int libbpf_num_possible_cpus()"),
    version: bpf.func("const char *libbpf_version_string()"),
    print,
  };
};

const loadLibbpf = () => {
  try {
    return koffi.load("libbpf.so.1");
  } catch (cause) {
    throw new Error("Cannot load libbpf.so.1: install libbpf 1.1 or later (Debian: apt-get install libbpf1)", {
      cause,
    });
  }
};

let bound: ReturnType<typeof bind> | undefined;

/** Bound at first use: a command that never touches the kernel does not need libbpf. */
const lib = (): ReturnType<typeof bind> => {
  if (bound === undefined) {
    bound = bind();
    bound.set_print(koffi.register(onPrint, koffi.pointer(bound.print)));
  }
  return bound;
};

// ---- errors and libbpf's own output --------------------------------------------------------------------------------

const LIBBPF_DEBUG = 2;
const printed: string[] = [];

const onPrint = (level: number, format: string, args: unknown): number => {
  if (level >= LIBBPF_DEBUG || printed.length > 4096) return 0;
  const buffer = Buffer.alloc(1 << 18);
  const length = lib().vsnprintf(buffer, buffer.length, format, args) as number;
  printed.push(buffer.toString("utf8", 0, Math.min(length, buffer.length - 1)));
  return 0;
};

const errnoText = (errno: number): string => `${lib().strerror(errno)} (errno ${errno})`;

/** libbpf's low-level calls answer -errno; so a negative answer is the error. */
const check = (what: string, answer: number): number => {
  if (answer < 0) throw new SystemError(what, -answer);
  return answer;
};

/** For libc calls, which answer -1 and set errno. */
const checkLibc = (what: string, answer: number): number => {
  if (answer < 0) throw new SystemError(what, koffi.errno());
  return answer;
};

// ---- objects -------------------------------------------------------------------------------------------------------

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
  const l = lib();
  printed.length = 0;
  const object: unknown = l.object_open(path, null);
  if (object === null) throw new SystemError(`Cannot open BPF object ${path}`, koffi.errno(), printed.join(""));
  const mapFds = new Map<string, unknown>();
  const close = (): void => void l.object_close(object);
  try {
    for (let map = l.object_next_map(object, null); map !== null; map = l.object_next_map(object, map)) {
      const name = l.map_name(map) as string;
      mapFds.set(name, map);
      prepareMap(map, name, options);
    }
    const answer = l.object_load(object) as number;
    if (answer < 0) throw new SystemError(`Cannot load BPF object ${path}`, -answer, printed.join(""));
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
      return check(`Cannot use program ${name} of ${path}`, l.program_fd(program) as number);
    },
    map(name) {
      const map = mapFds.get(name);
      if (map === undefined) throw new Error(`${path} has no map ${name}`);
      return check(`Cannot use map ${name} of ${path}`, l.map_fd(map) as number);
    },
    close,
  };
};

const prepareMap = (map: unknown, name: string, options: LoadOptions): void => {
  const l = lib();
  if (name === ".rodata.options") {
    const answer = l.map_set_initial_value(map, options.options, options.options.length) as number;
    return void check(`Cannot set the options of a BPF object (${options.options.length} bytes)`, answer);
  }
  if (name.includes(".")) return; // .rodata, .bss: libbpf's own
  if (l.map_pin_path(map) === null) return; // each object has its own
  if (options.mapsOf !== undefined) {
    check(`Cannot set the pin path of map ${name}`, l.map_set_pin_path(map, null) as number);
    return void check(`Cannot share map ${name}`, l.map_reuse_fd(map, options.mapsOf.map(name)) as number);
  }
  const path = options.pinDirectory === undefined ? null : `${options.pinDirectory}/${name}`;
  check(`Cannot set the pin path of map ${name}`, l.map_set_pin_path(map, path) as number);
  const entries = options.maxEntries?.[name];
  if (entries !== undefined && !MAP_TYPES_WITHOUT_SIZE.includes(l.map_type(map) as number)) {
    check(`Cannot set map ${name} to ${entries} entries`, l.map_set_max_entries(map, entries) as number);
  }
};

// ---- pins and file descriptors -------------------------------------------------------------------------------------

/** Opens a pinned map, program or link. Throws SystemError ENOENT when there is none. The caller closes it. */
export const openPinned = (path: string): number => check(`Cannot open ${path}`, lib().obj_get(path) as number);

export const pin = (fd: number, path: string): void =>
  void check(`Cannot pin ${path}`, lib().obj_pin(fd, path) as number);

export const closeFd = (fd: number): void => void lib().close(fd);

/** Opens a directory (a cgroup, a pin directory) for use as a target or a lock. The caller closes it. */
export const openDirectory = (path: string): number => {
  const O_RDONLY_DIRECTORY_CLOEXEC = 0o200000 | 0o2000000;
  return checkLibc(`Cannot open ${path}`, lib().open(path, O_RDONLY_DIRECTORY_CLOEXEC) as number);
};

/** Takes an exclusive lock that ends with the file descriptor or the process. False: somebody else has it. */
export const tryLock = (fd: number): boolean => {
  const LOCK_EX_NB = 2 | 4;
  const answer = lib().flock(fd, LOCK_EX_NB) as number;
  if (answer === 0) return true;
  if (koffi.errno() === EAGAIN) return false;
  throw new SystemError("Cannot lock", koffi.errno());
};

// ---- maps ----------------------------------------------------------------------------------------------------------

export interface MapInfo {
  readonly type: number;
  readonly id: number;
  readonly key_size: number;
  readonly value_size: number;
  readonly max_entries: number;
}

/** What the kernel says of a map. */
export const mapInfo = (fd: number): MapInfo => {
  const info = new DataView(objectInfo("map", fd, 24).buffer);
  const u32 = (offset: number): number => info.getUint32(offset, true);
  return { type: u32(0), id: u32(4), key_size: u32(8), value_size: u32(12), max_entries: u32(16) };
};

export interface ProgramInfo {
  readonly id: number;
  /** Instructions the verifier walked through (0 before kernel 5.16). */
  readonly verified_instructions: number;
  /** Bytes after translation. */
  readonly translated_bytes: number;
  readonly jited_bytes: number;
}

export const programInfo = (fd: number): ProgramInfo => {
  const info = new DataView(objectInfo("program", fd, 232).buffer);
  const u32 = (offset: number): number => info.getUint32(offset, true);
  return { id: u32(4), jited_bytes: u32(16), translated_bytes: u32(20), verified_instructions: u32(216) };
};

/** First bytes of struct bpf_link_info: type and id of the link, id of its program. */
export const linkInfo = (
  fd: number,
): { readonly type: number; readonly id: number; readonly program_id: number; readonly target: number } => {
  const info = new DataView(objectInfo("link", fd, 32).buffer);
  const u32 = (offset: number): number => info.getUint32(offset, true);
  return { type: u32(0), id: u32(4), program_id: u32(8), target: u32(16) };
};

const objectInfo = (what: string, fd: number, size: number): Uint8Array => {
  const info = new Uint8Array(size);
  const length = new Uint32Array([size]);
  check(`Cannot read the ${what} info of file descriptor ${fd}`, lib().info_by_fd(fd, info, length) as number);
  return info;
};

/** Answers 0 or a positive errno: what a full map means is the caller's. `flags`: 0 any, 1 NOEXIST, 2 EXIST. */
export const mapUpdate = (fd: number, key: Uint8Array, value: Uint8Array, flags = 0): number =>
  Math.abs(lib().update_elem(fd, key, value, flags) as number);

/** False: not there. */
export const mapLookup = (fd: number, key: Uint8Array, value: Uint8Array): boolean => {
  const answer = lib().lookup_elem(fd, key, value) as number;
  if (answer === -ENOENT) return false;
  check("Cannot look up a map entry", answer);
  return true;
};

/** False: not there. */
export const mapDelete = (fd: number, key: Uint8Array): boolean => {
  const answer = lib().delete_elem(fd, key) as number;
  if (answer === -ENOENT) return false;
  check("Cannot delete a map entry", answer);
  return true;
};

/** Keys and values lie one after another. Answers how many were written, and the errno that stopped it (0: none). */
export const mapUpdateBatch = (
  fd: number,
  keys: Uint8Array,
  values: Uint8Array,
  count: number,
): { readonly errno: number; readonly done: number } => {
  const done = new Uint32Array([count]);
  const answer = lib().update_batch(fd, keys, values, done, null) as number;
  return answer < 0 ? { errno: -answer, done: done[0] ?? 0 } : { errno: 0, done: count };
};

export const mapDeleteBatch = (
  fd: number,
  keys: Uint8Array,
  count: number,
): { readonly errno: number; readonly done: number } => {
  const done = new Uint32Array([count]);
  const answer = lib().delete_batch(fd, keys, done, null) as number;
  return answer < 0 ? { errno: -answer, done: done[0] ?? 0 } : { errno: 0, done: count };
};

/** Next key after `key` (null: the first), or null at the end. For maps without batch lookup. */
export const mapNextKey = (fd: number, key: Uint8Array | null, key_size: number): Uint8Array | null => {
  const next = new Uint8Array(key_size);
  const answer = lib().get_next_key(fd, key, next) as number;
  if (answer === -ENOENT) return null;
  check("Cannot walk a map", answer);
  return next;
};

/** Up to `count` entries of a hash or array map after `cursor`; `cursor` is null at first, and null again at the end. */
export const mapLookupBatch = (
  fd: number,
  cursor: Uint8Array | null,
  sizes: { readonly key_size: number; readonly value_size: number },
  count: number,
): {
  readonly keys: Uint8Array;
  readonly values: Uint8Array;
  readonly done: number;
  readonly cursor: Uint8Array | null;
} => {
  const keys = new Uint8Array(count * sizes.key_size);
  const values = new Uint8Array(count * sizes.value_size);
  const next = new Uint8Array(Math.max(4, sizes.key_size));
  const done = new Uint32Array([count]);
  const answer = lib().lookup_batch(fd, cursor, next, keys, values, done, null) as number;
  if (answer < 0 && answer !== -ENOENT) check("Cannot read a map", answer);
  return { keys, values, done: done[0] ?? 0, cursor: answer === -ENOENT ? null : next };
};

// ---- ring buffers --------------------------------------------------------------------------------------------------

/** The memory of a ring buffer map, shared with the kernel. Nothing of it may be touched once it is closed. */
export interface MappedRing {
  /** One element: how far the reader is, in bytes since the beginning. Ours to write. */
  readonly consumer: BigUint64Array;
  /** One element: how far the programs are. */
  readonly producer: BigUint64Array;
  /** The buffer, twice in a row, so that a record that goes over its end is in one piece. */
  readonly data: Uint8Array;
  readonly size_bytes: number;
  close(): void;
}

/** The file descriptor may be closed afterwards. */
export const mapRing = (fd: number): MappedRing => {
  const l = lib();
  const page = l.getpagesize() as number;
  const size_bytes = mapInfo(fd).max_entries;
  const all = page + 2 * size_bytes; // the programs' page, and the data behind it
  const [PROT_READ, PROT_WRITE, MAP_SHARED] = [1, 2, 1];
  const consumer = mapMemory(fd, 0, page, PROT_READ | PROT_WRITE, MAP_SHARED);
  try {
    const rest = mapMemory(fd, page, all, PROT_READ, MAP_SHARED);
    const view = koffi.view(rest, all);
    return {
      consumer: new BigUint64Array(koffi.view(consumer, 8)),
      producer: new BigUint64Array(view, 0, 1),
      data: new Uint8Array(view, page, 2 * size_bytes),
      size_bytes,
      close() {
        l.munmap(consumer, page);
        l.munmap(rest, all);
      },
    };
  } catch (error) {
    l.munmap(consumer, page);
    throw error;
  }
};

const mapMemory = (fd: number, offset: number, length: number, protection: number, flags: number): bigint => {
  const MAP_FAILED = 2n ** 64n - 1n;
  const address = lib().mmap(null, length, protection, flags, fd, offset) as bigint;
  if (address === MAP_FAILED) throw new SystemError("Cannot map a ring buffer into memory", koffi.errno());
  return address;
};

// ---- attaching -----------------------------------------------------------------------------------------------------

/** Attaches by link; `target` is a cgroup's file descriptor or, for tcx, an interface index. Answers the link's. */
export const linkCreate = (program: number, target: number, type: AttachType): number =>
  check(`Cannot attach ${type}`, lib().link_create(program, target, attachType[type], null) as number);

const XDP_FLAGS_UPDATE_IF_NOEXIST = 1;
/** In the driver: not in the generic hook, which costs more than it saves, nor on the NIC. */
const XDP_FLAGS_DRV_MODE = 4;

/** Attaches by link to a device's native XDP. Answers the link's file descriptor. */
export const xdpLinkCreate = (program: number, ifindex: number): number => {
  const view = new DataView(new ArrayBuffer(32)); // struct bpf_link_create_opts {size_t sz; u32 flags; …}
  view.setBigUint64(0, 32n, true);
  view.setUint32(8, XDP_FLAGS_DRV_MODE, true);
  const answer = lib().link_create(program, ifindex, attachType.xdp, new Uint8Array(view.buffer)) as number;
  return check("Cannot attach xdp", answer);
};

/**
 * What the driver, or the kernel, says when it is asked for native XDP and refuses: a link is told an errno alone, and
 * netlink a sentence. null: it said nothing, or does not refuse any more (nothing is attached then either).
 */
export const xdpRefusal = (program: number, ifindex: number): string | null => {
  const l = lib();
  printed.length = 0;
  const answer = l.xdp_attach(ifindex, program, XDP_FLAGS_DRV_MODE | XDP_FLAGS_UPDATE_IF_NOEXIST, null) as number;
  if (answer === 0) {
    check("Cannot detach xdp", l.xdp_detach(ifindex, XDP_FLAGS_DRV_MODE, null) as number);
    return null;
  }
  return /Kernel error message: (.+)/.exec(printed.join(""))?.[1]?.trim() ?? null;
};

/** Programs on a device: in the driver, in the generic hook, on the NIC; 0: none. */
export interface XdpPrograms {
  readonly native: number;
  readonly generic: number;
  readonly offloaded: number;
}

export const xdpPrograms = (ifindex: number): XdpPrograms => {
  const view = new DataView(new ArrayBuffer(32)); // struct bpf_xdp_query_opts {size_t sz; u32 prog_id, drv, hw, skb; u8 mode}
  view.setBigUint64(0, 32n, true);
  check("Cannot ask for a device's XDP programs", lib().xdp_query(ifindex, 0, new Uint8Array(view.buffer)) as number);
  const u32 = (offset: number): number => view.getUint32(offset, true);
  return { native: u32(12), offloaded: u32(16), generic: u32(20) };
};

/** A link of an iterator program to the map that it walks. */
export const linkIterator = (program: number, map: number): number => {
  const info = new Uint32Array([map]); // union bpf_iter_link_info
  const view = new DataView(new ArrayBuffer(32)); // struct bpf_link_create_opts {size_t sz; u32 flags; info *, u32 length; …}
  view.setBigUint64(0, 32n, true);
  view.setBigUint64(16, BigInt(koffi.address(info)), true);
  view.setUint32(24, info.byteLength, true);
  const answer = lib().link_create(program, 0, attachType.trace_iter, new Uint8Array(view.buffer)) as number;
  return check("Cannot attach an iterator", answer);
};

/** One walk of an iterator: a file to be read to its end. The caller closes it. */
export const iterCreate = (link: number): number =>
  check("Cannot start an iterator", lib().iter_create(link) as number);

/** Swaps the program of a link; no packet sees a moment without one. */
export const linkUpdate = (link: number, program: number): void =>
  void check("Cannot replace the program of a link", lib().link_update(link, program, null) as number);

export const linkDetach = (link: number): void => void check("Cannot detach a link", lib().link_detach(link) as number);

/** Programs attached to a cgroup or (tcx) interface, and the flags of the attachment: 0 is exclusive. */
export const queryPrograms = (
  target: number,
  type: AttachType,
): { readonly flags: number; readonly program_ids: readonly number[] } => {
  const flags = new Uint32Array(1);
  const ids = new Uint32Array(64);
  const count = new Uint32Array([ids.length]);
  const answer = lib().prog_query(target, attachType[type], 0, flags, ids, count) as number;
  check(`Cannot query ${type} programs`, answer);
  return { flags: flags[0] ?? 0, program_ids: [...ids.subarray(0, count[0] ?? 0)] };
};

export type TcDirection = "ingress" | "egress";

const tcHook = (ifindex: number, direction: TcDirection | "both"): Uint8Array => {
  const points = { ingress: 1, egress: 2, both: 3 } as const;
  const view = new DataView(new ArrayBuffer(24)); // struct bpf_tc_hook {size_t sz; int ifindex; int attach_point; u32 parent}
  view.setBigUint64(0, 24n, true);
  view.setInt32(8, ifindex, true);
  view.setInt32(12, points[direction], true);
  return new Uint8Array(view.buffer);
};

const tcOptions = (program: number, handle: number, priority: number, replace: boolean): Uint8Array => {
  const view = new DataView(new ArrayBuffer(32)); // struct bpf_tc_opts {size_t sz; int prog_fd; u32 flags, prog_id, handle, priority}
  view.setBigUint64(0, 32n, true);
  view.setInt32(8, program, true);
  view.setUint32(12, replace ? 1 : 0, true);
  view.setUint32(20, handle, true);
  view.setUint32(24, priority, true);
  return new Uint8Array(view.buffer);
};

/** clsact (kernels before 6.6): adds the qdisc when it is missing, then adds or replaces the filter. */
export const clsactAttach = (
  ifindex: number,
  direction: TcDirection,
  program: number,
  handle: number,
  priority: number,
): void => {
  const l = lib();
  const created = l.tc_hook_create(tcHook(ifindex, "both")) as number;
  if (created !== -EEXIST) check(`Cannot add the clsact qdisc to interface ${ifindex}`, created);
  const answer = l.tc_attach(tcHook(ifindex, direction), tcOptions(program, handle, priority, true)) as number;
  check(`Cannot attach to clsact ${direction} of interface ${ifindex}`, answer);
};

/** Id of the program at this handle and priority, or null. */
export const clsactQuery = (
  ifindex: number,
  direction: TcDirection,
  handle: number,
  priority: number,
): number | null => {
  const options = tcOptions(0, handle, priority, false);
  const answer = lib().tc_query(tcHook(ifindex, direction), options) as number;
  if (answer === -ENOENT || answer === -EINVAL || answer === -ENODEV) return null;
  check(`Cannot query clsact ${direction} of interface ${ifindex}`, answer);
  return new DataView(options.buffer).getUint32(16, true);
};

/** Removes the filter; absent is fine. The qdisc stays: others may use it. */
export const clsactDetach = (ifindex: number, direction: TcDirection, handle: number, priority: number): void => {
  const answer = lib().tc_detach(tcHook(ifindex, direction), tcOptions(0, handle, priority, false)) as number;
  if (answer === -ENOENT || answer === -EINVAL || answer === -ENODEV) return;
  check(`Cannot detach from clsact ${direction} of interface ${ifindex}`, answer);
};

// ---- the rest ------------------------------------------------------------------------------------------------------

export interface TestRun {
  readonly retval: number;
  /** The packet after the program. */
  readonly data: Uint8Array;
  /** The context after the program (struct __sk_buff), when one was given. */
  readonly context: Uint8Array;
  /** Mean of one run. */
  readonly duration_ns: number;
}

/** BPF_PROG_TEST_RUN: `data` is a packet from its Ethernet header on, `context` a struct __sk_buff. */
export const testRun = (
  program: number,
  input: { readonly data?: Uint8Array; readonly context?: Uint8Array; readonly repeat?: number },
): TestRun => {
  const data = input.data === undefined ? null : Buffer.from(input.data);
  const out = Buffer.alloc(data === null ? 0 : data.length + 4096);
  const context = input.context === undefined ? null : Buffer.from(input.context);
  const contextOut = Buffer.alloc(context?.length ?? 0);
  const view = new DataView(new ArrayBuffer(80));
  const pointer = (offset: number, buffer: Buffer | null): void =>
    view.setBigUint64(offset, buffer === null || buffer.length === 0 ? 0n : BigInt(koffi.address(buffer)), true);
  view.setBigUint64(0, 80n, true); // struct bpf_test_run_opts
  pointer(8, data);
  pointer(16, data === null ? null : out);
  view.setUint32(24, data?.length ?? 0, true);
  view.setUint32(28, out.length, true);
  pointer(32, context);
  pointer(40, contextOut);
  view.setUint32(48, context?.length ?? 0, true);
  view.setUint32(52, contextOut.length, true);
  view.setInt32(60, input.repeat ?? 1, true);
  const options = new Uint8Array(view.buffer);
  check("Cannot test-run a program", lib().test_run(program, options) as number);
  return {
    retval: view.getUint32(56, true),
    data: new Uint8Array(out.subarray(0, view.getUint32(28, true))),
    context: new Uint8Array(contextOut),
    duration_ns: view.getUint32(64, true),
  };
};

/** `v1.1`: of the libbpf that is in use. */
export const libbpfVersion = (): string => lib().version() as string;
/** Runs a program of type syscall over `context`, which it may change. Its answer. */
export const runProgram = (program: number, context: Uint8Array): number => {
  const options = new DataView(new ArrayBuffer(80));
  options.setBigUint64(0, 80n, true); // struct bpf_test_run_opts
  options.setBigUint64(32, BigInt(koffi.address(context)), true);
  options.setUint32(48, context.length, true);
  check("Cannot run a program", lib().test_run(program, new Uint8Array(options.buffer)) as number);
  return options.getUint32(56, true);
};

/** Number of slots in a per-CPU map's value. */
export const possibleCpus = (): number => check("Cannot count CPUs", lib().possible_cpus() as number);

/** Index of an interface of this network namespace, or null. */
export const interfaceIndex = (name: string): number | null => (lib().if_nametoindex(name) as number) || null;

/** Name of an interface of this network namespace, or null. */
export const interfaceName = (index: number): string | null => {
  const name = Buffer.alloc(16); // IF_NAMESIZE
  if (lib().if_indextoname(index, name) === null) return null;
  return name.toString("utf8", 0, name.indexOf(0));
};

/** CLOCK_BOOTTIME, by which the programs write down times. */
export const bootTime_ns = (): bigint => {
  const CLOCK_BOOTTIME = 7;
  const time = new BigInt64Array(2); // struct timespec
  checkLibc("Cannot read the clock", lib().clock_gettime(CLOCK_BOOTTIME, time) as number);
  return (time[0] ?? 0n) * 1_000_000_000n + (time[1] ?? 0n);
};

/** ARPHRD_* of an interface of this network namespace, or null. */
export const interfaceType = (name: string): number | null => {
  const SIOCGIFHWADDR = 0x8927;
  const request = interfaceRequest(SIOCGIFHWADDR, name);
  return request === null ? null : new DataView(request.buffer).getUint16(16, true);
};

/** Six bytes, or null: there is no such interface, or it has no Ethernet address. */
export const interfaceMac = (name: string): Uint8Array | null => {
  const SIOCGIFHWADDR = 0x8927;
  const request = interfaceRequest(SIOCGIFHWADDR, name);
  const isEthernet = request !== null && new DataView(request.buffer).getUint16(16, true) === 1;
  return isEthernet ? request.slice(18, 24) : null;
};

/** What drives it (`veth`, `vxlan`), or null: there is none, or it has no name. */
export const interfaceDriver = (name: string): string | null => {
  const [SIOCETHTOOL, ETHTOOL_GDRVINFO] = [0x8946, 3];
  const info = new Uint8Array(196); // struct ethtool_drvinfo {u32 cmd; char driver[32]; …}
  new DataView(info.buffer).setUint32(0, ETHTOOL_GDRVINFO, true);
  if (interfaceRequest(SIOCETHTOOL, name, info) === null) return null;
  const driver = info.subarray(4, 36);
  return new TextDecoder().decode(driver.subarray(0, driver.indexOf(0)));
};

/** struct ifreq after the ioctl; null when it is refused. `data`: what it points to. */
const interfaceRequest = (request: number, name: string, data?: Uint8Array): Uint8Array<ArrayBuffer> | null => {
  const bytes = new Uint8Array(40);
  bytes.set(new TextEncoder().encode(name).subarray(0, 15));
  if (data !== undefined) new DataView(bytes.buffer).setBigUint64(16, BigInt(koffi.address(data)), true);
  const [AF_INET, SOCK_DGRAM_CLOEXEC] = [2, 2 | 0o2000000];
  const fd = checkLibc("Cannot open a socket", lib().socket(AF_INET, SOCK_DGRAM_CLOEXEC, 0) as number);
  try {
    return (lib().ioctl(fd, request, bytes) as number) < 0 ? null : bytes;
  } finally {
    closeFd(fd);
  }
};

/** Cookie of the network namespace this process is in (kernel 5.14 or later). */
export const netnsCookie = (): bigint => {
  const [AF_INET, SOCK_DGRAM_CLOEXEC, SOL_SOCKET, SO_NETNS_COOKIE] = [2, 2 | 0o2000000, 1, 71];
  const fd = checkLibc("Cannot open a socket", lib().socket(AF_INET, SOCK_DGRAM_CLOEXEC, 0) as number);
  try {
    const cookie = new BigUint64Array(1);
    const answer = lib().getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, cookie, new Uint32Array([8])) as number;
    checkLibc("Cannot read the cookie of the network namespace", answer);
    return cookie[0] ?? 0n;
  } finally {
    closeFd(fd);
  }
};

/**
 * What an x_tables table says of itself (struct ipt_getinfo: where its chains begin, how many rules, how many bytes). It must
 * be there: asked for another one, the kernel makes it.
 */
export const legacyTableInfo = (family: "IPv4" | "IPv6", table: string): Uint8Array => {
  const [AF_INET, AF_INET6, SOCK_DGRAM_CLOEXEC, SOL_IP, SOL_IPV6, IPT_SO_GET_INFO] = [2, 10, 2 | 0o2000000, 0, 41, 64];
  const isV4 = family === "IPv4";
  const fd = checkLibc(
    "Cannot open a socket",
    lib().socket(isV4 ? AF_INET : AF_INET6, SOCK_DGRAM_CLOEXEC, 0) as number,
  );
  try {
    const info = new Uint8Array(84);
    info.set(new TextEncoder().encode(table).subarray(0, 31));
    const length = new Uint32Array([info.length]);
    const answer = lib().getsockopt(fd, isV4 ? SOL_IP : SOL_IPV6, IPT_SO_GET_INFO, info, length) as number;
    checkLibc(`Cannot look at ${family} table ${table}`, answer);
    return info;
  } finally {
    closeFd(fd);
  }
};

/**
 * Calls `open` with this thread in another network namespace, and comes back: what it opens stays there. Needs
 * CAP_SYS_ADMIN. `open` must not wait for anything.
 */
export const inNetns = <T>(netns: number, open: () => T): T => {
  const CLONE_NEWNET = 0x40000000;
  const home = openFile("/proc/self/ns/net");
  try {
    checkLibc("Cannot enter a network namespace", lib().setns(netns, CLONE_NEWNET) as number);
    try {
      return open();
    } finally {
      if ((lib().setns(home, CLONE_NEWNET) as number) < 0) process.abort(); // nothing we do would be true there
    }
  } finally {
    closeFd(home);
  }
};

/** Opens a file to be named by its descriptor, such as a namespace's. The caller closes it. */
export const openFile = (path: string): number => {
  const O_RDONLY_CLOEXEC = 0o2000000;
  return checkLibc(`Cannot open ${path}`, lib().open(path, O_RDONLY_CLOEXEC) as number);
};

const SYS_MEMBARRIER: Readonly<Record<string, number>> = { x64: 324, arm64: 283 };

/**
 * Returns after an RCU grace period: every BPF program run that was under way has ended. MEMBARRIER_CMD_GLOBAL is
 * synchronize_rcu() for user space; where it is missing (nohz_full CPUs, seccomp) a pause stands in for it.
 */
export const waitForPrograms = (): void => {
  const [MEMBARRIER_CMD_GLOBAL, PAUSE_MS] = [1, 50];
  const number = SYS_MEMBARRIER[process.arch];
  if (number !== undefined && (lib().syscall(number, MEMBARRIER_CMD_GLOBAL, 0, 0) as number) === 0) return;
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, PAUSE_MS);
};

/** Creates an unpinned map, for probes and tests. The caller closes it. */
export const mapCreate = (
  type: number,
  name: string,
  key_size: number,
  value_size: number,
  max_entries: number,
): number =>
  check(`Cannot create map ${name}`, lib().map_create(type, name, key_size, value_size, max_entries, null) as number);
