// docs/semantics.md and test/scenarios/ name each other completely.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { basename } from "node:path";
import { test } from "node:test";
import { scenarioFiles } from "../lib/scenario.ts";

const root = new URL("../../", import.meta.url).pathname;
const files = scenarioFiles(`${root}test/scenarios`).map((path) => basename(path, ".txtar"));
const rows = readFileSync(`${root}docs/semantics.md`, "utf8")
  .split("\n")
  .filter((line) => line.startsWith("| ") && !line.startsWith("| behaviour"));
const named = rows.map((row) =>
  [...(row.split(" | ").at(-1) ?? "").matchAll(/`([^`]+)`/g)].map((match) => match[1] ?? ""),
);

test("every row of docs/semantics.md names the scenario that proves it", () => {
  for (const [i, names] of named.entries()) assert.notEqual(names.length, 0, rows[i]);
});

test("every scenario that docs/semantics.md names exists", () => {
  assert.deepEqual(
    named.flat().filter((name) => !files.includes(name)),
    [],
  );
});

test("every scenario is named in docs/semantics.md, once", () => {
  assert.deepEqual(named.flat().sort(), [...files].sort());
});
