// tc: frames that are short, odd, or of a kind that is not handled are named and left exactly as they came.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { EINVAL, isSystemError } from "../../src/dataplane/bpf/system/errors.ts";
import { families, type Outcome, publish } from "../lib/datapath.ts";
import { inEveryForwarding, newDatapath } from "../lib/forwarding.ts";
import { buildFrame, ETHERNET, type FrameOptions, parseFrame } from "../lib/packet.ts";

inEveryForwarding((datapath, forwarding) => {
  const assertUntouched = (outcome: Outcome, frame: Uint8Array, reasons: readonly string[], what = ""): void => {
    assert.ok(reasons.includes(outcome.reason), `${what}: ${outcome.reason}`);
    assert.equal(outcome.verdict, "pass", what);
    assert.deepEqual(outcome.frame, frame, what);
  };

  /** BPF_PROG_TEST_RUN of newer kernels takes no frame that ends inside its IP header; null: this was one. */
  const run = (direction: "ingress" | "egress", frame: Uint8Array, l4: number): Outcome | null => {
    try {
      return datapath[direction](frame);
    } catch (error) {
      if (frame.length < l4 && isSystemError(error, EINVAL)) return null;
      throw error;
    }
  };

  const set16 = (frame: Uint8Array, at: number, value: number): Uint8Array => {
    const copy = frame.slice();
    new DataView(copy.buffer).setUint16(at, value);
    return copy;
  };

  for (const a of families) {
    const v4 = a.family === "IPv4";
    const l4 = ETHERNET + (v4 ? 20 : 40);

    for (const proto of ["TCP", "UDP"] as const) {
      const build = (change: Partial<FrameOptions> = {}): Uint8Array =>
        buildFrame({ from: a.client, to: a.vip, proto, flags: "S", ...change });
      const serve = () =>
        publish(datapath, { address: a.vip, port: 80, proto }, [{ id: 1, address: a.local, local: true }]);
      const translated = (frame: Uint8Array): void => {
        const outcome = datapath.ingress(frame);
        const f = parseFrame(outcome.frame);
        assert.equal(outcome.reason, "REASON_NEW_FLOW");
        assert.deepEqual([f.to, f.dport, f.ip_checksum_ok, f.checksum_ok], [a.local, 8080, true, true]);
      };

      describe(`${a.family} ${proto}: headers`, () => {
        test("Fault 65: a frame cut anywhere before the end of its headers passes untouched", () => {
          serve();
          const frame = build();
          const header = l4 + (proto === "TCP" ? 20 : 8);
          for (let length = ETHERNET; length < header; length++) {
            const cut = frame.slice(0, length);
            for (const direction of ["ingress", "egress"] as const) {
              const outcome = run(direction, cut, l4);
              if (outcome !== null)
                assertUntouched(outcome, cut, ["REASON_MALFORMED"], `${length} bytes, ${direction}`);
            }
          }
          translated(frame);
        });

        test("Fault 65: the same, when the IP header says that this is all there is", () => {
          serve();
          const frame = build();
          const header = l4 + (proto === "TCP" ? 20 : 8);
          for (let length = l4; length < header; length++) {
            const at = ETHERNET + (v4 ? 2 : 4);
            const cut = set16(frame.slice(0, length), at, length - ETHERNET - (v4 ? 0 : 40));
            assertUntouched(datapath.ingress(cut), cut, ["REASON_MALFORMED"], `${length} bytes`);
          }
        });

        test("Fault 66: lengths that lie: longer than the frame, shorter than the headers, a header that overlaps", () => {
          serve();
          const frame = build({ payload: "hello" });
          const length = ETHERNET + (v4 ? 2 : 4);
          const lies = [
            set16(frame, length, 0xffff),
            set16(frame, length, 0),
            set16(frame, length, v4 ? 20 : 4),
            ...(v4 ? [set16(frame, length, 19)] : []),
            ...(proto === "TCP" ? [set16(frame, l4 + 12, 0x4002), set16(frame, l4 + 12, 0xf002)] : []),
          ];
          for (const [i, lie] of lies.entries())
            assertUntouched(datapath.ingress(lie), lie, ["REASON_MALFORMED"], `lie ${i}`);
        });

        test("another version in the version field is malformed", () => {
          serve();
          const frame = build();
          frame[ETHERNET] = ((frame[ETHERNET] ?? 0) & 0x0f) | 0x50;
          assertUntouched(datapath.ingress(frame), frame, ["REASON_MALFORMED"]);
        });

        test("the first fragment is translated; later ones have no ports, and follow it", () => {
          serve();
          const more = 0x2000;
          const fragment = (offset: number): Uint8Array => {
            if (v4) return build({ fragment: offset | more });
            const bytes = new Uint8Array(8);
            new DataView(bytes.buffer).setUint16(2, (offset << 3) | 1);
            return build({ extensions: [[44, bytes]] });
          };
          translated(fragment(0));
          const flows = datapath.entries("flows").length;
          for (const offset of [1, 0x1fff]) {
            assert.equal(datapath.ingress(fragment(offset)).reason, "REASON_ESTABLISHED");
          }
          assert.equal(datapath.entries("flows").length, flows);
        });

        if (v4) {
          for (const size of [4, 20, 40]) {
            test(`Fault 66: IPv4 with ${size} bytes of options`, () => {
              serve();
              translated(build({ options: new Uint8Array(size).fill(1), payload: "x" }));
            });
          }
          for (const ihl of [0, 1, 4]) {
            test(`Fault 66: a header length of ${ihl} words is malformed`, () => {
              serve();
              const frame = build();
              frame[ETHERNET] = 0x40 | ihl;
              assertUntouched(datapath.ingress(frame), frame, ["REASON_MALFORMED"]);
            });
          }
          test("Fault 66: a header length beyond the frame is malformed", () => {
            serve();
            const frame = build({ payload: "0123456789" });
            frame[ETHERNET] = 0x4f;
            assertUntouched(datapath.ingress(frame), frame, ["REASON_MALFORMED"]);
          });
        } else {
          const options = (size: number): Uint8Array => {
            const bytes = new Uint8Array(size);
            bytes[1] = size / 8 - 1;
            return bytes;
          };
          for (const [what, extensions] of [
            ["hop-by-hop options", [[0, options(8)]]],
            ["24 bytes of destination options", [[60, options(24)]]],
            ["a routing header travelled to its end", [[43, options(24)]]],
            [
              "four of them",
              [
                [0, options(8)],
                [60, options(8)],
                [43, options(8)],
                [60, options(16)],
              ],
            ],
          ] as const) {
            test(`Fault 68: IPv6 with ${what}`, () => {
              serve();
              translated(build({ extensions }));
            });
          }
          test("Fault 68: IPv6 with five extension headers, one that is too long, or one not known: not ours", () => {
            serve();
            const unfinished = options(24);
            unfinished[3] = 1;
            for (const extensions of [
              [0, 60, 60, 60, 60].map((type) => [type, options(8)] as const),
              [[60, options(256)] as const],
              [[43, unfinished] as const],
              [[51, options(24)] as const],
            ]) {
              const frame = build({ extensions });
              assertUntouched(datapath.ingress(frame), frame, ["REASON_NOT_OURS"]);
            }
          });
          test("Fault 68: a header behind the end of the packet, in what pads the frame, is none of its own", () => {
            serve();
            for (const type of [0, 44, 60]) {
              const frame = build({ extensions: [[type, options(8)]], payload: "hello" });
              for (const length of [1, 2, 7]) {
                const short = set16(frame, ETHERNET + 4, length);
                assertUntouched(datapath.ingress(short), short, ["REASON_MALFORMED"], `type ${type}, ${length} bytes`);
              }
            }
            const later = Uint8Array.of(0, 0, 0, 9, 0, 0, 0, 1);
            const fragment = set16(build({ extensions: [[44, later]] }), ETHERNET + 4, 2);
            assertUntouched(datapath.ingress(fragment), fragment, ["REASON_MALFORMED"]);
          });
          test("Fault 68: a fragment of a fragment is malformed; an atomic fragment is whole", () => {
            serve();
            const first = Uint8Array.of(0, 0, 0, 1, 0, 0, 0, 1);
            const atomic = Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 2);
            for (const second of [first, atomic, Uint8Array.of(0, 0, 0, 9, 0, 0, 0, 1)]) {
              const frame = build({
                extensions: [
                  [44, first],
                  [44, second],
                ],
              });
              assertUntouched(datapath.ingress(frame), frame, ["REASON_MALFORMED"]);
            }
            translated(build({ extensions: [[44, atomic]] }));
          });
          test("Fault 68: a chain cut anywhere passes untouched", () => {
            serve();
            const frame = build({
              extensions: [
                [0, options(8)],
                [60, options(16)],
              ],
            });
            for (let length = ETHERNET; length < frame.length; length++) {
              const cut = frame.slice(0, length);
              const outcome = run("ingress", cut, l4);
              if (outcome !== null)
                assertUntouched(outcome, cut, ["REASON_MALFORMED", "REASON_NOT_OURS"], `${length} bytes`);
            }
          });
        }
      });
    }

    describe(`${a.family}: kinds`, () => {
      test("ICMP, and IP protocols without ports, are not ours", () => {
        publish(datapath, { address: a.vip, port: 80 }, [{ id: 1, address: a.local, local: true }]);
        const frame = buildFrame({ from: a.client, to: a.vip, proto: v4 ? "ICMP" : "ICMPv6", payload: "ping" });
        assertUntouched(datapath.ingress(frame), frame, ["REASON_NOT_OURS"]);
      });

      test("SCTP to elsewhere than a frontend is not ours", () => {
        publish(datapath, { address: a.vip, port: 80, proto: "SCTP" }, [{ id: 1, address: a.local, local: true }]);
        const other = buildFrame({ from: a.client, to: a.vip, proto: "SCTP", dport: 81 });
        assertUntouched(datapath.ingress(other), other, ["REASON_NOT_OURS"]);
      });

      test("Fault 69: every combination of TCP flags is translated", () => {
        publish(datapath, { address: a.vip, port: 80 }, [{ id: 1, address: a.local, local: true }]);
        for (let bits = 0; bits < 64; bits++) {
          const flags = [..."FSRPAU"].filter((_, i) => bits & (1 << i)).join("");
          const f = parseFrame(
            datapath.ingress(buildFrame({ from: a.client, to: a.vip, sport: 30000 + bits, flags })).frame,
          );
          assert.deepEqual([f.to, f.flags, f.checksum_ok], [a.local, flags, true]);
        }
      });

      test("Fault 69: a first packet that is no SYN, or carries data with it, chooses a backend like any other", () => {
        publish(datapath, { address: a.vip, port: 80 }, [{ id: 1, address: a.local, local: true }]);
        for (const [sport, flags] of [
          [30000, "S"],
          [30001, "A"],
          [30002, "R"],
          [30003, "FPU"],
        ] as const) {
          const frame = buildFrame({ from: a.client, to: a.vip, sport, flags, payload: "with data" });
          const outcome = datapath.ingress(frame);
          const f = parseFrame(outcome.frame);
          assert.equal(outcome.reason, "REASON_NEW_FLOW", flags);
          assert.deepEqual(
            [f.to, f.flags, f.checksum_ok, new TextDecoder().decode(f.payload)],
            [a.local, flags, true, "with data"],
          );
        }
      });

      test("Fault 66: a time to live that is over is the kernel's affair: translated, and counted down where the packet goes on", () => {
        publish(datapath, { address: a.vip, port: 80 }, [{ id: 1, address: a.local, local: true }]);
        for (const ttl of [0, 1, 255]) {
          const { frame, direct } = datapath.ingress(buildFrame({ from: a.client, to: a.vip, flags: "S", ttl }));
          const f = parseFrame(frame);
          assert.ok(!direct || ttl === 255);
          assert.deepEqual([f.to, f.ttl, f.ip_checksum_ok], [a.local, ttl - Number(direct), true]);
        }
      });

      test("a family that is off is not ours, the other one is", () => {
        const off = newDatapath(forwarding, v4 ? { ipv4: 0 } : { ipv6: 0 });
        for (const b of families) {
          publish(off, { address: b.vip, port: 80 }, [{ id: 1, address: b.local, local: true }]);
          const frame = buildFrame({ from: b.client, to: b.vip, flags: "S" });
          const expected = b.family === a.family ? "REASON_NOT_OURS" : "REASON_NEW_FLOW";
          assert.equal(off.ingress(frame).reason, expected);
        }
        off.close();
      });

      test("Fault 71: other Ethernet types are not ours: ARP, PPPoE, a VLAN tag without a packet, lengths", () => {
        publish(datapath, { address: a.vip, port: 80 }, [{ id: 1, address: a.local, local: true }]);
        const frame = buildFrame({ from: a.client, to: a.vip, flags: "S" });
        for (const type of [0x0806, 0x8863, 0x8864, 0x88a8, 0x05dc]) {
          const other = set16(frame, 12, type);
          assertUntouched(datapath.ingress(other), other, ["REASON_NOT_OURS"]);
          assertUntouched(datapath.egress(other), other, ["REASON_NOT_OURS"]);
        }
      });

      test("200 frames of random bytes behind a right Ethernet header do no harm", () => {
        let state = 7;
        const next = (): number => {
          state = (Math.imul(state, 1103515245) + 12345) >>> 0;
          return (state >>> 16) & 0xff;
        };
        const [head] = [buildFrame({ from: a.client, to: a.vip }).slice(0, 14)];
        for (let i = 0; i < 200; i++) {
          const frame = Uint8Array.of(...head, ...Array.from({ length: next() }, next));
          const outcome = run("ingress", frame, l4);
          if (outcome === null) continue;
          assert.equal(outcome.verdict, "pass");
          assert.deepEqual(outcome.frame, frame);
        }
      });
    });
  }
});
