// tc and expire_flows: the states of a connection, what gives way when there is no room, and what goes when it has been
// silent for too long. Time is not waited for: last_seen_ns is written into the past.
import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";
import { flow_flag, flow_kind } from "../../src/dataplane/bpf/abi.gen.ts";
import type { ExpiryOptions } from "../../src/dataplane/bpf/expiry.ts";
import { type ConnectionState, NONE_BY_STATE, stateOf } from "../../src/dataplane/bpf/states.ts";
import { type BackendSpec, families, flowKey, type KeyOf, publish, putBackend } from "../lib/datapath.ts";
import { inEveryForwarding, newDatapath } from "../lib/forwarding.ts";
import { buildFrame, type FrameOptions, parseFrame, splitFrame } from "../lib/packet.ts";
import { type Passage, through } from "../lib/passage.ts";

const EXPENDABLES = 8;
const S = 1_000_000_000n;
/** Longer than a test takes, on an emulated machine too. */
const SLOW_S = 5n;

inEveryForwarding((_, forwarding) => {
  const datapath = newDatapath(forwarding, {}, { expendables: EXPENDABLES });
  afterEach(() => datapath.close());

  const flowCount = (of = datapath): number => of.entries("flows").length;

  const age = (by_s: bigint, which: (kind: number, key: KeyOf<"flows">) => boolean = () => true): void => {
    for (const [key, flow] of datapath.entries("flows")) {
      if (which(flow.kind, key)) datapath.put("flows", key, { ...flow, last_seen_ns: flow.last_seen_ns - by_s * S });
    }
  };

  for (const a of families) {
    for (const backend of [
      { id: 1, address: a.local, local: true },
      { id: 1, address: a.remote },
    ] as BackendSpec[]) {
      /** Flows of a connection, and of one of which one packet has been seen. */
      const [per, perFirst] = backend.local ? [2, 1] : [4, 4];
      const send = (change: Partial<FrameOptions> = {}): Passage =>
        through(datapath, buildFrame({ from: a.client, to: a.vip, sport: 40000, dport: 80, flags: "S", ...change }));
      const reply = ({ frame }: Passage, change: Partial<FrameOptions> = {}): Passage => {
        const seen = parseFrame(frame);
        const proto = seen.proto === 17 ? "UDP" : "TCP";
        const ends = { from: seen.to, to: seen.from, sport: seen.dport, dport: seen.sport };
        const answer = buildFrame({ ...ends, proto, flags: "SA", ...change });
        return through(datapath, answer, backend.local ? "pod" : "wire");
      };
      const establish = (change: Partial<FrameOptions> = {}): Passage => {
        const first = send(change);
        reply(first);
        send({ ...change, flags: "A", ack: 1001 });
        return first;
      };
      const head = (sport = 40000, proto: "TCP" | "UDP" = "TCP") => flowKey([a.client, sport], [a.vip, 80], proto);
      const alone = (sport: number, proto: "TCP" | "UDP") => flowKey([a.local, 8080], [a.client, sport], proto, "out");
      const state = (sport = 40000, proto: "TCP" | "UDP" = "TCP"): ConnectionState | "gone" => {
        const flow = datapath.get("flows", head(sport, proto)) ?? datapath.get("flows", alone(sport, proto));
        return flow === null ? "gone" : stateOf(proto === "TCP" ? 6 : 17, flow.flags);
      };
      const serve = () => {
        publish(datapath, { address: a.vip, port: 80 }, [backend]);
        publish(datapath, { address: a.vip, port: 80, proto: "UDP", slot_base: 1 }, [backend]);
      };

      describe(`${a.family}, ${backend.local ? "local" : "remote"} backend: states`, () => {
        beforeEach(serve);

        test("TCP: half-open until the client acknowledges the backend's SYN", () => {
          const first = send();
          assert.equal(state(), "tcpHalfOpen");
          send({ flags: "A", ack: 1001 });
          assert.equal(state(), "tcpHalfOpen", "nobody has answered yet");
          reply(first, { seq: 77_000 });
          assert.equal(state(), "tcpHalfOpen");
          send({ flags: "A", ack: 77_000 });
          send({ flags: "A", ack: 76_000 });
          send({ flags: "A", ack: 200_000 });
          send({ flags: "SA", ack: 77_001 });
          assert.equal(state(), "tcpHalfOpen", "a guess is no acknowledgement");
          send({ flags: "A", ack: 77_001 });
          assert.equal(state(), "tcpEstablished");
        });

        test("TCP: the backend's first data may be acknowledged with its SYN; a number may wrap", () => {
          const first = send();
          reply(first, { seq: 0xffff_fff0 });
          send({ flags: "A", ack: 0x40 });
          assert.equal(state(), "tcpEstablished");
        });

        test("TCP: in midstream any answer will do", () => {
          const first = send({ flags: "A", ack: 5 });
          reply(first, { flags: "A" });
          assert.equal(state(), "tcpHalfOpen");
          send({ flags: "A", ack: 6 });
          assert.equal(state(), "tcpEstablished");
        });

        test("TCP: a FIN of one side, of both, a RST of either", () => {
          const first = establish();
          reply(first, { flags: "FA" });
          assert.equal(state(), "tcpHalfClosed");
          send({ flags: "FA", ack: 1002 });
          assert.equal(state(), "tcpClosed");
          establish({ sport: 40001 });
          send({ flags: "R", sport: 40001 });
          assert.equal(state(40001), "tcpReset");
          reply(establish({ sport: 40002 }), { flags: "RA" });
          assert.equal(state(40002), "tcpReset");
        });

        test("UDP: a stream when the client goes on after an answer", () => {
          const first = send({ proto: "UDP" });
          send({ proto: "UDP" });
          assert.equal(state(40000, "UDP"), "udp");
          reply(first);
          assert.equal(state(40000, "UDP"), "udp");
          send({ proto: "UDP" });
          assert.equal(state(40000, "UDP"), "udpStream");
        });

        test("only the head is told, and settled flows are left alone", () => {
          const first = establish();
          reply(first, { flags: "A" });
          const unmet = forwarding === "kernel" || backend.local ? null : flow_kind.FLOW_UNDO_DNAT;
          for (const [, flow] of datapath.entries("flows")) {
            const other = flow.kind === flow_kind.FLOW_DNAT ? flow_flag.FLOW_ANSWERED : 0;
            const settled = flow.kind === unmet ? 0 : flow_flag.FLOW_SETTLED;
            assert.equal(flow.flags, settled | other, `kind ${flow.kind}`);
          }
        });
      });

      if (backend.local) {
        describe(`${a.family}: one packet is one flow`, () => {
          beforeEach(serve);
          const kinds = () => datapath.entries("flows").map(([, flow]) => flow.kind);
          const expire = () => datapath.expire({ most_s: 0, thorough: true });

          for (const proto of ["TCP", "UDP"] as const) {
            const [first, second] = [{ proto }, { proto, flags: "A" }] as const;
            const half = proto === "TCP" ? "tcpHalfOpen" : "udp";

            test(`${proto}: until the backend answers`, () => {
              const sent = send(first);
              assert.deepEqual(kinds(), [flow_kind.FLOW_UNDO_DNAT]);
              assert.equal(reply(sent).reason, "REASON_REPLY");
              assert.deepEqual(kinds().sort(), [flow_kind.FLOW_DNAT, flow_kind.FLOW_UNDO_DNAT]);
              assert.equal(datapath.get("flows", head(40000, proto))?.flags, flow_flag.FLOW_ANSWERED);
              assert.equal(send({ ...second, ack: 1001 }).reason, "REASON_ESTABLISHED");
              assert.equal(state(40000, proto), proto === "TCP" ? "tcpEstablished" : "udpStream");
              assert.equal(datapath.get("backend_stats", 1)?.new_flows, 1n);
            });

            test(`${proto}: until the client goes on, who is no new one by it`, () => {
              send(first);
              assert.equal(send(first).reason, "REASON_ESTABLISHED");
              assert.deepEqual(kinds().sort(), [flow_kind.FLOW_DNAT, flow_kind.FLOW_UNDO_DNAT]);
              assert.equal(state(40000, proto), half);
              assert.equal(datapath.get("backend_stats", 1)?.new_flows, 1n);
            });

            test(`${proto}: it goes like any other that is half-open, and a closer look leaves it alone`, () => {
              send(first);
              const left = { entries: 1, expired: 0, healed: 0, orphans: 0 };
              assert.deepEqual(expire(), { ...left, connections: { ...NONE_BY_STATE, [half]: 1 } });
              age(proto === "TCP" ? 61n : 31n);
              assert.deepEqual(expire(), { ...left, entries: 0, expired: 1, connections: NONE_BY_STATE });
              assert.equal(flowCount(), 0);
            });

            test(`${proto}: its port is another's when it is over, not before`, () => {
              publish(datapath, { address: a.vip2, port: 80, proto, service_id: 2, slot_base: 10 }, [
                { ...backend, id: 2 },
              ]);
              send(first);
              assert.notEqual(parseFrame(send({ ...first, to: a.vip2 }).frame).sport, 40000);
              for (const [key] of datapath.entries("flows")) datapath.remove("flows", key);
              send(first);
              age(proto === "TCP" ? 61n : 31n);
              const seen = send({ ...first, to: a.vip2 });
              assert.equal(parseFrame(seen.frame).sport, 40000);
              assert.equal(parseFrame(reply(seen).frame).from, a.vip2);
            });
          }

          test("TCP: a client that breaks off before it is answered is heard", () => {
            send();
            send({ flags: "R" });
            assert.equal(state(), "tcpReset");
          });

          test("a datagram in fragments has both, or its other fragments would find none", () => {
            const whole = buildFrame({
              from: a.client,
              to: a.vip,
              proto: "UDP",
              sport: 40000,
              payload: "x".repeat(64),
            });
            const [one, two] = splitFrame(whole, 40, 77);
            assert.ok(one !== undefined && two !== undefined);
            assert.equal(through(datapath, one).reason, "REASON_NEW_FLOW");
            assert.deepEqual(kinds().sort(), [flow_kind.FLOW_DNAT, flow_kind.FLOW_UNDO_DNAT]);
            assert.equal(through(datapath, two).reason, "REASON_ESTABLISHED");
          });
        });
      }

      describe(`${a.family}, ${backend.local ? "local" : "remote"} backend: places`, () => {
        beforeEach(serve);
        /** Client ports of the connections that have one. */
        const placed = (): readonly number[] =>
          datapath
            .entries("expendables")
            .filter(([, { created_ns }]) => created_ns !== 0n)
            .map(([, { key }]) => key.dst_port)
            .sort();
        const placesTaken = () => datapath.get("expendable_cursor", 0);
        const close = (first: Passage, sport: number): void => {
          reply(first, { flags: "FA" });
          send({ flags: "FA", sport });
        };

        for (const proto of ["TCP", "UDP"] as const) {
          test(`${proto}: a connection has one place, from its first packet until it is established`, () => {
            const first = send({ proto });
            assert.deepEqual(placed(), [40000]);
            reply(first);
            assert.deepEqual([placed(), placesTaken()], [[40000], 1]);
            send({ proto, flags: "A", ack: 1001 });
            assert.deepEqual([placed(), placesTaken()], [[], 1]);
          });

          test(`${proto}: a first packet that is sent again leaves the place of the first for another`, () => {
            send({ proto });
            send({ proto });
            assert.deepEqual(placed(), [40000]);
            reply(send({ proto }));
            send({ proto, flags: "A", ack: 1001 });
            assert.deepEqual(placed(), []);
          });

          test(`${proto}: an expiry walk empties the places of what it removes, and no others`, () => {
            for (const sport of [40000, 40001]) send({ proto, sport });
            reply(send({ proto, sport: 40002 }));
            age(61n);
            send({ proto, sport: 40003 });
            datapath.expire({ most_s: 0, thorough: false });
            assert.deepEqual(placed(), [40003]);
          });
        }

        test("one that is closed takes a place; one that is broken off before it is established has one", () => {
          close(establish(), 40000);
          assert.deepEqual([placed(), placesTaken()], [[40000], 2]);
          reply(send({ sport: 40001 }), { flags: "RA" });
          assert.deepEqual([placed(), placesTaken()], [[40000, 40001], 3]);
          age(200n);
          datapath.expire({ most_s: 0, thorough: false });
          assert.deepEqual(placed(), []);
        });

        test("a connection that opens anew leaves the place of the old one", () => {
          close(establish(), 40000);
          send();
          assert.deepEqual(placed(), [40000]);
        });

        test("when the ring has gone round, who has lost a place does not empty it for who has it now", () => {
          close(establish(), 40000);
          for (let i = 0; i < EXPENDABLES; i++) send({ sport: 41000 + i });
          assert.equal(state(), "tcpClosed", "only just now, so it has not given way");
          const others = placed();
          assert.equal(others.length, EXPENDABLES);
          const isOthers = (port: number): boolean => others.includes(port);
          age(200n, (_, { src_port, dst_port }) => !isOthers(src_port) && !isOthers(dst_port));
          datapath.expire({ most_s: 0, thorough: false });
          assert.equal(state(), "gone");
          assert.deepEqual(placed(), others);
        });

        test("who is established late does not empty the place that another has by then", () => {
          const first = send();
          reply(first);
          // As if the ring went round at this very moment: it has not given way, but its place is another's.
          const [number, mine] = datapath.entries("expendables").find(([, { created_ns }]) => created_ns !== 0n) ?? [];
          assert.ok(number !== undefined && mine !== undefined);
          const another = { key: { ...mine.key, dst_port: 40001 }, created_ns: mine.created_ns + 1n };
          datapath.put("expendables", number, another);
          send({ flags: "A", ack: 1001 });
          assert.equal(state(), "tcpEstablished");
          assert.deepEqual(placed(), [40001]);
        });
      });

      describe(`${a.family}, ${backend.local ? "local" : "remote"} backend: who gives way`, () => {
        beforeEach(serve);

        test("the oldest half-open connection goes, whole, when there are more than places", () => {
          for (let i = 0; i < EXPENDABLES; i++) send({ sport: 40000 + i });
          assert.equal(flowCount(), perFirst * EXPENDABLES);
          send({ sport: 40100 });
          assert.deepEqual([state(40000), state(40001)], ["gone", "tcpHalfOpen"]);
          assert.equal(flowCount(), perFirst * EXPENDABLES);
          assert.equal(send({ sport: 40000, flags: "A" }).reason, "REASON_NEW_FLOW", "and finds its backend again");
        });

        test("Fault 76: a flood of SYNs leaves what is established, and takes no more than its places", () => {
          for (let i = 0; i < 3; i++) establish({ sport: 30000 + i });
          for (let i = 0; i < 1000; i++) send({ sport: 40000 + i });
          assert.deepEqual(
            [0, 1, 2].map((i) => state(30000 + i)),
            Array(3).fill("tcpEstablished"),
          );
          assert.equal(flowCount(), perFirst * EXPENDABLES + per * 3);
          const more = establish({ sport: 30010 });
          assert.equal(more.reason, "REASON_NEW_FLOW");
          for (let i = 0; i < EXPENDABLES; i++) send({ sport: 42000 + i });
          assert.equal(state(30010), "tcpEstablished");
        });

        test("a flood of SYNs each of which a FIN or a RST follows takes no more than that", () => {
          establish({ sport: 30000 });
          for (let i = 0; i < 200; i++) {
            send({ sport: 40000 + i });
            send({ sport: 40000 + i, flags: i % 2 === 0 ? "FA" : "R", ack: 1001 });
          }
          assert.equal(state(30000), "tcpEstablished");
          assert.ok(flowCount() <= per * (EXPENDABLES + 1), `${flowCount()} flows`);
        });

        test("so does a flood of UDP, and streams go on", () => {
          reply(send({ proto: "UDP" }));
          send({ proto: "UDP" });
          for (let i = 0; i < 100; i++) send({ proto: "UDP", sport: 41000 + i });
          assert.equal(state(40000, "UDP"), "udpStream");
          assert.equal(flowCount(), perFirst * EXPENDABLES + per);
        });

        test("a place is not another connection's that came later under the same key", () => {
          send();
          send({ flags: "R" });
          establish();
          send({ sport: 40001 });
          for (let i = 0; i < EXPENDABLES - 3; i++) send({ sport: 41000 + i });
          assert.equal(state(), "tcpEstablished");
        });

        test("a closed connection gives way after 10 s, or at once when the table is full", () => {
          const first = establish();
          reply(first, { flags: "FA" });
          send({ flags: "FA" });
          for (let i = 0; i < EXPENDABLES; i++) establish({ sport: 41000 + i });
          assert.equal(state(), "tcpClosed", "its place was wanted, but it was closed only just now");
          const second = establish({ sport: 40001 });
          reply(second, { flags: "R" });
          age(11n, (_, key) => [key.src_port, key.dst_port].includes(40001) || !backend.local);
          for (let i = 0; i < EXPENDABLES; i++) establish({ sport: 42000 + i });
          assert.equal(state(40001), "gone");
        });
      });
    }

    describe(`${a.family}: a full table`, () => {
      const small = newDatapath(forwarding, {}, { flows: 16, expendables: 4 });
      beforeEach(() => publish(small, { address: a.vip, port: 80 }, [{ id: 1, address: a.local, local: true }]));
      afterEach(() => small.close());
      const send = (sport: number, flags = "S", more: Partial<FrameOptions> = {}): Passage =>
        through(small, buildFrame({ from: a.client, to: a.vip, sport, dport: 80, flags, ...more }));
      const answer = (sport: number, flags = "SA") =>
        through(small, buildFrame({ from: a.local, to: a.client, sport: 8080, dport: sport, flags }), "pod");
      const establish = (sport: number): string => {
        const { reason } = send(sport);
        answer(sport);
        send(sport, "A", { ack: 1001 });
        return reason;
      };

      test("what is half-open goes for a new connection; what is established, never: then a counted drop", () => {
        for (let i = 0; i < 7; i++) establish(30000 + i);
        send(40000);
        send(40000);
        assert.equal(flowCount(small), 16);
        assert.equal(establish(40001), "REASON_NEW_FLOW");
        assert.equal(small.get("flows", flowKey([a.client, 40000], [a.vip, 80])), null);
        const outcome = send(40002);
        assert.deepEqual([outcome.verdict, outcome.reason], ["drop", "REASON_FLOWS_FULL"]);
        assert.equal(flowCount(small), 16);
        for (let i = 0; i < 7; i++) assert.equal(send(30000 + i, "A").reason, "REASON_ESTABLISHED");
      });

      test("what was just closed goes, too", () => {
        for (let i = 0; i < 8; i++) establish(30000 + i);
        answer(30003, "R");
        assert.equal(send(40000).reason, "REASON_NEW_FLOW");
        assert.equal(small.get("flows", flowKey([a.client, 30003], [a.vip, 80])), null);
        assert.equal(flowCount(small), 15);
      });
    });

    describe(`${a.family}: expiry`, () => {
      const remote: BackendSpec = { id: 1, address: a.remote };
      const send = (change: Partial<FrameOptions> = {}): Passage =>
        through(datapath, buildFrame({ from: a.client, to: a.vip, sport: 40000, dport: 80, flags: "S", ...change }));
      const expire = (options: Partial<ExpiryOptions> = {}) =>
        datapath.expire({ most_s: 0, thorough: false, ...options });
      const put = (sport: number, flags: number) => {
        const key = flowKey([a.client, sport], [a.vip, 80]);
        const flow = datapath.get("flows", key);
        assert.ok(flow !== null);
        datapath.put("flows", key, { ...flow, flags });
      };
      beforeEach(() => {
        publish(datapath, { address: a.vip, port: 80 }, [remote]);
        publish(datapath, { address: a.vip, port: 80, proto: "UDP", slot_base: 1 }, [remote]);
      });

      for (const [state, proto, flags, timeout_s] of [
        ["tcpHalfOpen", "TCP", 0, 60n],
        ["tcpEstablished", "TCP", flow_flag.FLOW_SETTLED, 86_400n],
        ["tcpHalfClosed", "TCP", flow_flag.FLOW_SETTLED | flow_flag.FLOW_BACKEND_FIN, 3600n],
        ["tcpClosed", "TCP", flow_flag.FLOW_BACKEND_FIN | flow_flag.FLOW_CLIENT_FIN, 120n],
        ["tcpReset", "TCP", flow_flag.FLOW_RESET, 10n],
        ["udp", "UDP", 0, 30n],
        ["udpStream", "UDP", flow_flag.FLOW_SETTLED, 120n],
      ] as const) {
        test(`${state} goes after ${timeout_s} s of silence, with all its flows`, () => {
          send({ proto });
          const key = flowKey([a.client, 40000], [a.vip, 80], proto);
          const flow = datapath.get("flows", key);
          assert.ok(flow !== null);
          datapath.put("flows", key, { ...flow, flags });
          age(timeout_s - SLOW_S);
          const left = { entries: 4, expired: 0, healed: 0, orphans: 0, connections: { ...NONE_BY_STATE, [state]: 1 } };
          assert.deepEqual(expire(), left);
          age(SLOW_S + 1n, (kind) => kind !== flow_kind.FLOW_UNDO_SNAT);
          assert.deepEqual(expire(), left, "the backend was heard, where it comes in");
          age(SLOW_S + 1n);
          assert.deepEqual(expire(), { ...left, entries: 0, expired: 1, connections: NONE_BY_STATE });
          assert.equal(flowCount(), 0);
        });
      }

      test("in a hurry all but what is established goes soon", () => {
        for (const [sport, flags] of [
          [40000, 0],
          [40001, flow_flag.FLOW_SETTLED],
          [40002, flow_flag.FLOW_CLIENT_FIN],
        ] as const) {
          send({ sport });
          put(sport, flags);
        }
        age(11n);
        const { expired, connections } = expire({ most_s: 10 });
        assert.deepEqual([expired, connections], [2, { ...NONE_BY_STATE, tcpEstablished: 1 }]);
      });

      test("other timeouts are kept, too", () => {
        send();
        age(6n);
        datapath.configure({ timeout_s: [5, 5, 5, 5, 5, 5, 5, 0] });
        assert.equal(expire().expired, 1);
      });

      test("before the agent has written its configuration nothing is touched", () => {
        send();
        age(100_000n);
        datapath.clearConfig();
        assert.throws(() => expire(), /config/);
        assert.equal(flowCount(), 4);
      });

      test("a closer look: a connection gets back what it has lost, flows of none go", () => {
        const all = () => datapath.entries("flows");
        send();
        send({ flags: "A" });
        const before = all().filter(([, flow]) => flow.kind !== flow_kind.FLOW_DNAT);
        for (const [key] of before) {
          datapath.remove("flows", key);
          assert.equal(expire().healed, 0, "not without");
          assert.equal(expire({ thorough: true }).healed, 1);
          const there = (datapath.get("flows", key) ?? assert.fail("it is back")) as { addr: string; port: number };
          const was = before.find(([k]) => k === key)?.[1];
          assert.deepEqual([there.addr, there.port], [was?.addr, was?.port]);
        }
        assert.equal(parseFrame(send({ flags: "A" }).frame).from, a.node);
        datapath.remove("flows", flowKey([a.client, 40000], [a.vip, 80]));
        assert.equal(expire({ thorough: true }).orphans, 0, "it may be just being made");
        age(61n);
        assert.equal(expire({ thorough: true }).orphans, 3);
        assert.equal(flowCount(), 0);
      });

      test("what another connection holds by now is not touched", () => {
        publish(datapath, { address: a.vip2, port: 80, service_id: 2, slot_base: 10 }, [{ ...remote, id: 2 }]);
        send();
        const key = flowKey([a.client, 40000], [a.vip, 80]);
        const former = datapath.get("flows", key);
        assert.ok(former !== null);
        datapath.remove("flows", key);
        send({ to: a.vip2 });
        datapath.put("flows", key, { ...former, last_seen_ns: former.last_seen_ns - 100n * S });
        assert.equal(expire().expired, 1);
        assert.equal(send({ to: a.vip2, flags: "A" }).reason, "REASON_ESTABLISHED");
        const inward = send({ to: a.vip2, flags: "A" });
        const seen = parseFrame(inward.frame);
        assert.equal(seen.from, a.node);
        const back = buildFrame({ from: a.remote, to: a.node, sport: 8080, dport: seen.sport, flags: "A" });
        assert.equal(parseFrame(through(datapath, back).frame).from, a.vip2);
      });
    });

    for (const backend of [
      { id: 1, address: a.local, local: true },
      { id: 1, address: a.remote },
    ] as BackendSpec[]) {
      const what = backend.local ? "local" : "remote";
      test(`${a.family}: one client port asks a ${what} backend by a VIP, then by its own address`, () => {
        publish(datapath, { address: a.vip, port: 80 }, [backend]);
        const to = (address: string, dport: number, flags = "S") =>
          through(datapath, buildFrame({ from: a.client, to: address, sport: 40000, dport, flags }));
        const atBackend = ({ frame }: Passage) => parseFrame(frame);
        const answerTo = (seen: ReturnType<typeof parseFrame>) => {
          const frame = buildFrame({ from: seen.to, to: seen.from, sport: 8080, dport: seen.sport, flags: "A" });
          const f = parseFrame(through(datapath, frame, backend.local ? "pod" : "wire").frame);
          assert.deepEqual([f.ip_checksum_ok, f.checksum_ok], [true, true]);
          return [f.from, f.sport, f.to, f.dport];
        };
        assert.equal(to(backend.address, 8080).reason, "REASON_NOT_OURS", "alone it is nobody's business");
        const one = atBackend(to(a.vip, 80));
        const direct = to(backend.address, 8080);
        assert.equal(direct.reason, "REASON_NEW_FLOW");
        const two = atBackend(direct);
        assert.notEqual(`${one.from} ${one.sport}`, `${two.from} ${two.sport}`);
        for (let round = 0; round < 2; round++) {
          assert.deepEqual(answerTo(one), [a.vip, 80, a.client, 40000]);
          assert.deepEqual(answerTo(two), [backend.address, 8080, a.client, 40000]);
          assert.equal(atBackend(to(a.vip, 80, "A")).sport, one.sport);
          assert.equal(atBackend(to(backend.address, 8080, "A")).sport, two.sport);
        }
        assert.equal(datapath.get("backend_stats", 1)?.new_flows, 1n, "the Service has been asked once");
      });

      test(`${a.family}: the same, when the Service's ${what} backend has gone and its number is another's`, () => {
        publish(datapath, { address: a.vip, port: 80 }, [backend]);
        const sourceAt = (address: string, dport: number): string => {
          const passage = through(
            datapath,
            buildFrame({ from: a.client, to: address, sport: 40000, dport, flags: "S" }),
          );
          return parseFrame(passage.frame).from;
        };
        const own = sourceAt(a.vip, 80);
        assert.equal(own, backend.local ? a.client : a.node);
        putBackend(datapath, { ...backend, local: !backend.local, generation: 2 });
        assert.equal(sourceAt(backend.address, 8080), own, "its replies come back the way that the others do");
      });
    }
  }
});
