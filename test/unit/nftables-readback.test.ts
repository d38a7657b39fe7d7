// nft -j of things that are not kube-proxy's, or not as it leaves them. The real ones are in test/rules/readback.test.ts.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type NftablesOptions, readNftables } from "../../src/dataplane/nftables/readback.ts";
import { prefixesIn } from "../../src/dataplane/nftables/ruleset.ts";

const options: NftablesOptions = { from: "nft.json", localAddresses: null, families: null };
const read = (...items: readonly unknown[]) => readNftables([JSON.stringify({ nftables: items })], options);

test("what is no listing of nft's is an error that names the file", () => {
  assert.throws(() => readNftables(["{"], options), /^InputError: Cannot read nft\.json: it is no JSON$/);
  assert.throws(() => readNftables(["[]"], options), /it is no listing of nft -j list ruleset$/);
  assert.throws(() => readNftables(['{"kind": "Desired"}'], options), /it is no listing/);
});

test("tables of others are passed over, and no table is said", () => {
  const reading = read({ table: { family: "inet", name: "firewalld" } }, { chain: { family: "ip", table: "filter" } });
  assert.deepEqual([reading.desired.services.size, reading.expresses.families], [0, []]);
  assert.deepEqual(reading.problems, [
    { object: "nftables", path: "", message: "no table kube-proxy: nothing to compare" },
  ]);
});

const at = { family: "ip", table: "kube-proxy" };
const map = (name: string, ...elem: readonly unknown[]) => ({ map: { ...at, name, map: "verdict", elem } });
const key = (...concat: readonly unknown[]) => ({ concat });

test("elements and chains that lead nowhere are named", () => {
  const reading = read(
    map(
      "service-ips",
      [key("10.96.0.1", "tcp", 80), { goto: { target: "service-AAAAAAAA-shop/web/tcp/http" } }],
      [key("10.96.0.2", "tcp", 80), { goto: { target: "somebody-elses" } }],
      [key("10.96.0.3", "tcp", 80), { accept: null }],
      [key("10.96.0.4", "icmp", 80), { drop: null }],
      [key("constructor", "tcp", 80), { drop: null }],
      "nonsense",
      [null, null],
    ),
    map("no-endpoint-services", [key("10.96.0.9", "udp", 53), { goto: { target: "reject-chain" } }]),
  );
  assert.deepEqual(
    reading.problems.map(({ message }) => message),
    [
      "service-ips: 10.96.0.4 . icmp . 80 is no frontend",
      "service-ips: constructor . tcp . 80 is no frontend",
      "service-AAAAAAAA-shop/web/tcp/http is not there, though something leads to it",
      "10.96.0.1:80/TCP of shop/web:http leads to no endpoint, and nothing refuses it",
      "10.96.0.2 . tcp . 80 leads to somebody-elses, which is no Service's",
      "10.96.0.3 . tcp . 80 leads to no chain",
      "nothing says which Service 10.96.0.9:53/UDP belongs to",
    ],
  );
  assert.deepEqual(reading.unreached, [
    "IPv4: hook prerouting does not jump to services",
    "IPv4: hook output does not jump to services",
    "IPv4: chain services does not ask service-ips",
  ]);
  assert.equal(reading.expresses.clusterIPs, false);
});

test("addresses of a set in every form that nft prints", () => {
  assert.deepEqual(prefixesIn("10.0.0.1"), ["10.0.0.1/32"]);
  assert.deepEqual(prefixesIn({ prefix: { addr: "10.0.0.0", len: 8 } }), ["10.0.0.0/8"]);
  assert.deepEqual(prefixesIn({ range: ["10.0.0.1", "10.0.0.6"] }), [
    "10.0.0.1/32",
    "10.0.0.2/31",
    "10.0.0.4/31",
    "10.0.0.6/32",
  ]);
  assert.deepEqual(prefixesIn({ range: ["::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] }), ["::/0"]);
  assert.deepEqual(prefixesIn({ set: ["fd00::1", { elem: { val: "fd00::2", comment: "x" } }] }), [
    "fd00::1/128",
    "fd00::2/128",
  ]);
  assert.deepEqual(prefixesIn({ range: ["10.0.0.6", "10.0.0.1"] }), []);
  assert.deepEqual(prefixesIn({ range: ["10.0.0.1", "ffff::"] }), []);
  assert.deepEqual(prefixesIn({ set: [null, 7, "nonsense", { prefix: 1 }, { range: [1] }] }), []);
});

test("no JSON makes the reader throw anything but an InputError", () => {
  const word = fc.constantFrom(
    "map",
    "rule",
    "set",
    "chain",
    "elem",
    "expr",
    "goto",
    "concat",
    "dnat",
    "vmap",
    "data",
    "set",
  );
  const { value } = fc.letrec((tie) => ({
    value: fc.oneof(
      { maxDepth: 5 },
      fc.constantFrom<unknown>(null, 80, "tcp", "10.96.0.1", "kube-proxy", "ip", "verdict", "service-ips", "services"),
      fc.array(tie("value"), { maxLength: 4 }),
      fc.dictionary(word, tie("value"), { maxKeys: 4 }),
    ),
  }));
  fc.assert(
    fc.property(fc.array(fc.tuple(word, fc.dictionary(word, value)), { maxLength: 8 }), (items) => {
      const own = items.map(([kind, fields]) => ({
        [kind]: { ...at, name: "service-ips", map: "verdict", ...fields },
      }));
      assert.ok(read(...own).desired);
    }),
  );
});
