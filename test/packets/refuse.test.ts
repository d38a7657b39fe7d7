// tc: who is turned away, and how. No endpoint: ICMP port unreachable from the address that was asked, as kube-proxy's
// REJECT; policy Local without local endpoint, or outside the source ranges: dropped in silence.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { frontend_flag, node_address_flag } from "../../src/dataplane/bpf/abi.gen.ts";
import type { Address } from "../../src/model/address.ts";
import { type Datapath, families, publish } from "../lib/datapath.ts";
import { inEveryForwarding } from "../lib/forwarding.ts";
import { buildFrame, ETHERNET, parseFrame } from "../lib/packet.ts";

/** IPv4 prefixes count from bit 96 of the 128. */
const allow = (datapath: Datapath, prefix: string, service_id = 1, entry = { allow: 1 }): void => {
  const [address = "", bits] = prefix.split("/");
  const prefixlen = 32 + Number(bits) + (address.includes(":") ? 0 : 96);
  datapath.put("source_ranges", { prefixlen, service_id, addr: address as Address }, entry);
};

inEveryForwarding((datapath) => {
  for (const a of families) {
    const v4 = a.family === "IPv4";
    /** RFC 1812 4.3.2.3 and RFC 4443 2.4 (c). */
    const limit = v4 ? 576 : 1280;
    const header = v4 ? 28 : 48;

    describe(`${a.family}: no endpoints`, () => {
      for (const proto of ["TCP", "UDP"] as const) {
        for (const size of [0, 1, 2, 63, 64, 65, 479, 480, 481, 520, 1000, 1184, 1185, 1400]) {
          test(`${proto} with ${size} bytes of payload is answered with port unreachable`, () => {
            publish(datapath, { address: a.vip, port: 80, proto }, []);
            const payload = Uint8Array.from({ length: size }, (_, i) => (i * 7 + size) & 0xff);
            const frame = buildFrame({ from: a.client, to: a.vip, proto, flags: "S", payload });
            const outcome = datapath.ingress(frame);
            assert.equal(outcome.verdict, "send back");
            assert.equal(outcome.reason, "REASON_NO_ENDPOINTS");
            const f = parseFrame(outcome.frame);
            assert.deepEqual(f.icmp, v4 ? [3, 3] : [1, 4]);
            assert.equal(f.from, a.vip);
            assert.equal(f.to, a.client);
            assert.equal(f.ip_checksum_ok, true);
            assert.equal(f.checksum_ok, true);
            assert.equal(f.ttl, 64);
            assert.equal(f.source_mac, "00:00:00:00:00:00");
            assert.equal(f.destination_mac, "02:00:00:00:00:01");
            const quoted = frame.slice(ETHERNET, ETHERNET + limit - header);
            assert.deepEqual(f.payload.slice(0, 4), new Uint8Array(4), "unused");
            assert.deepEqual(f.payload.slice(4), quoted, "as much of the original as fits");
            assert.equal(outcome.frame.length, ETHERNET + header + quoted.length);
            assert.equal(datapath.entries("flows").length, 0);
          });
        }
      }

      test("what follows the IP packet in the frame (padding) is not quoted", () => {
        publish(datapath, { address: a.vip, port: 80 }, []);
        const frame = buildFrame({ from: a.client, to: a.vip, flags: "S" });
        const outcome = datapath.ingress(Uint8Array.of(...frame, ...new Array<number>(20).fill(0xee)));
        const f = parseFrame(outcome.frame);
        assert.equal(f.checksum_ok, true);
        assert.deepEqual(f.payload.slice(4), frame.slice(ETHERNET));
        assert.equal(outcome.frame.length, ETHERNET + header + frame.length - ETHERNET);
      });

      test("a wrong checksum in the original is quoted as it is", () => {
        publish(datapath, { address: a.vip, port: 80 }, []);
        const frame = buildFrame({ from: a.client, to: a.vip, flags: "S", checksum: 0x1234, payload: "x" });
        const f = parseFrame(datapath.ingress(frame).frame);
        assert.equal(f.checksum_ok, true);
        assert.deepEqual(f.payload.slice(4), frame.slice(ETHERNET));
      });

      test("nobody is answered who is not one host", () => {
        publish(datapath, { address: a.vip, port: 80 }, []);
        for (const from of v4 ? ["0.0.0.0", "224.0.0.1", "255.255.255.255"] : ["::", "ff02::1"]) {
          const outcome = datapath.ingress(buildFrame({ from, to: a.vip, flags: "S" }));
          assert.equal(outcome.verdict, "drop", from);
          assert.equal(outcome.reason, "REASON_REPLY_FAILED", from);
        }
      });

      test("a frame for another host on the wire is none of our business", () => {
        publish(datapath, { address: a.vip, port: 80 }, []);
        const mac = Uint8Array.of(2, 0, 0, 0, 0, 9);
        const frame = buildFrame({ from: a.client, to: a.vip, destination_mac: mac });
        const outcome = datapath.ingress(frame);
        assert.equal(outcome.verdict, "pass");
        assert.equal(outcome.reason, "REASON_NOT_OURS");
        assert.deepEqual(outcome.frame, frame);
      });
    });

    describe(`${a.family}: dropped`, () => {
      test("policy Local, endpoints elsewhere only: drop, not reject", () => {
        const flags = frontend_flag.FRONTEND_LOCAL | frontend_flag.FRONTEND_DROP;
        publish(datapath, { address: a.vip, port: 80, flags }, []);
        const outcome = datapath.ingress(buildFrame({ from: a.client, to: a.vip, flags: "S" }));
        assert.equal(outcome.verdict, "drop");
        assert.equal(outcome.reason, "REASON_NO_LOCAL_ENDPOINTS");
      });

      test("Fault 73: a loopback address that comes by a wire, either side, frontend or not (CVE-2020-8558)", () => {
        publish(datapath, { address: a.vip, port: 80 }, [{ id: 1, address: a.local, local: true }]);
        publish(datapath, { address: null, family: a.family, port: 80 }, [{ id: 1, address: a.local, local: true }]);
        for (const loopback of v4 ? ["127.0.0.1", "127.255.255.254"] : ["::1"]) {
          datapath.put("node_addresses", loopback as Address, { flags: node_address_flag.NODE_ADDRESS_LOOPBACK });
          for (const [from, to] of [
            [loopback, a.vip],
            [loopback, a.other],
            [a.client, loopback],
          ] as const) {
            for (const proto of ["TCP", "UDP"] as const) {
              const outcome = datapath.ingress(buildFrame({ from, to, proto, flags: "S" }));
              assert.deepEqual([outcome.verdict, outcome.reason], ["drop", "REASON_LOOPBACK"], `${from} > ${to}`);
            }
          }
        }
        for (const near of v4 ? ["126.255.255.255", "128.0.0.1"] : ["::2", "1::1"])
          assert.equal(datapath.ingress(buildFrame({ from: near, to: a.vip, flags: "S" })).reason, "REASON_NEW_FLOW");
        assert.equal(datapath.entries("flows").length, 2);
      });

      test("no source address for SNAT: drop, and no flow is left", () => {
        publish(datapath, { address: a.vip, port: 80 }, [{ id: 1, address: a.remote }]);
        const none = "::" as Address;
        datapath.configure({ snat_addr_v4: none, snat_addr_v6: none });
        const outcome = datapath.ingress(buildFrame({ from: a.client, to: a.vip, flags: "S" }));
        assert.equal(outcome.verdict, "drop");
        assert.equal(outcome.reason, "REASON_NO_SNAT_ADDRESS");
        assert.equal(datapath.entries("flows").length, 0);
      });

      test("a frontend whose run lies outside slots, a slot that names nobody, or another service's backend", () => {
        publish(datapath, { address: a.vip, port: 80, slot_base: 4096, slot_count: 1 }, []);
        publish(datapath, { address: a.vip, port: 81, slot_base: 4000, slot_count: 1 }, []);
        publish(datapath, { address: a.vip, port: 82, service_id: 2, slot_base: 10 }, [{ id: 2, address: a.local }]);
        publish(datapath, { address: a.vip, port: 83, service_id: 3, slot_base: 10, slot_count: 1 }, []);
        const to = (dport: number) => datapath.ingress(buildFrame({ from: a.client, to: a.vip, dport, flags: "S" }));
        assert.deepEqual([to(80).verdict, to(80).reason], ["drop", "REASON_NO_SLOT"]);
        assert.deepEqual([to(81).verdict, to(81).reason], ["drop", "REASON_NO_BACKEND"]);
        assert.equal(to(82).reason, "REASON_NEW_FLOW");
        assert.deepEqual([to(83).verdict, to(83).reason], ["drop", "REASON_NO_BACKEND"]);
      });
    });

    describe(`Fault 81: ${a.family}: source ranges`, () => {
      const enter = (from: string) => datapath.ingress(buildFrame({ from, to: a.vip, flags: "S" })).reason;
      const restricted = (...prefixes: readonly string[]) => {
        const flags = frontend_flag.FRONTEND_SOURCE_RANGES;
        publish(datapath, { address: a.vip, port: 80, flags }, [{ id: 1, address: a.local, local: true }]);
        for (const prefix of prefixes) allow(datapath, prefix);
      };
      const all = v4 ? "0.0.0.0/0" : "::/0";
      const host = v4 ? 32 : 128;

      test("no range of this family: nobody enters", () => {
        restricted();
        assert.equal(enter(a.client), "REASON_SOURCE_RANGE");
      });
      test(`${all} lets everybody in`, () => {
        restricted(all);
        assert.equal(enter(a.client), "REASON_NEW_FLOW");
        assert.equal(enter(a.other), "REASON_NEW_FLOW");
      });
      test(`/${host} lets one in and the next one not`, () => {
        restricted(`${a.client}/${host}`);
        assert.equal(enter(a.client), "REASON_NEW_FLOW");
        assert.equal(enter(a.other), "REASON_SOURCE_RANGE");
      });
      test("nested prefixes: any that matches lets in, the longest is not alone", () => {
        restricted(v4 ? "198.51.100.0/24" : "2001:db8:1::/64", `${a.client}/${host}`);
        assert.equal(enter(a.client), "REASON_NEW_FLOW");
        assert.equal(enter(a.other), "REASON_NEW_FLOW");
        assert.equal(enter(v4 ? "198.51.101.8" : "2001:db8:1:1::8"), "REASON_SOURCE_RANGE");
      });
      test("an odd prefix length splits where it says", () => {
        restricted(v4 ? "198.51.100.0/29" : "2001:db8:1::/125");
        assert.equal(enter(a.client), "REASON_NEW_FLOW", ".7");
        assert.equal(enter(a.other), "REASON_SOURCE_RANGE", ".8");
      });
      if (v4) {
        test("IPv4 clients, v4-mapped here, are below ::/0 and yet not in it", () => {
          restricted("::/0");
          allow(datapath, "0.0.0.0/0", 1, { allow: 0 });
          assert.equal(enter(a.client), "REASON_SOURCE_RANGE");
          allow(datapath, `${a.client}/32`);
          assert.equal(enter(a.client), "REASON_NEW_FLOW");
          assert.equal(enter(a.other), "REASON_SOURCE_RANGE");
        });
      }
      test("another service's ranges do not count, and a frontend without the flag asks nobody", () => {
        restricted();
        allow(datapath, all, 2);
        assert.equal(enter(a.client), "REASON_SOURCE_RANGE");
        publish(datapath, { address: a.vip, port: 80 }, [{ id: 1, address: a.local, local: true }]);
        assert.equal(enter(a.client), "REASON_NEW_FLOW");
      });
      test("whoever was let in stays when the ranges are tightened; what it opens then is asked again", () => {
        restricted(all);
        const open = (sport: number, flags: string) =>
          datapath.ingress(buildFrame({ from: a.client, to: a.vip, sport, flags })).reason;
        assert.equal(open(40000, "S"), "REASON_NEW_FLOW");
        assert.equal(open(40000, "S"), "REASON_ESTABLISHED");
        const range = { prefixlen: 32 + (v4 ? 96 : 0), service_id: 1, addr: (v4 ? "0.0.0.0" : "::") as Address };
        assert.ok(datapath.remove("source_ranges", range));
        assert.equal(open(40000, "A"), "REASON_ESTABLISHED");
        assert.equal(open(40001, "S"), "REASON_SOURCE_RANGE");
      });
      test("whoever is in no range gets no answer where there are no endpoints either", () => {
        publish(datapath, { address: a.vip, port: 80, flags: frontend_flag.FRONTEND_SOURCE_RANGES }, []);
        const outcome = datapath.ingress(buildFrame({ from: a.client, to: a.vip, flags: "S" }));
        assert.deepEqual([outcome.verdict, outcome.reason], ["drop", "REASON_SOURCE_RANGE"]);
      });
    });
  }
});
