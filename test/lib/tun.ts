// A wire between two tun devices in two network namespaces: devices without Ethernet header, which every kernel has. Run
// as a program it makes them and carries packets until its input ends: `tun.ts DEVICE NAMESPACE NAMESPACE`.
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { openSync, read, writeSync } from "node:fs";
import { fileURLToPath } from "node:url";
import koffi from "koffi";
import { openNamespace } from "./socket.ts";

/** Both ends are down, and without addresses. They go when the process is killed, or its parent ends. */
export const startTunWire = async (device: string, ends: readonly [string, string]): Promise<ChildProcess> => {
  const child = spawn(process.execPath, [fileURLToPath(import.meta.url), device, ...ends], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const [said] = await Promise.race([once(child.stdout, "data"), once(child, "exit")]);
  if (String(said) !== "ready\n") throw new Error(`Cannot make the tun devices ${device}: ${said}`);
  return child;
};

const openTun = (device: string): number => {
  const [TUNSETIFF, IFF_TUN_NO_PI] = [0x400454ca, 0x1001];
  const ioctl = koffi.load("libc.so.6").func("int ioctl(int fd, unsigned long request, void *argument)");
  const fd = openSync("/dev/net/tun", "r+");
  const request = new Uint8Array(40); // struct ifreq
  request.set(new TextEncoder().encode(device));
  new DataView(request.buffer).setUint16(16, IFF_TUN_NO_PI, true);
  if ((ioctl(fd, TUNSETIFF, request) as number) < 0) throw new Error(`Cannot make ${device}: errno ${koffi.errno()}`);
  return fd;
};

/** One read is one packet. */
const carry = (from: number, to: number): void => {
  const packet = Buffer.alloc(65536);
  const next = (): void =>
    read(from, packet, 0, packet.length, null, (error, size) => {
      if (error !== null) return void setTimeout(next, 20); // EIO: the device is down
      try {
        writeSync(to, packet, 0, size);
      } catch {
        // the other end is down: as on any wire, the packet is lost
      }
      next();
    });
  next();
};

const main = (device: string, ends: readonly string[]): void => {
  const [a = 0, b = 0] = ends.map((end) => {
    openNamespace(end).enter();
    return openTun(device);
  });
  carry(a, b);
  carry(b, a);
  process.stdin.on("end", () => process.exit(0)).resume();
  process.stdout.write("ready\n");
};

if (process.argv[1] === fileURLToPath(import.meta.url)) main(process.argv[2] ?? "", process.argv.slice(3));
