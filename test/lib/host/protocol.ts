// What a host process inside a namespace can be told (host.ts asks, process.ts answers), and the words on the
// wire between its servers and clients. Every answer says who answered and which address that server saw.

export type Transport = "TCP" | "UDP";

export interface Target {
  readonly address: string;
  readonly port: number;
}

/** How to reach a target. An IPv4 address through an IPv6 socket is written `::ffff:10.0.0.1`. */
export interface ConnectRequest extends Target {
  readonly localAddress?: string;
  readonly localPort?: number;
  /** Default 1000. */
  readonly timeout_ms?: number;
}

/** A TCP connection, or one datagram over a socket of its own; `connected`: over a connected one (UDP). */
export interface TryRequest extends ConnectRequest {
  readonly transport: Transport;
  readonly connected?: boolean;
  /** The server closes the TCP connection first, in order: it is the one that remembers it for a minute. */
  readonly serverCloses?: boolean;
}

/** What the server says first on a TCP connection, and what it answers to a datagram. */
export interface Greeting {
  readonly name: string;
  /** The client as the server sees it, never v4-mapped. */
  readonly client: string;
  readonly clientPort: number;
}

export interface Answered extends Greeting {
  readonly ok: true;
  /** TCP and connected UDP: getpeername. Unconnected UDP: where the answer came from. */
  readonly peer: string;
  readonly peerPort: number;
  readonly local: string;
  readonly localPort: number;
  readonly ms: number;
}

/** `code` is the system's (`ECONNREFUSED`), `TIMEOUT` after timeout_ms, or `CLOSED` when the server hung up early. */
export interface Failed {
  readonly ok: false;
  readonly code: string;
  /** null: it never had one. */
  readonly localPort: number | null;
  readonly ms: number;
}

export type Answer = Answered | Failed;

/** Speech of a server's, in one of its connections. */
export interface Speech {
  readonly port: number;
  /** The client's, as the server sees it. */
  readonly clientPort: number;
  readonly size_bytes: number;
  /** null: once. */
  readonly every_ms: number | null;
}

export interface Counts {
  readonly ok: number;
  readonly failed: number;
  readonly codes: Readonly<Record<string, number>>;
  readonly names: Readonly<Record<string, number>>;
  /** The first hundred. */
  readonly failures: readonly Failure[];
}

export interface Failure extends Omit<Failed, "ok"> {
  /** ISO 8601. */
  readonly began: string;
}

export interface Beats {
  readonly echoed: number;
  /** null: the connection lives. */
  readonly ended: string | null;
}

interface Call<Request, Response> {
  readonly request: Request;
  readonly response: Response;
}

export interface Commands {
  /** TCP: greets, then echoes, until asked to hang up. UDP: answers each datagram. On every address of both families. */
  readonly serve: Call<{ readonly name: string; readonly port: number; readonly transport: Transport }, null>;
  /** The server says something of its own accord; false: it has no such connection. */
  readonly speak: Call<Speech, boolean>;
  readonly stopServing: Call<{ readonly port: number; readonly transport: Transport }, null>;

  /** One TCP connection, closed after the greeting. */
  readonly connect: Call<ConnectRequest, Answer>;
  /** Lists of tries: the lists side by side, `parallel` at a time, the tries of each one after another. */
  readonly tryAll: Call<
    { readonly lists: readonly (readonly TryRequest[])[]; readonly parallel: number },
    readonly (readonly Answer[])[]
  >;
  /** A TCP connection that stays, with a message echoed every beat_ms; null: the client says nothing by itself. */
  readonly hold: Call<ConnectRequest & { readonly beat_ms: number | null }, Answer & { readonly id: number }>;
  /** One more message of a held connection's client. */
  readonly say: Call<{ readonly id: number }, null>;
  readonly beats: Call<{ readonly id: number }, Beats>;
  /** Sends `size` bytes, gets them echoed; fails with `DIFFERENT` when the echo differs. */
  readonly transfer: Call<ConnectRequest & { readonly size_bytes: number }, Answer>;

  /** A UDP socket for several asks; connected when `to` is given. */
  readonly openUdp: Call<
    { readonly family: 4 | 6; readonly to?: Target; readonly localAddress?: string; readonly localPort?: number },
    { readonly id: number }
  >;
  /** One datagram and its answer; `to` for an unconnected socket. */
  readonly askUdp: Call<{ readonly id: number; readonly to?: Target; readonly timeout_ms?: number }, Answer>;
  /** What has gone wrong on a UDP socket by itself, between questions; null: nothing. */
  readonly udpError: Call<{ readonly id: number }, string | null>;
  /** Ends a held connection or UDP socket. */
  readonly drop: Call<{ readonly id: number }, null>;

  /** Connects (or asks over a new UDP socket) again and again, `pause_ms` between. */
  readonly startLoop: Call<
    ConnectRequest & { readonly transport: Transport; readonly pause_ms: number },
    { readonly id: number }
  >;
  readonly loopCounts: Call<{ readonly id: number; readonly stop?: boolean }, Counts>;

  /** Listens on 127.0.0.1:port and passes every connection on to a Unix socket: a door out of the namespace. */
  readonly relay: Call<{ readonly port: number; readonly path: string }, null>;
  readonly httpGet: Call<
    { readonly port: number; readonly path: string },
    { readonly status: number; readonly body: string }
  >;
}

export type CommandName = keyof Commands;

export interface RequestMessage<C extends CommandName = CommandName> {
  readonly id: number;
  readonly command: C;
  readonly request: Commands[C]["request"];
}

export interface ResponseMessage {
  readonly id: number;
  readonly response?: unknown;
  /** The command itself could not be done. */
  readonly error?: string;
}
