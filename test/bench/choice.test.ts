// What words on the command line choose, and what is said about those that cannot be.
import assert from "node:assert/strict";
import { test } from "node:test";
import { chooseRun } from "../../src/bench/choice.ts";
import { isInputError } from "../../src/lib/errors.ts";

const known = { modes: ["route", "iptables-legacy", "bpf-tc"], metrics: ["packets", "connect-p50"] };

const refused = (flags: Parameters<typeof chooseRun>[0], why: RegExp): void =>
  assert.throws(
    () => chooseRun(flags, known),
    (error: Error) => isInputError(error) && why.test(error.message),
  );

test("without words everything is measured; --quick is a part of it; words overrule both", () => {
  const all = chooseRun({}, known);
  assert.deepEqual(all.modes, known.modes);
  assert.deepEqual(all.services, [10, 1000, 10_000]);
  assert.equal(all.baseline, "iptables-legacy");
  const quick = chooseRun({ quick: true }, known);
  assert.ok(quick.rounds < all.rounds && quick.seconds < all.seconds && quick.services.length < all.services.length);
  assert.deepEqual(chooseRun({ quick: true, services: "5, 7,5" }, known).services, [5, 7]);
});

test("modes and metrics keep their order, each once", () => {
  const { modes, metrics } = chooseRun({ modes: "bpf-tc,route, bpf-tc", metrics: "packets" }, known);
  assert.deepEqual(modes, ["route", "bpf-tc"]);
  assert.deepEqual([...metrics], ["packets"]);
});

test("the baseline is one of the modes that are measured, or there is none", () => {
  assert.equal(chooseRun({ modes: "route,bpf-tc" }, known).baseline, null);
  assert.equal(chooseRun({ modes: "route,bpf-tc", baseline: "route" }, known).baseline, "route");
  refused({ modes: "bpf-tc", baseline: "route" }, /--baseline route is not among the --modes: bpf-tc/);
  refused({ baseline: "rout" }, /no mode rout \(did you mean route\?\)/);
});

test("what cannot be is refused, with what was perhaps meant", () => {
  refused({ modes: "bpf-tcx" }, /There is no mode bpf-tcx \(did you mean bpf-tc\?\): the modes are route,/);
  refused({ metrics: "conect-p50" }, /There is no metric conect-p50 \(did you mean connect-p50\?\)/);
  refused({ modes: "," }, /--modes names none/);
  refused({ services: "10,many" }, /--services many: expected whole numbers from 3 to 60000/);
  refused({ services: "1" }, /--services 1: /);
  refused({ services: "70000" }, /--services 70000: /);
  refused({ rounds: 0 }, /--rounds 0: /);
  refused({ rounds: 1.5 }, /--rounds 1\.5: /);
  refused({ seconds: 0 }, /--seconds 0: /);
  refused({ seconds: 3600 }, /--seconds 3600: /);
});
