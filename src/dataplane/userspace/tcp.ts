// One frontend's TCP listener: takes connections, finds a backend that answers, and copies both ways until both have
// said all. Whom to send a client to is asked for each.
import { createServer, connect as open, type Server, type Socket } from "node:net";
import { type Address, parseAddress } from "../../model/address.ts";
import type { Backend } from "../../model/desired.ts";
import { backendKey } from "./balance.ts";

/** Where to send a client; `failed`: backends that did not answer. null: nowhere. */
export type Choose = (client: Address, failed: ReadonlySet<string>) => Backend | null;

export interface Listener {
  readonly port: number;
  /** Forgets clients of backends that are gone, where they would stay with them. */
  keepOnly(backends: ReadonlySet<string>): void;
  /** Takes nobody any more; connections live on. */
  close(): void;
  /** Ends connections, too. */
  abort(): void;
}

/** kube-proxy's: how long a backend may take to answer, attempt by attempt. */
const DIAL_TIMEOUTS_MS = [250, 500, 1000, 2000];

/** A peer that vanished is noticed at some time. */
const KEEP_ALIVE_MS = 30_000;

/** Listens at a port that the kernel chooses. Rejects when the address is not ours (any more). */
export const listenTcp = (address: Address, choose: Choose): Promise<Listener> => {
  const sockets = new Set<Socket>();
  // Half-open: a client that has said all may still want to hear the answer.
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true, noDelay: true }, (client) => {
    track(client, sockets);
    void serve(client, choose, sockets);
  });
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen({ host: address, port: 0 }, () => {
      server.off("error", reject);
      server.on("error", () => undefined); // of one accept(): the client is told by the kernel
      resolve(listener(server, sockets));
    });
  });
};

const listener = (server: Server, sockets: ReadonlySet<Socket>): Listener => {
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("A TCP server without a port");
  return {
    port: address.port,
    keepOnly: () => undefined, // connections drain
    close: () => void server.close(),
    abort: () => {
      server.close();
      for (const socket of sockets) reset(socket);
    },
  };
};

/** A client that nobody answers sees its connection reset. */
const serve = async (client: Socket, choose: Choose, sockets: Set<Socket>): Promise<void> => {
  const from = parseAddress(client.remoteAddress?.split("%")[0] ?? "");
  if (from === null) return void client.destroy(); // gone already
  const failed = new Set<string>();
  for (const timeout_ms of DIAL_TIMEOUTS_MS) {
    const backend = choose(from, failed) ?? choose(from, new Set()); // each has had its chance: again, more patiently
    if (backend === null) break;
    const socket = await dial(backend, timeout_ms);
    if (client.destroyed) return void socket?.destroy();
    if (socket !== null) {
      track(socket, sockets);
      return join(client, socket);
    }
    failed.add(backendKey(backend));
  }
  reset(client);
};

const dial = ({ address, port }: Backend, timeout_ms: number): Promise<Socket | null> =>
  new Promise((resolve) => {
    const socket = open({ host: address, port, allowHalfOpen: true, noDelay: true });
    const give = (answer: Socket | null): void => {
      clearTimeout(timer);
      socket.off("error", fail);
      if (answer === null) socket.on("error", () => undefined).destroy();
      resolve(answer);
    };
    const fail = (): void => give(null);
    const timer = setTimeout(fail, timeout_ms);
    socket.once("error", fail);
    socket.once("connect", () => give(socket));
  });

const track = (socket: Socket, sockets: Set<Socket>): void => {
  sockets.add(socket);
  socket.on("close", () => sockets.delete(socket));
  socket.on("error", () => undefined); // join() says what becomes of the other side
};

/** pipe() slows a fast side down to the other, and passes on the end of what one side says. */
const join = (client: Socket, backend: Socket): void => {
  for (const [from, to] of [[client, backend] as const, [backend, client] as const]) {
    from.setKeepAlive(true, KEEP_ALIVE_MS);
    // After its end nothing is missing of what it said: that still arrives.
    from.on("error", () => (to.writableEnded ? to.destroySoon() : reset(to)));
    from.pipe(to);
  }
};

/** Node 24 loses the descriptor of a socket that it resets while its end() is under way (libuv answers EINVAL). */
const reset = (socket: Socket): void => {
  if (socket.writableEnded) socket.destroy();
  else socket.resetAndDestroy();
};
