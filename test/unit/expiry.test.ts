// When the agent has connections expired: every five seconds, every second when the table fills, thoroughly once a minute;
// and what it tells of it.
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { startExpiry } from "../../src/agent/expiry.ts";
import type { Expired, ExpiryOptions } from "../../src/dataplane/bpf/expiry.ts";
import { NONE_BY_STATE } from "../../src/dataplane/bpf/states.ts";

const start = (t: TestContext, answer: (run: number) => Partial<Expired>) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const runs: (ExpiryOptions & { readonly at_s: number })[] = [];
  const said: string[] = [];
  let now_ms = 0;
  const expiry = startExpiry({
    capacity: 100,
    now_ms: () => now_ms,
    log: (level, message) => said.push(`${level} ${message}`),
    expire: (options) => {
      runs.push({ ...options, at_s: now_ms / 1000 });
      return { entries: 0, connections: NONE_BY_STATE, expired: 0, healed: 0, orphans: 0, ...answer(runs.length) };
    },
  });
  const wait = (seconds: number): void => {
    for (let i = 0; i < seconds; i++) {
      now_ms += 1000;
      t.mock.timers.tick(1000);
    }
  };
  return { expiry, runs, said, wait };
};

test("every five seconds, and thoroughly once a minute", (t) => {
  const { expiry, runs, wait } = start(t, () => ({}));
  assert.equal(expiry.facts(), null);
  wait(65);
  assert.deepEqual(
    runs.map((run) => run.at_s),
    Array.from({ length: 13 }, (_, i) => 5 * (i + 1)),
  );
  assert.deepEqual(
    runs.filter((run) => run.thorough).map((run) => run.at_s),
    [5, 65],
  );
  expiry.close();
  wait(60);
  assert.equal(runs.length, 13, "closed");
});

test("in a hurry while more than three quarters are in use", (t) => {
  const { expiry, runs, said, wait } = start(t, (run) => ({ entries: run <= 3 ? 76 : 75 }));
  wait(13);
  assert.deepEqual(
    runs.map((run) => [run.at_s, run.most_s]),
    [
      [5, 0],
      [6, 10],
      [7, 10],
      [8, 10],
      [13, 0],
    ],
  );
  assert.deepEqual(said, [
    "warn Map flows fills: what is not established expires sooner",
    "info Map flows has room again",
  ]);
  expiry.close();
});

test("what was removed is summed up; a failure is named once, and tried again", (t) => {
  const { expiry, said, wait } = start(t, (run) => {
    if (run === 2 || run === 3) throw new Error("no such map");
    return { entries: 7, expired: run, orphans: 1 };
  });
  wait(20);
  const { entries, expired, healed, orphans } = expiry.facts() ?? assert.fail("it ran");
  assert.deepEqual([entries, expired, healed, orphans], [7, 1 + 4, 0, 2]);
  assert.deepEqual(said, ["error Cannot expire flows"]);
  expiry.close();
});
