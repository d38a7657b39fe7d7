import assert from "node:assert/strict";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { watchCluster } from "../../src/k8s/cluster.ts";
import { findCluster } from "../../src/k8s/kubeconfig.ts";
import { isInputError } from "../../src/lib/errors.ts";
import { FakeApiServer } from "../lib/api-server.ts";
import { eventually } from "../lib/eventually.ts";
import { following, NODE, service } from "../lib/followed.ts";

const inDirectory = (body: (directory: string) => void): void => {
  const directory = mkdtempSync(join(tmpdir(), "beeline-kubeconfig-"));
  try {
    body(directory);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
};

const UNUSABLE: readonly (readonly [string, string, RegExp])[] = [
  ["no YAML", "a: [", /^Cannot read kubeconfig .*\/kubeconfig: /],
  ["no mapping", "just text", /holds no mapping/],
  ["an empty file", "", /holds no mapping/],
  ["no current-context", "contexts: []", /it has no current-context/],
  ["a current-context that is missing", "current-context: prod", /current-context prod is no context in it/],
  [
    "a context without its cluster",
    "current-context: a\ncontexts: [{name: a, context: {cluster: b, user: u}}]",
    /context a leads to no cluster with a server/,
  ],
  [
    "a server that is no URL",
    "current-context: a\ncontexts: [{name: a, context: {cluster: b}}]\nclusters: [{name: b, cluster: {server: 'over there'}}]",
    /the server over there is not a URL/,
  ],
];
for (const [what, text, message] of UNUSABLE) {
  test(`A kubeconfig with ${what} is an input error at once`, () =>
    inDirectory((directory) => {
      const kubeconfig = join(directory, "kubeconfig");
      writeFileSync(kubeconfig, text);
      const watch = (): unknown =>
        watchCluster(
          { kubeconfig, nodeName: NODE, serviceProxyName: null },
          { changed: () => undefined, log: () => undefined },
        );
      assert.throws(watch, (error: Error) => isInputError(error) && message.test(error.message));
    }));
}

test("A kubeconfig that does not exist is an input error that names it", () => {
  assert.throws(
    () => findCluster("/nonexistent/kubeconfig"),
    (error: Error) =>
      isInputError(error) && /Cannot read kubeconfig \/nonexistent\/kubeconfig: .*ENOENT/.test(error.message),
  );
});

test("With no kubeconfig, no service account and no home, the error says what to give", () =>
  inDirectory((HOME) => {
    assert.throws(
      () => findCluster(null, { HOME }),
      (error: Error) => isInputError(error) && /--kubeconfig/.test(error.message),
    );
  }));

test("KUBECONFIG names files, and the first that says something wins", () =>
  inDirectory((directory) => {
    const [first, second] = [join(directory, "first"), join(directory, "second")];
    writeFileSync(first, "current-context: a\ncontexts: [{name: a, context: {cluster: c}}]");
    writeFileSync(second, "current-context: b\nclusters: [{name: c, cluster: {server: 'https://10.0.0.1:6443'}}]");
    const found = findCluster(null, { KUBECONFIG: `${first}:${second}` });
    assert.deepEqual(found, { kind: "files", files: [first, second], url: "https://10.0.0.1:6443" });
  }));

test("TLS: the server's certificate is checked against the kubeconfig's authority", () =>
  following({ server: { tls: true } }, async (f) => {
    f.server.put(service("a"));
    await f.synced();
    await eventually(() => assert.deepEqual(f.services(), ["default/a"]));
  }));

test("Fault 49: after the server's authority changed, a new kubeconfig is taken up without a restart", () =>
  following({ server: { tls: true } }, async (f) => {
    await f.synced();
    await f.server.stop();
    f.server.rotateCertificate();
    await f.server.start();
    await eventually(() => assert.match(f.log.join("\n"), /self-signed certificate/));
    f.server.put(service("after"));
    assert.deepEqual(f.services(), []);
    f.server.writeKubeconfig(dirname(f.kubeconfig));
    await eventually(() => assert.deepEqual(f.services(), ["default/after"]));
  }));

test("Fault 41: an expired token is read again from its file", () =>
  following(
    {
      auth: { tokenFile: "token" },
      before: (server, directory) => {
        writeFileSync(join(directory, "token"), "first\n");
        server.accept(["first"]);
        server.writeKubeconfig(directory, { tokenFile: join(directory, "token") });
      },
    },
    async (f) => {
      await f.synced();
      await eventually(() => assert.equal(f.server.openWatches, 3));
      writeFileSync(join(dirname(f.kubeconfig), "token"), "second");
      f.server.accept(["second"]);
      f.server.reset();
      f.server.put(service("a"));
      await eventually(() => assert.deepEqual(f.services(), ["default/a"]));
      assert.match(f.log.join("\n"), /401 Unauthorized/);
      assert.equal(f.server.requests.at(-1)?.token, "second");
    },
  ));

test("Fault 41: a token that stays wrong keeps it waiting, and says why", () =>
  following({ auth: { token: "wrong" }, before: (server) => server.accept(["right"]) }, async (f) => {
    await eventually(() => assert.match(f.log.join("\n"), /Cannot follow \/api\/v1\/services: .*401 Unauthorized/));
    assert.equal(f.source.synced(), false);
  }));

test("A credential plugin is asked for the token, and again when the token is refused", () =>
  following(
    {
      before: (server, directory) => {
        const plugin = join(directory, "plugin");
        const credential = { apiVersion: "client.authentication.k8s.io/v1", kind: "ExecCredential" };
        const answer = JSON.stringify({ ...credential, status: { token: "TOKEN" } });
        writeFileSync(join(directory, "current"), "one");
        writeFileSync(plugin, `#!/bin/sh\necho '${answer}' | sed "s/TOKEN/$(cat ${directory}/current)/"\n`);
        chmodSync(plugin, 0o755);
        server.accept(["one"]);
        server.writeKubeconfig(directory, { exec: { apiVersion: credential.apiVersion, command: plugin } } as object);
      },
    },
    async (f) => {
      await f.synced();
      await eventually(() => assert.equal(f.server.openWatches, 3));
      writeFileSync(join(dirname(f.kubeconfig), "current"), "two");
      f.server.accept(["two"]);
      f.server.reset();
      f.server.put(service("a"));
      await eventually(() => assert.deepEqual(f.services(), ["default/a"]));
    },
  ));

test("Fault 49: a server name that does not resolve is tried again and again", async () => {
  const directory = mkdtempSync(join(tmpdir(), "beeline-dns-"));
  const server = new FakeApiServer();
  const kubeconfig = join(directory, "kubeconfig");
  writeFileSync(
    kubeconfig,
    "current-context: a\ncontexts: [{name: a, context: {cluster: b}}]\nclusters: [{name: b, cluster: {server: 'https://api.invalid'}}]",
  );
  const log: string[] = [];
  const source = watchCluster(
    { kubeconfig, nodeName: NODE, serviceProxyName: null, times: { backoff_min_ms: 10, backoff_max_ms: 20 } },
    { changed: () => undefined, log: (_level, message) => void log.push(message) },
  );
  try {
    await eventually(() => assert.match(log.join("\n"), /api\.invalid/));
    await server.start();
    server.put(service("a"));
    server.writeKubeconfig(directory);
    await eventually(() => assert.equal(source.snapshot().services.size, 1));
  } finally {
    await source.close();
    await server.stop();
    rmSync(directory, { recursive: true, force: true });
  }
});
