// A fake API server and a watchCluster() that follows it with short times, for tests of what the two do to each other.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
// watchCluster() loads this when it begins; a busy machine needs seconds for it, which are no test's.
import "../../src/k8s/api.ts";
import { type ClusterOptions, watchCluster } from "../../src/k8s/cluster.ts";
import type { Source } from "../../src/k8s/source.ts";
import { objectKey } from "../../src/model/snapshot.ts";
import { FakeApiServer, type FakeApiServerOptions } from "./api-server.ts";
import { eventually } from "./eventually.ts";

export interface Followed {
  readonly server: FakeApiServer;
  readonly source: Source;
  readonly kubeconfig: string;
  readonly log: string[];
  /** How often changed() was called. */
  readonly changes: () => number;
  /** The Services known now, `namespace/name`, sorted. */
  readonly services: () => readonly string[];
  readonly synced: () => Promise<void>;
}

export const NODE = "node-1";

export interface FollowOptions {
  readonly server?: FakeApiServerOptions;
  readonly auth?: { readonly token?: string; readonly tokenFile?: string };
  readonly times?: ClusterOptions["times"];
  readonly limits?: ClusterOptions["limits"];
  readonly serviceProxyName?: string;
  /** Before the source exists: fills the server, or turns faults on. */
  readonly before?: (server: FakeApiServer, directory: string) => void | Promise<void>;
}

const FAST = {
  backoff_min_ms: 20,
  backoff_max_ms: 100,
  watch_min_s: 2,
  list_idle_ms: 300,
  watch_margin_ms: 200,
};

/** Runs `body` with both, and takes both away again. */
export const following = async (options: FollowOptions, body: (followed: Followed) => Promise<void>): Promise<void> => {
  const directory = mkdtempSync(join(tmpdir(), "beeline-api-"));
  const server = new FakeApiServer({ bookmark_ms: 500, ...options.server });
  await server.start();
  const kubeconfig = server.writeKubeconfig(directory, options.auth);
  await options.before?.(server, directory);
  const log: string[] = [];
  let changes = 0;
  const source = watchCluster(
    {
      kubeconfig,
      nodeName: NODE,
      serviceProxyName: options.serviceProxyName ?? null,
      times: { ...FAST, ...options.times },
      limits: options.limits ?? {},
      random: () => 0.5,
    },
    {
      changed: () => void changes++,
      log: (level, message) => void log.push(`${level} ${message}`),
    },
  );
  const followed: Followed = {
    server,
    source,
    kubeconfig,
    log,
    changes: () => changes,
    services: () => [...source.snapshot().services.keys()].sort(),
    synced: () =>
      eventually(() => {
        if (!source.synced()) throw new Error(`Not synced: ${log.join("\n")}`);
      }),
  };
  try {
    await body(followed);
  } finally {
    await source.close();
    await server.stop();
    rmSync(directory, { recursive: true, force: true });
  }
};

export const service = (name: string, spec: object = {}, metadata: object = {}): object => ({
  apiVersion: "v1",
  kind: "Service",
  metadata: { name, namespace: "default", ...metadata },
  spec: { clusterIP: "10.0.0.1", ports: [{ port: 80 }], ...spec },
});

export const slice = (name: string, serviceName: string, addresses: readonly string[]): object => ({
  apiVersion: "discovery.k8s.io/v1",
  kind: "EndpointSlice",
  metadata: { name, namespace: "default", labels: { "kubernetes.io/service-name": serviceName } },
  addressType: "IPv4",
  ports: [{ port: 8080 }],
  endpoints: addresses.map((address) => ({ addresses: [address] })),
});

/** Its first cluster IP as the source knows it now. */
export const clusterIP = (followed: Followed, name: string): string | undefined =>
  followed.source.snapshot().services.get(objectKey("default", name))?.clusterIPs[0];
