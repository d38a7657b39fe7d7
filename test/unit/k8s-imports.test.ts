import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";

/** Imports a file in a process of its own in which nobody may ask for client-node. */
const importWithoutClient = (file: string): string => {
  const script = `
    import { registerHooks } from "node:module";
    registerHooks({
      resolve(specifier, context, next) {
        if (specifier === "@kubernetes/client-node") throw new Error("asked by " + context.parentURL);
        return next(specifier, context);
      },
    });
    await import(${JSON.stringify(new URL(`../../src/k8s/${file}`, import.meta.url).href)});
    console.log("done");
  `;
  const { stdout, stderr } = spawnSync(process.execPath, ["--input-type=module", "-e", script], { encoding: "utf8" });
  return stdout.trim() === "done" ? "done" : stderr;
};

for (const file of ["cluster.ts", "manifests.ts", "store.ts"]) {
  test(`Importing ${file} does not load client-node, which takes 0.4 s`, () => {
    assert.equal(importWithoutClient(file), "done");
  });
}

test("That would be noticed: api.ts does load it", () => {
  assert.match(importWithoutClient("api.ts"), /asked by .*api\.ts/);
});
