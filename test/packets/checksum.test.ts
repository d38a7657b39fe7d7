// Checksums: a right one stays right, a wrong one stays as wrong as it was, "none" stays none. RFC 1624 is known for its
// edge cases at 0x0000 and 0xffff, so they are sought for, and everything else is random. The seed is printed.
import assert from "node:assert/strict";
import { beforeEach, describe, test } from "node:test";
import type { Address } from "../../src/model/address.ts";
import { addressFromBytes } from "../../src/model/address.ts";
import { families, publish } from "../lib/datapath.ts";
import { inEveryForwarding } from "../lib/forwarding.ts";
import { buildFrame, ETHERNET, internetSum, parseFrame } from "../lib/packet.ts";
import { seededRandom } from "../lib/random.ts";

const seed = Number(process.env.SEED ?? 20261120);

inEveryForwarding((datapath) => {
  for (const a of families) {
    const v4 = a.family === "IPv4";
    for (const proto of ["TCP", "UDP"] as const) {
      describe(`Fault 70: ${a.family} ${proto} checksums`, () => {
        beforeEach(() =>
          publish(datapath, { address: a.vip, port: 80, proto }, [{ id: 1, address: a.local, local: true }]),
        );
        const flags = "A";
        const through = (frame: Uint8Array): Uint8Array => {
          const outcome = datapath.ingress(frame);
          assert.equal(outcome.verdict, "pass");
          assert.notEqual(outcome.reason, "REASON_NOT_OURS");
          return outcome.frame;
        };

        /** Words that bring the checksum of the frame before, or after, translation to each interesting value. */
        for (const target of [0x0000, 0x0001, 0xfffe, 0xffff]) {
          for (const when of ["before", "after"] as const) {
            test(`a sum that is 0x${target.toString(16)} ${when} translation`, () => {
              const base = { from: a.client, to: a.vip, proto, flags, dport: 80 } as const;
              const to = when === "before" ? {} : { to: a.local, dport: 8080 };
              const zero = parseFrame(buildFrame({ ...base, ...to, payload: new Uint8Array(2) }));
              const have = ~zero.checksum & 0xffff;
              const want = ~target & 0xffff;
              let word = want - have;
              if (word < 0) word += 0xffff;
              const payload = Uint8Array.of(word >> 8, word & 0xff);
              const f = parseFrame(through(buildFrame({ ...base, payload })));
              assert.equal(f.checksum_ok, true);
              assert.equal(f.to, a.local);
              if (proto === "UDP") assert.notEqual(f.checksum, 0, "0 would mean none");
            });
          }
        }

        test("a wrong checksum stays wrong, by exactly as much", () => {
          for (let wrong = 1; wrong < 0xffff; wrong += 997) {
            const frame = buildFrame({ from: a.client, to: a.vip, proto, flags, payload: "abc", checksum: wrong });
            const before = parseFrame(frame);
            const after = parseFrame(through(frame));
            const right = (f: typeof before) =>
              parseFrame(buildFrame({ from: f.from, to: f.to, proto, flags, payload: "abc", dport: f.dport })).checksum;
            assert.equal(after.checksum_ok, before.checksum_ok, `0x${wrong.toString(16)}`);
            const error = (f: typeof before) => (((f.checksum - right(f)) % 0xffff) + 0xffff) % 0xffff;
            assert.equal(error(after), error(before), `0x${wrong.toString(16)}`);
          }
        });

        test(`1,500 random packets, some with flipped bits: as right or wrong as before (seed ${seed})`, () => {
          const random = seededRandom(seed + (v4 ? 1 : 2) + (proto === "TCP" ? 0 : 2));
          const integer = (below: number): number => Math.floor(random() * below);
          const bytes = (n: number): Uint8Array => Uint8Array.from({ length: n }, () => integer(256));
          const address = (): Address => {
            // Below 127: a loopback address is dropped.
            if (v4) return `${1 + integer(126)}.${integer(256)}.${integer(256)}.${integer(256)}` as Address;
            return addressFromBytes(Uint8Array.of(0x20, ...bytes(15)));
          };
          for (let i = 0; i < 1500; i++) {
            if (i % 100 === 0) {
              const backend = { id: 1, address: address(), port: 1 + integer(65535), local: true, generation: 1 + i };
              publish(datapath, { address: a.vip, port: 80, proto }, [backend]);
            }
            const frame = buildFrame({
              from: address(),
              to: a.vip,
              proto,
              sport: integer(65536),
              flags,
              payload: bytes(integer(300)),
              ...(random() < 0.3 && v4 ? { options: bytes(4 * integer(11)) } : {}),
            });
            const flip = random() < 0.3;
            const at = ETHERNET + (v4 ? ((frame[ETHERNET] ?? 0) & 15) * 4 : 40) + 8 + (proto === "TCP" ? 6 : 0);
            if (flip && at < frame.length) frame[at] = (frame[at] ?? 0) ^ (1 << integer(8));
            const before = parseFrame(frame);
            const after = parseFrame(through(frame));
            assert.equal(after.ip_checksum_ok, true, `packet ${i}`);
            assert.equal(after.checksum_ok, before.checksum_ok, `packet ${i}`);
          }
        });

        if (proto === "UDP") {
          test("no checksum stays none", () => {
            const frame = buildFrame({ from: a.client, to: a.vip, proto, checksum: 0, payload: "abc" });
            const f = parseFrame(through(frame));
            assert.equal(f.checksum, 0);
            assert.equal(f.ip_checksum_ok, true);
          });
        }
      });
    }
  }

  test("a wrong IPv4 header checksum stays wrong, and the kernel drops the packet", () => {
    const [a] = families;
    assert.ok(a !== undefined);
    publish(datapath, { address: a.vip, port: 80 }, [{ id: 1, address: a.local, local: true }]);
    const frame = buildFrame({ from: a.client, to: a.vip, flags: "S" });
    frame[ETHERNET + 10] = (frame[ETHERNET + 10] ?? 0) ^ 0x40;
    const f = parseFrame(datapath.ingress(frame).frame);
    assert.equal(f.to, a.local);
    assert.equal(f.ip_checksum_ok, false);
  });
});

test("the sum that the tests compute is that of RFC 1071's example", () => {
  assert.equal(internetSum(Uint8Array.of(0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7)), 0xddf2);
});
