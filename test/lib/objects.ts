// Kubernetes objects as the API would give them, from the few words a test cares about; and a folder of them that an
// agent watches.
import { mkdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Lab } from "./lab.ts";
import type { Place } from "./network.ts";

export interface PortWords {
  /** Needed when there are several. */
  readonly name?: string;
  readonly port: number;
  readonly protocol?: "TCP" | "UDP" | "SCTP";
  readonly nodePort?: number;
  /** Where pods listen; default 8080. */
  readonly targetPort?: number;
}

export interface ServiceWords {
  readonly name: string;
  readonly type?: "ClusterIP" | "NodePort" | "LoadBalancer";
  readonly clusterIPs: readonly string[];
  readonly ports: readonly PortWords[];
  readonly externalIPs?: readonly string[];
  readonly loadBalancerIPs?: readonly string[];
  readonly sourceRanges?: readonly string[];
  readonly internalTrafficPolicy?: "Cluster" | "Local";
  readonly externalTrafficPolicy?: "Cluster" | "Local";
  readonly affinity_timeout_s?: number;
  readonly healthCheckNodePort?: number;
}

const TARGET_PORT = 8080;

export const serviceObject = (words: ServiceWords): object => ({
  apiVersion: "v1",
  kind: "Service",
  metadata: { name: words.name, namespace: "default", uid: `uid-${words.name}` },
  spec: {
    type: words.type ?? "ClusterIP",
    clusterIP: words.clusterIPs[0],
    clusterIPs: words.clusterIPs,
    ports: words.ports.map(({ name, port, protocol, nodePort, targetPort }) => ({
      ...(name === undefined ? {} : { name }),
      port,
      protocol: protocol ?? "TCP",
      targetPort: targetPort ?? TARGET_PORT,
      ...(nodePort === undefined ? {} : { nodePort }),
    })),
    internalTrafficPolicy: words.internalTrafficPolicy ?? "Cluster",
    ...(words.type === undefined ? {} : { externalTrafficPolicy: words.externalTrafficPolicy ?? "Cluster" }),
    ...(words.healthCheckNodePort === undefined ? {} : { healthCheckNodePort: words.healthCheckNodePort }),
    ...(words.externalIPs === undefined ? {} : { externalIPs: words.externalIPs }),
    ...(words.sourceRanges === undefined ? {} : { loadBalancerSourceRanges: words.sourceRanges }),
    ...(words.affinity_timeout_s === undefined
      ? { sessionAffinity: "None" }
      : {
          sessionAffinity: "ClientIP",
          sessionAffinityConfig: { clientIP: { timeoutSeconds: words.affinity_timeout_s } },
        }),
  },
  status: { loadBalancer: { ingress: (words.loadBalancerIPs ?? []).map((ip) => ({ ip, ipMode: "VIP" })) } },
});

/** One EndpointSlice for each family, with these places of the lab as ready endpoints. */
export const sliceObjects = (words: ServiceWords, places: readonly Place[]): readonly object[] =>
  (["v4", "v6"] as const).map((family) => ({
    apiVersion: "discovery.k8s.io/v1",
    kind: "EndpointSlice",
    metadata: {
      name: `${words.name}-${family}`,
      namespace: "default",
      labels: { "kubernetes.io/service-name": words.name },
    },
    addressType: family === "v4" ? "IPv4" : "IPv6",
    ports: words.ports.map(({ name, protocol, targetPort }) => ({
      name: name ?? "",
      protocol: protocol ?? "TCP",
      port: targetPort ?? TARGET_PORT,
    })),
    endpoints: places.map((place) => ({
      addresses: [place[family]],
      conditions: { ready: true, serving: true, terminating: false },
      nodeName: place.node,
    })),
  }));

export const nodeObject = (node: Place): object => ({
  apiVersion: "v1",
  kind: "Node",
  metadata: { name: node.name, labels: { "kubernetes.io/hostname": node.name } },
  spec: {},
  status: {
    addresses: [
      { type: "InternalIP", address: node.v4 },
      { type: "InternalIP", address: node.v6 },
      { type: "Hostname", address: node.name },
    ],
  },
});

/** A Service and its slices; `backends` are names of places. */
export const serviceObjects = (lab: Lab, words: ServiceWords, backends: readonly string[]): readonly object[] => [
  serviceObject(words),
  ...sliceObjects(
    words,
    backends.map((name) => lab.place(name)),
  ),
];

/** A folder that an agent watches: one file for each name, replaced as a whole. */
export class Manifests {
  readonly path: string;
  readonly #lab: Lab;
  readonly #services = new Set<string>();

  constructor(lab: Lab, name = "manifests") {
    this.#lab = lab;
    this.path = join(lab.directory, name);
    mkdirSync(this.path);
    this.write("nodes", lab.nodes().map(nodeObject));
  }

  write(name: string, objects: readonly object[]): void {
    const temporary = join(this.#lab.directory, `${name}.new`);
    writeFileSync(temporary, JSON.stringify({ apiVersion: "v1", kind: "List", items: objects }));
    renameSync(temporary, join(this.path, `${name}.json`));
  }

  /** A Service with these places as its ready endpoints. */
  service(words: ServiceWords, backends: readonly string[]): void {
    this.#services.add(words.name);
    this.write(words.name, serviceObjects(this.#lab, words, backends));
  }

  remove(name: string): void {
    this.#services.delete(name);
    rmSync(join(this.path, `${name}.json`));
  }

  removeServices(): void {
    for (const name of this.#services) this.remove(name);
  }
}
