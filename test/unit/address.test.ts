import assert from "node:assert/strict";
import { isIPv4, isIPv6 } from "node:net";
import { test } from "node:test";
import fc from "fast-check";
import {
  addressFromBytes,
  addressToBytes,
  familyOf,
  formatHostPort,
  makePrefix,
  parseAddress,
  parsePrefix,
  prefixContains,
  splitPrefix,
} from "../../src/model/address.ts";

const READ: readonly (readonly [string, string | null])[] = [
  ["10.0.0.1", "10.0.0.1"],
  ["255.255.255.255", "255.255.255.255"],
  ["172.30.0.041", "172.30.0.41"],
  [" 10.0.0.1\t", "10.0.0.1"],
  ["010.000.000.001", "10.0.0.1"],
  ["256.0.0.1", null],
  ["10.0.0", null],
  ["10.0.0.1.2", null],
  ["2130706433", null],
  ["0x7f.0.0.1", null],
  ["127.1", null],
  ["1.2.3.", null],
  ["1.2.3.-4", null],
  ["1.2.3.4e0", null],
  ["10.0.0. 1", null],
  ["", null],
  [":", null],
  ["::", "::"],
  ["::1", "::1"],
  ["FD00:0:0:0:0:0:0:1", "fd00::1"],
  ["2001:0db8:0000:0000:0001:0000:0000:0001", "2001:db8::1:0:0:1"],
  ["1:0:2:3:4:5:6:7", "1:0:2:3:4:5:6:7"],
  ["0:0:1::", "0:0:1::"],
  ["::1.2.3.4", "::102:304"],
  ["64:ff9b::10.0.0.1", "64:ff9b::a00:1"],
  ["1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8"],
  ["1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:0"],
  ["1:2:3:4:5:6:7:8::", null],
  ["1:2:3:4:5:6:7", null],
  ["1::2::3", null],
  [":::", null],
  ["fe80::1%eth0", null],
  ["[::1]", null],
  ["::ffff:10.0.0.1", null],
  ["::ffff:a00:1", null],
  ["::10.0.0.256", null],
  ["1.2.3.4::", null],
  ["g::1", null],
  ["12345::", null],
];

for (const [text, expected] of READ) {
  test(`The address ${JSON.stringify(text)} is read as ${expected}`, () => {
    assert.equal(parseAddress(text), expected);
  });
}

const PREFIXES: readonly (readonly [string, string | null])[] = [
  ["10.0.0.0/8", "10.0.0.0/8"],
  ["10.1.2.3/8", "10.0.0.0/8"],
  [" 203.0.113.0/25 ", "203.0.113.0/25"],
  ["203.0.113.255/25", "203.0.113.128/25"],
  ["010.0.0.0/08", "10.0.0.0/8"],
  ["0.0.0.0/0", "0.0.0.0/0"],
  ["1.2.3.4/0", "0.0.0.0/0"],
  ["10.0.0.0/33", null],
  ["10.0.0.0", null],
  ["10.0.0.0/", null],
  ["10.0.0.0/-1", null],
  ["10.0.0.0/8/8", null],
  ["10.0.0.0/255.0.0.0", null],
  ["::/0", "::/0"],
  ["FD00::1/64", "fd00::/64"],
  ["fd00::1/128", "fd00::1/128"],
  ["fd00::/129", null],
  ["::ffff:10.0.0.0/104", null],
];

for (const [text, expected] of PREFIXES) {
  test(`The prefix ${JSON.stringify(text)} is read as ${expected}`, () => {
    assert.equal(parsePrefix(text), expected);
  });
}

const v4Bytes = fc.uint8Array({ minLength: 4, maxLength: 4 }).map((tail) => {
  const bytes = new Uint8Array(16);
  bytes.set([0xff, 0xff], 10);
  bytes.set(tail, 12);
  return bytes;
});
/** Mostly zeros, so that `::` has something to do. */
const v6Bytes = fc
  .uint8Array({ minLength: 16, maxLength: 16 })
  .chain((bytes) =>
    fc.uint8Array({ minLength: 16, maxLength: 16, max: 1 }).map((mask) => bytes.map((b, i) => b * (mask[i] ?? 0))),
  );
