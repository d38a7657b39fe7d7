// Network namespaces: being in one, and telling which.
import { checkLibc } from "./errors.ts";
import { bySocket, closeFd, openFile } from "./file.ts";
import { libc } from "./libc.ts";

/**
 * Calls `open` with this thread in another network namespace, and comes back: what it opens stays there. Needs
 * CAP_SYS_ADMIN. `open` must not wait for anything.
 */
export const inNetns = <T>(netns: number, open: () => T): T => {
  const CLONE_NEWNET = 0x40000000;
  const home = openFile("/proc/self/ns/net");
  try {
    checkLibc("Cannot enter a network namespace", libc().setns(netns, CLONE_NEWNET) as number);
    try {
      return open();
    } finally {
      if ((libc().setns(home, CLONE_NEWNET) as number) < 0) process.abort(); // nothing we do would be true there
    }
  } finally {
    closeFd(home);
  }
};

/** Cookie of the network namespace this process is in (kernel 5.14 or later). */
export const netnsCookie = (): bigint =>
  bySocket((fd) => {
    const [SOL_SOCKET, SO_NETNS_COOKIE] = [1, 71];
    const cookie = new BigUint64Array(1);
    const answer = libc().getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, cookie, new Uint32Array([8])) as number;
    checkLibc("Cannot read the cookie of the network namespace", answer);
    return cookie[0] ?? 0n;
  });
