// A run that has rested long enough is free for others, but not for the service that is just taking it up again.
import assert from "node:assert/strict";
import { test } from "node:test";
import { TableProgrammer } from "../../src/dataplane/bpf/programmer.ts";
import { tablesToDesired } from "../../src/dataplane/bpf/readback.ts";
import { REST_NS } from "../../src/dataplane/bpf/runs.ts";
import { readTables } from "../../src/dataplane/bpf/tables.ts";
import { clusterIP, desiredOf, loadBalancer, serviceOf } from "../lib/services.ts";
import { smallFakeStore } from "../lib/stores.ts";

test("A service takes up a run that has rested, and another list of it needs new slots in the same apply", () => {
  const store = smallFakeStore();
  let now_ns = 0n;
  const programmer = new TableProgrammer(store, { now_ns: () => now_ns });
  const [a, b] = ["10.244.0.1", "10.244.0.2"];
  const entrances = [clusterIP("10.96.0.1"), loadBalancer("198.51.100.1")];
  const both = serviceOf("web", [a, b], entrances, { external: "Local", local: [a] });
  const one = serviceOf("web", [a], entrances, { external: "Local", local: [a], draining: [b] });
  const bothAgain = serviceOf("web", [a, b], entrances, { external: "Local", local: [b] });
  for (const service of [both, one, bothAgain]) {
    programmer.apply(desiredOf(service), { prune: true });
    const held = [...tablesToDesired(readTables(store)).services.values()];
    assert.deepEqual(
      held.map(({ frontends }) => frontends),
      [service.frontends],
    );
    now_ns += 2n * REST_NS;
  }
});
