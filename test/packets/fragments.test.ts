// tc: fragments of a translated datagram follow their first one, on both hooks and in both directions: what they are
// joined to is compared with the datagram that should have arrived, checksum and all.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { maps } from "../../src/dataplane/bpf/abi.gen.ts";
import type { Address } from "../../src/model/address.ts";
import { families, flowKey, type Outcome, publish } from "../lib/datapath.ts";
import { inEveryForwarding } from "../lib/forwarding.ts";
import { buildFrame, ETHERNET, joinFragments, parseFrame, splitFrame } from "../lib/packet.ts";
import { enterNetworkNamespace } from "../lib/socket.ts";

enterNetworkNamespace([]); // what a program sends to its device again ends here

inEveryForwarding((datapath) => {
  const S = 1_000_000_000n;
  const TEXT = "0123456789abcdef".repeat(250);

  for (const a of families) {
    for (const proto of ["UDP", "TCP"] as const) {
      describe(`Fault 67: ${a.family} ${proto}: fragments`, () => {
        const request = buildFrame({ from: a.client, to: a.vip, sport: 40000, dport: 80, proto, payload: TEXT });
        const fragments = (frame = request, id = 77) => splitFrame(frame, 1400, id);
        const serve = (...backends: Parameters<typeof publish>[2]) =>
          publish(datapath, { address: a.vip, port: 80, proto }, backends);
        const local = { id: 1, address: a.local, local: true };
        const remote = { id: 1, address: a.remote };
        const through = (direction: "ingress" | "egress", frames: readonly Uint8Array[]): readonly Outcome[] =>
          frames.map((frame) => datapath[direction](frame));
        const joined = (outcomes: readonly Outcome[]) => {
          const f = parseFrame(joinFragments(outcomes.map(({ frame }) => frame)));
          assert.equal(f.checksum_ok, true);
          assert.equal(new TextDecoder().decode(f.payload), TEXT);
          return f;
        };
        const reasons = (outcomes: readonly Outcome[]): string =>
          outcomes.map(({ verdict, reason }) => `${verdict} ${reason.replace("REASON_", "")}`).join(", ");
        const untouched = (frame: Uint8Array, direction: "ingress" | "egress" = "ingress") => {
          const outcome = datapath[direction](frame);
          assert.deepEqual([outcome.verdict, outcome.reason, outcome.frame], ["pass", "REASON_FRAGMENT", frame]);
        };

        test("to a local backend, and its answer back", () => {
          serve(local);
          const inward = through("ingress", fragments());
          assert.equal(reasons(inward), "pass NEW_FLOW, pass ESTABLISHED, pass ESTABLISHED");
          const f = joined(inward);
          assert.deepEqual([f.from, f.sport, f.to, f.dport], [a.client, 40000, a.local, 8080]);
          assert.equal(
            reasons(through("ingress", fragments())),
            "pass ESTABLISHED, pass ESTABLISHED, pass ESTABLISHED",
          );

          const reply = { from: a.local, sport: 8080, to: a.client, dport: 40000, proto, payload: TEXT };
          const outward = through("egress", fragments(buildFrame(reply)));
          assert.equal(reasons(outward), "pass REPLY, pass REPLY, pass REPLY");
          const r = joined(outward);
          assert.deepEqual([r.from, r.sport, r.to, r.dport], [a.vip, 80, a.client, 40000]);
        });

        test("to a remote backend, and its answer back: both hooks, each way", () => {
          serve(remote);
          const between = through("ingress", fragments());
          const onward = through(
            "egress",
            between.map(({ frame }) => frame),
          );
          assert.equal(reasons(onward), "pass ESTABLISHED, pass ESTABLISHED, pass ESTABLISHED");
          const f = joined(onward);
          assert.deepEqual([f.from, f.to, f.dport], [a.node, a.remote, 8080]);

          const reply = { from: a.remote, sport: 8080, to: a.node, dport: f.sport, proto, payload: TEXT };
          const back = through("ingress", fragments(buildFrame(reply)));
          const home = through(
            "egress",
            back.map(({ frame }) => frame),
          );
          assert.equal(reasons([...back, ...home]), new Array(6).fill("pass REPLY").join(", "));
          const r = joined(home);
          assert.deepEqual([r.from, r.sport, r.to, r.dport], [a.vip, 80, a.client, 40000]);
        });

        test("two datagrams at once keep apart, by their ids", () => {
          serve(local);
          publish(datapath, { address: a.vip, port: 81, proto, service_id: 2, slot_base: 10 }, [
            { id: 2, address: a.other, local: true },
          ]);
          const other = buildFrame({ from: a.client, to: a.vip, sport: 40000, dport: 81, proto, payload: TEXT });
          const [one, two] = [fragments(request, 1), fragments(other, 2)];
          const mixed = one.flatMap((frame, i) => through("ingress", [frame, two[i] ?? frame]));
          const pick = (odd: number) => joined(mixed.filter((_, i) => i % 2 === odd));
          assert.deepEqual([pick(0).to, pick(1).to], [a.local, a.other]);
        });

        test("those that come before their first wait for it; it comes in again, and they behind it, once", () => {
          serve(local);
          const [first, second, third] = fragments();
          assert.ok(first !== undefined && second !== undefined && third !== undefined);
          assert.equal(reasons(through("ingress", [third, second])), "drop PARKED, drop PARKED");
          const [parked] = datapath.entries("parked_fragments").filter(([{ place }]) => place === 0);
          assert.ok(parked !== undefined);
          const packet = third.slice(ETHERNET);
          assert.deepEqual(Uint8Array.from(parked[1].bytes.slice(0, parked[1].size)), packet);
          assert.equal(reasons(through("ingress", [first])), "drop REORDERED");
          assert.deepEqual([datapath.entries("parked_fragments").length, datapath.entries("flows").length], [0, 0]);
          const again = through("ingress", [first, third, second]);
          assert.equal(reasons(again), "pass NEW_FLOW, pass ESTABLISHED, pass ESTABLISHED");
          joined([again[0], again[2], again[1]].filter((outcome) => outcome !== undefined));
        });

        test("those for the node wait as well, whether its first one is ours or not", () => {
          datapath.put("node_addresses", a.node as Address, { flags: 0 });
          const own = buildFrame({ from: a.client, to: a.node, dport: 9, proto, payload: TEXT });
          const [first, second] = fragments(own);
          assert.ok(first !== undefined && second !== undefined);
          assert.equal(reasons(through("ingress", [second, first])), "drop PARKED, drop REORDERED");
          assert.equal(reasons(through("ingress", [first])), "pass NOT_OURS");
          untouched(second);
        });

        test("those for anybody else do not wait, nor do those at egress", () => {
          serve(local);
          const [, second] = fragments(buildFrame({ from: a.client, to: a.remote, dport: 80, proto, payload: TEXT }));
          assert.ok(second !== undefined);
          untouched(second);
          for (const frame of fragments().slice(1)) untouched(frame, "egress");
          assert.equal(datapath.entries("parked_fragments").length, 0);
        });

        test("eight of a datagram wait, and none of more than 2,048 bytes", () => {
          serve(local);
          const many = splitFrame(request, 400, 5).slice(1, 10);
          const waits = [...new Array(8).fill("drop PARKED"), "pass FRAGMENT"].join(", ");
          assert.equal(reasons(through("ingress", many)), waits);
          const big = buildFrame({ from: a.client, to: a.vip, dport: 80, proto, payload: TEXT + TEXT });
          const header = a.family === "IPv4" ? 20 : 48;
          const [, fits] = splitFrame(big, 2048 - header - ((2048 - header) % 8), 6);
          const [, exceeds] = splitFrame(big, 2056 - header + ((8 - (header % 8)) % 8), 7);
          assert.ok(fits !== undefined && exceeds !== undefined);
          assert.equal(reasons(through("ingress", [fits, exceeds])), "drop PARKED, pass FRAGMENT");
        });

        test("after half a minute they have waited in vain, and make room", () => {
          serve(local);
          const frames = splitFrame(request, 400, 5);
          const [first, ...later] = frames;
          assert.ok(first !== undefined);
          const age = (ns: bigint): void => {
            for (const [key, value] of datapath.entries("parked_fragments")) {
              datapath.put("parked_fragments", key, { ...value, seen_ns: value.seen_ns - ns });
            }
          };
          through("ingress", later.slice(0, 8));
          age(31n * S);
          assert.equal(reasons(through("ingress", later.slice(8, 9))), "drop PARKED");
          age(31n * S);
          assert.equal(reasons(through("ingress", [first])), "pass NEW_FLOW");
          assert.equal(datapath.entries("parked_fragments").length, 0);
        });

        test("a flood of later fragments takes the room there is and no more; what comes after it is put in order", () => {
          serve(local);
          for (let id = 1000; id < 2500; id++) {
            const [, , last] = fragments(request, id);
            assert.ok(last !== undefined);
            datapath.time("tc_ingress", last, 1);
          }
          const { length } = datapath.entries("parked_fragments");
          assert.ok(length > 256 && length <= maps.parked_fragments.max_entries, `${length} parked`);
          const [first, second, third] = fragments();
          assert.ok(first !== undefined && second !== undefined && third !== undefined);
          const wanted = "drop PARKED, drop PARKED, drop REORDERED";
          assert.equal(reasons(through("ingress", [third, second, first])), wanted);
        });

        test("of another client, of another id, of what is not translated: they follow nothing", () => {
          serve(local);
          const not_ours = buildFrame({ from: a.client, to: a.vip, dport: 82, proto, payload: TEXT });
          const [first, second] = fragments(not_ours);
          assert.ok(first !== undefined && second !== undefined);
          assert.equal(datapath.ingress(first).reason, "REASON_NOT_OURS");
          untouched(second);
          untouched(second, "egress");
          through("ingress", fragments());
          const parked = (frame: Uint8Array) => assert.equal(datapath.ingress(frame).reason, "REASON_PARKED");
          for (const frame of fragments(request, 78).slice(1)) parked(frame);
          const stranger = buildFrame({ from: a.other, to: a.vip, sport: 40000, dport: 80, proto, payload: TEXT });
          for (const frame of fragments(stranger).slice(1)) parked(frame);
        });

        test("a first fragment is remembered for a minute, and no longer than its flow", () => {
          serve(local);
          const [first, second] = fragments();
          assert.ok(first !== undefined && second !== undefined);
          datapath.ingress(first);
          const [entry] = datapath.entries("fragments");
          assert.ok(entry !== undefined);
          const since = (ago: bigint) => ({ ...entry[1], seen_ns: entry[1].seen_ns - ago });
          datapath.put("fragments", entry[0], since(59n * S));
          assert.equal(datapath.ingress(second).reason, "REASON_ESTABLISHED");
          datapath.put("fragments", entry[0], since(61n * S));
          assert.equal(datapath.ingress(second).reason, "REASON_PARKED");
          datapath.put("fragments", entry[0], since(0n));
          datapath.remove("flows", flowKey([a.client, 40000], [a.vip, 80], proto));
          untouched(second);
        });

        test("Fault 67: fragments that overlap follow all the same; a first one without a whole header is not for us", () => {
          serve(local);
          const [first, second] = fragments();
          assert.ok(first !== undefined && second !== undefined);
          assert.equal(
            reasons(through("ingress", [first, second, second])),
            "pass NEW_FLOW, pass ESTABLISHED, pass ESTABLISHED",
          );
          const v4 = a.family === "IPv4";
          const header = v4 ? 20 : 48;
          const tiny = first.slice(0, ETHERNET + header + (proto === "TCP" ? 8 : 4));
          new DataView(tiny.buffer).setUint16(ETHERNET + (v4 ? 2 : 4), tiny.length - ETHERNET - (v4 ? 0 : 40));
          const outcome = datapath.ingress(tiny);
          assert.deepEqual([outcome.verdict, outcome.reason, outcome.frame], ["pass", "REASON_MALFORMED", tiny]);
        });

        if (proto === "TCP") {
          test("each hook has its own memory: what the client sends to the backend itself is no request to the VIP", () => {
            serve(remote);
            const asked = buildFrame({ from: a.client, sport: 40000, to: a.vip, dport: 80, flags: "S" });
            assert.equal(datapath.ingress(asked).reason, "REASON_NEW_FLOW");
            const beside = { from: a.client, sport: 40000, to: a.remote, dport: 8080, flags: "S", payload: TEXT };
            const [first, later] = fragments(buildFrame(beside));
            assert.ok(first !== undefined && later !== undefined);
            const between = datapath.podIngress(first);
            assert.equal(between.reason, "REASON_NEW_FLOW");
            assert.deepEqual(reasons([datapath.egress(between.frame)]), "pass NOT_OURS");
            assert.equal(datapath.podIngress(later).reason, "REASON_ESTABLISHED");
            untouched(later, "egress");
          });
        }

        test("whole packets are not remembered", () => {
          serve(local);
          const frame = buildFrame({ from: a.client, to: a.vip, sport: 40000, dport: 80, proto, payload: "short" });
          assert.equal(datapath.ingress(frame).reason, "REASON_NEW_FLOW");
          assert.equal(datapath.entries("fragments").length, 0);
        });

        test("a datagram whose checksum is wrong arrives as wrong", () => {
          serve(local);
          const wrong = buildFrame({ from: a.client, to: a.vip, dport: 80, proto, payload: TEXT, checksum: 0x1234 });
          const outcomes = through("ingress", fragments(wrong));
          const f = parseFrame(joinFragments(outcomes.map(({ frame }) => frame)));
          assert.deepEqual([f.to, f.checksum_ok], [a.local, false]);
        });
      });
    }
  }
});
