// A Kubernetes API server as far as a reflector can tell: paged lists pinned to a version, watches with bookmarks,
// selectors, Status errors, TLS, bearer tokens; and every fault a real one has, on demand. Shapes are as recorded from
// kube-apiserver.
import { writeFileSync } from "node:fs";
import http from "node:http";
import https from "node:https";
import type { AddressInfo, Socket } from "node:net";
import { join } from "node:path";
import { fieldSelector, labelSelector, type Selector } from "./api-selectors.ts";
import {
  type ApiEvent,
  type ApiObject,
  ApiState,
  type Backup,
  ExpiredError,
  RESOURCES,
  type ResourceType,
  seenThrough,
} from "./api-state.ts";
import { type Certificate, selfSigned } from "./certificate.ts";

export interface FakeApiServerOptions {
  readonly tls?: boolean;
  /** Where to listen; default 127.0.0.1 and any port, which stays the same over stop() and start(). */
  readonly host?: string;
  readonly port?: number;
  /** How often a quiet watch gets a bookmark, if it asked for them. Default: a minute. */
  readonly bookmark_ms?: number;
}

export interface RequestRecord {
  readonly verb: "list" | "watch" | "get";
  readonly resource: string;
  readonly query: URLSearchParams;
  readonly at_ms: number;
  readonly token: string | null;
}

/** Which requests a fault is for; absent: any. */
export interface Target {
  readonly verb?: RequestRecord["verb"];
  readonly resource?: string;
}

interface Failure extends Target {
  readonly status: number;
  readonly body: string;
  readonly retryAfter_s: number | null;
  times: number;
}

interface Watch {
  readonly resource: string;
  readonly write: (text: string) => void;
  readonly stop: () => void;
}

/** The one thing that may be created over HTTP. */
const EVENTS_PATH = /^\/apis\/events\.k8s\.io\/v1\/namespaces\/[^/]+\/events$/;

export class FakeApiServer {
  readonly state = new ApiState();
  /** Every request that was answered or failed, in order. */
  readonly requests: RequestRecord[] = [];
  /** Events that clients posted, in order. */
  readonly events: ApiObject[] = [];
  /** TCP connections accepted since the beginning. */
  connections = 0;
  readonly #options: FakeApiServerOptions;
  #certificate: Certificate | null = null;
  #server: http.Server | null = null;
  #port: number;
  readonly #sockets = new Set<Socket>();
  readonly #watches = new Set<Watch>();
  // Faults that are on.
  readonly #failures: Failure[] = [];
  #tokens: ReadonlySet<string> | null = null;
  #stalled: (() => void)[] | null = null;
  #chunk_bytes = Number.POSITIVE_INFINITY;
  #delay_ms = 0;
  #corrupt: string | null = null;
  #duplicates = 0;
  #reorders: string | null = null;
  #expireByHttp = false;

  constructor(options: FakeApiServerOptions = {}) {
    this.#options = options;
    this.#port = options.port ?? 0;
  }

  async start(): Promise<void> {
    if (this.#options.tls) this.#certificate ??= selfSigned([this.#host], ["localhost"]);
    const listener = (request: http.IncomingMessage, response: http.ServerResponse): void =>
      void this.#serve(request, response);
    const server = this.#certificate ? https.createServer(this.#certificate, listener) : http.createServer(listener);
    server.on("connection", (socket: Socket) => {
      this.connections++;
      socket.setNoDelay(true); // split() means packets
      this.#sockets.add(socket);
      socket.on("close", () => this.#sockets.delete(socket));
      socket.on("error", () => undefined);
    });
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen(this.#port, this.#host, resolve);
    });
    this.#port = (server.address() as AddressInfo).port;
    this.#server = server;
  }

  /** As kill -9 does: connections are reset, then refused. What was stored stays for the next start(). */
  async stop(): Promise<void> {
    const server = this.#server;
    this.#server = null;
    if (server === null) return;
    const closed = new Promise((resolve) => server.close(resolve));
    this.reset();
    await closed;
  }

  get url(): string {
    return `${this.#options.tls ? "https" : "http"}://${this.#host}:${this.#port}`;
  }

  get #host(): string {
    return this.#options.host ?? "127.0.0.1";
  }

