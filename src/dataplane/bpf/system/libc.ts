// Foreign calls of libc, and what koffi does for all foreign calls: memory and errno. With libbpf.ts the only file that
// knows koffi.
import koffi from "koffi";

const bind = () => {
  const libc = koffi.load("libc.so.6");
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
    bind: libc.func("int bind(int fd, const void *address, uint32_t length)"),
    setsockopt: libc.func("int setsockopt(int fd, int level, int name, const void *value, uint32_t length)"),
    fcntl: libc.func("int fcntl(int fd, int command, long value)"),
    send: libc.func("int64_t send(int fd, const void *data, size_t size, int flags)"),
    recv: libc.func("int64_t recv(int fd, void *data, size_t size, int flags)"),
  };
};

let bound: ReturnType<typeof bind> | undefined;

/** Bound at first use. */
export const libc = (): ReturnType<typeof bind> => {
  bound ??= bind();
  return bound;
};

/** Of the call before. */
export const errno = (): number => koffi.errno();

/** For a struct that points to it. It has to be kept alive until the call is over. */
export const addressOf = (bytes: ArrayBufferView): bigint => BigInt(koffi.address(bytes));

/** Memory that is not JavaScript's. */
export const memoryAt = (address: bigint, length: number): ArrayBuffer => koffi.view(address, length);
