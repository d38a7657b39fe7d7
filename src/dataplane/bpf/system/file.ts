// File descriptors: of files, pins in bpffs and sockets; locks.
import { checkLibbpf, checkLibc, EAGAIN, SystemError } from "./errors.ts";
import { libbpf } from "./libbpf.ts";
import { errno, libc } from "./libc.ts";

/** Opens a pinned map, program or link. Throws SystemError ENOENT when there is none. The caller closes it. */
export const openPinned = (path: string): number =>
  checkLibbpf(`Cannot open ${path}`, libbpf().obj_get(path) as number);

export const pin = (fd: number, path: string): void =>
  void checkLibbpf(`Cannot pin ${path}`, libbpf().obj_pin(fd, path) as number);

export const closeFd = (fd: number): void => void libc().close(fd);

/** Opens a directory (a cgroup, a pin directory) for use as a target or a lock. The caller closes it. */
export const openDirectory = (path: string): number => {
  const O_RDONLY_DIRECTORY_CLOEXEC = 0o200000 | 0o2000000;
  return checkLibc(`Cannot open ${path}`, libc().open(path, O_RDONLY_DIRECTORY_CLOEXEC) as number);
};

/** Opens a file to be named by its descriptor, such as a namespace's. The caller closes it. */
export const openFile = (path: string): number => {
  const O_RDONLY_CLOEXEC = 0o2000000;
  return checkLibc(`Cannot open ${path}`, libc().open(path, O_RDONLY_CLOEXEC) as number);
};

/** Asks the kernel by a datagram socket of this network namespace, which is closed after that. */
export const bySocket = <T>(ask: (fd: number) => T, family: "IPv4" | "IPv6" = "IPv4"): T => {
  const [AF_INET, AF_INET6, SOCK_DGRAM_CLOEXEC] = [2, 10, 2 | 0o2000000];
  const fd = checkLibc(
    "Cannot open a socket",
    libc().socket(family === "IPv4" ? AF_INET : AF_INET6, SOCK_DGRAM_CLOEXEC, 0) as number,
  );
  try {
    return ask(fd);
  } finally {
    closeFd(fd);
  }
};

/** Takes an exclusive lock that ends with the file descriptor or the process. False: somebody else has it. */
export const tryLock = (fd: number): boolean => {
  const LOCK_EX_NB = 2 | 4;
  const answer = libc().flock(fd, LOCK_EX_NB) as number;
  if (answer === 0) return true;
  if (errno() === EAGAIN) return false;
  throw new SystemError("Cannot lock", errno());
};
