// Plain sockets by system call, one call at a time: what Node's own hide (connecting one socket twice, AF_UNSPEC, the
// errno, an IPv6 socket that speaks IPv4). And a network namespace and a cgroup for the calling process alone.
import { execFileSync } from "node:child_process";
import { mkdirSync, openSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import koffi from "koffi";
import { type Address, addressFromBytes, addressToBytes, familyOf } from "../../src/model/address.ts";

const libc = koffi.load("libc.so.6");
const calls = {
  unshare: libc.func("int unshare(int flags)"),
  setns: libc.func("int setns(int fd, int type)"),
  socket: libc.func("int socket(int domain, int type, int protocol)"),
  bind: libc.func("int bind(int fd, const void *address, uint32_t length)"),
  listen: libc.func("int listen(int fd, int backlog)"),
  accept: libc.func("int accept(int fd, void *address, void *length)"),
  connect: libc.func("int connect(int fd, const void *address, uint32_t length)"),
  sendto: libc.func("int64_t sendto(int fd, const void *data, size_t n, int flags, const void *to, uint32_t length)"),
  recvfrom: libc.func("int64_t recvfrom(int fd, void *data, size_t n, int flags, void *from, void *length)"),
  getpeername: libc.func("int getpeername(int fd, void *address, void *length)"),
  getsockname: libc.func("int getsockname(int fd, void *address, void *length)"),
  setsockopt: libc.func("int setsockopt(int fd, int level, int name, const void *value, uint32_t length)"),
  close: libc.func("int close(int fd)"),
};

const AF_INET = 2;
const AF_INET6 = 10;
const types = { TCP: 1, UDP: 2, MPTCP: 1 } as const;
const protocols = { TCP: 0, UDP: 0, MPTCP: 262 } as const;
export type SocketProtocol = keyof typeof types;

/** Errno names a test asks for. */
const errnoNames: Readonly<Record<number, string>> = {
  1: "EPERM",
  11: "EAGAIN",
  90: "EMSGSIZE",
  93: "EPROTONOSUPPORT",
  107: "ENOTCONN",
  111: "ECONNREFUSED",
  115: "EINPROGRESS",
  113: "EHOSTUNREACH",
};

/** A call that failed: `code` is its errno's name. */
export class CallError extends Error {
  readonly code: string;
  constructor(call: string) {
    const errno = koffi.errno();
    const code = errnoNames[errno] ?? `errno ${errno}`;
    super(`${call}: ${code}`);
    this.code = code;
  }
}

const check = (call: string, answer: number): number => {
  if (answer < 0) throw new CallError(call);
  return answer;
};

/** A wait with a timeout is not begun again by the kernel when this process has got a signal. */
const wait = (call: string, attempt: () => number): number => {
  let answer = attempt();
  while (answer < 0 && koffi.errno() === EINTR) answer = attempt();
  return check(call, answer);
};
const EINTR = 4;

export type Name = readonly [address: string, port: number];

const encodeName = ([address, port]: Name, v6: boolean): Uint8Array => {
  const bytes = new Uint8Array(v6 ? 28 : 16);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, v6 ? AF_INET6 : AF_INET, true);
  view.setUint16(2, port);
  const wire = addressToBytes(address as Address);
  if (v6) bytes.set(wire, 8);
  else bytes.set(wire.slice(12), 4);
  return bytes;
};

const decodeName = (bytes: Uint8Array): Name => {
  const view = new DataView(bytes.buffer);
  if (view.getUint16(0, true) === AF_INET6) return [addressFromBytes(bytes.slice(8, 24)), view.getUint16(2)];
  return [[...bytes.slice(4, 8)].join("."), view.getUint16(2)];
};

/**
 * A socket; an IPv6 one also speaks IPv4, to v4-mapped addresses, which a Name writes as plain IPv4. No call waits longer
 * than `patience_ms`: then connect fails with EINPROGRESS, the others with EAGAIN. Close it.
 */
export class Socket {
  readonly #fd: number;
  readonly #v6: boolean;

