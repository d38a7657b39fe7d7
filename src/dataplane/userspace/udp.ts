// One frontend's UDP listener: every client has a socket of its own towards its backend, which ends when both have been
// silent for a while. After that the client is a new one.
import { createSocket, type RemoteInfo } from "node:dgram";
import { type Address, familyOf, parseAddress } from "../../model/address.ts";
import type { Backend } from "../../model/desired.ts";
import { backendKey } from "./balance.ts";
import type { Choose, Listener } from "./tcp.ts";

/** Clients of one frontend at a time; datagrams of more are dropped. */
const MOST_SESSIONS = 4096;
/** Clients whose backend refused, remembered until they ask again. */
const MOST_REFUSED = 1024;

interface Session {
  readonly backend: string;
  send(data: Buffer): void;
  close(): void;
}

/** Listens at a port that the kernel chooses. Rejects when the address is not ours (any more). */
export const listenUdp = (address: Address, choose: Choose, idle_ms: number): Promise<Listener> => {
  const type = familyOf(address) === "IPv4" ? "udp4" : "udp6";
  const server = createSocket(type);
  const sessions = new Map<string, Session>();
  const refused = new Map<string, string>();

  const receive = (data: Buffer, client: RemoteInfo): void => {
    const key = `${client.address} ${client.port}`;
    const session = sessions.get(key) ?? start(key, client);
    session?.send(data);
  };

  const start = (key: string, client: RemoteInfo): Session | null => {
    const from = parseAddress(client.address.split("%")[0] ?? "");
    if (from === null || sessions.size >= MOST_SESSIONS) return null;
    const before = refused.get(key);
    refused.delete(key);
    const failed = new Set(before === undefined ? [] : [before]);
    const backend = choose(from, failed) ?? choose(from, new Set());
    if (backend === null) return null;
    const session = createSession(type, backend, idle_ms, {
      answer: (data) => server.send(data, client.port, client.address),
      end: (wasRefused) => {
        sessions.delete(key);
        if (wasRefused && refused.size < MOST_REFUSED) refused.set(key, session.backend);
      },
    });
    sessions.set(key, session);
    return session;
  };

  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.bind({ address, port: 0 }, () => {
      server.off("error", reject);
      server.on("error", () => undefined); // of one answer: as good as lost on the way
      server.on("message", receive);
      const close = (): void => {
        server.close();
        for (const session of sessions.values()) session.close();
      };
      resolve({
        port: server.address().port,
        keepOnly: (backends) => {
          for (const session of sessions.values()) if (!backends.has(session.backend)) session.close();
        },
        close,
        abort: close,
      });
    });
  });
};

interface Handlers {
  answer(data: Buffer): void;
  end(refused: boolean): void;
}

const createSession = (
  type: "udp4" | "udp6",
  backend: Backend,
  idle_ms: number,
  { answer, end }: Handlers,
): Session => {
  const socket = createSocket(type);
  let waiting: Buffer[] | null = [];
  let open = true;
  const finish = (refused: boolean): void => {
    if (!open) return;
    open = false;
    clearTimeout(idle);
    socket.close();
    end(refused);
  };
  // A process that was held up finds its timers due before it sees what has arrived meanwhile: it looks before it ends.
  let heard = false;
  const idle = setTimeout(() => {
    heard = false;
    setImmediate(() => {
      if (!heard) finish(false);
    });
  }, idle_ms);
  const hear = (): void => {
    heard = true;
    idle.refresh();
  };
  const transmit = (data: Buffer): void => {
    socket.send(data, (error) => {
      if (error !== null) finish(isRefusal(error));
    });
  };
  socket.on("error", (error) => finish(isRefusal(error)));
  socket.on("message", (data) => {
    hear();
    answer(data);
  });
  // Connected: the kernel takes answers from the backend alone, and tells when it refuses.
  socket.connect(backend.port, backend.address, () => {
    for (const data of waiting ?? []) transmit(data);
    waiting = null;
  });
  return {
    backend: backendKey(backend),
    send: (data) => {
      if (!open) return;
      hear();
      if (waiting === null) transmit(data);
      else waiting.push(data);
    },
    close: () => finish(false),
  };
};

const isRefusal = (error: Error): boolean => (error as NodeJS.ErrnoException).code === "ECONNREFUSED";
