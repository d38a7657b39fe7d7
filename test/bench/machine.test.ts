// A machine that cannot measure is told what it lacks before anything is made.
import assert from "node:assert/strict";
import { test } from "node:test";
import { checkMachine, type Facts } from "../../src/bench/machine.ts";
import { isInputError, isRefusedError } from "../../src/lib/errors.ts";

const able: Facts = { root: true, cpus: 2, memory_bytes: 8e9, has: () => true };
const stacks = [{ services: 0 }, { services: 10 }, { services: 10_000 }];

test("two CPUs, root, a few programs and some memory are enough", () => {
  checkMachine(stacks, able);
});

test("what is missing is named: privilege, CPUs, programs by their Debian packages", () => {
  const refused = (facts: Partial<Facts>, why: RegExp): void =>
    assert.throws(
      () => checkMachine(stacks, { ...able, ...facts }),
      (error: Error) => isRefusedError(error) && why.test(error.message),
    );
  refused({ root: false }, /needs root/);
  refused({ cpus: 1 }, /Cannot measure on 1 CPU: .* 2$/);
  refused(
    { has: (program) => program !== "ethtool" && program !== "ip" },
    /without ip \(Debian package iproute2\) and ethtool \(Debian package ethtool\)$/,
  );
});

test("too little memory for a size says how much it takes, and fewer services need less", () => {
  const small = { ...able, memory_bytes: 1e9 };
  assert.throws(
    () => checkMachine(stacks, small),
    (error: Error) =>
      isInputError(error) && /up to 10000 services, need about 2\.1 GB of memory, and 1\.0 GB/.test(error.message),
  );
  checkMachine([{ services: 0 }, { services: 10 }], small);
});
