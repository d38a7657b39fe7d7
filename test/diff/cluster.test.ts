// What is drawn is what Kubernetes would take, and the same again from the same seed.
import assert from "node:assert/strict";
import { test } from "node:test";
import { schemaProblems } from "../lib/kube-schema.ts";
import { planPlaces } from "../lib/network.ts";
import { drawCluster } from "./cluster.ts";
import { clusterObjects } from "./objects.ts";
import { everyProbe } from "./probes.ts";
import { makeWorld } from "./world.ts";

const places = planPlaces(3, 2);

test("every drawn object is one that the Kubernetes API takes", () => {
  for (let number = 0; number < 40; number++) {
    for (const object of clusterObjects(drawCluster(1, number), places))
      assert.deepEqual(schemaProblems(object), [], JSON.stringify(object));
  }
});

test("a seed and a number draw the same cluster, others draw others", () => {
  assert.deepEqual(drawCluster(7, 3), drawCluster(7, 3));
  assert.notDeepEqual(drawCluster(7, 3), drawCluster(7, 4));
  assert.notDeepEqual(drawCluster(7, 3), drawCluster(8, 3));
});

test("clusters of one run share no address and no NodePort with the next dozen", () => {
  const claims = (number: number): ReadonlySet<string> =>
    new Set(
      everyProbe(makeWorld(clusterObjects(drawCluster(1, number), places), places))
        .filter(
          ({ address, port }) =>
            port >= 30_000 || !/^(192\.168\.|fd00:192:|127\.|198\.18\.255\.251|fd00:198::ff:fb)/.test(address),
        )
        .map(({ address, port }) => `${address} ${port}`),
    );
  const all = Array.from({ length: 12 }, (_, number) => claims(number));
  for (const [i, one] of all.entries())
    for (const other of all.slice(i + 1))
      assert.deepEqual(
        [...one].filter((claim) => other.has(claim)),
        [],
      );
});
