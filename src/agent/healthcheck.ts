// The servers behind healthCheckNodePort: a load balancer asks each node whether it has a ready endpoint of its own.
// They follow what compile() says; a port that cannot be had is named, counted, and tried again.
import type { HealthCheck } from "../compile/compile.ts";
import { messageOf } from "../lib/errors.ts";
import type { Problem } from "../model/snapshot.ts";
import { type HttpServer, json, type Reply, serve } from "./http.ts";
import type { Log } from "./log.ts";

interface Listener {
  check: HealthCheck;
  /** By host; null while it could not be had, or is being had. */
  readonly servers: Map<string, HttpServer | null>;
}

export class HealthCheckServers {
  readonly #listeners = new Map<string, Listener>();
  readonly #healthy: () => boolean;
  readonly #log: Log;
  readonly #tellFailed: (problem: Problem) => void;
  #wanted: { readonly checks: readonly HealthCheck[]; readonly hosts: readonly string[] } = { checks: [], hosts: [] };
  /** One at a time: two that listen on the same port would be in each other's way. */
  #updates: Promise<void> = Promise.resolve();
  #closed = false;

  constructor(options: {
    readonly healthy: () => boolean;
    readonly log: Log;
    /** Told at every try that failed. */
    readonly failed: (problem: Problem) => void;
  }) {
    this.#healthy = options.healthy;
    this.#log = options.log;
    this.#tellFailed = options.failed;
  }

  /** Ports that cannot be listened on, right now. */
  get failed(): number {
    return [...this.#listeners.values()].filter((l) => [...l.servers.values()].includes(null)).length;
  }

  /** Starts, changes and ends servers so that these are served, at these hosts. */
  update(checks: readonly HealthCheck[], hosts: readonly string[]): Promise<void> {
    this.#wanted = { checks, hosts };
    return this.retry();
  }

  /** Tries those that failed again. */
  retry(): Promise<void> {
    this.#updates = this.#updates.then(() => this.#serve());
    return this.#updates;
  }

  close(): void {
    this.#closed = true;
    for (const [key, listener] of this.#listeners) this.#end(key, listener);
  }

  async #serve(): Promise<void> {
    if (this.#closed) return;
    const { checks, hosts } = this.#wanted;
    const wanted = new Map(checks.map((check) => [keyOf(check), check]));
    for (const [key, listener] of this.#listeners) {
      if (!wanted.has(key)) this.#end(key, listener);
    }
    for (const [key, check] of wanted) {
      const listener = this.#listeners.get(key) ?? { check, servers: new Map() };
      listener.check = check;
      this.#listeners.set(key, listener);
      for (const [host, server] of listener.servers) {
        if (hosts.includes(host)) continue;
        server?.close();
        listener.servers.delete(host);
      }
      await Promise.all(hosts.map((host) => this.#listen(listener, host)));
    }
  }

  async #listen(listener: Listener, host: string): Promise<void> {
    if (listener.servers.get(host) != null) return;
    listener.servers.set(host, null);
    const { namespace, name, port } = listener.check;
    try {
      const server = await serve({ host, port }, () => replyFor(listener.check, this.#healthy()));
      if (this.#closed) server.close();
      else listener.servers.set(host, server);
    } catch (error) {
      const reason = messageOf(error);
      const message = `Cannot serve the health check of Service ${namespace}/${name} on port ${port}`;
      this.#log("warn", message, { host, error: reason });
      const object = `Service ${namespace}/${name}`;
      this.#tellFailed({ object, path: "spec.healthCheckNodePort", message: `${port} cannot be served: ${reason}` });
    }
  }

  #end(key: string, listener: Listener): void {
    for (const server of listener.servers.values()) server?.close();
    listener.servers.clear();
    this.#listeners.delete(key);
  }
}

const keyOf = (check: HealthCheck): string => `${check.namespace}/${check.name} ${check.port}`;

/** kube-proxy's answer, byte for byte: tabs, no newline at the end. */
export const replyFor = (check: HealthCheck, healthy: boolean): Reply => {
  const body = {
    service: { namespace: check.namespace, name: check.name },
    localEndpoints: check.localEndpoints,
    serviceProxyHealthy: healthy,
  };
  return json(check.localEndpoints > 0 && healthy ? 200 : 503, JSON.stringify(body, null, "\t"), {
    "X-Load-Balancing-Endpoint-Weight": String(check.localEndpoints),
  });
};
