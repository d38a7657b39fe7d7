// A cluster's Services, EndpointSlices and our own Node become a Snapshot, kept up to date through whatever happens to
// the API server. Nothing is announced before all three have been listed once.
import { messageOf } from "../lib/errors.ts";
import type { ObjectKey, Problem, Snapshot } from "../model/snapshot.ts";
import { EventRecorder } from "./events.ts";
import { type ClusterConfig, findCluster } from "./kubeconfig.ts";
import { keyOf, LABEL_HEADLESS, LABEL_PROXY_NAME } from "./meta.ts";
import { type Kind, type ParseResult, parseKind } from "./parse.ts";
import { createProblemLog } from "./problem-log.ts";
import {
  DEFAULT_LIMITS,
  DEFAULT_TIMES,
  type Image,
  type ReflectorLimits,
  type ReflectorTimes,
  type Resource,
  reflect,
} from "./reflector.ts";
import type { Source, SourceHandlers } from "./source.ts";
import { ObjectStore } from "./store.ts";

export interface ClusterOptions {
  /** null: the pod's service account, then kubectl's configuration. */
  readonly kubeconfig: string | null;
  readonly nodeName: string;
  /** null: Services without the label service-proxy-name are ours; else those with this value of it. */
  readonly serviceProxyName: string | null;
  /** false: what is not used becomes no Events of the objects. */
  readonly events?: boolean;
  readonly random?: () => number;
  /** For tests that cannot wait. */
  readonly times?: Partial<ReflectorTimes>;
  readonly limits?: Partial<ReflectorLimits>;
}

const EVENT_PAUSE_MS = 100;

/** Throws an InputError when there is no usable configuration. What happens after that is logged and survived. */
export const watchCluster = (options: ClusterOptions, handlers: SourceHandlers): Source =>
  new ClusterWatch(options, findCluster(options.kubeconfig), handlers);

class ClusterWatch implements Source {
  readonly description: string;
  readonly #options: ClusterOptions;
  readonly #config: ClusterConfig;
  readonly #handlers: SourceHandlers;
  readonly #store: ObjectStore;
  readonly #stop = new AbortController();
  readonly #missing: Set<Kind>;
  readonly #logProblems: ReturnType<typeof createProblemLog>;
  readonly #done: Promise<void>;
  /** null until the API is open, which is before there are objects. */
  #events: EventRecorder | null = null;

  constructor(options: ClusterOptions, config: ClusterConfig, handlers: SourceHandlers) {
    this.description = `cluster ${config.url}`;
    this.#options = options;
    this.#config = config;
    this.#handlers = handlers;
    this.#store = new ObjectStore(options.nodeName);
    this.#logProblems = createProblemLog(handlers.log);
    this.#missing = new Set(["Service", "EndpointSlice", "Node"]);
    this.#done = this.#run().catch((error: unknown) =>
      handlers.log("error", `Cannot watch ${this.description}: ${messageOf(error)}`),
    );
  }

  snapshot(): Snapshot {
    return this.#store.snapshot();
  }

  synced(): boolean {
    return this.#missing.size === 0;
  }

  problems(): readonly Problem[] {
    return this.#store.problems();
  }

  recordProblems(problems: readonly Problem[]): void {
    this.#events?.record(problems);
  }

  close(): Promise<void> {
    this.#stop.abort();
    return this.#done;
  }

  async #run(): Promise<void> {
    const { openApi } = await import("./api.ts");
    const api = openApi(this.#config);
    const { random = Math.random, times, limits, nodeName } = this.#options;
    const uidOf = (key: ObjectKey): string => this.#store.snapshot().services.get(key)?.uid ?? "";
    const { log } = this.#handlers;
    const about = { nodeName, uidOf, log, now_ms: Date.now, pause_ms: EVENT_PAUSE_MS };
    if (this.#options.events !== false) this.#events = new EventRecorder(api, about, this.#stop.signal);
    const options = {
      random,
      log,
      times: { ...DEFAULT_TIMES, ...times },
      limits: { ...DEFAULT_LIMITS, ...limits },
    };
    const resources = Object.entries(resourcesFor(this.#options)) as [Kind, Resource][];
    await Promise.all(
      resources.map(([kind, resource]) => reflect(api, resource, this.#imageOf(kind), options, this.#stop.signal)),
    );
    api.close();
  }

  #imageOf(kind: Kind): Image<ParseResult> {
    const store = this.#store;
    let changed = false;
    return {
      read: (raw) => parseKind(kind, raw, this.#options),
      replace: (items) => {
        changed = store.replaceAll(kind, items);
        const first = this.#missing.delete(kind);
        this.#announce(changed || (first && this.synced()));
        changed = false;
      },
      put: ({ parsed, problems }) => {
        changed = store.upsert(parsed, problems) || changed;
      },
      remove: (raw) => {
        const key = keyOf(raw);
        changed = (key !== null && store.remove(kind, key)) || changed;
      },
      settle: () => {
        this.#announce(changed);
        changed = false;
      },
    };
  }

  #announce(changed: boolean): void {
    this.#logProblems(this.#store.problems());
    this.recordProblems(this.#store.problems());
    if (changed && this.synced() && !this.#stop.signal.aborted) this.#handlers.changed();
  }
}

const resourcesFor = ({ nodeName, serviceProxyName }: ClusterOptions): Partial<Record<Kind, Resource>> => {
  const ours = serviceProxyName === null ? `!${LABEL_PROXY_NAME}` : `${LABEL_PROXY_NAME}=${serviceProxyName}`;
  const selector = { labelSelector: `${ours},!${LABEL_HEADLESS}` };
  return {
    Service: { path: "/api/v1/services", selector },
    EndpointSlice: { path: "/apis/discovery.k8s.io/v1/endpointslices", selector },
    Node: { path: "/api/v1/nodes", selector: { fieldSelector: `metadata.name=${nodeName}` } },
  };
};
