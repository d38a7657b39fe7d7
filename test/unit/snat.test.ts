// How full the SNAT ports of each backend are: counted from the flows, and warned of once.
import assert from "node:assert/strict";
import { test } from "node:test";
import { startSnatWatch } from "../../src/agent/snat-watch.ts";
import { flow_kind } from "../../src/dataplane/bpf/abi.gen.ts";
import { encode } from "../../src/dataplane/bpf/codec.ts";
import type { MapStore } from "../../src/dataplane/bpf/mapstore.ts";
import { readSnatUse } from "../../src/dataplane/bpf/snat.ts";
import { readConfig } from "../../src/dataplane/bpf/tables.ts";
import { FakeStore } from "../../src/dataplane/fake/fakestore.ts";
import { flowOf } from "../lib/flow.ts";
import { address } from "../lib/snapshots.ts";

const PORTS = { snat_port_min: 61000, snat_port_max: 61009 } as const;

const createStore = (): MapStore => {
  const store = new FakeStore();
  store.update("config", [[encode("u32", 0), encode("config", { ...readConfig(store), ...PORTS })]]);
  return store;
};

const keyOf = (backend: string, port: number, taken: number, proto: number): Uint8Array =>
  encode("flow_key", {
    ...{ src_addr: address(backend), src_port: port, proto, outward: 0 },
    ...{ dst_addr: address(backend.includes(":") ? "fd00:192::11" : "192.0.2.11"), dst_port: taken },
  });

const put = (store: MapStore, backend: string, port: number, taken: number, kind: number, proto = 6): void => {
  const flow = flowOf({ addr: address("203.0.113.9"), port: 40000, kind, service_id: 1, backend_id: 1, generation: 1 });
  store.update("flows", [[keyOf(backend, port, taken, proto), encode("flow", flow)]]);
};

const take = (store: MapStore, backend: string, port: number, many: number, proto = 6): void => {
  for (let i = 0; i < many; i++) put(store, backend, port, 61000 + i, flow_kind.FLOW_UNDO_SNAT, proto);
};

test("Fault 83: ports are counted for each backend, port and protocol, the fullest first", () => {
  const store = createStore();
  take(store, "10.2.0.6", 8080, 7);
  take(store, "10.2.0.6", 8080, 2, 17);
  take(store, "10.2.0.6", 8081, 8);
  take(store, "fd00:2::6", 8080, 10);
  put(store, "10.2.0.9", 8080, 61000, flow_kind.FLOW_UNDO_DNAT);
  const { min, max, ports, destinations } = readSnatUse(store);
  assert.deepEqual([min, max, ports], [61000, 61009, 10]);
  assert.deepEqual(
    destinations.map((d) => `${d.address} ${d.port} ${d.protocol} ${d.taken}${d.nearLimit ? " near" : ""}`),
    ["fd00:2::6 8080 TCP 10 near", "10.2.0.6 8081 TCP 8 near", "10.2.0.6 8080 TCP 7", "10.2.0.6 8080 UDP 2"],
  );
});

test("nothing configured yet: no ports, and nobody near a limit", () => {
  assert.deepEqual(readSnatUse(new FakeStore()), { min: 0, max: 0, ports: 0, destinations: [] });
});

test("a backend that comes near its limit is warned of once, and once more when it has room again", () => {
  const store = createStore();
  const lines: string[] = [];
  const log = (level: string, message: string, fields?: object) =>
    void lines.push(`${level}: ${message} ${Object.values(fields ?? {}).join(" ")}`);
  let flows = 100;
  const watch = startSnatWatch({ read: () => readSnatUse(store), flows: () => flows, ports: 10, log });
  take(store, "10.2.0.6", 8080, 7);
  watch.look();
  assert.deepEqual(lines, []);
  take(store, "10.2.0.6", 8080, 8);
  flows = 7; // too few flows for anybody to be near a limit: not even read
  watch.look();
  assert.deepEqual(lines, []);
  flows = 100;
  watch.look();
  watch.look();
  assert.deepEqual(lines.splice(0), ["warn: SNAT ports towards a backend run out 10.2.0.6:8080/TCP 8 10"]);
  store.delete("flows", [keyOf("10.2.0.6", 8080, 61007, 6)]);
  watch.look();
  watch.look();
  assert.deepEqual(lines, ["info: SNAT ports towards a backend are free again 10.2.0.6:8080/TCP 10"]);
  watch.close();
});
