// Sender and servers get CPUs that this process may use, of two cores where there are two.
import assert from "node:assert/strict";
import { test } from "node:test";
import { chooseCpus, parseCpuList } from "../../src/bench/cpus.ts";

const alone = (cpu: number): readonly number[] => [cpu];
const pairs = (cpu: number): readonly number[] => [cpu - (cpu % 2), cpu - (cpu % 2) + 1];

test("the first CPU that is allowed sends, the next one on another core serves", () => {
  assert.deepEqual(chooseCpus([0, 1, 2, 3], alone), { sender: 0, server: 1 });
  assert.deepEqual(chooseCpus([0, 1, 2, 3], pairs), { sender: 0, server: 2 });
  assert.deepEqual(chooseCpus([5, 6], pairs), { sender: 5, server: 6 });
});

test("two threads of one core have to do where there is nothing else", () => {
  assert.deepEqual(chooseCpus([2, 3], pairs), { sender: 2, server: 3 });
  assert.deepEqual(chooseCpus([4], alone), { sender: 4, server: 4 });
});

test("lists of CPUs are read as the kernel writes them", () => {
  assert.deepEqual(parseCpuList("0-2,5,8-9"), [0, 1, 2, 5, 8, 9]);
  assert.deepEqual(parseCpuList("3"), [3]);
});
