// tc: VLAN tags that are still in the frame (the inner ones, and on the way out where a device adds none itself) change
// nothing: what comes out is what comes out of the frame without them, with them.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { type Datapath, families, publish } from "../lib/datapath.ts";
import { inEveryForwarding, newDatapath } from "../lib/forwarding.ts";
import { buildError, buildFrame, ETHERNET, splitFrame, tagFrame } from "../lib/packet.ts";
import { type Passage, through } from "../lib/passage.ts";

type Types = Parameters<typeof tagFrame> extends [Uint8Array, ...infer T] ? T : never;

inEveryForwarding((_, forwarding) => {
  for (const a of families) {
    const unreachable = a.family === "IPv4" ? ([3, 3] as const) : ([1, 4] as const);

    describe(`Fault 71: ${a.family}: VLAN tags`, () => {
      const with_datapath = (work: (datapath: Datapath) => readonly Passage[]): readonly Passage[] => {
        const datapath = newDatapath(forwarding);
        try {
          for (const [i, proto] of (["TCP", "UDP"] as const).entries())
            publish(datapath, { address: a.vip, port: 80, proto, service_id: 1 + i, slot_base: i }, [
              { id: 1 + i, address: a.local, local: true },
            ]);
          return work(datapath);
        } finally {
          datapath.close();
        }
      };

      /** A connection, its answer, an error about that, and a datagram in pieces: each frame changed by `tag`. */
      const conversation = (tag: (frame: Uint8Array) => Uint8Array) =>
        with_datapath((datapath) => {
          const request = { from: a.client, to: a.vip, sport: 40000, dport: 80, payload: "hello" } as const;
          const reply = { from: a.local, to: a.client, sport: 8080, dport: 40000, payload: "hi" } as const;
          const sent = buildFrame({ from: a.vip, to: a.client, sport: 80, dport: 40000, payload: "hi" });
          const big = splitFrame(buildFrame({ ...request, proto: "UDP", payload: "0123456789".repeat(200) }), 1400, 9);
          const ingress = (frame: Uint8Array) => through(datapath, tag(frame));
          return [
            ingress(buildFrame({ ...request, flags: "S" })),
            through(datapath, tag(buildFrame({ ...reply, flags: "SA" })), "pod"),
            ingress(buildFrame({ ...request, flags: "A" })),
            ingress(buildError({ from: a.client, to: a.vip, icmp: unreachable }, sent)),
            ...big.map(ingress),
            ingress(buildFrame({ ...request, dport: 81 })),
          ];
        });

      const plain = conversation((frame) => frame);

      for (const types of [[0x8100], [0x88a8], [0x88a8, 0x8100]] as const satisfies readonly Types[]) {
        test(`Fault 71: ${types.map((type) => type.toString(16)).join(", then ")}: translated like the frame without`, () => {
          const tagged = conversation((frame) => tagFrame(frame, ...types));
          assert.deepEqual(
            tagged.map(({ reason, verdict }) => [reason, verdict]),
            plain.map(({ reason, verdict }) => [reason, verdict]),
          );
          for (const [i, { frame }] of tagged.entries())
            assert.deepEqual(frame, tagFrame(plain[i]?.frame ?? new Uint8Array(), ...types), `frame ${i}`);
        });
      }

      test("what the frame without tags would do: every kind of it", () => {
        const reasons = plain.map(({ reason }) => reason.replace("REASON_", ""));
        const fragments = ["NEW_FLOW", "ESTABLISHED"];
        assert.deepEqual(reasons, ["NEW_FLOW", "REPLY", "ESTABLISHED", "ICMP_ERROR", ...fragments, "NOT_OURS"]);
      });

      test("no endpoints: dropped, no error fits in behind a tag", () => {
        with_datapath((datapath) => {
          publish(datapath, { address: a.vip2, port: 80, service_id: 3 }, []);
          const frame = buildFrame({ from: a.client, to: a.vip2, dport: 80, flags: "S" });
          assert.equal(datapath.ingress(frame).verdict, "send back");
          const { verdict, reason } = datapath.ingress(tagFrame(frame, 0x8100));
          assert.deepEqual([verdict, reason], ["drop", "REASON_REPLY_FAILED"]);
          return [];
        });
      });

      test("three tags, or a frame cut in or behind them: untouched", () => {
        with_datapath((datapath) => {
          const frame = buildFrame({ from: a.client, to: a.vip, dport: 80, flags: "S" });
          const tagged = tagFrame(frame, 0x88a8, 0x8100);
          const cuts = Array.from({ length: tagged.length - ETHERNET }, (_, i) => tagged.slice(0, ETHERNET + i));
          for (const odd of [tagFrame(frame, 0x88a8, 0x8100, 0x8100), ...cuts]) {
            const outcome = datapath.ingress(odd);
            assert.equal(outcome.verdict, "pass");
            assert.ok(["REASON_NOT_OURS", "REASON_MALFORMED"].includes(outcome.reason), outcome.reason);
            assert.deepEqual(outcome.frame, odd);
          }
          assert.equal(datapath.entries("flows").length, 0);
          return [];
        });
      });
    });
  }
});
