// The table of what networks send in docs/dataplane.md has every fault of packets, and the tests that it names are there.
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { test } from "node:test";

const root = new URL("../../", import.meta.url).pathname;
const PACKET_FAULTS = Array.from({ length: 20 }, (_, i) => 65 + i);

const rows = [...readFileSync(`${root}docs/dataplane.md`, "utf8").matchAll(/^\| (\d+) \| (.+) \|(.*)\|$/gm)].map(
  (row) => ({
    fault: Number(row[1]),
    what: row[2] ?? "",
    tests: row[3] ?? "",
  }),
);

/** `packets/parse`, `vip`; `netns/mtu`: the folder of the one before, where it names none. */
const filesIn = (tests: string): readonly string[] => {
  let folder = "";
  return [...tests.matchAll(/`([\w/-]+)`/g)].map(([, name = ""]) => {
    if (!name.includes("/")) return name === "fuzz" ? "fuzz/fuzz" : `${folder}/${name}`;
    folder = name.slice(0, name.indexOf("/"));
    return name;
  });
};

test("every fault of packets is in the table", () => {
  assert.deepEqual(
    PACKET_FAULTS.filter((fault) => !rows.some((row) => row.fault === fault)),
    [],
  );
});

for (const { fault, what, tests } of rows) {
  test(`fault ${fault} has a test that is named after it, or says why not`, () => {
    const files = filesIn(tests).map((name) => `${root}test/${name}.test.ts`);
    for (const file of files) assert.ok(existsSync(file), `${file}: no such file`);
    if (files.length === 0) return assert.match(what, /: .+\./, "neither a test nor a reason");
    const named = files.filter((file) => readFileSync(file, "utf8").includes(`Fault ${fault}: `));
    assert.notEqual(named.length, 0, `none of ${tests} has a test whose name begins with Fault ${fault}`);
  });
}
