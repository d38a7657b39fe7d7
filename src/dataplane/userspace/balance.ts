// Who gets the next client: round robin through a list, ClientIP affinity before that, and somebody else when a backend
// did not answer. Knows no sockets and no clock.
import { type Address, formatHostPort } from "../../model/address.ts";
import type { Backend } from "../../model/desired.ts";

/** Whose turn it is in one list; a list that changes goes on where it was. */
export interface Turn {
  next: number;
}

/** Which backend a client stays with; for one Service port, whichever of its frontends it comes by. Oldest use first. */
export type Affinity = Map<Address, { readonly backend: string; readonly used_ms: number }>;

export interface Request {
  readonly client: Address;
  /** In the order in which they take turns. */
  readonly backends: readonly Backend[];
  readonly turn: Turn;
  readonly affinity: Affinity;
  /** 0: no affinity. */
  readonly affinity_timeout_s: number;
  /** backendKey() of those that have been tried for this client in vain. */
  readonly failed: ReadonlySet<string>;
  readonly now_ms: number;
}

/** Clients that one Service port remembers; beyond, the one that was away longest is forgotten. */
export const MOST_CLIENTS = 10_000;

/** `10.244.1.2:8080`. */
export const backendKey = ({ address, port }: Pick<Backend, "address" | "port">): string =>
  formatHostPort(address, port);

/** null: there is no backend left to try. Each choice renews the client's affinity, as kube-proxy's does. */
export const chooseBackend = (request: Request): Backend | null => {
  const { client, affinity, affinity_timeout_s, failed, now_ms } = request;
  const candidates = request.backends.filter((backend) => !failed.has(backendKey(backend)));
  if (affinity_timeout_s === 0) return takeTurn(request, candidates);
  const known = affinity.get(client);
  const fresh = known !== undefined && now_ms - known.used_ms < affinity_timeout_s * 1000;
  const stuck = fresh ? candidates.find((backend) => backendKey(backend) === known.backend) : undefined;
  const chosen = stuck ?? takeTurn(request, candidates);
  affinity.delete(client);
  if (chosen !== null) affinity.set(client, { backend: backendKey(chosen), used_ms: now_ms });
  forgetOldest(affinity);
  return chosen;
};

const takeTurn = ({ backends, turn, failed }: Request, candidates: readonly Backend[]): Backend | null => {
  if (candidates.length === 0) return null;
  for (;;) {
    const backend = backends[turn.next % backends.length];
    turn.next = (turn.next + 1) % backends.length;
    if (backend !== undefined && !failed.has(backendKey(backend))) return backend;
  }
};

const forgetOldest = (affinity: Affinity): void => {
  if (affinity.size <= MOST_CLIENTS) return;
  const [oldest] = affinity.keys();
  if (oldest !== undefined) affinity.delete(oldest);
};
