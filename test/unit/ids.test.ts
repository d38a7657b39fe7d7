import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { createGenerationIds, createIds } from "../../src/dataplane/bpf/ids.ts";

test("Ids are given out lowest first, from 1, until there are none", () => {
  const ids = createIds(3);
  assert.deepEqual([ids.take(), ids.take(), ids.take(), ids.take()], [1, 2, 3, null]);
  ids.release(2);
  ids.release(1);
  assert.deepEqual([ids.free(), ids.take(), ids.take(), ids.take()], [2, 1, 2, null]);
});

test("An id found in a map is not given out, and cannot be found twice", () => {
  const ids = createIds(3);
  assert.equal(ids.adopt(2), true);
  assert.equal(ids.adopt(2), false);
  assert.deepEqual([ids.take(), ids.take(), ids.take()], [1, 3, null]);
});

test("Whatever is taken and released, no id is held twice and the lowest free one comes next", () => {
  fc.assert(
    fc.property(fc.array(fc.option(fc.nat({ max: 9 }), { nil: null })), (steps) => {
      const ids = createIds(10);
      const held = new Set<number>();
      for (const release of steps) {
        if (release !== null) {
          ids.release(release + 1);
          held.delete(release + 1);
          continue;
        }
        const lowest = Array.from({ length: 10 }, (_, i) => i + 1).find((id) => !held.has(id)) ?? null;
        assert.equal(ids.take(), lowest);
        if (lowest !== null) held.add(lowest);
        assert.equal(ids.free(), 10 - held.size);
      }
    }),
  );
});

test("Every holder of an id has a generation of its own, also after a restart", () => {
  const ids = createGenerationIds(4);
  assert.deepEqual(ids.take(), { id: 1, generation: 1 });
  ids.release(1);
  assert.deepEqual(ids.take(), { id: 1, generation: 2 });
  const recovered = createGenerationIds(4);
  recovered.adopt(1, 2, true);
  recovered.adopt(2, 7, false);
  assert.deepEqual(recovered.take(), { id: 2, generation: 8 });
  recovered.release(1);
  assert.deepEqual(recovered.take(), { id: 1, generation: 3 });
  assert.equal(recovered.end(), 3);
});

test("A generation that has gone round is never 0", () => {
  const ids = createGenerationIds(1);
  ids.adopt(1, 0xffffffff, false);
  assert.deepEqual(ids.take(), { id: 1, generation: 1 });
});
