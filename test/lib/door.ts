// A door from inside a lab to a server of the test itself, which lives in another namespace: 127.0.0.1:port of a node
// leads over a Unix socket (those know no network namespaces) to a port out here.
import { connect, createServer, type Socket } from "node:net";
import { join } from "node:path";
import type { Lab } from "./lab.ts";

export interface Door {
  /** Nobody gets through any more, and who is through is thrown out; until open(). */
  shut(): void;
  open(): void;
  close(): Promise<void>;
}

/** `port` inside leads to `target` on 127.0.0.1 out here. */
export const openDoor = async (lab: Lab, node: string, port: number, target: number): Promise<Door> => {
  const path = join(lab.directory, `door-${node}-${port}`);
  const through = new Set<Socket>();
  let isOpen = true;
  const server = createServer((inner) => {
    if (!isOpen) return void inner.destroy();
    const outer = connect({ host: "127.0.0.1", port: target });
    inner.pipe(outer).pipe(inner);
    for (const [socket, other] of [
      [inner, outer],
      [outer, inner],
    ] as const) {
      through.add(socket);
      socket.on("error", () => other.destroy());
      socket.on("close", () => {
        through.delete(socket);
        other.destroy();
      });
    }
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(path, resolve);
  });
  await (await lab.host(node)).relay(port, path);
  const throwOut = (): void => {
    for (const socket of through) socket.destroy();
  };
  return {
    shut: () => {
      isOpen = false;
      throwOut();
    },
    open: () => {
      isOpen = true;
    },
    close: () => {
      throwOut();
      return new Promise((resolve) => server.close(() => resolve()));
    },
  };
};
