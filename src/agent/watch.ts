// Where a configuration's objects come from, kept up to date, or asked once.
import { watchManifests } from "../k8s/manifests.ts";
import type { Source, SourceHandlers } from "../k8s/source.ts";
import { RefusedError } from "../lib/errors.ts";
import type { Problem, Snapshot } from "../model/snapshot.ts";
import type { Config } from "./config.ts";

export type Watch = (handlers: SourceHandlers) => Source;

/** The Kubernetes client is large: loaded only where there is a cluster to ask. `events: false`: tells nobody anything. */
export const watchOf = async (
  { source, nodeName, serviceProxyName }: Config,
  { events }: { readonly events: boolean },
): Promise<Watch> => {
  if (source.kind === "manifests") return (handlers) => watchManifests(source.paths, nodeName, handlers);
  const { watchCluster } = await import("../k8s/cluster.ts");
  const options = { kubeconfig: source.kubeconfig, nodeName, serviceProxyName, events };
  return (handlers) => watchCluster(options, handlers);
};

export interface Once {
  /** For people: `cluster https://10.0.0.1:6443`. */
  readonly description: string;
  readonly snapshot: Snapshot;
  readonly problems: readonly Problem[];
}

/** Reads everything once. Throws RefusedError when that takes longer than `wait_ms`, with what went wrong last. */
export const readOnce = async (watch: Watch, wait_ms: number, signal: AbortSignal): Promise<Once> => {
  let last = "";
  const { promise, resolve } = Promise.withResolvers<void>();
  const source = watch({
    changed: resolve,
    log: (level, message, fields) => {
      if (level !== "info") last = `${message}${fields === undefined ? "" : ` ${JSON.stringify(fields)}`}`;
    },
  });
  const timer = setTimeout(resolve, wait_ms);
  signal.addEventListener("abort", () => resolve(), { once: true });
  try {
    if (!source.synced()) await promise;
    if (!source.synced())
      throw new RefusedError(`Cannot read the ${source.description}${last === "" ? "" : `: ${last}`}`);
    return { description: source.description, snapshot: source.snapshot(), problems: source.problems() };
  } finally {
    clearTimeout(timer);
    await source.close();
  }
};