  constructor(protocol: SocketProtocol, family: "IPv4" | "IPv6", patience_ms = 500, adopt?: number) {
    const O_CLOEXEC = 0o2000000;
    this.#v6 = family === "IPv6";
    const domain = this.#v6 ? AF_INET6 : AF_INET;
    const open = (): number => calls.socket(domain, types[protocol] | O_CLOEXEC, protocols[protocol]) as number;
    this.#fd = adopt ?? check("socket", open());
    const [SOL_SOCKET, SO_REUSEADDR, SO_RCVTIMEO, SO_SNDTIMEO] = [1, 2, 20, 21];
    calls.setsockopt(this.#fd, SOL_SOCKET, SO_REUSEADDR, new Uint32Array([1]), 4);
    const limit = new BigInt64Array([BigInt(Math.floor(patience_ms / 1000)), BigInt(patience_ms % 1000) * 1000n]);
    for (const name of [SO_RCVTIMEO, SO_SNDTIMEO]) calls.setsockopt(this.#fd, SOL_SOCKET, name, limit, 16);
  }

  /** setsockopt with an int: of level IPPROTO_IP, or for an IPv6 socket of IPPROTO_IPV6. */
  option(names: { readonly v4: number; readonly v6: number }, value: number): this {
    const [level, name] = this.#v6 ? [41, names.v6] : [0, names.v4];
    check("setsockopt", calls.setsockopt(this.#fd, level, name, new Uint32Array([value]), 4) as number);
    return this;
  }

  bind(name: Name): this {
    check("bind", calls.bind(this.#fd, encodeName(name, this.#v6), this.#v6 ? 28 : 16) as number);
    return this;
  }

  listen(): this {
    check("listen", calls.listen(this.#fd, 64) as number);
    return this;
  }

  accept(): Socket {
    const fd = wait("accept", () => calls.accept(this.#fd, null, null) as number);
    return new Socket("TCP", this.#v6 ? "IPv6" : "IPv4", 500, fd);
  }

  connect(name: Name): this {
    const encoded = encodeName(name, this.#v6);
    wait("connect", () => calls.connect(this.#fd, encoded, encoded.length) as number);
    return this;
  }

  /** connect(AF_UNSPEC). */
  disconnect(): void {
    check("connect", calls.connect(this.#fd, new Uint8Array(16), 16) as number);
  }

  send(text: string, to?: Name): void {
    const data = new TextEncoder().encode(text);
    const name = to === undefined ? null : encodeName(to, this.#v6);
    check("sendto", calls.sendto(this.#fd, data, data.length, 0, name, name?.length ?? 0) as number);
  }

  receive(): { readonly text: string; readonly from: Name } {
    const data = new Uint8Array(65536);
    const name = new Uint8Array(28);
    const length = new Uint32Array([name.length]);
    const n = wait("recvfrom", () => calls.recvfrom(this.#fd, data, data.length, 0, name, length) as number);
    return { text: new TextDecoder().decode(data.subarray(0, n)), from: decodeName(name) };
  }

  peer(): Name {
    return this.#name("getpeername");
  }

  name(): Name {
    return this.#name("getsockname");
  }

  #name(call: "getpeername" | "getsockname"): Name {
    const name = new Uint8Array(28);
    check(call, calls[call](this.#fd, name, new Uint32Array([name.length])) as number);
    return decodeName(name);
  }

  close(): void {
    calls.close(this.#fd);
  }
}

const CLONE_NEWNET = 0x40000000;

/** A network namespace without a name: it lives as long as this process, or as somebody is in it. */
export interface Namespace {
  /** For `nsenter --net=`. */
  readonly path: string;
  /** This thread, and what it opens and starts, is in it from now on. */
  enter(): void;
}

/** Makes a fresh network namespace and enters it. */
export const newNamespace = (): Namespace => {
  check("unshare", calls.unshare(CLONE_NEWNET) as number);
  return openNamespace("/proc/self/ns/net");
};

/** One that is there, to be entered. */
export const openNamespace = (file: string): Namespace => {
  const fd = openSync(file, "r");
  return {
    path: `/proc/${process.pid}/fd/${fd}`,
    enter: () => void check("setns", calls.setns(fd, CLONE_NEWNET) as number),
  };
};

/** A fresh network namespace for this process, gone with it; `addresses` are on its loopback device. */
export const enterNetworkNamespace = (addresses: readonly string[]): void => {
  newNamespace();
  const lines = addresses.map((a) => `addr add ${a}/${familyOf(a as Address) === "IPv4" ? 32 : 128} dev lo`);
  execFileSync("ip", ["-batch", "-"], { input: ["link set lo up", ...lines].join("\n") });
};

const cgroupRoot = (): string => {
  const line = readFileSync("/proc/mounts", "utf8")
    .split("\n")
    .find((l) => l.split(" ")[2] === "cgroup2");
  const path = line?.split(" ")[1];
  if (path === undefined) throw new Error("cgroup v2 is not mounted");
  return path;
};

const tryRemove = (path: string): void => {
  try {
    rmdirSync(path);
  } catch {
    // somebody lives in it
  }
};

/** Puts this process into a cgroup of its own; `leave` takes it back and removes the cgroup. */
export const enterCgroup = (): { readonly path: string; leave(): void } => {
  const root = cgroupRoot();
  const prefix = "beeline-socket-";
  for (const left of readdirSync(root).filter((name) => name.startsWith(prefix))) tryRemove(join(root, left));
  const home = readFileSync("/proc/self/cgroup", "utf8")
    .split("\n")
    .find((l) => l.startsWith("0::"))
    ?.slice(3);
  const path = join(root, `${prefix}${process.pid}`);
  mkdirSync(path);
  writeFileSync(join(path, "cgroup.procs"), String(process.pid));
  return {
    path,
    leave() {
      writeFileSync(join(root, home ?? "/", "cgroup.procs"), String(process.pid));
      tryRemove(path);
    },
  };
};

/** Sends IP packets, of one family, as they are, from this thread's network namespace; IPv4 checksums are the kernel's. */
export const sendPackets = (packets: readonly Uint8Array[]): void => {
  const [SOCK_RAW, IPPROTO_RAW] = [3, 255];
  const v6 = (packets[0]?.[0] ?? 0) >> 4 === 6;
  const fd = check("socket", calls.socket(v6 ? AF_INET6 : AF_INET, SOCK_RAW, IPPROTO_RAW) as number);
  try {
    for (const packet of packets) {
      const to = v6 ? addressFromBytes(packet.slice(24, 40)) : [...packet.slice(16, 20)].join(".");
      const name = encodeName([to, 0], v6);
      check("sendto", calls.sendto(fd, packet, packet.length, 0, name, name.length) as number);
    }
  } finally {
    calls.close(fd);
  }
};
