// Small HTTP servers for probes and scrapes: GET and HEAD, no body read, every limit set, so that a slow or hostile
// client costs one socket for a few seconds.
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { formatHostPort, parseAddress } from "../model/address.ts";
import type { Bind } from "./schema.ts";

export interface Reply {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

export interface HttpServer {
  /** Where it listens: `127.0.0.1:10249`. */
  readonly address: string;
  close(): void;
}

const LIMITS = {
  maxHeaderSize: 16 * 1024,
  headersTimeout: 5_000,
  requestTimeout: 5_000,
  keepAliveTimeout: 5_000,
  connectionsCheckingInterval: 1_000,
} as const;
const MAX_CONNECTIONS = 256;

/** Rejects with the system's error (`code` EADDRINUSE, EADDRNOTAVAIL, EACCES). */
export const serve = (bind: Bind, answer: (path: string) => Reply | Promise<Reply>): Promise<HttpServer> => {
  const server = createServer(LIMITS, (request, response) => void respond(request, response, answer));
  server.maxConnections = MAX_CONNECTIONS;
  server.maxRequestsPerSocket = 1000;
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen({ host: bind.host, port: bind.port }, () => {
      server.off("error", reject);
      server.on("error", () => {}); // a connection that could not be accepted is no reason to end
      resolve({ address: addressOf(server), close: () => closeNow(server) });
    });
  });
};

/** GET answers by path, without its query. */
const respond = async (
  request: IncomingMessage,
  response: ServerResponse,
  answer: (path: string) => Reply | Promise<Reply>,
): Promise<void> => {
  request.resume();
  const reply = await answerTo(request, answer);
  response.writeHead(reply.status, { "Content-Length": Buffer.byteLength(reply.body), ...reply.headers });
  response.end(request.method === "HEAD" ? undefined : reply.body);
};

const answerTo = async (request: IncomingMessage, answer: (path: string) => Reply | Promise<Reply>): Promise<Reply> => {
  if (request.method !== "GET" && request.method !== "HEAD") return text(405, "method not allowed\n");
  try {
    return await answer((request.url ?? "/").split("?")[0] ?? "/");
  } catch (error) {
    return text(500, `${error instanceof Error ? error.message : String(error)}\n`);
  }
};

export const text = (status: number, body: string): Reply => ({
  status,
  headers: { "Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff" },
  body,
});

export const json = (status: number, body: string, headers: Readonly<Record<string, string>> = {}): Reply => ({
  status,
  headers: { "Content-Type": "application/json", "X-Content-Type-Options": "nosniff", ...headers },
  body,
});

const addressOf = (server: Server): string => {
  const { address, port } = server.address() as AddressInfo;
  const parsed = parseAddress(address);
  return parsed === null ? `${address}:${port}` : formatHostPort(parsed, port);
};

const closeNow = (server: Server): void => {
  server.close();
  server.closeAllConnections();
};
