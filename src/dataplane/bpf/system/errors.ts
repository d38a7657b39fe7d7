// What the kernel, libbpf or libc refused: one error class, which says what could not be done.
import { errno, libc } from "./libc.ts";

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

export const ENOENT = 2;
export const EAGAIN = 11;
export const EEXIST = 17;
export const ENODEV = 19;
export const EINVAL = 22;
export const ENOSPC = 28;

const errnoText = (errno: number): string => `${libc().strerror(errno)} (errno ${errno})`;

/** libbpf's calls answer -errno; so a negative answer is the error. */
export const checkLibbpf = (what: string, answer: number): number => {
  if (answer < 0) throw new SystemError(what, -answer);
  return answer;
};

/** For libc calls, which answer -1 and set errno. */
export const checkLibc = (what: string, answer: number): number => {
  if (answer < 0) throw new SystemError(what, errno());
  return answer;
};
