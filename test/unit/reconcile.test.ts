import assert from "node:assert/strict";
import { test } from "node:test";
import { type Clock, Reconciler, type Result } from "../../src/reconcile/reconciler.ts";

/** A clock that moves when told to, and lets promises settle in between. */
const fakeClock = () => {
  let now = 0;
  let timers: { at: number; call: () => void }[] = [];
  const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
  const clock: Clock = {
    now_ms: () => now,
    after(ms, call) {
      const timer = { at: now + ms, call };
      timers.push(timer);
      return () => {
        timers = timers.filter((one) => one !== timer);
      };
    },
  };
  const pass = async (ms: number): Promise<void> => {
    const end = now + ms;
    for (;;) {
      const due = timers.filter((timer) => timer.at <= end).sort((a, b) => a.at - b.at)[0];
      if (due === undefined) break;
      timers = timers.filter((one) => one !== due);
      now = due.at;
      due.call();
      await settle();
    }
    now = end;
    await settle();
  };
  return { clock, pass, settle };
};

const started = (
  over: { apply?: () => void | Promise<void>; random?: () => number; min_interval_ms?: number } = {},
) => {
  const { clock, pass, settle } = fakeClock();
  const at: number[] = [];
  const results: Result[] = [];
  const reconciler = new Reconciler({
    apply: () => {
      at.push(clock.now_ms());
      return over.apply?.();
    },
    min_interval_ms: over.min_interval_ms ?? 1000,
    backoff: { first_ms: 2000, longest_ms: 10_000 },
    clock,
    random: over.random ?? (() => 0),
    onResult: (result) => results.push(result),
  });
  return { reconciler, pass, settle, at, results };
};

test("The first change is applied at once, the next ones together after the least interval", async () => {
  const { reconciler, pass, at } = started();
  reconciler.trigger();
  await pass(0);
  for (let i = 0; i < 10; i++) {
    reconciler.trigger();
    await pass(10);
  }
  await pass(5000);
  assert.deepEqual(at, [0, 1000]);
});

test("Nothing is applied without a change", async () => {
  const { pass, at } = started();
  await pass(60_000);
  assert.deepEqual(at, []);
});

test("Changes during an apply make exactly one more, and two applies never overlap", async () => {
  let finish = (): void => {};
  let running = 0;
  let most = 0;
  const { reconciler, pass, settle, at } = started({
    apply: async () => {
      most = Math.max(most, ++running);
      await new Promise<void>((resolve) => {
        finish = resolve;
      });
      running--;
    },
  });
  reconciler.trigger();
  await pass(0);
  reconciler.trigger();
  reconciler.trigger();
  await pass(5000);
  assert.deepEqual(at, [0], "the first is still running");
  finish();
  await settle();
  await pass(0);
  assert.deepEqual(at, [0, 5000]);
  finish();
  await settle();
  await pass(60_000);
  assert.deepEqual(at, [0, 5000]);
  assert.equal(most, 1);
});

test("A failure is tried again after 2 s, 4 s, 8 s, then every 10 s, and success begins anew", async () => {
  let fails = true;
  const { reconciler, pass, at, results } = started({
    apply: () => {
      if (fails) throw new Error("no");
    },
  });
  reconciler.trigger();
  await pass(34_000);
  assert.deepEqual(at, [0, 2000, 6000, 14_000, 24_000, 34_000]);
  assert.deepEqual(
    results.map((result) => (result.ok ? null : result.retry_ms)),
    [2000, 4000, 8000, 10_000, 10_000, 10_000],
  );
  fails = false;
  await pass(10_000);
  assert.equal(results.at(-1)?.ok, true);
  fails = true;
  reconciler.trigger();
  await pass(1000);
  const last = results.at(-1);
  assert.equal(last?.ok === false && last.retry_ms, 2000);
});

test("A rejected promise is a failure like a thrown error, and the error is handed on", async () => {
  const error = new Error("later no");
  const { reconciler, pass, results } = started({ apply: () => Promise.reject(error) });
  reconciler.trigger();
  await pass(0);
  assert.equal(results[0]?.ok === false && results[0].error, error);
});

test("Jitter shortens a wait by up to half, and never below the least interval", async () => {
  const apply = (): void => {
    throw new Error("no");
  };
  const half = started({ apply, random: () => 0.999999 });
  half.reconciler.trigger();
  await half.pass(0);
  assert.equal(half.results[0]?.ok === false && Math.round(half.results[0].retry_ms), 1000);
  const least = started({ apply, random: () => 0.999999, min_interval_ms: 1500 });
  least.reconciler.trigger();
  await least.pass(0);
  assert.equal(least.results[0]?.ok === false && least.results[0].retry_ms, 1500);
});

test("A change during back-off is tried after the least interval, not after the wait", async () => {
  let fails = true;
  const { reconciler, pass, at } = started({
    apply: () => {
      if (fails) throw new Error("no");
    },
  });
  reconciler.trigger();
  await pass(6500); // fails at 0, 2000, 6000; the next retry would be at 14000
  fails = false;
  reconciler.trigger();
  await pass(20_000);
  assert.deepEqual(at, [0, 2000, 6000, 7000]);
});

test("close() waits for the apply in flight, and none begins after it", async () => {
  let finish = (): void => {};
  const { reconciler, pass, settle, at } = started({
    apply: () =>
      new Promise<void>((resolve) => {
        finish = resolve;
      }),
  });
  reconciler.trigger();
  await pass(0);
  reconciler.trigger();
  let closed = false;
  const closing = reconciler.close().then(() => {
    closed = true;
  });
  await settle();
  assert.equal(closed, false);
  finish();
  await closing;
  reconciler.trigger();
  await pass(60_000);
  assert.deepEqual(at, [0]);
});

test("close() calls off a retry that waits", async () => {
  const { reconciler, pass, at } = started({
    apply: () => {
      throw new Error("no");
    },
  });
  reconciler.trigger();
  await pass(0);
  await reconciler.close();
  await pass(60_000);
  assert.deepEqual(at, [0]);
});
