// tc: which backend a connection gets and keeps, what its flows are, and what happens when ports, backends or clients
// come back. Time is not waited for: last_seen_ns and created_ns are written into the past.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { backend_flag, backend_state, flow_flag, flow_kind, frontend_flag } from "../../src/dataplane/bpf/abi.gen.ts";
import { type ConnectionState, stateOf } from "../../src/dataplane/bpf/states.ts";
import type { Address } from "../../src/model/address.ts";
import { type BackendSpec, families, flowKey, type KeyOf, publish, putBackend } from "../lib/datapath.ts";
import { inEveryForwarding } from "../lib/forwarding.ts";
import { buildFrame, type Frame, type FrameOptions, parseFrame } from "../lib/packet.ts";
import { type Passage, through } from "../lib/passage.ts";

inEveryForwarding((datapath) => {
  const S = 1_000_000_000n;

  /** As if all flows had been last seen so long ago, or those that `which` names. */
  const age = (by_s: bigint, which: (key: KeyOf<"flows">, kind: number) => boolean = () => true): void => {
    for (const [key, flow] of datapath.entries("flows")) {
      if (which(key, flow.kind)) datapath.put("flows", key, { ...flow, last_seen_ns: flow.last_seen_ns - by_s * S });
    }
  };

  for (const a of families) {
    const local = (n: number): BackendSpec => ({ id: n, address: `${a.local}${n}`, local: true });
    const remote: BackendSpec = { id: 1, address: a.remote };
    const send = (change: Partial<FrameOptions> = {}): Passage =>
      through(datapath, buildFrame({ from: a.client, to: a.vip, sport: 40000, dport: 80, flags: "S", ...change }));
    /** A client that asks twice: from then on its connection has all its flows. What became of the first packet. */
    const ask = (change: Partial<FrameOptions> = {}): Passage => {
      const first = send(change);
      assert.equal(send(change).reason, "REASON_ESTABLISHED");
      return first;
    };
    const backendOf = (change: Partial<FrameOptions> = {}) => parseFrame(send(change).frame).to;
    const dnat = (sport = 40000, vip = a.vip, proto: "TCP" | "UDP" = "TCP") =>
      flowKey([a.client, sport], [vip, 80], proto);
    const stateAt = (sport = 40000): ConnectionState => stateOf(6, datapath.get("flows", dnat(sport))?.flags ?? 0);

    /** What the backend answers to a packet as it saw it: as the client gets it. */
    const reply = ({ frame }: Passage, flags = "SA"): Passage => {
      const seen = parseFrame(frame);
      const proto = seen.proto === 17 ? "UDP" : "TCP";
      const answer = buildFrame({ from: seen.to, to: seen.from, sport: seen.dport, dport: seen.sport, proto, flags });
      return through(datapath, answer, seen.to === a.remote ? "wire" : "pod");
    };

    /** A whole handshake. The first packet's outcome. */
    const establish = (change: Partial<FrameOptions> = {}): Passage => {
      const first = send(change);
      assert.equal(reply(first).reason, "REASON_REPLY");
      send({ ...change, flags: "A", ack: 1001 });
      return first;
    };
    const gone = (n: number) => putBackend(datapath, { ...local(n), state: backend_state.BACKEND_NONE });

    describe(`${a.family}: choosing a backend`, () => {
      const three = [local(1), local(2), local(3)];

      test("many clients spread over the run, each packet of one finds the same backend, flows or not", () => {
        publish(datapath, { address: a.vip, port: 80 }, three);
        const counts = new Map<string, number>();
        for (let sport = 30000; sport < 30300; sport++) {
          const first = backendOf({ sport });
          counts.set(first, (counts.get(first) ?? 0) + 1);
          assert.equal(backendOf({ sport, flags: "A" }), first, "it has one flow alone");
          assert.ok(datapath.remove("flows", flowKey([a.client, sport], [a.vip, 80])));
          assert.equal(backendOf({ sport, flags: "A" }), first, "mid-stream, its flow was lost");
        }
        assert.equal(counts.size, 3);
        for (const [address, n] of counts) assert.ok(n > 60 && n < 140, `${address}: ${n} of 300`);
      });

      test("another seed is another spread", () => {
        publish(datapath, { address: a.vip, port: 80 }, three);
        const spread = () => Array.from({ length: 40 }, (_, i) => backendOf({ sport: 30000 + i })).join();
        const one = spread();
        for (const [key] of datapath.entries("flows")) datapath.remove("flows", key);
        datapath.configure({ hash_seed: 54321 });
        assert.notEqual(spread(), one);
      });

      test("every new flow is counted for its backend, packets of it are not", () => {
        publish(datapath, { address: a.vip, port: 80 }, [local(1)]);
        send();
        send({ flags: "A" });
        send({ sport: 40001 });
        assert.equal(datapath.get("backend_stats", 1)?.new_flows, 2n);
      });
    });

    describe(`Fault 82: ${a.family}: affinity`, () => {
      const three = [local(1), local(2), local(3)];
      const affinity = (change: Partial<Parameters<typeof publish>[1]> = {}) =>
        publish(datapath, { address: a.vip, port: 80, affinity_timeout_s: 10, ...change }, three);
      const key = { client: a.client as Address, service_id: 1 };

      test("every connection of a client goes to one backend, from whichever port", () => {
        affinity();
        const first = backendOf();
        for (let sport = 41000; sport < 41020; sport++) assert.equal(backendOf({ sport }), first);
        assert.equal(datapath.entries("affinity").length, 1);
      });

      test("it lasts from the latest connection on, for the timeout and no longer", () => {
        affinity();
        const first = backendOf();
        const last_used = () => datapath.get("affinity", key)?.last_used_ns ?? 0n;
        const rewind = (by_ns: bigint) => {
          const memory = datapath.get("affinity", key);
          assert.ok(memory !== null);
          datapath.put("affinity", key, { ...memory, last_used_ns: memory.last_used_ns - by_ns });
        };
        const start = last_used();
        rewind(9n * S);
        assert.equal(backendOf({ sport: 41000 }), first);
        assert.ok(last_used() > start, "refreshed by the new connection");
        const seen = new Set<string>();
        for (let sport = 41001; sport < 41040; sport++) {
          rewind(10n * S);
          seen.add(backendOf({ sport }));
        }
        assert.equal(seen.size, 3, "expired each time: chosen anew each time");
      });

      test("packets of an established connection do not refresh it", () => {
        affinity();
        establish();
        const before = datapath.get("affinity", key)?.last_used_ns;
        send({ flags: "A" });
        assert.equal(datapath.get("affinity", key)?.last_used_ns, before);
      });

      for (const [why, change] of [
        ["is gone", { state: backend_state.BACKEND_NONE }],
        ["drains", { state: backend_state.BACKEND_DRAINING }],
        ["has another holder", { generation: 2 }],
        ["left this policy's run", { flags: backend_flag.BACKEND_IN_LOCAL }],
      ] as const) {
        test(`a remembered backend that ${why} is not used`, () => {
          affinity();
          const first = three.find((b) => b.address === backendOf());
          assert.ok(first !== undefined);
          const rest = three.filter((b) => b !== first);
          publish(datapath, { address: a.vip, port: 80, affinity_timeout_s: 10, slot_base: 100 }, rest);
          putBackend(datapath, { ...first, ...change });
          const again = backendOf({ sport: 41000 });
          assert.notEqual(again, first.address);
          assert.equal(backendOf({ sport: 41001 }), again, "and the new one is remembered");
        });
      }

      test("a frontend of policy Local uses the memory only for local backends", () => {
        const flags = frontend_flag.FRONTEND_LOCAL;
        publish(datapath, { address: a.vip, port: 80, affinity_timeout_s: 10 }, [remote]);
        publish(datapath, { address: a.vip2, port: 80, affinity_timeout_s: 10, flags, slot_base: 50 }, [local(2)]);
        assert.equal(backendOf(), a.remote);
        assert.equal(backendOf({ to: a.vip2 }), local(2).address);
      });
    });

    describe(`${a.family}: an existing flow`, () => {
      test("Fault 77: TCP drains to a backend that is gone, until the client starts anew", () => {
        publish(datapath, { address: a.vip, port: 80 }, [local(1)]);
        ask();
        publish(datapath, { address: a.vip, port: 80, slot_base: 10 }, [local(2)]);
        gone(1);
        assert.deepEqual(
          [send({ flags: "A" }).reason, backendOf({ flags: "A" })],
          ["REASON_ESTABLISHED", local(1).address],
        );
        assert.equal(send({ flags: "S" }).reason, "REASON_NEW_FLOW");
        assert.equal(backendOf({ flags: "A" }), local(2).address);
        assert.equal(
          datapath.get("flows", flowKey([`${a.local}1`, 8080], [a.client, 40000], "TCP", "out")),
          null,
          "the old undo is gone",
        );
      });

      test("a retransmitted SYN stays where it was, also when the backend drains", () => {
        publish(datapath, { address: a.vip, port: 80 }, [local(1)]);
        ask();
        publish(datapath, { address: a.vip, port: 80, slot_base: 10 }, [local(2)]);
        putBackend(datapath, { ...local(1), state: backend_state.BACKEND_DRAINING });
        assert.deepEqual([send().reason, backendOf()], ["REASON_ESTABLISHED", local(1).address]);
      });

      for (const flags of ["FA", "R"]) {
        test(`Fault 75: a SYN after ${flags} chooses anew`, () => {
          publish(datapath, { address: a.vip, port: 80 }, [local(1)]);
          send();
          send({ flags });
          assert.equal(stateAt(), flags === "R" ? "tcpReset" : "tcpHalfClosed");
          publish(datapath, { address: a.vip, port: 80, slot_base: 10 }, [local(2)]);
          assert.equal(backendOf({ flags: "A" }), local(1).address, "the rest of the old one still goes there");
          assert.equal(send().reason, "REASON_NEW_FLOW");
          assert.equal(backendOf({ flags: "A" }), local(2).address);
          assert.equal(datapath.get("flows", dnat())?.flags, 0);
        });
      }

      test("a SYN after the backend's reset chooses anew", () => {
        publish(datapath, { address: a.vip, port: 80 }, [local(1)]);
        reply(send(), "R");
        assert.equal(stateAt(), "tcpReset");
        assert.equal(send().reason, "REASON_NEW_FLOW");
        assert.equal(stateAt(), "tcpHalfOpen");
      });

      test("Fault 77: UDP leaves a backend that is gone or has another holder, but drains", () => {
        const udp = { proto: "UDP" } as const;
        publish(datapath, { address: a.vip, port: 80, proto: "UDP" }, [local(1)]);
        ask(udp);
        publish(datapath, { address: a.vip, port: 80, proto: "UDP", slot_base: 10 }, [local(2)]);
        putBackend(datapath, { ...local(1), state: backend_state.BACKEND_DRAINING });
        assert.deepEqual([send(udp).reason, backendOf(udp)], ["REASON_ESTABLISHED", local(1).address]);
        gone(1);
        assert.equal(send(udp).reason, "REASON_NEW_FLOW");
        assert.deepEqual([send(udp).reason, backendOf(udp)], ["REASON_ESTABLISHED", local(2).address]);
        putBackend(datapath, { ...local(2), generation: 2, address: `${a.local}9` });
        assert.deepEqual([send(udp).reason, backendOf(udp)], ["REASON_NEW_FLOW", `${a.local}9`]);
        assert.equal(datapath.entries("flows").length, 2, "the former backends' flows were removed");
      });

      test("UDP whose frontend and backend are gone is no longer ours", () => {
        publish(datapath, { address: a.vip, port: 80, proto: "UDP" }, [local(1)]);
        ask({ proto: "UDP" });
        gone(1);
        datapath.remove("frontends", { addr: a.vip as Address, port: 80, proto: 17, scope: 0 });
        assert.equal(send({ proto: "UDP" }).reason, "REASON_NOT_OURS");
        assert.equal(datapath.entries("flows").length, 0);
      });
    });

    describe(`Fault 83: ${a.family}: SNAT ports`, () => {
      const undoSnat = (port: number) => flowKey([a.remote, 8080], [a.node, port]);
      const portOf = (sport: number) => datapath.get("flows", dnat(sport))?.far_port ?? 0;
      const range = (min: number, max: number) => {
        publish(datapath, { address: a.vip, port: 80 }, [remote]);
        datapath.configure({ snat_port_min: min, snat_port_max: max });
      };

      for (const size of [1, 2, 3, 32]) {
        test(`a range of ${size}: as many connections, then a drop that leaves nothing`, () => {
          range(61000, 61000 + size - 1);
          const ports = new Set<number>();
          for (let i = 0; i < size; i++) {
            assert.equal(establish({ sport: 40000 + i }).reason, "REASON_NEW_FLOW");
            ports.add(portOf(40000 + i));
          }
          assert.equal(ports.size, size, "each its own port");
          for (const port of ports) assert.ok(port >= 61000 && port < 61000 + size);
          const flows = datapath.entries("flows").length;
          assert.equal(flows, 4 * size);
          const outcome = send({ sport: 50000 });
          assert.deepEqual([outcome.verdict, outcome.reason], ["drop", "REASON_SNAT_EXHAUSTED"]);
          assert.equal(datapath.entries("flows").length, flows);
          assert.equal(send({ sport: 40000, flags: "A" }).reason, "REASON_ESTABLISHED", "the others live on");
        });
      }

      test("a large range: hundreds of connections, all on ports of their own", () => {
        range(61000, 61999);
        const ports = new Set<number>();
        for (let i = 0; i < 500; i++) {
          assert.equal(send({ sport: 30000 + i }).reason, "REASON_NEW_FLOW");
          ports.add(portOf(30000 + i));
        }
        assert.equal(ports.size, 500);
      });

      test("the same port serves two backends", () => {
        range(61000, 61000);
        send();
        publish(datapath, { address: a.vip2, port: 80, slot_base: 10 }, [{ id: 2, address: a.other }]);
        assert.equal(send({ to: a.vip2 }).reason, "REASON_NEW_FLOW");
      });

      test("a connection whose first flow was lost takes up its own port again", () => {
        range(61000, 61000);
        send();
        datapath.remove("flows", dnat());
        assert.equal(send({ flags: "A" }).reason, "REASON_NEW_FLOW");
        assert.equal(portOf(40000), 61000);
        assert.equal(datapath.entries("flows").length, 4);
      });

      for (const [what, flags, keeps_s, frees_s] of [
        ["closed", flow_flag.FLOW_CLIENT_FIN | flow_flag.FLOW_BACKEND_FIN, 9n, 11n],
        ["reset", flow_flag.FLOW_RESET, 9n, 11n],
        ["half-closed", flow_flag.FLOW_CLIENT_FIN, 3599n, 3601n],
        ["idle", 0, 86399n, 86401n],
      ] as const) {
        test(`a port of a connection that is ${what} is given away after ${frees_s - 1n} s, not before`, () => {
          range(61000, 61000);
          establish();
          const head = datapath.get("flows", dnat());
          assert.ok(head !== null);
          datapath.put("flows", dnat(), { ...head, flags: head.flags | flags });
          age(keeps_s);
          assert.equal(send({ sport: 50000 }).reason, "REASON_SNAT_EXHAUSTED");
          age(frees_s - keeps_s);
          assert.equal(send({ sport: 50000 }).reason, "REASON_NEW_FLOW");
          assert.equal(datapath.get("flows", undoSnat(61000))?.port, 50000);
          assert.equal(datapath.entries("flows").length, 4, "nothing is left of the other");
        });
      }

      test("when none is free, the oldest that is half-open loses its port, and all else", () => {
        range(61000, 61002);
        const made = [40000, 40001, 40002].map((sport) => (sport === 40001 ? establish({ sport }) : send({ sport })));
        assert.equal(made.length, 3);
        const port = portOf(40000);
        assert.equal(send({ sport: 50000 }).reason, "REASON_NEW_FLOW");
        assert.equal(portOf(50000), port);
        assert.deepEqual([40000, 40001, 40002].map(portOf).map(Boolean), [false, true, true]);
        assert.equal(datapath.entries("flows").length, 12);
      });

      for (const [who, ...heard] of [
        ["client", flow_kind.FLOW_DNAT, flow_kind.FLOW_SNAT],
        ["backend", flow_kind.FLOW_UNDO_SNAT, flow_kind.FLOW_UNDO_DNAT],
      ] as const) {
        test(`a port is kept while the ${who} sends`, () => {
          range(61000, 61000);
          establish();
          age(90_000n, (_, kind) => !heard.some((one) => one === kind));
          assert.equal(send({ sport: 50000 }).reason, "REASON_SNAT_EXHAUSTED");
        });
      }

      test("a client that starts anew gives its former port back", () => {
        range(61000, 61000);
        send();
        send({ flags: "R" });
        publish(datapath, { address: a.vip, port: 80, slot_base: 10 }, [{ id: 2, address: a.other }]);
        assert.equal(send().reason, "REASON_NEW_FLOW");
        assert.equal(datapath.get("flows", undoSnat(61000)), null);
        assert.equal(datapath.entries("flows").length, 4);
      });
    });

    describe(`${a.family}: two that serve each other, each from the port it asks from`, () => {
      const [one, two] = [a.remote, a.other];
      const ask = (from: string, vip: string, proto: "TCP" | "UDP"): Passage =>
        through(
          datapath,
          buildFrame({ from, sport: 8080, to: vip, dport: 80, proto, flags: "S", payload: "question" }),
        );
      /** The client's port between the hooks, where it is not its own. */
      const standIn = (from: string, vip: string, proto: "TCP" | "UDP") =>
        datapath.get("flows", flowKey([from, 8080], [vip, 80], proto))?.client_port;

      for (const proto of ["TCP", "UDP"] as const) {
        test(`${proto}: what one asks is not what it answers: the second gets another port, the first keeps all it has`, () => {
          publish(datapath, { address: a.vip, port: 80, proto }, [{ id: 1, address: two }]);
          publish(datapath, { address: a.vip2, port: 80, proto, service_id: 2, slot_base: 10 }, [
            { id: 2, address: one },
          ]);
          const first = ask(one, a.vip, proto);
          const before = datapath.entries("flows");
          const second = ask(two, a.vip2, proto);
          assert.deepEqual([first.reason, second.reason], ["REASON_NEW_FLOW", "REASON_NEW_FLOW"]);
          for (const [key, flow] of before) assert.deepEqual(datapath.get("flows", key), flow);
          assert.equal(datapath.entries("flows").length, 8);
          assert.equal(standIn(one, a.vip, proto), 0);
          assert.notEqual(standIn(two, a.vip2, proto), 0);
          assert.deepEqual(
            [first, second].map(({ frame }) => [parseFrame(frame).from, parseFrame(frame).to]),
            [
              [a.node, two],
              [a.node, one],
            ],
          );
        });
      }

      test("a backend that opens a connection to a client's own port is no clash: it is none of ours", () => {
        publish(datapath, { address: a.vip, port: 80 }, [{ id: 1, address: two }]);
        ask(one, a.vip, "TCP");
        const frame = buildFrame({ from: two, sport: 8080, to: one, dport: 8080, flags: "S" });
        const flows = datapath.entries("flows");
        assert.notEqual(datapath.podIngress(frame).reason, "REASON_NEW_FLOW");
        assert.equal(datapath.entries("flows").length, flows.length);
      });
    });

    for (const backend of [local(1), remote]) {
      const what = backend.local ? "local" : "remote";
      describe(`Fault 75: ${a.family}: one client port, two VIPs, the same ${what} backend`, () => {
        const publishBoth = (proto: "TCP" | "UDP" = "TCP") => {
          publish(datapath, { address: a.vip, port: 80, proto }, [backend]);
          publish(datapath, { address: a.vip2, port: 80, proto, service_id: 2, slot_base: 10 }, [
            { ...backend, id: 2 },
          ]);
        };
        const second = (change: Partial<FrameOptions> = {}) => send({ to: a.vip2, ...change });
        const whole = (bytes: Uint8Array) => {
          const f = parseFrame(bytes);
          assert.deepEqual([f.ip_checksum_ok, f.checksum_ok], [true, true]);
          return f;
        };

        /** As the backend sees a packet. */
        const atBackend = ({ frame }: Passage) => whole(frame);

        /** What the client gets when the backend answers a packet as it saw it: from, to, port. */
        const answer = (seen: Frame, flags = "SA") => {
          const [proto, payload] = [seen.proto === 17 ? "UDP" : "TCP", "pong"] as const;
          const ends = { from: seen.to, to: seen.from, sport: 8080, dport: seen.sport };
          const reply = through(
            datapath,
            buildFrame({ ...ends, proto, flags, payload }),
            backend.local ? "pod" : "wire",
          );
          const f = whole(reply.frame);
          return [reply.reason, f.from, f.to, f.dport];
        };
        const portOf = (vip: string, sport = 40000, proto: "TCP" | "UDP" = "TCP") =>
          datapath.get("flows", dnat(sport, vip, proto))?.client_port;

        for (const proto of ["TCP", "UDP"] as const) {
          test(`${proto}: the second gets another port towards the backend, each hears its own VIP`, () => {
            publishBoth(proto);
            const one = atBackend(ask({ proto, payload: "ping" }));
            const outcome = ask({ to: a.vip2, proto, payload: "ping" });
            const two = atBackend(outcome);
            assert.equal(outcome.reason, "REASON_NEW_FLOW");
            assert.notEqual(one.sport, two.sport);
            if (backend.local) assert.deepEqual([one.from, two.from], [a.client, a.client], "the address is kept");
            assert.deepEqual([portOf(a.vip, 40000, proto), portOf(a.vip2, 40000, proto) !== 0], [0, true]);
            for (let round = 0; round < 2; round++) {
              assert.deepEqual(answer(one), ["REASON_REPLY", a.vip, a.client, 40000]);
              assert.deepEqual(answer(two), ["REASON_REPLY", a.vip2, a.client, 40000]);
              assert.equal(atBackend(send({ proto, flags: "A" })).sport, one.sport);
              assert.equal(atBackend(second({ proto, flags: "A" })).sport, two.sport);
            }
            assert.equal(datapath.entries("flows").length, backend.local ? 4 : 8);
          });
        }

        test("a second whose flows were lost in part finds its port again", () => {
          publishBoth();
          ask();
          const two = atBackend(ask({ to: a.vip2 }));
          assert.ok(datapath.remove("flows", dnat(40000, a.vip2)));
          assert.equal(atBackend(second({ flags: "A" })).sport, two.sport);
          assert.equal(datapath.entries("flows").length, backend.local ? 4 : 8);
        });

        test("an end of the second is its own, not the first's", () => {
          publishBoth();
          send();
          const two = atBackend(second());
          atBackend(second({ flags: "FA" }));
          answer(two, "FA");
          const flags = (vip: string) => datapath.get("flows", dnat(40000, vip))?.flags ?? 0;
          assert.deepEqual([stateOf(6, flags(a.vip)), stateOf(6, flags(a.vip2))], ["tcpHalfOpen", "tcpClosed"]);
          assert.deepEqual(answer(two), ["REASON_REPLY", a.vip2, a.client, 40000]);
        });

        test("a second that starts anew leaves nothing of its former self", () => {
          publishBoth();
          ask();
          ask({ to: a.vip2 });
          second({ flags: "R" });
          assert.equal(ask({ to: a.vip2 }).reason, "REASON_NEW_FLOW");
          assert.equal(datapath.entries("flows").length, backend.local ? 4 : 8);
        });

        test("the second takes the port of a first whose way in is gone, or that was closed 11 s ago", () => {
          for (const end of ["gone", "closed"] as const) {
            publishBoth();
            ask();
            if (end === "gone") datapath.remove("flows", dnat());
            else {
              send({ flags: "R" });
              age(11n);
            }
            const two = atBackend(ask({ to: a.vip2 }));
            assert.equal(portOf(a.vip2), 0, end);
            assert.equal(portOf(a.vip), undefined, "no way in is left to what was taken over");
            assert.deepEqual(answer(two), ["REASON_REPLY", a.vip2, a.client, 40000]);
            for (const [key] of datapath.entries("flows")) datapath.remove("flows", key);
          }
        });

        test("the first, coming back after its port was taken over, gets another one", () => {
          publishBoth();
          send();
          datapath.remove("flows", dnat());
          const two = atBackend(second());
          const one = atBackend(send());
          assert.notEqual(one.sport, two.sport);
          assert.deepEqual(answer(one), ["REASON_REPLY", a.vip, a.client, 40000]);
          assert.deepEqual(answer(two), ["REASON_REPLY", a.vip2, a.client, 40000]);
        });

        test("a port that stands for another one is not the client's own to give: its own user gets a third", () => {
          publishBoth();
          ask();
          const two = atBackend(ask({ to: a.vip2 }));
          const stand_in = portOf(a.vip2) ?? 0;
          const three = atBackend(send({ sport: stand_in }));
          assert.notEqual(three.sport, two.sport);
          assert.deepEqual(answer(three), ["REASON_REPLY", a.vip, a.client, stand_in]);
          assert.deepEqual(answer(two), ["REASON_REPLY", a.vip2, a.client, 40000]);
        });

        test("a privileged port is replaced by a privileged one; where all are taken, a counted drop leaves nothing", () => {
          publishBoth();
          for (let port = 600; port < 1024; port++) {
            assert.equal(send({ sport: port }).reason, "REASON_NEW_FLOW");
            if (port !== 900) continue;
            assert.equal(ask({ to: a.vip2, sport: 900 }).reason, "REASON_NEW_FLOW");
            const other = portOf(a.vip2, 900) ?? 0;
            assert.ok(other >= 600 && other < 1024, `${other}`);
            second({ sport: 900, flags: "R" });
            for (const [key, flow] of datapath.entries("flows"))
              if (flow.service_id === 2) datapath.remove("flows", key);
          }
          const flows = datapath.entries("flows").length;
          const outcome = second({ sport: 800 });
          assert.deepEqual([outcome.verdict, outcome.reason], ["drop", "REASON_FLOW_CLASH"]);
          assert.equal(datapath.entries("flows").length, flows);
          assert.equal(send({ sport: 800, flags: "A" }).reason, "REASON_ESTABLISHED");
        });

        test("another client port is no clash", () => {
          publishBoth();
          ask();
          assert.equal(ask({ to: a.vip2, sport: 40001 }).reason, "REASON_NEW_FLOW");
          assert.equal(portOf(a.vip2, 40001), 0);
        });
      });
    }

    test(`${a.family}: no SNAT port for the second: a drop that leaves the first alone`, () => {
      publish(datapath, { address: a.vip, port: 80 }, [remote]);
      publish(datapath, { address: a.vip2, port: 80, service_id: 2, slot_base: 10 }, [{ ...remote, id: 2 }]);
      datapath.configure({ snat_port_min: 61000, snat_port_max: 61000 });
      establish();
      assert.equal(send({ to: a.vip2 }).reason, "REASON_SNAT_EXHAUSTED");
      assert.equal(datapath.entries("flows").length, 4);
    });
  }
});
