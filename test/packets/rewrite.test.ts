// One rewrite of both sides of a packet, as direct forwarding and XDP do it: every byte that is not written stays, and a
// checksum is as right, as wrong or as absent as it was. In tc where the kernel shows what it makes of a checksum, in tc
// by the kernel's helpers, and in XDP.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, describe, test } from "node:test";
import { hasKernelContext } from "../../src/dataplane/bpf/probe.ts";
import { mapUpdate } from "../../src/dataplane/bpf/system/map.ts";
import { type LoadedObject, loadObject } from "../../src/dataplane/bpf/system/object.ts";
import { testRun } from "../../src/dataplane/bpf/system/program.ts";
import { type Address, addressFromBytes, addressToBytes } from "../../src/model/address.ts";
import { loadOptions } from "../lib/datapath.ts";
import { buildFrame, type FrameOptions, parseFrame, splitFrame, tagFrame } from "../lib/packet.ts";
import { seededRandom } from "../lib/random.ts";

const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));

const directory = mkdtempSync(join(tmpdir(), "beeline-rewrite-"));
const object = join(directory, "rewrite.bpf.o");
const flags = ["-target", "bpf", "-mcpu=v3", "-g", "-O2", "-Wall", "-Werror", "-Wno-compare-distinct-pointer-types"];
execFileSync("clang", [
  ...flags,
  `-I/usr/include/${process.arch === "arm64" ? "aarch64" : "x86_64"}-linux-gnu`,
  `-I${import.meta.dirname}/../../bpf`,
  ...["-c", `${import.meta.dirname}/rewrite.bpf.c`, "-o", object],
]);
after(() => rmSync(directory, { recursive: true }));

interface Ends {
  readonly from: string;
  readonly sport: number;
  readonly to: string;
  readonly dport: number;
}

const wantedBytes = (ends: Ends): Uint8Array => {
  const ports = new DataView(new ArrayBuffer(4));
  ports.setUint16(0, ends.sport);
  ports.setUint16(2, ends.dport);
  const addresses = [ends.from, ends.to].flatMap((address) => [...addressToBytes(address as Address)]);
  return Uint8Array.of(...addresses, ...new Uint8Array(ports.buffer));
};

const [PASSED_BY_TC, PASSED_BY_XDP] = [0, 2];

const hooks = [
  ...(hasKernelContext() ? [["tc, directly", "rewrite_in_tc", 1, PASSED_BY_TC] as const] : []),
  ["tc, by helpers", "rewrite_in_tc", 0, PASSED_BY_TC],
  ["XDP", "rewrite_in_xdp", 0, PASSED_BY_XDP],
] as const;

