// Foreign calls of libbpf.so.1 (1.1 or later), and what it prints while it works.
import koffi from "koffi";
import { libc } from "./libc.ts";

const bind = () => {
  const bpf = loadLibbpf();
  const print = koffi.proto("int libbpf_print(int level, const char *format, void *args)");
  return {
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

/** Bound at first use: a command that never loads a program or reads a map does not need it. */
export const libbpf = (): ReturnType<typeof bind> => {
  if (bound === undefined) {
    bound = bind();
    bound.set_print(koffi.register(onPrint, koffi.pointer(bound.print)));
  }
  return bound;
};

const LIBBPF_DEBUG = 2;
const printed: string[] = [];

const onPrint = (level: number, format: string, args: unknown): number => {
  if (level >= LIBBPF_DEBUG || printed.length > 4096) return 0;
  const buffer = Buffer.alloc(1 << 18);
  const length = libc().vsnprintf(buffer, buffer.length, format, args) as number;
  printed.push(buffer.toString("utf8", 0, Math.min(length, buffer.length - 1)));
  return 0;
};

/** What it has printed since that was forgotten: the verifier's log, for a program that was rejected. */
export const libbpfLog = {
  forget(): void {
    printed.length = 0;
  },
  text: (): string => printed.join(""),
};

/** `v1.1`: of the libbpf that is in use. */
export const libbpfVersion = (): string => libbpf().version() as string;
