// The network namespaces of this machine: files that lead to them, and which one a device's other end is in. Other
// namespaces are entered to open a socket there, which takes CAP_SYS_ADMIN.
import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { isSystemError } from "./system/errors.ts";
import { closeFd, openFile } from "./system/file.ts";
import { inNetns } from "./system/namespace.ts";
import { netlinkAsk, openNetlink } from "./system/netlink.ts";

/** A namespace, and a file that leads to it. */
export interface NetnsFile {
  readonly inode: number;
  readonly path: string;
}

export const OWN_NETNS = "/proc/self/ns/net";
/** Where `ip netns`, containerd and CRI-O, and Docker keep theirs. */
const NAMED = ["/run/netns", "/run/docker/netns"];

/** Each namespace once: our own, those with a name, those of processes. Whoever has found his stops, since the last are many. */
export const netnsFiles = function* (): Generator<NetnsFile> {
  const seen = new Set<number>();
  for (const path of netnsPaths()) {
    const inode = inodeOf(path);
    if (inode === null || seen.has(inode)) continue;
    seen.add(inode);
    yield { inode, path };
  }
};

const netnsPaths = function* (): Generator<string> {
  yield OWN_NETNS;
  for (const folder of NAMED) for (const name of list(folder)) yield join(folder, name);
  for (const name of list("/proc")) if (/^\d+$/.test(name)) yield `/proc/${name}/ns/net`;
};

const inodeOf = (path: string): number | null => {
  try {
    return statSync(path).ino;
  } catch {
    return null; // gone meanwhile, or a process that we may not look at
  }
};

const list = (folder: string): readonly string[] => {
  try {
    return readdirSync(folder);
  } catch {
    return []; // not on this machine
  }
};

/** Calls `open` in the namespace that `path` leads to. */
export const inNetnsOf = <T>(path: string, open: () => T): T => {
  if (path === OWN_NETNS) return open();
  const netns = openFile(path);
  try {
    return inNetns(netns, open);
  } finally {
    closeFd(netns);
  }
};

// ---- rtnetlink -----------------------------------------------------------------------------------------------------

/** What this namespace calls another one; the kernel gives the number. */
export type NetnsId = number;

/** Where the other end of a device is. null: it has none, or here, or there is no such device. */
export const peerNetns = (ifindex: number): NetnsId | null => {
  const [RTM_GETLINK, IFLA_EXT_MASK, IFLA_LINK_NETNSID, RTEXT_FILTER_SKIP_STATS] = [18, 29, 37, 8];
  const header = new Uint8Array(16); // struct ifinfomsg
  new DataView(header.buffer).setInt32(4, ifindex, true);
  return askNumber(RTM_GETLINK, header, [IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS], IFLA_LINK_NETNSID);
};

/** null: we have nothing that leads there, or the file is no namespace's. */
export const netnsIdOf = (path: string): NetnsId | null => {
  const [RTM_GETNSID, NETNSA_NSID, NETNSA_FD] = [90, 1, 3];
  const NETNSA_NSID_NOT_ASSIGNED = -1;
  let netns: number;
  try {
    netns = openFile(path);
  } catch {
    return null; // gone meanwhile, or a process that we may not look at
  }
  try {
    const id = askNumber(RTM_GETNSID, new Uint8Array(4) /* struct rtgenmsg */, [NETNSA_FD, netns], NETNSA_NSID);
    return id === NETNSA_NSID_NOT_ASSIGNED ? null : id;
  } finally {
    closeFd(netns);
  }
};

const NLMSG_HEADER = 16;

/** The attribute `wanted` of the answer to a request with one attribute; null: refused, or the answer has none. */
const askNumber = (
  type: number,
  header: Uint8Array,
  [name, value]: readonly [number, number],
  wanted: number,
): number | null => {
  const NLM_F_REQUEST = 1;
  const view = new DataView(new ArrayBuffer(NLMSG_HEADER + header.length + 8));
  view.setUint32(0, view.byteLength, true);
  view.setUint16(4, type, true);
  view.setUint16(6, NLM_F_REQUEST, true);
  new Uint8Array(view.buffer).set(header, NLMSG_HEADER);
  view.setUint16(NLMSG_HEADER + header.length, 8, true); // struct nlattr
  view.setUint16(NLMSG_HEADER + header.length + 2, name, true);
  view.setUint32(NLMSG_HEADER + header.length + 4, value, true);
  const netlink = openNetlink("route");
  try {
    const answer = netlinkAsk(netlink, new Uint8Array(view.buffer));
    return numberIn(answer.subarray(NLMSG_HEADER + header.length), wanted);
  } catch (error) {
    if (isSystemError(error)) return null;
    throw error;
  } finally {
    closeFd(netlink);
  }
};

/** Of a row of struct nlattr, each padded to 4 bytes. */
export const numberIn = (attributes: Uint8Array, wanted: number): number | null => {
  const view = new DataView(attributes.buffer, attributes.byteOffset, attributes.byteLength);
  for (let at = 0; at + 4 <= view.byteLength; ) {
    const [length, name] = [view.getUint16(at, true), view.getUint16(at + 2, true)];
    if (length < 4) return null;
    if (name === wanted && length >= 8 && at + 8 <= view.byteLength) return view.getInt32(at + 4, true);
    at += (length + 3) & ~3;
  }
  return null;
};
