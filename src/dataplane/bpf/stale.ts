// Connected UDP sockets whose backend was removed: translated once, in connect(), they would send there for ever. They are
// destroyed (ECONNABORTED), in every network namespace of this machine, so that their owners connect again. TCP drains, and
// unconnected UDP chooses again by itself.
import { readSync } from "node:fs";
import { messageOf } from "../../lib/errors.ts";
import { addressToBytes, familyOf } from "../../model/address.ts";
import type { StaleSocket } from "./abi.gen.ts";
import { decode, sizeOf } from "./codec.ts";
import type { Log } from "./hooks.ts";
import { inNetnsOf, netnsFiles } from "./netns.ts";
import { ENOENT, SystemError } from "./system/errors.ts";
import { closeFd } from "./system/file.ts";
import { iterCreate, linkIterator } from "./system/link.ts";
import { netlinkRequest, openNetlink } from "./system/netlink.ts";
import type { LoadedObject } from "./system/object.ts";

export interface StaleSockets {
  /** Finds and destroys them. Never throws: what cannot be done is named in the log. */
  destroy(): void;
  /** Since the start. */
  counts(): StaleCounts;
  close(): void;
}

export interface StaleCounts {
  readonly destroyed: number;
  /** Could not be destroyed, each time that it was found. */
  readonly left: number;
}

/** `object` is stale.bpf.o. Throws SystemError where this kernel cannot walk socket storage. */
export const createStaleSockets = (object: LoadedObject, log: Log): StaleSockets => {
  const link = linkIterator(object.program("find_stale"), object.map("sockets"));
  let sum: StaleCounts = { destroyed: 0, left: 0 };
  return {
    destroy() {
      try {
        const { destroyed, left } = destroyAll(findStale(link), log);
        sum = { destroyed: sum.destroyed + destroyed, left: sum.left + left };
      } catch (error) {
        log("warn", "Cannot look for UDP sockets that are connected to removed backends", { error: messageOf(error) });
      }
    },
    counts: () => sum,
    close: () => closeFd(link),
  };
};

const findStale = (link: number): readonly StaleSocket[] => {
  const size = sizeOf("stale_socket");
  const walk = iterCreate(link);
  try {
    const chunk = new Uint8Array(size * 256);
    const found: StaleSocket[] = [];
    let held = 0;
    for (;;) {
      const read = readSync(walk, chunk, held, chunk.length - held, null);
      if (read === 0) return found;
      held += read;
      let at = 0;
      for (; at + size <= held; at += size) found.push(decode("stale_socket", chunk.slice(at, at + size)));
      chunk.copyWithin(0, at, held);
      held -= at;
    }
  } finally {
    closeFd(walk);
  }
};

const destroyAll = (stale: readonly StaleSocket[], log: Log): StaleCounts => {
  let [destroyed, left] = [0, 0];
  if (stale.length === 0) return { destroyed, left };
  const byNetns = Map.groupBy(stale, (socket) => socket.netns_inode);
  const files = filesOf(new Set(byNetns.keys()));
  for (const [inode, sockets] of byNetns) {
    try {
      destroyed += destroyIn(files.get(inode), sockets);
    } catch (error) {
      left += sockets.length;
      log("warn", "Cannot destroy UDP sockets that are connected to removed backends: they go on sending there", {
        netns: inode,
        sockets: sockets.length,
        error: messageOf(error),
      });
    }
  }
  if (destroyed > 0) log("info", "Destroyed UDP sockets that were connected to removed backends", { destroyed });
  return { destroyed, left };
};

/** Files that lead to these namespaces, by inode. */
const filesOf = (wanted: ReadonlySet<number>): ReadonlyMap<number, string> => {
  const files = new Map<number, string>();
  for (const { inode, path } of netnsFiles()) {
    if (wanted.has(inode)) files.set(inode, path);
    if (files.size === wanted.size) break;
  }
  return files;
};

// ---- sock_diag -----------------------------------------------------------------------------------------------------

const destroyIn = (file: string | undefined, sockets: readonly StaleSocket[]): number => {
  const diag = openDiagIn(file);
  try {
    return sockets.filter((socket) => destroySocket(diag, socket)).length;
  } finally {
    closeFd(diag);
  }
};

const openDiagIn = (file: string | undefined): number => {
  if (file === undefined) throw new Error("no file below /run/netns or /proc leads to this namespace");
  return inNetnsOf(file, () => openNetlink("sock_diag"));
};

/** False: it has been closed, or connected elsewhere, meanwhile. */
const destroySocket = (diag: number, socket: StaleSocket): boolean => {
  const errno = netlinkRequest(diag, destroyRequest(socket));
  if (errno === 0) return true;
  if (errno === ENOENT) return false;
  throw new SystemError("Cannot destroy a socket by sock_diag", errno);
};

/** struct nlmsghdr and struct inet_diag_req_v2: the socket is found by its addresses, and must be the one of this cookie. */
const destroyRequest = (socket: StaleSocket): Uint8Array => {
  const [SOCK_DESTROY, NLM_F_REQUEST_ACK, IPPROTO_UDP, AF_INET6] = [21, 1 | 4, 17, 10];
  const INET_DIAG_NOCOOKIE = 0xffff_ffff_ffff_ffffn;
  const view = new DataView(new ArrayBuffer(72));
  const bytes = new Uint8Array(view.buffer);
  view.setUint32(0, bytes.length, true);
  view.setUint16(4, SOCK_DESTROY, true);
  view.setUint16(6, NLM_F_REQUEST_ACK, true);
  bytes.set([socket.domain, IPPROTO_UDP], 16);
  view.setUint16(24, socket.local_port);
  view.setUint16(26, socket.remote_port);
  for (const [address, offset] of [[socket.local, 28] as const, [socket.remote, 44] as const]) {
    const wire = addressToBytes(address);
    bytes.set(socket.domain === AF_INET6 || familyOf(address) === "IPv6" ? wire : wire.slice(12), offset);
  }
  view.setUint32(60, socket.device, true);
  view.setBigUint64(64, socket.cookie === 0n ? INET_DIAG_NOCOOKIE : socket.cookie, true);
  return bytes;
};