const anyBytes = fc.oneof(v4Bytes, v6Bytes);

test("Every 16 bytes become text and the same bytes again", () => {
  fc.assert(
    fc.property(anyBytes, (bytes) => {
      const address = addressFromBytes(bytes);
      assert.deepEqual(addressToBytes(address), bytes);
      assert.equal(parseAddress(address), address, "what is written is canonical");
    }),
  );
});

test("The family is what node:net says of the text", () => {
  fc.assert(
    fc.property(anyBytes, (bytes) => {
      const address = addressFromBytes(bytes);
      assert.equal(familyOf(address) === "IPv4", isIPv4(address));
      assert.equal(familyOf(address) === "IPv6", isIPv6(address));
    }),
  );
});

test("IPv6 text is what a URL writes, RFC 5952", () => {
  fc.assert(
    fc.property(v6Bytes, (bytes) => {
      const address = addressFromBytes(bytes);
      if (familyOf(address) === "IPv6") assert.equal(new URL(`http://[${address}]/`).hostname, `[${address}]`);
    }),
  );
});

test("No text makes the reader throw, and what it accepts, node:net accepts too but for leading zeros", () => {
  const shaped = fc.stringMatching(/^[ 0-9a-fx:./%]{0,24}$/);
  fc.assert(
    fc.property(fc.oneof(fc.string(), shaped), (text) => {
      const address = parseAddress(text);
      parsePrefix(text);
      if (address === null) return;
      assert.ok(isIPv4(address) || isIPv6(address));
      assert.ok(text.includes(":") ? isIPv6(text.trim()) || /(^|:|\.)0\d/.test(text) : text.split(".").length === 4);
    }),
  );
});

test("A prefix contains exactly the addresses that share its bits", () => {
  const bitOf = (bytes: Uint8Array, i: number): number => ((bytes[i >> 3] ?? 0) >> (7 - (i & 7))) & 1;
  const flips = fc.record({ bytes: anyBytes, bits: fc.nat(128), flip: fc.nat(127) });
  fc.assert(
    fc.property(flips, ({ bytes, bits, flip }) => {
      const address = addressFromBytes(bytes);
      const v4 = familyOf(address) === "IPv4";
      const length = v4 ? bits % 33 : bits;
      const prefix = makePrefix(address, length);
      assert.ok(prefixContains(prefix, address));
      assert.deepEqual(parsePrefix(prefix), prefix);
      assert.equal(splitPrefix(prefix).bits, length);
      const at = v4 ? 96 + (flip % 32) : flip;
      const other = Uint8Array.from(bytes);
      other[at >> 3] = (other[at >> 3] ?? 0) ^ (0x80 >> (at & 7));
      assert.notEqual(bitOf(other, at), bitOf(bytes, at));
      const neighbour = addressFromBytes(other);
      if (familyOf(neighbour) !== familyOf(address)) return;
      assert.equal(prefixContains(prefix, neighbour), (v4 ? at - 96 : at) >= length);
    }),
  );
});

test("A prefix of one family never contains an address of the other", () => {
  const [four, six] = [parsePrefix("0.0.0.0/0"), parsePrefix("::/0")];
  const [a, b] = [parseAddress("10.0.0.1"), parseAddress("fd00::1")];
  assert.ok(four !== null && six !== null && a !== null && b !== null);
  assert.equal(prefixContains(four, b), false);
  assert.equal(prefixContains(six, a), false);
});

test("Host and port are written with brackets around IPv6 alone", () => {
  const [a, b] = [parseAddress("10.0.0.1"), parseAddress("fd00::1")];
  assert.ok(a !== null && b !== null);
  assert.equal(formatHostPort(a, 80), "10.0.0.1:80");
  assert.equal(formatHostPort(b, 80), "[fd00::1]:80");
});
