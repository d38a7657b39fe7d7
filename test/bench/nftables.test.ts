// The rules that the benchmark writes for its nftables mode mean what its services say: loaded by nft in a namespace of
// the test's own, printed, and read by the reader that reads kube-proxy's.
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { after, test } from "node:test";
import { clusterOf, withOneChange } from "../../src/bench/cluster.ts";
import { nftablesChange, nftablesInput } from "../../src/bench/nftables.ts";
import { compare } from "../../src/compile/difference.ts";
import { wholeReading } from "../../src/compile/reading.ts";
import { readNftables } from "../../src/dataplane/nftables/readback.ts";
import type { Desired } from "../../src/model/desired.ts";

const netns = `beeline-bench-nft-${process.pid}`;
execFileSync("ip", ["netns", "add", netns]);
after(() => execFileSync("ip", ["netns", "del", netns]));
process.on("exit", () => spawnSync("ip", ["netns", "del", netns]));

const nft = (args: readonly string[], input = ""): string => {
  const argv = [`--net=/run/netns/${netns}`, "nft", ...args];
  const { status, stdout, stderr } = spawnSync("nsenter", argv, { input, encoding: "utf8" });
  assert.equal(status, 0, stderr);
  return stdout;
};

const assertHolds = (desired: Desired): void => {
  const reading = readNftables([nft(["-j", "list", "table", "ip", "kube-proxy"])], {
    from: "nft",
    localAddresses: null,
    families: ["IPv4"],
  });
  assert.deepEqual(compare(wholeReading("desired", "the benchmark", desired), reading).differences, []);
  assert.deepEqual(reading.problems, []);
  assert.deepEqual(reading.unreached, []);
};

test("what the benchmark writes for nftables reads back as its services, before and after a change of one endpoint", () => {
  const before = clusterOf(100);
  nft(["-f", "-"], nftablesInput(before));
  assertHolds(before);
  const after = withOneChange(before, 1);
  const [key] = [...after.services.keys()].filter((key) => after.services.get(key) !== before.services.get(key));
  const [old, changed] = [before.services.get(key as never), after.services.get(key as never)];
  assert.ok(old !== undefined && changed !== undefined);
  nft(["-f", "-"], nftablesChange(old, changed));
  assertHolds(after);
  assert.throws(() => assertHolds(before));
});
