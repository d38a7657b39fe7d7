// The demo, as a person runs it: it ends well, and leaves nothing behind; nor when it is interrupted in the middle.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { cgroupMount, labDirectory, labName } from "../../src/bench/lab/leftovers.ts";

const DEMO = fileURLToPath(new URL("../../scripts/demo", import.meta.url));

/** Runs the demo; `interruptAt`: as Ctrl-C does, SIGINT to its whole process group as soon as it prints this. */
const runDemo = async (interruptAt?: string): Promise<{ status: number | null; output: string; lab: string }> => {
  const child = spawn(DEMO, { stdio: ["ignore", "pipe", "pipe"], detached: true });
  const { pid = 0 } = child;
  let output = "";
  let interrupted = false;
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (text: string) => {
      output += text;
      if (interruptAt === undefined || interrupted || !output.includes(interruptAt)) return;
      interrupted = true;
      process.kill(-pid, "SIGINT");
    });
  }
  const [status] = await once(child, "close");
  return { status, output, lab: labName(pid, 1) };
};

const assertNothingLeft = (lab: string): void => {
  assert.deepEqual(
    readdirSync("/run/netns").filter((name) => name.startsWith(lab)),
    [],
  );
  assert.ok(!existsSync(`${cgroupMount()}/${lab}`));
  assert.ok(!existsSync(labDirectory(lab)));
  assert.ok(!readFileSync("/proc/mounts", "utf8").includes(lab));
};

test("the demo finds everything as it should be, and leaves nothing behind", async () => {
  const started = performance.now();
  const { status, output, lab } = await runDemo();
  assert.equal(status, 0, output);
  for (const words of ["ClusterIP", "web-3", "web-4", "ECONNREFUSED", "default/web"]) {
    assert.ok(output.includes(words), `${words} is not in:\n${output}`);
  }
  assert.ok(!output.includes("✗"), output);
  assert.ok(performance.now() - started < 60_000);
  assertNothingLeft(lab);
});

test("a demo that is interrupted leaves nothing behind either", async () => {
  const { status, output, lab } = await runDemo("web-3 joins");
  assert.equal(status, 130, output);
  assertNothingLeft(lab);
});
