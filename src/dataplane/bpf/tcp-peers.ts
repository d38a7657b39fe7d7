// What getpeername answers of TCP sockets. The programs write and remove it (bpf/tcp_peer.h); the agent only forgets what
// may be of sockets that are closed: nobody was told of those while no program was on the hook.
import { sizeOf } from "./codec.ts";
import type { MapStore } from "./mapstore.ts";

export interface TcpPeers {
  /** Sockets that are connected to a VIP show its backend from now on. */
  forgetAll(): void;
}

export const createTcpPeers = (store: MapStore): TcpPeers => ({
  forgetAll() {
    const free = new Uint8Array(sizeOf("tcp_peer"));
    store.update(
      "tcp_peers",
      Array.from(store.entries("tcp_peers"), ([place]) => [place, free] as const),
    );
  },
});
