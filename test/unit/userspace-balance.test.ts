import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  type Affinity,
  backendKey,
  chooseBackend,
  MOST_CLIENTS,
  type Request,
} from "../../src/dataplane/userspace/balance.ts";
import type { Address } from "../../src/model/address.ts";
import type { Backend } from "../../src/model/desired.ts";

const backend = (n: number): Backend => ({
  address: `10.0.0.${n}` as Address,
  port: 80,
  local: false,
  state: "active",
});
const backends = (...ns: readonly number[]): readonly Backend[] => ns.map(backend);

/** A list with its memory; answers the last number of each chosen backend. */
const balanced = (first: Partial<Request> = {}) => {
  const request: Request = {
    client: "10.1.1.1" as Address,
    backends: backends(1, 2, 3),
    turn: { next: 0 },
    affinity: new Map(),
    affinity_timeout_s: 0,
    failed: new Set(),
    now_ms: 0,
    ...first,
  };
  return (change: Partial<Request> = {}): string | null =>
    chooseBackend({ ...request, ...change })?.address.split(".")[3] ?? null;
};

test("Backends take turns, and begin again", () => {
  const choose = balanced();
  assert.deepEqual(
    [1, 2, 3, 4, 5].map(() => choose()),
    ["1", "2", "3", "1", "2"],
  );
});

test("A list that changes goes on where it was, also when it became shorter", () => {
  const choose = balanced();
  choose();
  choose();
  assert.equal(choose({ backends: backends(1, 2, 3, 4) }), "3");
  assert.equal(choose({ backends: backends(1) }), "1");
  assert.equal(choose({ backends: [] }), null);
});

test("Who did not answer is passed over, and nobody is left when all have failed", () => {
  const choose = balanced();
  assert.equal(choose({ failed: new Set(["10.0.0.1:80"]) }), "2");
  assert.equal(choose({ failed: new Set(["10.0.0.1:80", "10.0.0.3:80"]) }), "2");
  assert.equal(choose({ failed: new Set(["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]) }), null);
});

test("With affinity a client stays, every other client has its own turn", () => {
  const choose = balanced({ affinity_timeout_s: 10 });
  const other = { client: "10.1.1.2" as Address };
  assert.deepEqual([choose(), choose(), choose(other), choose(), choose(other)], ["1", "1", "2", "1", "2"]);
});

test("Every connection renews affinity; after the timeout the client is a new one", () => {
  const choose = balanced({ affinity_timeout_s: 10 });
  assert.equal(choose({ now_ms: 0 }), "1");
  assert.equal(choose({ now_ms: 9_999 }), "1");
  assert.equal(choose({ now_ms: 19_998 }), "1");
  assert.equal(choose({ now_ms: 29_998 }), "2");
});

test("A client whose backend failed, or is gone, stays with the next one", () => {
  const choose = balanced({ affinity_timeout_s: 10 });
  assert.equal(choose(), "1");
  assert.equal(choose({ failed: new Set(["10.0.0.1:80"]) }), "2");
  assert.equal(choose(), "2");
  assert.equal(choose({ backends: backends(1, 3) }), "1");
  assert.equal(choose(), "1");
});

test("Without affinity nobody is remembered", () => {
  const affinity: Affinity = new Map();
  balanced({ affinity })();
  assert.equal(affinity.size, 0);
});

test("Of too many clients the one that was away longest is forgotten", () => {
  const affinity: Affinity = new Map();
  const choose = balanced({ affinity, affinity_timeout_s: 10 });
  const client = (n: number) => ({ client: `10.2.${n >> 8}.${n & 255}` as Address });
  for (let n = 0; n < MOST_CLIENTS; n++) choose(client(n));
  choose(client(0));
  choose(client(MOST_CLIENTS));
  assert.equal(affinity.size, MOST_CLIENTS);
  assert.ok(affinity.has(client(0).client));
  assert.ok(!affinity.has(client(1).client));
});

test("However often the list changes, no chosen backend is out of it or among those that failed", () => {
  const numbers = fc.uniqueArray(fc.integer({ min: 1, max: 6 }), { maxLength: 6 });
  const step = fc.record({
    list: numbers,
    failed: numbers,
    client: fc.integer({ min: 1, max: 3 }),
    pass_ms: fc.nat(8000),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 30 }), fc.constantFrom(0, 5), (steps, affinity_timeout_s) => {
      const memory = { turn: { next: 0 }, affinity: new Map(), affinity_timeout_s };
      let now_ms = 0;
      for (const { list, failed, client, pass_ms } of steps) {
        now_ms += pass_ms;
        const without = new Set(backends(...failed).map(backendKey));
        const request = { ...memory, backends: backends(...list), failed: without, now_ms };
        const chosen = chooseBackend({ ...request, client: `10.1.1.${client}` as Address });
        const left = backends(...list.filter((n) => !failed.includes(n))).map(backendKey);
        if (chosen === null) assert.deepEqual(left, []);
        else assert.ok(left.includes(backendKey(chosen)));
      }
    }),
  );
});
