// The one file that talks HTTP, and the one that knows @kubernetes/client-node, which knows how to authenticate. It is
// slow to load (0.4 s): import it when a cluster is really wanted.
import { readFileSync } from "node:fs";
import http from "node:http";
import https from "node:https";
import { dirname } from "node:path";
import { KubeConfig } from "@kubernetes/client-node";
import { parse } from "yaml";
import { type Body, readBody } from "./body.ts";
import { isRecord } from "./field.ts";
import type { ClusterConfig } from "./kubeconfig.ts";
import { statusError } from "./status.ts";

export interface Api {
  /**
   * GET. Resolves with the body once the server has said 200, and throws an ApiError when it says anything else. The
   * body fails when nothing arrives for `idle_ms`; leaving its loop closes the connection.
   */
  get(path: string, query: Readonly<Record<string, string>>, idle_ms: number, signal: AbortSignal): Promise<Body>;
  /** POST of an object as JSON. Throws an ApiError unless the server has created it. */
  post(path: string, object: object, idle_ms: number, signal: AbortSignal): Promise<void>;
  close(): void;
}

interface Ask {
  readonly method: "GET" | "POST";
  readonly timeout: number;
  readonly signal: AbortSignal;
}

/** How long a connection may be silent before TCP asks whether the other end is still there. */
const KEEPALIVE_MS = 30_000;
/** How long a credential plugin may take. */
const CREDENTIALS_MS = 60_000;
const MAX_ERROR_BYTES = 64 * 1024;

export const openApi = (config: ClusterConfig): Api => new HttpApi(config);

class HttpApi implements Api {
  readonly #config: ClusterConfig;
  readonly #agents = [
    new http.Agent({ keepAlive: true, keepAliveMsecs: KEEPALIVE_MS }),
    new https.Agent({ keepAlive: true, keepAliveMsecs: KEEPALIVE_MS }),
  ] as const;
  /** What was loaded, and the text it came from: a changed file is loaded anew. */
  #loaded: { readonly kubeconfig: KubeConfig; readonly text: string } | null = null;

  constructor(config: ClusterConfig) {
    this.#config = config;
  }

  get(path: string, query: Readonly<Record<string, string>>, idle_ms: number, signal: AbortSignal): Promise<Body> {
    return this.#ask({ method: "GET", timeout: idle_ms, signal }, path, `?${new URLSearchParams(query)}`, null);
  }

  async post(path: string, object: object, idle_ms: number, signal: AbortSignal): Promise<void> {
    const answer = await this.#ask({ method: "POST", timeout: idle_ms, signal }, path, "", JSON.stringify(object));
    answer.destroy(); // what was created is known
  }

  async #ask(how: Ask, path: string, query: string, content: string | null): Promise<http.IncomingMessage> {
    const patience = AbortSignal.any([how.signal, AbortSignal.timeout(CREDENTIALS_MS)]);
    const { base, options } = await settledBefore(this.#authenticated(), patience);
    const url = new URL(`${base.replace(/\/$/, "")}${path}${query}`);
    const response = await send(url, { ...options, ...how }, content);
    const status = response.statusCode ?? 0;
    if (status === 200 || status === 201) return response;
    // The token or certificate is no good any more: load both again, whatever was remembered of them.
    if (status === 401) this.#loaded = null;
    const what = `${how.method} ${path}`;
    throw statusError(await readJson(response), what, status, response.headers["retry-after"] ?? null);
  }

  close(): void {
    for (const agent of this.#agents) agent.destroy();
  }

  async #authenticated(): Promise<{ readonly base: string; readonly options: https.RequestOptions }> {
    const kubeconfig = this.#load();
    const cluster = kubeconfig.getCurrentCluster();
    if (cluster === null) throw new Error("The kubeconfig names no cluster");
    const options: https.RequestOptions = {};
    await kubeconfig.applyToHTTPSOptions(options); // reads certificate files each time: a rotated CA is taken up
    const headers: http.OutgoingHttpHeaders = { accept: "application/json", "user-agent": "beeline" };
    for (const [name, value] of Object.entries(options.headers ?? {})) headers[name] = String(value).trim();
    const own = cluster.server.startsWith("https:") ? this.#agents[1] : this.#agents[0];
    const agent = cluster.proxyUrl ? options.agent : own;
    return { base: cluster.server, options: { ...options, headers, agent } };
  }

  #load(): KubeConfig {
    const config = this.#config;
    const texts = config.kind === "files" ? config.files.map((file) => readFileSync(file, "utf8")) : [];
    const text = texts.join("\n");
    if (this.#loaded?.text === text) return this.#loaded.kubeconfig;
    const kubeconfig = new KubeConfig();
    if (config.kind === "in-cluster") kubeconfig.loadFromCluster();
    else {
      for (const [i, file] of config.files.entries()) {
        const one = new KubeConfig();
        one.loadFromString(texts[i] ?? "");
        useTokenFiles(one, texts[i] ?? "");
        one.makePathsAbsolute(dirname(file));
        if (i === 0) kubeconfig.loadFromOptions(one);
        else kubeconfig.mergeConfig(one, Boolean(kubeconfig.getCurrentContext()));
      }
    }
    this.#loaded = { kubeconfig, text };
    return kubeconfig;
  }
}

/** `users[].user.tokenFile`, which client-node 2.0 does not know under its real name. */
const useTokenFiles = (kubeconfig: KubeConfig, text: string): void => {
  const config: unknown = parse(text);
  const users: unknown = isRecord(config) ? config.users : [];
  for (const entry of Array.isArray(users) ? users : []) {
    const user = isRecord(entry) ? entry.user : null;
    const tokenFile = isRecord(user) ? user.tokenFile : undefined;
    if (typeof tokenFile !== "string" || !isRecord(entry)) continue;
    const index = kubeconfig.users.findIndex((known) => known.name === entry.name);
    const known = kubeconfig.users[index];
    if (known !== undefined)
      kubeconfig.users[index] = { ...known, authProvider: { name: "tokenFile", config: { tokenFile } } };
  }
};

/** The promise's result, unless the signal comes first. */
const settledBefore = <T>(promise: Promise<T>, signal: AbortSignal): Promise<T> =>
  new Promise((resolve, reject) => {
    signal.throwIfAborted();
    signal.addEventListener("abort", () => reject(signal.reason as Error), { once: true });
    promise.then(resolve, reject);
  });

const send = (url: URL, options: https.RequestOptions, content: string | null): Promise<http.IncomingMessage> =>
  new Promise((resolve, reject) => {
    const request = (url.protocol === "https:" ? https : http).request(url, options);
    if (content !== null) request.setHeader("content-type", "application/json");
    request.end(content ?? undefined);
    let target: { destroy(error: Error): unknown } = request;
    request.on("response", (response) => {
      target = response;
      resolve(response);
    });
    request.on("error", reject);
    request.on("socket", (socket) => socket.setKeepAlive(true, KEEPALIVE_MS));
    request.on("timeout", () =>
      target.destroy(new Error(`the API server has been silent for ${(options.timeout ?? 0) / 1000} s`)),
    );
  });

const readJson = async (body: Body): Promise<unknown> => {
  try {
    return JSON.parse((await readBody(body, MAX_ERROR_BYTES)).toString("utf8")) as unknown;
  } catch {
    return null; // a proxy's HTML page, or a body cut short: the HTTP status has to do
  }
};
