// MapStores for tests: small ones without a kernel, and real maps that nobody else sees and that end with the test.
import { existsSync } from "node:fs";
import { sizeOf } from "../../src/dataplane/bpf/codec.ts";
import type { MapName, MapStore } from "../../src/dataplane/bpf/mapstore.ts";
import { createKernelStore } from "../../src/dataplane/bpf/pinned.ts";
import { loadObject } from "../../src/dataplane/bpf/system/object.ts";
import { FakeStore } from "../../src/dataplane/fake/fakestore.ts";

/** Enough for any scenario; reading back costs time for every entry of an array. */
export const SMALL: Readonly<Partial<Record<MapName, number>>> = {
  slots: 1024,
  backends: 256,
  backend_stats: 256,
  flows: 256,
  affinity: 256,
};

export const smallFakeStore = (): FakeStore => new FakeStore(SMALL);

const OBJECT = new URL("../../build/bpf/abi.bpf.o", import.meta.url).pathname;

/** Why there are no real maps to test with, or false. */
export const noRealMaps =
  process.getuid?.() !== 0 ? "needs root" : !existsSync(OBJECT) ? `needs ${OBJECT} (npm run build)` : false;

/** Unpinned maps of the kernel. The caller closes them. */
export const openRealStore = (): MapStore & { close(): void } => {
  const object = loadObject(OBJECT, { maxEntries: SMALL, options: new Uint8Array(sizeOf("options")) });
  return { ...createKernelStore((map) => object.map(map)), close: () => object.close() };
};
