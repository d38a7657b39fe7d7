// The observer over rules that a test makes up: what counts, what is logged, what it survives. No kernel, no root.
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { loadConfig } from "../../src/agent/config.ts";
import { Observer } from "../../src/agent/observe.ts";
import { compile } from "../../src/compile/compile.ts";
import { EXPRESSIBLE, type Reading, wholeReading } from "../../src/compile/reading.ts";
import type { Source } from "../../src/k8s/source.ts";
import type { Snapshot } from "../../src/model/snapshot.ts";
import { eventually } from "../lib/eventually.ts";
import { endpoint, options, service, slice, snapshot } from "../lib/snapshots.ts";

const SETTLE_MS = 300;

const observe = (t: TestContext, wanted: Snapshot, rules: () => Snapshot) => {
  let [now, closed, healthy] = [wanted, 0, 0];
  const logged: string[] = [];
  const counted = { applied: 0, failed: 0, services: 0 };
  const source: Source = {
    description: "a test",
    snapshot: () => now,
    synced: () => true,
    problems: () => [],
    recordProblems: () => assert.fail("an observer tells nobody anything"),
    close: async () => {
      closed++;
    },
  };
  const readRules = (): Reading => ({
    ...wholeReading("desired", "rules", compile(rules(), options).desired),
    source: "iptables",
    expresses: EXPRESSIBLE.iptables,
  });
  const { config } = loadConfig({ manifests: ["."], node: "node-a" });
  const observer = new Observer({
    config: { ...config, syncPeriod_ms: 20, minSyncPeriod_ms: 5 },
    source,
    readRules,
    localAddresses: () => options.localAddresses,
    health: {
      queued: () => {},
      updated: () => {
        healthy++;
      },
    },
    metrics: {
      queued: () => {},
      applied: ({ services }) => {
        counted.applied++;
        counted.services += services;
      },
      applyFailed: () => {
        counted.failed++;
      },
    },
    log: (level, message, fields) => {
      if (level !== "debug") logged.push(`${level} ${message} ${JSON.stringify(fields)}`);
    },
    settle_ms: SETTLE_MS,
  });
  const change = (next: Snapshot): void => {
    now = next;
    observer.changed();
  };
  t.after(() => observer.close());
  observer.changed();
  return { observer, logged, counted, change, healthy: () => healthy, closed: () => closed };
};

const one = snapshot([service()], [slice([endpoint("10.244.1.2")])]);
const two = snapshot([service()], [slice([endpoint("10.244.1.2"), endpoint("10.244.1.3")])]);

test("rules that mean what they should: every kind counts 0, and nothing is logged", async (t) => {
  const { observer, logged, counted, healthy, closed } = observe(t, one, () => one);
  assert.equal(observer.ready, false);
  await eventually(() => assert.ok(counted.applied > 3));
  assert.deepEqual([observer.ready, observer.eligible, healthy() > 0, counted.services], [true, true, true, 1]);
  assert.deepEqual(new Set(Object.values(observer.counts)), new Set([0]));
  assert.deepEqual(logged, []);
  await observer.close();
  assert.equal(closed(), 1);
});

test("a difference counts and is logged once it has lasted, and once more when it is gone", async (t) => {
  let rules = one;
  const { observer, logged, counted } = observe(t, two, () => rules);
  await eventually(() => assert.ok(counted.applied > 0));
  assert.equal(observer.counts.backends, 0);
  await eventually(() => assert.equal(observer.counts.backends, 1));
  const seen = counted.applied;
  await eventually(() => assert.ok(counted.applied > seen + 3));
  assert.deepEqual(logged, [
    'warn The rules of this node are not what they should be {"rules":"rules","count":1,"appeared":["default/web 10.96.0.1:80/TCP backends: wanted 10.244.1.3:8080"],"gone":[]}',
  ]);
  rules = two;
  await eventually(() => assert.equal(observer.counts.backends, 0));
  assert.match(logged[1] ?? "", /^info No difference any more .*"gone":\["default\/web 10\.96\.0\.1:80\/TCP backends/);
  assert.equal(logged.length, 2);
});

test("what kube-proxy catches up with in time was no difference", async (t) => {
  let rules = one;
  const { observer, logged, counted, change } = observe(t, one, () => rules);
  await eventually(() => assert.ok(counted.applied > 0));
  change(two);
  const seen = counted.applied;
  await eventually(() => assert.ok(counted.applied > seen));
  rules = two;
  await new Promise((resolve) => setTimeout(resolve, 2 * SETTLE_MS));
  assert.deepEqual(logged, []);
  assert.deepEqual(new Set(Object.values(observer.counts)), new Set([0]));
});

test("rules that cannot be read are an error that is tried again, and the last count stays", async (t) => {
  let broken = true;
  const { observer, logged, counted } = observe(t, two, () => {
    if (broken) throw new Error("nft is gone");
    return one;
  });
  await eventually(() => assert.ok(counted.failed > 0));
  assert.match(logged[0] ?? "", /^error Cannot compare; trying again \{"error":"nft is gone"/);
  assert.deepEqual([observer.ready, observer.backoff_s > 0], [false, true]);
  broken = false;
  await eventually(() => assert.equal(observer.counts.backends, 1));
  assert.equal(observer.backoff_s, 0);
});
