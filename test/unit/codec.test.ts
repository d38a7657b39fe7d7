import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { layouts, maps, type Records } from "../../src/dataplane/bpf/abi.gen.ts";
import { decode, encode, type StructName, sizeOf } from "../../src/dataplane/bpf/codec.ts";
import { type Address, addressFromBytes } from "../../src/model/address.ts";

test("A frontend key is bytes in the order of the wire: address, port, protocol, scope", () => {
  const bytes = encode("frontend_key", { addr: "10.96.0.10" as Address, port: 443, proto: 6, scope: 1 });
  assert.equal(Buffer.from(bytes).toString("hex"), "00000000000000000000ffff0a60000a01bb0601");
});

test("An IPv6 address is its 16 bytes, and a u32 is in the machine's order", () => {
  const bytes = encode("source_range_key", { prefixlen: 64, service_id: 1, addr: "fd00::1" as Address });
  assert.equal(Buffer.from(bytes).toString("hex"), "4000000001000000fd000000000000000000000000000001");
});

test("Names are NUL-terminated; one that is too long is refused with its size", () => {
  const service = {
    namespace: "ns",
    name: "ä".repeat(31),
    port_name: "",
    proto: 6,
    health_check_port: 0,
    flags: 0,
    affinity_timeout_s: 0,
  };
  assert.deepEqual(decode("service", encode("service", service)), service);
  assert.throws(() => encode("service", { ...service, name: "a".repeat(64) }), /64 bytes, room for 63/);
});

test("A number that its field cannot hold is refused, never cut", () => {
  const key = { addr: "10.0.0.1" as Address, port: 80, proto: 6, scope: 0 };
  for (const port of [-1, 65_536, 1.5, Number.NaN]) {
    assert.throws(() => encode("frontend_key", { ...key, port }), RangeError, String(port));
  }
});

test("Too few bytes are refused", () => {
  assert.throws(() => decode("backend", new Uint8Array(sizeOf("backend") - 1)), /31 bytes, needs 32/);
});

const scalar: Readonly<Record<string, fc.Arbitrary<unknown>>> = {
  u8: fc.integer({ min: 0, max: 0xff }),
  u16: fc.integer({ min: 0, max: 0xffff }),
  be16: fc.integer({ min: 0, max: 0xffff }),
  be32: fc.integer({ min: 0, max: 0xffffffff }),
  u32: fc.integer({ min: 0, max: 0xffffffff }),
  i32: fc.integer(),
  u64: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  addr: fc.uint8Array({ minLength: 16, maxLength: 16 }).map(addressFromBytes),
  string: fc.stringMatching(/^[a-z0-9-]{0,63}$/),
};

const recordOf = (type: string): fc.Arbitrary<unknown> => {
  const known = scalar[type];
  if (known !== undefined) return known;
  const { fields } = layouts[type as keyof typeof layouts];
  return fc.record(
    Object.fromEntries(
      fields.map((field: { name: string; type: string; count?: number }) => {
        const one = recordOf(field.type);
        const { count } = field;
        if (count === undefined || field.type === "string") return [field.name, one];
        return [field.name, fc.array(one, { minLength: count, maxLength: count })];
      }),
    ),
    { noNullPrototype: true },
  );
};

for (const name of Object.keys(layouts) as (StructName & keyof typeof layouts)[]) {
  test(`Every record of struct ${name} comes back from its bytes`, () => {
    fc.assert(
      fc.property(recordOf(name), (record) => {
        const bytes = encode(name, record as Records[typeof name]);
        assert.equal(bytes.length, layouts[name].size);
        assert.deepEqual(decode(name, bytes), record);
      }),
    );
  });
}

test("Every map's key and value are types that the codec knows", () => {
  for (const [map, { key, value }] of Object.entries(maps)) {
    assert.ok(sizeOf(key) > 0 && sizeOf(value) > 0, map);
  }
});
