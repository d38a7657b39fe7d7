// What rtnetlink answers, from its bytes; the files of namespaces, on this machine.
import assert from "node:assert/strict";
import { statSync } from "node:fs";
import { test } from "node:test";
import { netnsFiles, netnsIdOf, numberIn, OWN_NETNS, peerNetns } from "../../src/dataplane/bpf/netns.ts";

/** struct nlattr each, padded to 4 bytes. */
const attributes = (...all: readonly (readonly [name: number, value: readonly number[]])[]): Uint8Array =>
  Uint8Array.from(
    all.flatMap(([name, value]) => [
      ...[4 + value.length, 0, name, 0, ...value],
      ...Array.from({ length: (4 - (value.length % 4)) % 4 }, () => 0),
    ]),
  );

test("an attribute is found behind others of any length; it may be negative", () => {
  const row = attributes([3, [101, 116, 104, 48, 0]], [37, [0xff, 0xff, 0xff, 0xff]], [5, [7, 0, 0, 0]]);
  assert.deepEqual([numberIn(row, 37), numberIn(row, 5), numberIn(row, 1)], [-1, 7, null]);
});

test("a row that is cut short, or has no length, ends the search", () => {
  const row = attributes([5, [7, 0, 0, 0]]);
  for (let length = 0; length < row.length; length++) assert.equal(numberIn(row.subarray(0, length), 5), null);
  assert.equal(numberIn(new Uint8Array(16), 5), null);
});

test("our own namespace comes first, and each one once", () => {
  const files = [...netnsFiles()];
  assert.deepEqual(files[0], { path: OWN_NETNS, inode: statSync(OWN_NETNS).ino });
  assert.equal(new Set(files.map(({ inode }) => inode)).size, files.length);
});

test("no namespace: that of a device that is not there or has no other end, or of a file that is none", () => {
  assert.equal(peerNetns(0x7fff_ffff), null);
  assert.equal(peerNetns(1), null); // lo
  assert.deepEqual([netnsIdOf("/proc/self/status"), netnsIdOf("/nowhere")], [null, null]);
});
