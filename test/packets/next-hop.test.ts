// The next hop of a flow while another CPU writes it: who reads it as XDP does gets one that was written, or none, and never half
// of two.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { Worker } from "node:worker_threads";
import { decode, encode, sizeOf } from "../../src/dataplane/bpf/codec.ts";
import type { MapName } from "../../src/dataplane/bpf/mapstore.ts";
import { mapLookup, mapUpdate } from "../../src/dataplane/bpf/system/map.ts";
import { loadObject } from "../../src/dataplane/bpf/system/object.ts";
import { testRun } from "../../src/dataplane/bpf/system/program.ts";
import { NO_ADDRESS } from "../../src/dataplane/bpf/tables.ts";
import { loadOptions } from "../lib/datapath.ts";
import { flowOf } from "../lib/flow.ts";

const directory = mkdtempSync(join(tmpdir(), "beeline-next-hop-"));
const path = join(directory, "next-hop.bpf.o");
execFileSync("clang", [
  ...["-target", "bpf", "-mcpu=v3", "-g", "-O2", "-Wall", "-Werror", "-Wno-compare-distinct-pointer-types"],
  `-I/usr/include/${process.arch === "arm64" ? "aarch64" : "x86_64"}-linux-gnu`,
  `-I${import.meta.dirname}/../../bpf`,
  ...["-c", `${import.meta.dirname}/next-hop.bpf.c`, "-o", path],
]);
const object = loadObject(path, {
  options: loadOptions({ direct: 1 }),
  maxEntries: { slots: 1, backends: 1, backend_stats: 1, flows: 16, frontends: 1, affinity: 1, nodeports: 1 },
});
after(() => {
  object.close();
  rmSync(directory, { recursive: true });
});

/** As the programs are asked by both: one packet, which they do not look at. */
const FRAME = 64;

/** A thread that writes until it is ended. */
const startWriter = (program: number): Worker => {
  const module = import.meta.resolve("../../src/dataplane/bpf/system/program.ts");
  const script = `
    import { testRun } from ${JSON.stringify(module)};
    import { parentPort, workerData } from "node:worker_threads";
    let goesOn = true;
    parentPort.on("message", () => { goesOn = false; parentPort.close(); });
    const write = () => {
      testRun(workerData, { data: new Uint8Array(${FRAME}) });
      if (goesOn) setImmediate(write);
    };
    write();`;
  return new Worker(new URL(`data:text/javascript,${encodeURIComponent(script)}`), { workerData: program });
};

interface Readings {
  readonly refused: number;
  readonly whole: number;
  readonly torn: number;
  /** Than the one before. */
  readonly another: number;
}

const readings = (): Readings => {
  const count = (place: number): number => {
    const value = new Uint8Array(8);
    mapLookup(object.map("readings" as MapName), encode("u32", place), value);
    return Number(new DataView(value.buffer).getBigUint64(0, true));
  };
  return { refused: count(0), whole: count(1), torn: count(2), another: count(3) };
};

const MOST_MS = 20_000;

test("a next hop that is being written is read whole or not at all", {
  skip: availableParallelism() < 2 ? "one CPU alone never reads what another one writes" : false,
}, async () => {
  const config = decode("config", new Uint8Array(sizeOf("config")));
  mapUpdate(
    object.map("config"),
    encode("u32", 0),
    encode("config", { ...config, snat_port_max: 1, next_hop_generation: 1 }),
  );
  const key = { src_addr: NO_ADDRESS, dst_addr: NO_ADDRESS, src_port: 0, dst_port: 0, proto: 17, outward: 0 };
  mapUpdate(object.map("flows"), encode("flow_key", key), encode("flow", flowOf({})));
  const writer = startWriter(object.program("write_next_hops"));
  const started = performance.now();
  try {
    while (readings().another < 2_000) {
      testRun(object.program("read_next_hops"), { data: new Uint8Array(FRAME) });
      assert.equal(readings().torn, 0, JSON.stringify(readings()));
      assert.ok(performance.now() - started < MOST_MS, `nobody writes meanwhile: ${JSON.stringify(readings())}`);
      await new Promise(setImmediate);
    }
  } finally {
    writer.postMessage("enough");
    await writer.terminate();
  }
});
