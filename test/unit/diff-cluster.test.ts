// The side "desired" from a cluster: read once, without telling it anything.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { readOnce, type Watch } from "../../src/agent/watch.ts";
import type { SourceHandlers } from "../../src/k8s/source.ts";
import { runCommand } from "../lib/command.ts";
import { following, NODE, service, slice } from "../lib/followed.ts";

test("diff desired --kubeconfig: what the cluster says now, and no Event about what it says wrong", async (t) => {
  const folder = mkdtempSync(join(tmpdir(), "beeline-cluster-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const rules = join(folder, "save.txt");
  writeFileSync(
    rules,
    `*filter
COMMIT
*nat
-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment "default/web cluster IP" -m tcp --dport 80 -j KUBE-SVC-W
-A KUBE-SVC-W -j KUBE-SEP-1
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -j MASQUERADE
-A KUBE-SEP-1 -s 10.0.0.1/32 -j KUBE-MARK-MASQ
-A KUBE-SEP-1 -p tcp -m tcp -j DNAT --to-destination 10.0.0.1:8080
COMMIT
`,
  );
  await following({}, async ({ server, kubeconfig, synced, source }) => {
    await synced();
    await source.close();
    const ports = [{ port: 80 }];
    server.put(service("web", { clusterIP: "10.96.0.1", clusterIPs: ["10.96.0.1"], ports }));
    server.put(slice("web-1", "web", ["10.0.0.1", "10.0.0.2"]));
    server.put(service("bad", { clusterIP: "10.96.0.2", clusterIPs: ["10.96.0.2"], ports: [{ port: 70000 }] }));
    const side = ["--kubeconfig", kubeconfig, "--node", NODE];
    const { code, out, err } = await runCommand("diff", "desired", "--against", rules, ...side, "-o", "json");
    assert.equal(err, "");
    const { left, items, problems } = JSON.parse(out);
    assert.deepEqual([code, left.source, left.servicePorts], [1, "desired", 1]);
    assert.match(left.from, /^cluster http:/);
    assert.deepEqual(
      items.map(({ kind, frontend, left, right }: Record<string, unknown>) => [kind, frontend, left, right]),
      [["backends", "10.96.0.1:80/TCP", ["10.0.0.2:8080"], []]],
    );
    assert.deepEqual(
      problems.map(({ side, object }: Record<string, unknown>) => [side, object]),
      [["left", "Service default/bad"]],
    );
    assert.equal(server.events.length, 0);
  });
});

/** A source that is synced after so long, or never. */
const slow = (after_ms: number | null, says: string): { watch: Watch; closed: () => number } => {
  let closed = 0;
  const watch = ({ changed, log }: SourceHandlers) => {
    let synced = false;
    if (after_ms !== null) {
      setTimeout(() => {
        synced = true;
        changed();
      }, after_ms);
    }
    setTimeout(() => log("warn", says, { url: "https://10.0.0.1" }), 1);
    return {
      description: "cluster of a test",
      snapshot: () => ({ services: new Map(), slices: new Map(), node: null }),
      synced: () => synced,
      problems: () => [],
      recordProblems: () => {},
      close: async () => {
        closed++;
      },
    };
  };
  return { watch, closed: () => closed };
};

test("a cluster that answers late is waited for, one that does not is refused with its last word", async () => {
  const { signal } = new AbortController();
  const late = slow(20, "still listing");
  assert.equal((await readOnce(late.watch, 5_000, signal)).description, "cluster of a test");
  assert.equal(late.closed(), 1);
  const never = slow(null, "Cannot list Services");
  await assert.rejects(readOnce(never.watch, 50, signal), {
    name: "RefusedError",
    message: 'Cannot read the cluster of a test: Cannot list Services {"url":"https://10.0.0.1"}',
  });
  assert.equal(never.closed(), 1);
});
