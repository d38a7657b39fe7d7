// Tests share loaded objects, one after another (lib/emptied.ts): nothing that one leaves in a map is there for the next.
import assert from "node:assert/strict";
import { test } from "node:test";
import { maps } from "../../src/dataplane/bpf/abi.gen.ts";
import { decode, type StructName, sizeOf } from "../../src/dataplane/bpf/codec.ts";
import type { MapName } from "../../src/dataplane/bpf/mapstore.ts";
import { Datapath, type KeyOf, publish, type ValueOf } from "../lib/datapath.ts";
import { buildFrame } from "../lib/packet.ts";

const SK_STORAGE = 24;
const PERCPU_ARRAY = 6;
const names = (Object.keys(maps) as MapName[]).filter((map) => ![SK_STORAGE, PERCPU_ARRAY].includes(maps[map].type));

/** Something other than zero that any such struct can be: names that end, and prefixes that are short, come first. */
const some = (struct: string): never =>
  decode(struct as StructName, new Uint8Array(sizeOf(struct as StructName)).fill(1, -16)) as never;

const isZero = (value: unknown): boolean =>
  typeof value === "object" && value !== null
    ? Object.values(value).every(isZero)
    : [0, 0n, "::", ""].some((zero) => zero === value);

const held = (datapath: Datapath): readonly string[] =>
  names.flatMap((map) => (datapath.entries(map).some(([, value]) => !isZero(value)) ? [map] : []));

test("a datapath is as empty as a new one, and its program the one that ran before", () => {
  const first = new Datapath();
  const fresh = held(first);
  for (const map of names) {
    const isArray = maps[map].key === "u32" && maps[map].type === 2;
    first.put(map, (isArray ? 0 : some(maps[map].key)) as KeyOf<MapName>, some(maps[map].value) as ValueOf<MapName>);
  }
  assert.deepEqual(held(first), names);
  const program = first.program("tc_ingress");
  first.close();
  const second = new Datapath();
  assert.equal(second.program("tc_ingress"), program);
  assert.deepEqual(held(second), fresh);
  second.close();
});

test("nor are there events that nobody has read", () => {
  const first = new Datapath();
  first.listen(1000);
  publish(first, { address: "203.0.113.10", port: 80 }, []);
  assert.equal(first.ingress(buildFrame({ from: "198.51.100.7", to: "203.0.113.10" })).verdict, "send back");
  first.close();
  const second = new Datapath();
  assert.deepEqual(second.events(), []);
  second.close();
});

test("one that is loaded with other options, or sizes, is another one", () => {
  const [plain, v6] = [new Datapath(), new Datapath({ ipv4: 0 })];
  const programs = [plain, v6].map((datapath) => datapath.program("tc_ingress"));
  for (const datapath of [plain, v6]) datapath.close();
  const small = new Datapath({}, { flows: 16 });
  assert.ok(!programs.includes(small.program("tc_ingress")));
  small.close();
});
