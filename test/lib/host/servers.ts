// What answers in a pod: everything it says names it, and the client as it sees it.
import { createSocket } from "node:dgram";
import { createServer, type Server, type Socket } from "node:net";
import type { Greeting, Speech } from "./protocol.ts";
import { HANG_UP, withoutMapping } from "./words.ts";

export interface Serving {
  speak(speech: Speech): boolean;
  /** Ends open connections too. */
  close(): Promise<void>;
}

/** Greets every connection, then echoes, until it is asked to hang up. */
export const serveTcp = async (name: string, port: number): Promise<Serving> => {
  const open = new Set<Socket>();
  const server: Server = createServer((socket) => {
    open.add(socket);
    socket.on("close", () => open.delete(socket));
    socket.on("error", () => socket.destroy());
    const greeting: Greeting = {
      name,
      client: withoutMapping(socket.remoteAddress ?? ""),
      clientPort: socket.remotePort ?? 0,
    };
    socket.write(`${JSON.stringify(greeting)}\n`);
    socket.pipe(socket);
    socket.on("data", (data) => {
      if (data.length === HANG_UP.length && data.toString() === HANG_UP) socket.end();
    });
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen({ host: "::", port, backlog: 1024 }, resolve);
  });
  return {
    speak: ({ clientPort, size_bytes, every_ms }) => {
      const socket = [...open].find(({ remotePort }) => remotePort === clientPort);
      if (socket === undefined) return false;
      const words = `${"x".repeat(size_bytes - 1)}\n`;
      socket.write(words);
      // What nobody takes does not pile up.
      const timer =
        every_ms === null ? undefined : setInterval(() => socket.writableLength || socket.write(words), every_ms);
      socket.on("close", () => clearInterval(timer));
      return true;
    },
    close: () => {
      for (const socket of open) socket.destroy();
      return new Promise((resolve) => server.close(() => resolve()));
    },
  };
};

/** Answers every datagram with what it asked and a greeting. */
export const serveUdp = async (name: string, port: number): Promise<Serving> => {
  const socket = createSocket({ type: "udp6" });
  socket.on("message", (data, from) => {
    const greeting: Greeting = { name, client: withoutMapping(from.address), clientPort: from.port };
    socket.send(JSON.stringify({ question: data.toString(), ...greeting }), from.port, from.address, () => {});
  });
  await new Promise<void>((resolve, reject) => {
    socket.once("error", reject);
    socket.bind(port, "::", resolve);
  });
  socket.on("error", () => {});
  return { speak: () => false, close: () => new Promise((resolve) => socket.close(() => resolve())) };
};