  /** How to get in, as a kubeconfig file in `directory`; with a token, or with a file that holds one. */
  writeKubeconfig(directory: string, auth: { readonly token?: string; readonly tokenFile?: string } = {}): string {
    const file = join(directory, "kubeconfig");
    const trust = this.#certificate
      ? { "certificate-authority-data": Buffer.from(this.#certificate.cert).toString("base64") }
      : { "insecure-skip-tls-verify": true }; // client-node wants to be told that plain HTTP is meant
    const config = {
      apiVersion: "v1",
      kind: "Config",
      "current-context": "test",
      contexts: [{ name: "test", context: { cluster: "test", user: "test" } }],
      clusters: [{ name: "test", cluster: { server: this.url, ...trust } }],
      users: [{ name: "test", user: auth }],
    };
    writeFileSync(file, JSON.stringify(config, null, 2));
    return file;
  }

  // Objects

  put(object: object): ApiObject {
    return this.state.put(object);
  }

  /** Returns whether it was there. A Node's namespace does not matter. */
  delete(kind: string, namespace: string, name: string): boolean {
    return this.state.delete(kind, namespace, name);
  }

  /** Fills namespace `scale` with Services, each with one slice of so many endpoints. */
  fill(services: number, endpointsEach: number): void {
    const octets = (base: number, n: number): string => `${base}.${(n >> 16) & 255}.${(n >> 8) & 255}.${n & 255}`;
    for (let i = 0; i < services; i++) {
      const name = `service-${i}`;
      this.put({
        apiVersion: "v1",
        kind: "Service",
        metadata: { name, namespace: "scale" },
        spec: { type: "ClusterIP", clusterIP: octets(10, i + 1), ports: [{ name: "http", port: 80, protocol: "TCP" }] },
      });
      this.put({
        apiVersion: "discovery.k8s.io/v1",
        kind: "EndpointSlice",
        metadata: { name: `${name}-x`, namespace: "scale", labels: { "kubernetes.io/service-name": name } },
        addressType: "IPv4",
        ports: [{ name: "http", port: 8080, protocol: "TCP" }],
        endpoints: Array.from({ length: endpointsEach }, (_, k) => ({
          addresses: [octets(100, i * endpointsEach + k)],
          conditions: { ready: true },
        })),
      });
    }
  }

  // What clients have done

  get openWatches(): number {
    return this.#watches.size;
  }

  count(target: Target): number {
    return this.requests.filter((request) => matches(target, request)).length;
  }

  // Faults

  /** Ends all watches as a timeout does: cleanly. */
  closeAll(): void {
    for (const watch of [...this.#watches]) watch.stop();
  }

  /** TCP RST on every connection. */
  reset(): void {
    for (const socket of this.#sockets) socket.resetAndDestroy();
  }

  /** Connections stay open, and nothing comes any more, neither events nor answers; until resume(). */
  stall(): void {
    this.#stalled ??= [];
  }

  resume(): void {
    const held = this.#stalled ?? [];
    this.#stalled = null;
    for (const write of held) write();
  }

  /** Every answer leaves in pieces of so many bytes, wherever that cuts. */
  split(chunk_bytes: number): void {
    this.#chunk_bytes = chunk_bytes;
  }

  /** The next event arrives as this text instead. */
  corruptLine(text = '{"type":"MODIFIED","object":{"kind":"Serv'): void {
    this.#corrupt = text;
  }

  /** Sends this text into the open watches of a resource, as it is. */
  inject(resource: string, text: string): void {
    for (const watch of this.#watches) if (watch.resource === resource) watch.write(text);
  }

  /** Every answer begins so much later. */
  delay(delay_ms: number): void {
    this.#delay_ms = delay_ms;
  }

  /** The next so many requests fail. */
  fail(status: number, options: Target & { times?: number; retryAfter_s?: number; body?: string } = {}): void {
    const { times = 1, retryAfter_s = null, body, ...target } = options;
    const text = body ?? JSON.stringify(statusObject(status, "InternalError", `the test wants ${status}`));
    this.#failures.push({ ...target, status, times, retryAfter_s, body: text });
  }

  /** Only these bearer tokens are accepted from now on; null: everybody. */
  accept(tokens: readonly string[] | null): void {
    this.#tokens = tokens === null ? null : new Set(tokens);
  }

  /** History is gone: watches from before now get 410, in the stream or as the answer; tokens of lists half read too. */
  expire(form: "stream" | "http" = "stream"): void {
    this.state.compact();
    this.#expireByHttp = form === "http";
  }

  /** The next so many events are each sent twice. */
  duplicate(times = 1): void {
    this.#duplicates = times;
  }

  /** The next two events of a resource change places, in one of its watches. */
  reorder(resource: string): void {
    this.#reorders = resource;
  }

  freezeRV(frozen = true): void {
    this.state.freeze(frozen);
  }

  /** etcd is restored from a backup, `server.state.backup()`; watches stay open and hear nothing of it. */
  rollbackRV(backup: Backup): void {
    this.state.restore(backup);
  }

  /** Another certificate, from the next start() on. */
  rotateCertificate(): void {
    this.#certificate = null;
  }

  // HTTP

  async #serve(request: http.IncomingMessage, response: http.ServerResponse): Promise<void> {
    response.on("error", () => undefined);
    const url = new URL(request.url ?? "/", "http://server");
    const route = routeOf(url.pathname);
    const query = url.searchParams;
    const token = /^Bearer (.*)$/.exec(request.headers.authorization ?? "")?.[1] ?? null;
    const watching = query.get("watch") === "true" || query.get("watch") === "1";
    const verb = route?.name ? "get" : watching ? "watch" : "list";
    const record = { verb, resource: route?.type.plural ?? "", query, at_ms: performance.now(), token } as const;
    this.requests.push(record);
    if (this.#delay_ms > 0) await new Promise((resolve) => setTimeout(resolve, this.#delay_ms));
    const write = this.#writerOf(response);
    const answer = (status: number, body: string, headers: http.OutgoingHttpHeaders = {}): void => {
      const send = (): void => {
        response.writeHead(status, { "content-type": "application/json", ...headers });
        write(body);
        write(null);
      };
      if (this.#stalled === null) send();
      else this.#stalled.push(send);
    };
    const refuse = (status: number, reason: string, message: string, more: object = {}): void =>
      answer(status, JSON.stringify(statusObject(status, reason, message, more)));

    if (this.#tokens !== null && !this.#tokens.has(token ?? "")) return refuse(401, "Unauthorized", "Unauthorized");
    const failure = this.#failures.find((f) => f.times > 0 && matches(f, record));
    if (failure !== undefined) {
      failure.times--;
      const { status, body, retryAfter_s } = failure;
      return answer(status, body, retryAfter_s === null ? {} : { "retry-after": String(retryAfter_s) });
    }
    if (request.method === "POST" && EVENTS_PATH.test(url.pathname)) return this.#createEvent(request, answer, refuse);
    if (route === null) return refuse(404, "NotFound", "the server could not find the requested resource");
    if (request.method !== "GET") return refuse(405, "MethodNotAllowed", "the fake server is read-only");
    try {
      const selects = selectorOf(query, route.namespace);
      if (verb === "get") this.#get(route, answer, refuse);
      else if (verb === "watch") this.#watch(route.type, query, selects, response, write, refuse);
      else this.#list(route.type, query, selects, answer, refuse);
    } catch (error) {
      refuse(400, "BadRequest", error instanceof Error ? error.message : String(error));
    }
  }

  async #createEvent(
    request: http.IncomingMessage,
    answer: (status: number, body: string) => void,
    refuse: Refuse,
  ): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const event = JSON.parse(Buffer.concat(chunks).toString("utf8")) as ApiObject;
    const { name, namespace } = event.metadata;
    const same = this.events.some(({ metadata: m }) => m.name === name && m.namespace === namespace);
    if (same) return refuse(409, "AlreadyExists", `events.events.k8s.io "${name}" already exists`);
    this.events.push(event);
    answer(201, JSON.stringify(event));
  }

  #get(route: Route, answer: (status: number, body: string) => void, refuse: Refuse): void {
    const key = route.type.namespaced ? `${route.namespace}/${route.name}` : String(route.name);
    const object = this.state.get(route.type.plural, key);
    if (object === null) return refuse(404, "NotFound", `${route.type.plural} "${route.name}" not found`);
    answer(200, JSON.stringify(object));
  }

  #list(
    type: ResourceType,
    query: URLSearchParams,
    selects: Selector,
    answer: (status: number, body: string) => void,
    refuse: Refuse,
  ): void {
    const version = query.get("resourceVersion") ?? "";
    if (!/^\d*$/.test(version)) return refuse(500, "InternalError", `Invalid value: "${version}"`);
    if (Number(version) > this.state.version)
      return refuse(504, "Timeout", `Too large resource version: ${version}, current: ${this.state.version}`, {
        details: { causes: [{ reason: "ResourceVersionTooLarge" }], retryAfterSeconds: 1 },
      });
    const limit = Number(query.get("limit") ?? 0);
    try {
      const page = this.state.list(type.plural, selects, limit, query.get("continue"));
      const metadata = {
        resourceVersion: String(page.version),
        ...(page.token === null ? {} : { continue: page.token }),
        // With a selector the server does not know how many are left.
        ...(page.token === null || query.has("labelSelector") ? {} : { remainingItemCount: page.remaining }),
      };
      const items = page.items.map(({ kind: _kind, apiVersion: _apiVersion, ...rest }) => rest);
      answer(200, JSON.stringify({ kind: `${type.kind}List`, apiVersion: type.apiVersion, metadata, items }));
    } catch (error) {
      if (error instanceof ExpiredError)
        return refuse(410, "Expired", "The provided continue parameter is too old", {
          metadata: { continue: "inconsistent" },
        });
      refuse(400, "BadRequest", "continue key is not valid");
    }
  }

  #watch(
    type: ResourceType,
    query: URLSearchParams,
    selects: Selector,
    response: http.ServerResponse,
    write: (text: string | null) => void,
    refuse: Refuse,
  ): void {
    const version = query.get("resourceVersion") ?? "";
    if (!/^\d*$/.test(version)) return refuse(500, "InternalError", `Invalid value: "${version}"`);
    const fromStart = version === "" || version === "0";
    let missed: readonly ApiEvent[] = [];
    let expired: ExpiredError | null = null;
    try {
      if (!fromStart) missed = this.state.since(type.plural, Number(version));
    } catch (error) {
      expired = error as ExpiredError;
      if (this.#expireByHttp) return refuse(410, "Expired", expired.message);
    }
    response.writeHead(200, { "content-type": "application/json" });
    response.flushHeaders();
    if (expired !== null) {
      write(line("ERROR", statusObject(410, "Expired", expired.message)));
      return write(null);
    }
    const send = (event: ApiEvent): void => {
      const seen = seenThrough(selects, event);
      if (seen === null) return;
      const text = this.#corrupt === null ? line(seen.type, seen.object) : `${this.#corrupt}\n`;
      this.#corrupt = null;
      write(text);
      if (this.#duplicates > 0) {
        this.#duplicates--;
        write(text);
      }
    };
    const bookmark = (annotations: object = {}): void =>
      write(
        line("BOOKMARK", {
          kind: type.kind,
          apiVersion: type.apiVersion,
          metadata: { resourceVersion: String(this.state.version), creationTimestamp: null, ...annotations },
        }),
      );
    if (fromStart) {
      for (const object of this.state.list(type.plural, selects, 0, null).items) write(line("ADDED", object));
      if (query.get("sendInitialEvents") === "true") bookmark({ annotations: { "k8s.io/initial-events-end": "true" } });
    }
    for (const event of missed) send(event);
    let held: ApiEvent | null = null;
    const unlisten = this.state.listen(type.plural, (event) => {
      if (this.#reorders === type.plural) {
        this.#reorders = null;
        held = event;
        return;
      }
      send(event);
      if (held !== null) send(held);
      held = null;
    });
    const wantsBookmarks = query.get("allowWatchBookmarks") === "true";
    const bookmarks = wantsBookmarks ? setInterval(bookmark, this.#options.bookmark_ms ?? 60_000) : undefined;
    const timeout_s = Number(query.get("timeoutSeconds") ?? 1800);
    const timeout = setTimeout(() => watch.stop(), timeout_s * 1000);
    const forget = (): void => {
      unlisten();
      clearInterval(bookmarks);
      clearTimeout(timeout);
      this.#watches.delete(watch);
    };
    const stop = (): void => {
      forget();
      write(null);
    };
    const watch: Watch = { resource: type.plural, write, stop };
    this.#watches.add(watch);
    response.on("close", forget);
  }

  /** A function that writes text, null for the end, in order, and through the faults that are on. */
  #writerOf(response: http.ServerResponse): (text: string | null) => void {
    const queue: (Buffer | null)[] = [];
    let pumping = false;
    const pump = async (): Promise<void> => {
      pumping = true;
      for (let bytes = queue.shift(); bytes !== undefined; bytes = queue.shift()) {
        if (bytes === null) response.end();
        else if (!Number.isFinite(this.#chunk_bytes)) response.write(bytes);
        else await this.#writePieces(response, bytes);
      }
      pumping = false;
    };
    return (text) => {
      const enqueue = (): void => {
        queue.push(text === null ? null : Buffer.from(text));
        if (!pumping) void pump();
      };
      if (this.#stalled === null) enqueue();
      else this.#stalled.push(enqueue);
    };
  }

  async #writePieces(response: http.ServerResponse, bytes: Buffer): Promise<void> {
    const chunk_bytes = this.#chunk_bytes;
    for (let start = 0; start < bytes.length; start += chunk_bytes) {
      response.write(bytes.subarray(start, start + chunk_bytes));
      await new Promise((resolve) => setImmediate(resolve));
    }
  }
}

type Refuse = (status: number, reason: string, message: string, more?: object) => void;

interface Route {
  readonly type: ResourceType;
  readonly namespace: string | null;
  readonly name: string | null;
}

/** `/api/v1/[namespaces/NS/]services[/NAME]` */
const routeOf = (path: string): Route | null => {
  const match = /^\/apis?\/(v1|[^/]+\/v1)(?:\/namespaces\/([^/]+))?\/([^/]+)(?:\/([^/]+))?$/.exec(path);
  if (match === null) return null;
  const [, apiVersion, namespace = null, plural, name = null] = match;
  const type = RESOURCES.find((r) => r.apiVersion === apiVersion && r.plural === plural);
  return type === undefined ? null : { type, namespace, name };
};

const selectorOf = (query: URLSearchParams, namespace: string | null): Selector => {
  const labels = labelSelector(query.get("labelSelector") ?? "");
  const fields = fieldSelector(query.get("fieldSelector") ?? "");
  return (object) =>
    labels(object) && fields(object) && (namespace === null || object.metadata.namespace === namespace);
};

const matches = (target: Target, request: Pick<RequestRecord, "verb" | "resource">): boolean =>
  (target.verb === undefined || target.verb === request.verb) &&
  (target.resource === undefined || target.resource === request.resource);

const line = (type: string, object: object): string => `${JSON.stringify({ type, object })}\n`;

const statusObject = (code: number, reason: string, message: string, more: object = {}): object => ({
  kind: "Status",
  apiVersion: "v1",
  metadata: {},
  status: "Failure",
  message,
  reason,
  code,
  ...more,
});
