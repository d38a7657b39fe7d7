import { test } from "node:test";
import fc from "fast-check";
import { checkEveryWay } from "../lib/consistency.ts";
import { desiredLists } from "../lib/desireds.ts";

test("After every single write each frontend answers from the old Desired or the new, whatever way a list is applied", () => {
  fc.assert(
    fc.property(desiredLists(), fc.nat(), (list, seed) => checkEveryWay(list, seed)),
    { numRuns: 20, endOnFailure: process.env.SHRINK === undefined },
  );
});
