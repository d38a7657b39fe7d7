// tc: fragments of a translated datagram follow their first one, on both hooks and in both directions: what they are
// joined to is compared with the datagram that should have arrived, checksum and all.
import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";
import { Datapath, families, flowKey, type Outcome, publish } from "../lib/datapath.ts";
import { buildFrame, ETHERNET, joinFragments, parseFrame, splitFrame } from "../lib/packet.ts";

let datapath: Datapath;
beforeEach(() => {
  datapath = new Datapath();
});
afterEach(() => datapath.close());

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
        assert.equal(reasons(through("ingress", fragments())), "pass ESTABLISHED, pass ESTABLISHED, pass ESTABLISHED");

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

      test("one that comes before its first passes untouched and is counted; those after it follow", () => {
        serve(local);
        const [first, second, third] = fragments();
        assert.ok(first !== undefined && second !== undefined && third !== undefined);
        untouched(third);
        const rest = through("ingress", [first, second, third]);
        assert.equal(reasons(rest), "pass NEW_FLOW, pass ESTABLISHED, pass ESTABLISHED");
        joined(rest);
      });

      test("of another client, of another id, of what is not ours: untouched, and nothing is remembered of it", () => {
        serve(local);
        const not_ours = buildFrame({ from: a.client, to: a.vip, dport: 82, proto, payload: TEXT });
        const [first, second] = fragments(not_ours);
        assert.ok(first !== undefined && second !== undefined);
        assert.equal(datapath.ingress(first).reason, "REASON_NOT_OURS");
        untouched(second);
        untouched(second, "egress");
        assert.equal(datapath.entries("fragments").length, 0);
        through("ingress", fragments());
        assert.equal(datapath.entries("fragments").length, 1);
        for (const frame of fragments(request, 78).slice(1)) untouched(frame);
        const stranger = buildFrame({ from: a.other, to: a.vip, sport: 40000, dport: 80, proto, payload: TEXT });
        for (const frame of fragments(stranger).slice(1)) untouched(frame);
        for (const frame of fragments().slice(1)) untouched(frame, "egress");
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
        untouched(second);
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
