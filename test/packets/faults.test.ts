// tc: what networks send by accident or on purpose, in the numbering of docs/dataplane.md, as far as no other file has it.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { frontend_address_flag, frontend_flag } from "../../src/dataplane/bpf/abi.gen.ts";
import type { Address } from "../../src/model/address.ts";
import { type Datapath, families, type Outcome, publish } from "../lib/datapath.ts";
import { inEveryForwarding, newDatapath } from "../lib/forwarding.ts";
import { buildError, buildFrame, ETHERNET, type FrameOptions, parseFrame, splitFrame } from "../lib/packet.ts";

inEveryForwarding((datapath, forwarding) => {
  const said = ({ verdict, reason }: Outcome): string => `${verdict} ${reason.replace("REASON_", "")}`;

  for (const a of families) {
    const v4 = a.family === "IPv4";
    const header = v4 ? 20 : 40;
    const local = { id: 1, address: a.local, local: true };
    const serve = (address_flags = 0) => {
      publish(datapath, { address: a.vip, port: 80, address_flags }, [local]);
      publish(datapath, { address: a.vip, port: 53, proto: "UDP", service_id: 2, slot_base: 8, address_flags }, [
        { ...local, id: 2 },
      ]);
    };
    const VIP = frontend_address_flag.FRONTEND_ADDRESS_VIP;
    const tcp = (change: Partial<FrameOptions> = {}) =>
      buildFrame({ from: a.client, to: a.vip, flags: "S", ...change });
    const udp = (change: Partial<FrameOptions> = {}) =>
      buildFrame({ from: a.client, to: a.vip, proto: "UDP", dport: 53, ...change });

    describe(a.family, () => {
      test("Fault 66: TTL 1 stays 1; the kernel's time exceeded then comes from the VIP, about the packet as it was sent", () => {
        serve();
        const outcome = datapath.ingress(tcp({ ttl: 1 }));
        assert.deepEqual([said(outcome), parseFrame(outcome.frame).ttl], ["pass NEW_FLOW", 1]);
        const exceeded = v4 ? ([11, 0] as const) : ([3, 0] as const);
        const error = datapath.egress(buildError({ from: a.node, to: a.client, icmp: exceeded }, outcome.frame));
        assert.equal(said(error), "pass ICMP_ERROR");
        assert.deepEqual(error.frame, buildError({ from: a.vip, to: a.client, icmp: exceeded }, tcp({ ttl: 1 })));
      });

      test("Fault 67: fragments that overlap follow their first one like any others", () => {
        serve();
        const text = "0123456789abcdef".repeat(200);
        const frames = splitFrame(udp({ payload: text }), 1400, 9);
        const again = splitFrame(udp({ payload: text.toUpperCase() }), 1200, 9).slice(1);
        const outcomes = [...frames, ...again].map((frame) => datapath.ingress(frame));
        assert.equal(said(outcomes[0] as Outcome), "pass NEW_FLOW");
        for (const outcome of outcomes.slice(1)) assert.equal(said(outcome), "pass ESTABLISHED");
        for (const { frame } of outcomes) assert.equal(parseFrame(frame).to, a.local);
      });

      test("Fault 67: a first fragment too small for the transport header (RFC 1858) is not translated, nor what follows", () => {
        for (const [flags, first, later] of [
          [0, "pass MALFORMED", "drop PARKED"],
          [VIP, "drop UNREADABLE", "drop PARKED"],
        ] as const) {
          serve(flags);
          const outcomes = splitFrame(tcp({ payload: "0123456789" }), 8, 10).map((frame) => datapath.ingress(frame));
          assert.deepEqual(outcomes.map(said), [first, ...outcomes.slice(1).map(() => later)]);
        }
        assert.equal(datapath.entries("flows").length, 0);
      });

      test("Fault 69: null, Xmas, SYN with FIN, RST and SYN with data open like a SYN, each a flow of its own", () => {
        serve();
        for (const [i, flags] of ["", "FPU", "FS", "SR", "FSRPAU"].entries()) {
          const outcome = datapath.ingress(tcp({ flags, sport: 30000 + i, payload: "early data" }));
          const f = parseFrame(outcome.frame);
          assert.deepEqual([said(outcome), f.to, f.flags, f.checksum_ok], ["pass NEW_FLOW", a.local, flags, true]);
        }
      });

      test("Fault 69: an ACK of no known connection finds the backend that its SYN found: the backend decides", () => {
        const three = [1, 2, 3].map((id) => ({ id, address: `${a.local}${id}`, local: true }));
        publish(datapath, { address: a.vip, port: 80 }, three);
        for (let sport = 30000; sport < 30040; sport++) {
          const syn = parseFrame(datapath.ingress(tcp({ sport })).frame).to;
          for (const [key] of datapath.entries("flows")) datapath.remove("flows", key);
          const ack = datapath.ingress(tcp({ sport, flags: "A", payload: "middle" }));
          assert.deepEqual([said(ack), parseFrame(ack.frame).to], ["pass NEW_FLOW", syn]);
        }
      });

      test("Fault 70: UDP without a checksum stays without; over IPv6, where that is not allowed, as well", () => {
        serve();
        const frame = udp({ payload: "hello", checksum: 0 });
        const outcome = datapath.ingress(frame);
        const f = parseFrame(outcome.frame);
        assert.deepEqual([said(outcome), f.to, f.checksum], ["pass NEW_FLOW", a.local, 0]);
      });

      test("Fault 70: a UDP length that lies is the receiver's to judge: ports and addresses change, nothing else", () => {
        serve();
        for (const length of [0, 7, 9, 0xffff]) {
          const frame = udp({ payload: "hello" });
          new DataView(frame.buffer).setUint16(ETHERNET + header + 4, length);
          const outcome = datapath.ingress(frame);
          const view = new DataView(outcome.frame.buffer, outcome.frame.byteOffset);
          assert.equal(outcome.verdict, "pass");
          assert.equal(parseFrame(outcome.frame).to, a.local);
          assert.equal(view.getUint16(ETHERNET + header + 4), length);
        }
      });

      test("Fault 71: PPPoE is not ours, GRE to an address of the node is the host's", () => {
        serve();
        const pppoe = tcp();
        new DataView(pppoe.buffer).setUint16(12, 0x8864);
        const gre = udp();
        gre[ETHERNET + (v4 ? 9 : 6)] = 47;
        for (const frame of [pppoe, gre]) {
          const outcome = datapath.ingress(frame);
          assert.deepEqual([said(outcome), outcome.frame], ["pass NOT_OURS", frame]);
        }
      });

      test("Fault 73: from the address that it is for: dropped, since its answer would come back as the next request", () => {
        for (const flags of [0, VIP]) {
          serve(flags);
          for (const frame of [tcp({ from: a.vip, sport: 80 }), udp({ from: a.vip, sport: 53 }), udp({ from: a.vip })])
            assert.equal(said(datapath.ingress(frame)), "drop FROM_ITSELF");
        }
        const ping = buildFrame({ from: a.vip, to: a.vip, proto: v4 ? "ICMP" : "ICMPv6" });
        assert.equal(said(datapath.ingress(ping)), "drop FROM_ITSELF");
        assert.equal(datapath.entries("flows").length, 0);
        assert.equal(said(datapath.ingress(tcp({ from: a.vip2, to: a.vip2 }))), "pass NOT_OURS");
      });

      test("Fault 73: from another VIP it is a client like any other: a load balancer may send from its own address", () => {
        serve(VIP);
        const outcome = datapath.ingress(tcp({ from: a.vip2 }));
        const f = parseFrame(outcome.frame);
        assert.deepEqual([said(outcome), f.from, f.to], ["pass NEW_FLOW", a.vip2, a.local]);
      });

      test("Fault 81: source ranges that are narrowed keep out new connections and leave those that are there", () => {
        const flags = frontend_flag.FRONTEND_SOURCE_RANGES;
        publish(datapath, { address: a.vip, port: 80, flags }, [local]);
        const everybody = { prefixlen: v4 ? 32 + 96 : 32, service_id: 1, addr: (v4 ? "0.0.0.0" : "::") as Address };
        datapath.put("source_ranges", everybody, { allow: 1 });
        assert.equal(said(datapath.ingress(tcp())), "pass NEW_FLOW");
        assert.equal(said(datapath.ingress(tcp())), "pass ESTABLISHED");
        datapath.remove("source_ranges", everybody);
        assert.equal(said(datapath.ingress(tcp({ flags: "A" }))), "pass ESTABLISHED");
        assert.equal(said(datapath.ingress(tcp({ sport: 40001 }))), "drop SOURCE_RANGE");
      });

      test("Fault 84: two nodes with one seed, and the same run, send a client's packet to the same backend", () => {
        const other = newDatapath(forwarding);
        const run = [1, 2, 3, 4, 5].map((id) => ({ id, address: `${a.local}${id}`, local: true }));
        for (const node of [datapath, other]) publish(node, { address: a.vip, port: 80 }, run);
        const chosen = (node: Datapath, sport: number) => parseFrame(node.ingress(tcp({ sport })).frame).to;
        for (let sport = 30000; sport < 30060; sport++) assert.equal(chosen(datapath, sport), chosen(other, sport));
        other.close();
      });
    });
  }
});
