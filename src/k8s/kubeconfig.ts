// Which configuration leads to the cluster, found and checked before anything is loaded that could use it, so that a
// wrong one is a clear message at once. How to authenticate with it is api.ts's.
import { existsSync, readFileSync } from "node:fs";
import { homedir } from "node:os";
import { delimiter, join } from "node:path";
import { parse } from "yaml";
import { InputError, messageOf } from "../lib/errors.ts";
import { isRecord } from "./field.ts";

export type ClusterConfig =
  | { readonly kind: "in-cluster"; readonly url: string }
  /** Kubeconfig files; of several the first that says something wins, as with kubectl. */
  | { readonly kind: "files"; readonly files: readonly string[]; readonly url: string };

const SERVICE_ACCOUNT_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/**
 * The named kubeconfig; or, for null, the pod's service account, or what kubectl would use. Throws an InputError when
 * there is none, or when it cannot be read or leads nowhere.
 */
export const findCluster = (kubeconfig: string | null, env: NodeJS.ProcessEnv = process.env): ClusterConfig => {
  if (kubeconfig !== null) return checked([kubeconfig]);
  const { KUBERNETES_SERVICE_HOST: host, KUBERNETES_SERVICE_PORT: port = "443", KUBECONFIG: listed = "" } = env;
  if (host !== undefined && host !== "" && existsSync(SERVICE_ACCOUNT_TOKEN))
    return { kind: "in-cluster", url: `https://${host.includes(":") ? `[${host}]` : host}:${port}` };
  const files = listed.split(delimiter).filter((file) => file !== "");
  if (files.length > 0) return checked(files);
  const own = join(env.HOME ?? homedir(), ".kube", "config");
  if (existsSync(own)) return checked([own]);
  throw new InputError(
    `Cannot find a cluster: no service account at ${SERVICE_ACCOUNT_TOKEN}, no KUBECONFIG, no ${own}. ` +
      "Name a kubeconfig (--kubeconfig) or read manifests (--manifests)",
  );
};

const checked = (files: readonly string[]): ClusterConfig => {
  const configs = files.map(readConfig);
  const contextName = configs.map((config) => config["current-context"]).find((name) => name);
  const context = named(configs, "contexts", contextName, "context");
  const cluster = isRecord(context) ? named(configs, "clusters", context.cluster, "cluster") : null;
  const where = files.join(", ");
  if (contextName === undefined) throw new InputError(`Cannot use kubeconfig ${where}: it has no current-context`);
  if (!isRecord(context))
    throw new InputError(`Cannot use kubeconfig ${where}: current-context ${String(contextName)} is no context in it`);
  if (!isRecord(cluster) || typeof cluster.server !== "string")
    throw new InputError(
      `Cannot use kubeconfig ${where}: context ${String(contextName)} leads to no cluster with a server`,
    );
  if (!URL.canParse(cluster.server))
    throw new InputError(`Cannot use kubeconfig ${where}: the server ${cluster.server} is not a URL`);
  return { kind: "files", files, url: cluster.server };
};

const readConfig = (file: string): Readonly<Record<string, unknown>> => {
  try {
    const config: unknown = parse(readFileSync(file, "utf8"));
    if (isRecord(config)) return config;
  } catch (cause) {
    throw new InputError(`Cannot read kubeconfig ${file}: ${messageOf(cause)}`, { cause });
  }
  throw new InputError(`Cannot use kubeconfig ${file}: it holds no mapping`);
};

/** `clusters: [{name: a, cluster: {…}}]`: the inner part of the entry with that name. */
const named = (
  configs: readonly Readonly<Record<string, unknown>>[],
  list: string,
  name: unknown,
  inner: string,
): unknown => {
  const entries = configs.flatMap((config): readonly unknown[] => {
    const found = config[list];
    return Array.isArray(found) ? found : [];
  });
  const entry = entries.find((e) => isRecord(e) && e.name === name);
  return isRecord(entry) ? entry[inner] : null;
};
