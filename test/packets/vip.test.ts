// tc: what is sent to an address that only Services have, and is for none of them. Whatever it is, it neither goes on to
// the host nor back to the router, which would return it; a ping is answered.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { frontend_address_flag } from "../../src/dataplane/bpf/abi.gen.ts";
import type { Address } from "../../src/model/address.ts";
import { families, type Outcome, publish } from "../lib/datapath.ts";
import { inEveryForwarding } from "../lib/forwarding.ts";
import {
  buildError,
  buildFrame,
  ETHERNET,
  type FrameOptions,
  internetSum,
  joinFragments,
  parseFrame,
  splitFrame,
  tagFrame,
} from "../lib/packet.ts";
import { enterNetworkNamespace } from "../lib/socket.ts";

enterNetworkNamespace([]); // what a program sends to its device again ends here

inEveryForwarding((datapath) => {
  const VIP = frontend_address_flag.FRONTEND_ADDRESS_VIP;

  for (const a of families) {
    const v4 = a.family === "IPv4";
    const header = v4 ? 20 : 40;
    const local = { id: 1, address: a.local, local: true };
    const serve = (address_flags: number = VIP): void => {
      publish(datapath, { address: a.vip, port: 80, address_flags }, [local]);
      publish(datapath, { address: a.vip, port: 443, proto: "UDP", address_flags }, [local]);
    };
    /** Another protocol's number in a frame; its IPv4 header checksum is right again. */
    const ofProtocol = (frame: Uint8Array, proto: number): Uint8Array => {
      const copy = frame.slice();
      copy[ETHERNET + (v4 ? 9 : 6)] = proto;
      if (!v4) return copy;
      const view = new DataView(copy.buffer);
      view.setUint16(ETHERNET + 10, 0);
      view.setUint16(ETHERNET + 10, ~internetSum(copy.slice(ETHERNET, ETHERNET + 20)) & 0xffff);
      return copy;
    };
    const extension = (size: number): Uint8Array => Uint8Array.of(0, size / 8 - 1, ...new Uint8Array(size - 2));
    const answered = (outcome: Outcome, reason: string, icmp: readonly [number, number]) => {
      assert.deepEqual([outcome.verdict, outcome.reason], ["send back", reason]);
      const f = parseFrame(outcome.frame);
      assert.deepEqual(f.icmp, icmp);
      assert.deepEqual([f.from, f.to, f.ttl, f.ip_checksum_ok, f.checksum_ok], [a.vip, a.client, 64, true, true]);
      assert.deepEqual([f.source_mac, f.destination_mac], ["00:00:00:00:00:00", "02:00:00:00:00:01"]);
      return f;
    };
    const passes = (outcome: Outcome, frame: Uint8Array, reason = "REASON_NOT_OURS"): void => {
      assert.deepEqual([outcome.verdict, outcome.reason], ["pass", reason]);
      assert.deepEqual(outcome.frame, frame);
    };
    const drops = (frame: Uint8Array, reason: string): void => {
      const outcome = datapath.ingress(frame);
      assert.deepEqual([outcome.verdict, outcome.reason], ["drop", reason]);
    };

    describe(`${a.family}: Fault 80: a VIP's unlisted port`, () => {
      const asked: readonly FrameOptions[] = [
        { from: a.client, to: a.vip, dport: 81, proto: "TCP", flags: "S" },
        { from: a.client, to: a.vip, dport: 81, proto: "TCP", flags: "A", payload: "hello" },
        { from: a.client, to: a.vip, dport: 81, proto: "UDP", payload: "hello" },
        { from: a.client, to: a.vip, dport: 80, proto: "UDP", payload: "a port of TCP alone" },
        { from: a.client, to: a.vip, dport: 443, proto: "TCP", flags: "S" },
      ];

      test("is refused at once, and nothing is remembered of it", () => {
        serve();
        for (const one of asked) {
          const frame = buildFrame(one);
          const f = answered(datapath.ingress(frame), "REASON_UNLISTED_PORT", v4 ? [3, 3] : [1, 4]);
          assert.deepEqual(f.payload.slice(4), frame.slice(ETHERNET));
        }
        assert.equal(datapath.entries("flows").length, 0);
      });

      test("is refused though a NodePort has that number, which answers at the node's addresses alone", () => {
        serve();
        publish(datapath, { address: null, family: a.family, port: 30080 }, [local]);
        datapath.put("node_addresses", a.node as Address, { flags: 0 });
        const to = (address: string) =>
          datapath.ingress(buildFrame({ from: a.client, to: address, dport: 30080 })).reason;
        assert.deepEqual([to(a.vip), to(a.node)], ["REASON_UNLISTED_PORT", "REASON_NEW_FLOW"]);
      });

      test("is the host's where the address is the node's as well, and whatever it is", () => {
        serve(0);
        const frames = [
          ...asked.map(buildFrame),
          buildFrame({ from: a.client, to: a.vip, proto: "SCTP", dport: 81 }),
          buildFrame({ from: a.client, to: a.vip, proto: v4 ? "ICMP" : "ICMPv6" }),
          ofProtocol(buildFrame({ from: a.client, to: a.vip, proto: "UDP" }), 47),
        ];
        for (const frame of frames) passes(datapath.ingress(frame), frame);
      });

      test("is not ours at an address that no Service has", () => {
        serve();
        for (const one of asked) {
          const frame = buildFrame({ ...one, to: a.vip2 });
          passes(datapath.ingress(frame), frame);
        }
      });

      test("the answer that a host's own socket gave from that address is left alone on its way out", () => {
        serve();
        const frame = buildFrame({ from: a.vip, to: a.client, sport: 81, dport: 40000, flags: "SA" });
        passes(datapath.egress(frame), frame);
      });

      test("a flow that is known goes on after its port is gone, as kube-proxy's do", () => {
        serve();
        const frame = (flags: string) => buildFrame({ from: a.client, to: a.vip, flags });
        for (const reason of ["REASON_NEW_FLOW", "REASON_ESTABLISHED"])
          assert.equal(datapath.ingress(frame("S")).reason, reason);
        datapath.remove("frontends", { addr: a.vip as Address, port: 80, proto: 6, scope: 0 });
        assert.equal(datapath.ingress(frame("A")).reason, "REASON_ESTABLISHED");
        assert.equal(
          datapath.ingress(buildFrame({ from: a.other, to: a.vip, flags: "S" })).reason,
          "REASON_UNLISTED_PORT",
        );
      });
    });

    describe(`${a.family}: Fault 78: SCTP, and protocols without ports`, () => {
      const unreachable = v4 ? ([3, 2] as const) : ([4, 1] as const);
      const refused = (frame: Uint8Array, pointer = 6): void => {
        const f = answered(datapath.ingress(frame), "REASON_PROTOCOL", unreachable);
        assert.equal(new DataView(f.payload.buffer, f.payload.byteOffset).getUint32(0), v4 ? 0 : pointer);
        assert.deepEqual(f.payload.slice(4), frame.slice(ETHERNET));
      };
      const init = Uint8Array.of(1, 0, 0, 20, ...new Uint8Array(16));

      test("an INIT to a frontend is refused: the protocol is unreachable, which ends the association at once", () => {
        publish(datapath, { address: a.vip, port: 80, proto: "SCTP", address_flags: VIP }, [local]);
        publish(datapath, { address: null, family: a.family, port: 30080, proto: "SCTP" }, [local]);
        datapath.put("node_addresses", a.vip2 as Address, { flags: 0 });
        const frame = buildFrame({ from: a.client, to: a.vip, proto: "SCTP", payload: init });
        refused(frame);
        const at_node = datapath.ingress(buildFrame({ from: a.client, to: a.vip2, proto: "SCTP", dport: 30080 }));
        assert.deepEqual([at_node.verdict, at_node.reason], ["send back", "REASON_PROTOCOL"]);
        refused(buildFrame({ from: a.client, to: a.vip, proto: "SCTP", dport: 81, payload: init }));
        assert.equal(datapath.entries("flows").length, 0);
      });

      test("GRE, ESP, AH and anything else to a VIP is refused likewise", () => {
        serve();
        for (const proto of [2, 4, 41, 47, 50, 51, 59, 89, 253])
          refused(ofProtocol(buildFrame({ from: a.client, to: a.vip, proto: "UDP", payload: "tunnel" }), proto));
      });

      if (!v4) {
        test("behind extension headers: the error points at the one that says so", () => {
          serve();
          const extensions = [
            [0, extension(16)],
            [60, extension(8)],
          ] as const;
          refused(buildFrame({ from: a.client, to: a.vip, proto: "SCTP", payload: init, extensions }), 40 + 16);
        });

        test("more extension headers than are read, or a route that is not travelled to its end", () => {
          serve();
          const unfinished = extension(24);
          unfinished[3] = 1;
          for (const [extensions, pointer] of [
            [[0, 60, 60, 60, 60].map((type) => [type, extension(8)] as const), 40 + 24],
            [[[60, extension(256)] as const], 40],
            [[[43, unfinished] as const], 6],
          ] as const)
            refused(buildFrame({ from: a.client, to: a.vip, extensions }), pointer);
        });
      }
    });

    describe(`${a.family}: Fault 72: ping a VIP`, () => {
      const proto = v4 ? "ICMP" : "ICMPv6";
      const request = v4 ? 8 : 128;
      const reply = [v4 ? 0 : 129, 0] as const;
      const ping = (change: Partial<FrameOptions> = {}): Uint8Array =>
        buildFrame({ from: a.client, to: a.vip, proto, icmp: [request, 0], payload: "0123456789", ...change });

      for (const size of [0, 1, 2, 55, 56, 57, 1399, 1400, 1452]) {
        test(`with ${size} bytes is answered with the same`, () => {
          serve();
          const payload = Uint8Array.from({ length: size }, (_, i) => (i * 13 + size) & 0xff);
          const f = answered(datapath.ingress(ping({ payload, ttl: 3 })), "REASON_ECHO", reply);
          assert.deepEqual(f.payload.slice(4), payload);
        });
      }

      test("identifier, sequence number, class of service and code come back", () => {
        serve();
        const frame = ping({ icmp: [request, 7] });
        frame.set([0xab, 0xcd, 0x01, 0x02], ETHERNET + header + 4);
        const sum = internetSum(Uint8Array.of(0xab, 0xcd, 0x01, 0x02));
        const view = new DataView(frame.buffer);
        const at = ETHERNET + header + 2;
        view.setUint16(
          at,
          ~internetSum(Uint8Array.of(~view.getUint8(at), ~view.getUint8(at + 1), sum >> 8, sum)) & 0xffff,
        );
        const f = answered(datapath.ingress(frame), "REASON_ECHO", [reply[0], 7]);
        assert.deepEqual([...f.payload.slice(0, 4)], [0xab, 0xcd, 0x01, 0x02]);
      });

      test("checksum edges: every value of a payload word, right before and right after", () => {
        serve();
        for (const word of [0, 1, 0x7ff, 0x800, 0xf7ff, 0xf800, 0xfffe, 0xffff]) {
          for (let add = 0; add < 4; add++) {
            const payload = Uint8Array.of(((word + add) >> 8) & 0xff, (word + add) & 0xff);
            answered(datapath.ingress(ping({ payload })), "REASON_ECHO", reply);
          }
        }
      });

      test("one that was damaged on its way comes back damaged", () => {
        serve();
        const outcome = datapath.ingress(ping({ checksum: 0x1234 }));
        assert.deepEqual([outcome.reason, parseFrame(outcome.frame).checksum_ok], ["REASON_ECHO", false]);
      });

      if (v4) {
        for (const size of [4, 8, 20, 40]) {
          test(`${size} bytes of options: their place is kept, and they say nothing of the way back`, () => {
            serve();
            const options = Uint8Array.of(7, size, 4, ...new Uint8Array(size - 3).fill(0xc6));
            const outcome = datapath.ingress(ping({ options }));
            answered(outcome, "REASON_ECHO", reply);
            assert.deepEqual(outcome.frame.slice(ETHERNET + 20, ETHERNET + 20 + size), new Uint8Array(size).fill(1));
          });
        }
      } else {
        test("behind extension headers, which stay", () => {
          serve();
          const extensions = [
            [0, extension(8)],
            [60, extension(24)],
          ] as const;
          const frame = ping({ extensions });
          const outcome = datapath.ingress(frame);
          answered(outcome, "REASON_ECHO", reply);
          assert.deepEqual(outcome.frame.slice(54, 54 + 32), frame.slice(54, 54 + 32));
        });
      }

      test("in fragments, in any order: what comes back joins to the whole", () => {
        serve();
        const payload = "0123456789abcdef".repeat(300);
        const frames = splitFrame(ping({ payload }), 1400, 77);
        assert.equal(frames.length, 4);
        const back = [...frames].reverse().map((frame) => {
          const outcome = datapath.ingress(frame);
          assert.deepEqual([outcome.verdict, outcome.reason], ["send back", "REASON_ECHO"]);
          return outcome.frame;
        });
        const f = parseFrame(joinFragments(back.reverse()));
        assert.deepEqual([f.icmp, f.from, f.to, f.checksum_ok], [reply, a.vip, a.client, true]);
        assert.equal(new TextDecoder().decode(f.payload.slice(4)), payload);
      });

      test("behind VLAN tags", () => {
        serve();
        const plain = datapath.ingress(ping()).frame;
        const { reason, frame } = datapath.ingress(tagFrame(ping(), 0x88a8, 0x8100));
        assert.deepEqual([reason, frame], ["REASON_ECHO", tagFrame(plain, 0x88a8, 0x8100)]);
      });

      test("where there is no endpoint: it says that the address is served, not that somebody is there", () => {
        publish(datapath, { address: a.vip, port: 80, address_flags: VIP }, []);
        answered(datapath.ingress(ping()), "REASON_ECHO", reply);
      });

      test("of somebody who is not one host is not answered", () => {
        serve();
        for (const from of v4 ? ["0.0.0.0", "224.0.0.1", "255.255.255.255", "127.0.0.1"] : ["::", "ff02::1", "::1"])
          drops(ping({ from }), "REASON_REPLY_FAILED");
      });

      test("any other message to a VIP, and an error about no flow, is dropped", () => {
        serve();
        const types = v4 ? [0, 4, 5, 9, 13, 15, 17] : [129, 130, 133, 134, 135, 136, 137];
        for (const type of types) drops(ping({ icmp: [type, 0] }), "REASON_STRAY_ICMP");
        const stray = buildFrame({ from: a.vip, to: a.client, sport: 80, flags: "A" });
        drops(buildError({ from: a.other, to: a.vip, icmp: v4 ? [3, 4] : [2, 0] }, stray), "REASON_STRAY_ICMP");
      });

      test("cut anywhere before the end of its header: never half an answer", () => {
        serve();
        const whole = ping({ payload: "" });
        for (let size = 0; size < 8; size++) {
          const cut = whole.slice(0, ETHERNET + header + size);
          const view = new DataView(cut.buffer);
          view.setUint16(ETHERNET + (v4 ? 2 : 4), size + (v4 ? 20 : 0));
          drops(cut, v4 || size > 0 ? "REASON_STRAY_ICMP" : "REASON_UNREADABLE");
        }
      });

      test("to an address of the node, or to nobody's, is the kernel's", () => {
        serve(0);
        for (const to of [a.vip, a.node, a.vip2]) {
          const frame = ping({ to });
          passes(datapath.ingress(frame), frame);
        }
      });
    });

    describe(`${a.family}: to a VIP, and not to be read`, () => {
      test("Fault 67: a later fragment that comes before its first one waits for it", () => {
        publish(datapath, { address: a.vip, port: 80, proto: "UDP", address_flags: VIP }, [local]);
        const text = "0123456789abcdef".repeat(250);
        const [first, second, third] = splitFrame(
          buildFrame({ from: a.client, to: a.vip, proto: "UDP", payload: text }),
          1400,
          77,
        );
        assert.ok(first !== undefined && second !== undefined && third !== undefined);
        for (const frame of [third, first]) datapath.ingress(frame); // the first comes in again, and the third behind it
        const rest = [first, second, third].map((frame) => datapath.ingress(frame));
        assert.deepEqual(
          rest.map(({ reason }) => reason),
          ["REASON_NEW_FLOW", "REASON_ESTABLISHED", "REASON_ESTABLISHED"],
        );
        assert.equal(parseFrame(joinFragments(rest.map(({ frame }) => frame))).checksum_ok, true);
      });

      test("fragments to an unlisted port: the first is refused, the others are dropped", () => {
        serve();
        const [first, second] = splitFrame(
          buildFrame({ from: a.client, to: a.vip, proto: "UDP", dport: 81, payload: "0123456789".repeat(200) }),
          1400,
          78,
        );
        assert.ok(first !== undefined && second !== undefined);
        answered(datapath.ingress(first), "REASON_UNLISTED_PORT", v4 ? [3, 3] : [1, 4]);
        drops(second, "REASON_EARLY_FRAGMENT");
      });

      test("Fault 65: a transport header that is not whole, by the IP header's own word, is dropped at every length", () => {
        serve();
        for (const proto of ["TCP", "UDP"] as const) {
          const frame = buildFrame({ from: a.client, to: a.vip, proto, dport: proto === "TCP" ? 80 : 443, flags: "S" });
          for (let size = 0; size < (proto === "TCP" ? 20 : 8); size++) {
            const cut = frame.slice(0, ETHERNET + header + size);
            new DataView(cut.buffer).setUint16(ETHERNET + (v4 ? 2 : 4), size + (v4 ? 20 : 0));
            drops(cut, "REASON_UNREADABLE");
          }
        }
        assert.equal(datapath.entries("flows").length, 0);
      });

      test("a TCP header shorter than it may be, or longer than the packet, is dropped", () => {
        serve();
        for (const words of [0, 1, 4, 6, 15]) {
          const frame = buildFrame({ from: a.client, to: a.vip, flags: "S" });
          frame[ETHERNET + header + 12] = words << 4;
          drops(frame, "REASON_UNREADABLE");
        }
      });
    });
  }
});