for (const [what, program, kernel_context, passed] of hooks) {
  describe(what, () => {
    const loaded: LoadedObject = loadObject(object, { options: loadOptions({ kernel_context }) });
    after(() => loaded.close());
    const rewrite = (frame: Uint8Array, ends: Ends): { readonly retval: number; readonly frame: Uint8Array } => {
      assert.equal(mapUpdate(loaded.map("wanted"), new Uint8Array(4), wantedBytes(ends)), 0);
      const { retval, data } = testRun(loaded.program(program), { data: frame });
      return { retval, frame: data };
    };
    const through = (frame: Uint8Array, ends: Ends): Uint8Array => {
      const outcome = rewrite(frame, ends);
      assert.equal(outcome.retval, passed);
      return outcome.frame;
    };

    for (const v4 of [true, false]) {
      for (const proto of ["TCP", "UDP"] as const) {
        const name = `${v4 ? "IPv4" : "IPv6"} ${proto}`;
        const base: Ends = v4
          ? { from: "198.51.100.7", sport: 40000, to: "203.0.113.10", dport: 80 }
          : { from: "2001:db8:1::7", sport: 40000, to: "2001:db8:2::10", dport: 80 };
        const wanted: Ends = v4
          ? { from: "192.168.0.1", sport: 61234, to: "10.2.0.6", dport: 8080 }
          : { from: "fd00:168::1", sport: 61234, to: "fd00:2::6", dport: 8080 };

        test(`${name}: both sides are written, and nothing else`, () => {
          const rest = { proto, flags: "PA", payload: "what is carried", ttl: 17 } as const;
          assert.deepEqual(through(buildFrame({ ...base, ...rest }), wanted), buildFrame({ ...wanted, ...rest }));
        });

        for (const target of [0x0000, 0x0001, 0xfffe, 0xffff]) {
          for (const when of ["before", "after"] as const) {
            test(`${name}: a sum that is 0x${target.toString(16)} ${when} it`, () => {
              const ends = when === "before" ? base : wanted;
              const have = ~parseFrame(buildFrame({ ...ends, proto, payload: new Uint8Array(2) })).checksum & 0xffff;
              let word = (~target & 0xffff) - have;
              if (word < 0) word += 0xffff;
              const payload = Uint8Array.of(word >> 8, word & 0xff);
              const f = parseFrame(through(buildFrame({ ...base, proto, payload }), wanted));
              assert.equal(f.checksum_ok, true);
              if (proto === "UDP") assert.notEqual(f.checksum, 0, "0 would mean none");
            });
          }
        }

        test(`${name}: a wrong checksum stays wrong, by exactly as much`, () => {
          const right = (ends: Ends): number => parseFrame(buildFrame({ ...ends, proto, payload: "abc" })).checksum;
          const [rightBefore, rightAfter] = [right(base), right(wanted)];
          const error = (have: number, of: number): number => (((have - of) % 0xffff) + 0xffff) % 0xffff;
          for (let wrong = 1; wrong < 0xffff; wrong += 997) {
            const after = parseFrame(through(buildFrame({ ...base, proto, payload: "abc", checksum: wrong }), wanted));
            assert.equal(error(after.checksum, rightAfter), error(wrong, rightBefore), `0x${wrong.toString(16)}`);
          }
        });

        test(`${name}: 1,000 random packets become what they would have been (seed ${seed})`, () => {
          const random = seededRandom(seed);
          const integer = (below: number): number => Math.floor(random() * below);
          const bytes = (n: number): Uint8Array => Uint8Array.from({ length: n }, () => integer(256));
          const address = (): string =>
            v4 ? `${1 + integer(223)}.${integer(256)}.${integer(256)}.${integer(256)}` : addressFromBytes(bytes(16));
          const ends = (): Ends => ({
            from: address(),
            sport: integer(65536),
            to: address(),
            dport: integer(65536),
          });
          for (let i = 0; i < 1000; i++) {
            const payload = bytes(integer(200));
            const options: Partial<FrameOptions> = random() < 0.3 && v4 ? { options: bytes(4 * integer(11)) } : {};
            const [before, after] = [ends(), ends()];
            const frame = through(buildFrame({ ...before, proto, payload, ...options }), after);
            const expected = buildFrame({ ...after, proto, payload, ...options });
            assert.deepEqual(frame, expected, `packet ${i}: ${JSON.stringify({ before, after })}`);
          }
        });

        test(`${name}: a fragment that has the ports carries the change for the whole datagram`, () => {
          const rest = { proto, payload: new Uint8Array(100) } as const;
          const [first = new Uint8Array()] = splitFrame(buildFrame({ ...base, ...rest }), 64, 7);
          const [expected] = splitFrame(buildFrame({ ...wanted, ...rest }), 64, 7);
          assert.deepEqual(through(first, wanted), expected);
        });

        if (proto === "UDP") {
          test(`${name}: no checksum stays none`, () => {
            const frame = through(buildFrame({ ...base, proto, checksum: 0, payload: "abc" }), wanted);
            assert.deepEqual(frame, buildFrame({ ...wanted, proto, checksum: 0, payload: "abc" }));
          });
        }
      }
    }

    test("what is cut off, or behind a tag that XDP does not read, is not touched", () => {
      const ends: Ends = { from: "192.168.0.1", sport: 1, to: "10.2.0.6", dport: 2 };
      const whole = buildFrame({ from: "198.51.100.7", to: "203.0.113.10" });
      for (const frame of [
        whole.slice(0, 14 + 20 + 19),
        ...(program === "rewrite_in_xdp" ? [tagFrame(whole, 0x8100)] : []),
      ]) {
        const outcome = rewrite(frame, ends);
        assert.notEqual(outcome.retval, passed);
        assert.deepEqual(outcome.frame, frame);
      }
    });
  });
}
