// Random writes and random faults, all at once; when the faults stop, the source must know exactly what the server
// holds. SEED=n repeats a run.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Snapshot } from "../../src/model/snapshot.ts";
import type { FakeApiServer } from "../lib/api-server.ts";
import { eventually } from "../lib/eventually.ts";
import { following, service, slice } from "../lib/followed.ts";
import { seededRandom } from "../lib/random.ts";

const seed = Number(process.env.SEED ?? Date.now() % 1_000_000);

const RESOURCES = ["services", "endpointslices", "nodes"];

/** Not among them: reorder(), which together with a reset loses an event in a way that no client could see. */
const FAULTS: readonly ((server: FakeApiServer, pick: (n: number) => number) => unknown)[] = [
  (server) => server.reset(),
  (server) => server.closeAll(),
  (server) => server.corruptLine(),
  (server, pick) => server.expire(pick(2) === 0 ? "stream" : "http"),
  (server) => server.duplicate(3),
  (server, pick) => server.fail([500, 503, 429, 403, 504][pick(5)] ?? 500, { times: pick(3) + 1 }),
  (server, pick) => server.fail(200, { verb: "list", body: ["", "{", "null", "<html>"][pick(4)] ?? "" }),
  (server, pick) => server.split([1, 5, 64, 4096][pick(4)] ?? 1),
  (server, pick) => server.delay(pick(5)),
  (server, pick) =>
    server.inject(RESOURCES[pick(3)] ?? "", ["{}\n", "\n", '{"type":"ERROR"}\n', "half"][pick(4)] ?? ""),
  async (server) => {
    await server.stop();
    await server.start();
  },
  async (server) => {
    server.stall();
    await new Promise((resolve) => setTimeout(resolve, 30));
    server.resume();
  },
];

/** What matters of a snapshot, as text. */
const known = (snapshot: Snapshot): readonly string[] =>
  [
    ...[...snapshot.services].map(([key, s]) => `${key} ${s.clusterIPs.join()}`),
    ...[...snapshot.slices].flatMap(([owner, group]) =>
      [...group].map(([name, s]) => `${owner} ${name} ${s.endpoints.map((e) => e.address).join()}`),
    ),
  ].sort();

for (const offset of [0, 1, 2]) {
  test(`Random writes under random faults end in what the server holds (SEED=${seed}, run ${offset})`, () =>
    following({ limits: { page_items: 3 }, server: { bookmark_ms: 40 } }, async (f) => {
      const random = seededRandom(seed * 3 + offset);
      const pick = (n: number): number => Math.floor(random() * n);
      const truth = new Map<string, string>();
      for (let i = 0; i < 250; i++) {
        const name = `s${pick(8)}`;
        const ip = `10.0.${pick(250)}.${pick(250) + 1}`;
        switch (pick(5)) {
          case 0:
          case 1:
            f.server.put(service(name, { clusterIP: ip }));
            truth.set(`Service ${name}`, `default/${name} ${ip}`);
            break;
          case 2:
            f.server.delete("Service", "default", name);
            truth.delete(`Service ${name}`);
            break;
          case 3: {
            const owner = `s${pick(8)}`;
            f.server.put(slice(`${name}-x`, owner, [ip]));
            truth.set(`EndpointSlice ${name}`, `default/${owner} ${name}-x ${ip}`);
            break;
          }
          case 4:
            f.server.delete("EndpointSlice", "default", `${name}-x`);
            truth.delete(`EndpointSlice ${name}`);
            break;
        }
        if (pick(6) === 0) await FAULTS[pick(FAULTS.length)]?.(f.server, pick);
        if (pick(3) === 0) await new Promise((resolve) => setTimeout(resolve, pick(12)));
      }
      f.server.split(Number.POSITIVE_INFINITY);
      f.server.delay(0);
      await eventually(() => assert.deepEqual(known(f.source.snapshot()), [...truth.values()].sort()));
      assert.equal(f.source.synced(), true);
    }));
}
