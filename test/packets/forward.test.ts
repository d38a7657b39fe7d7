// tc, both directions, both families: what a client outside sends to a VIP reaches a backend, and the reply comes back
// as from the VIP; every frame that leaves is checked for its checksums, its TTL and the reason that was counted.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { node_address_flag } from "../../src/dataplane/bpf/abi.gen.ts";
import type { Address } from "../../src/model/address.ts";
import { families, PORTS, publish } from "../lib/datapath.ts";
import { inEveryForwarding } from "../lib/forwarding.ts";
import { buildFrame, formatFrame, parseFrame } from "../lib/packet.ts";
import { through } from "../lib/passage.ts";

const at = (address: string, port: number): string =>
  address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`;

const assertWhole = (frame: Uint8Array, ttl = 63): void => {
  const f = parseFrame(frame);
  assert.equal(f.ip_checksum_ok, true, "IP header checksum");
  assert.equal(f.checksum_ok, true, "transport checksum");
  assert.equal(f.ttl, ttl, "one hop less");
};

inEveryForwarding((datapath) => {
  for (const a of families) {
    for (const proto of ["TCP", "UDP"] as const) {
      const mark = proto === "UDP" ? "UDP" : "S";
      describe(`${a.family} ${proto}`, () => {
        const request = {
          from: a.client,
          to: a.vip,
          sport: 40000,
          dport: 80,
          proto,
          flags: "S",
          payload: "hello",
        } as const;

        test("local backend: DNAT in, VIP restored out, no SNAT, source address kept", () => {
          publish(datapath, { address: a.vip, port: 80, proto }, [{ id: 1, address: a.local, local: true }]);
          const inward = through(datapath, buildFrame(request));
          assert.equal(inward.verdict, "pass");
          assert.equal(inward.reason, "REASON_NEW_FLOW");
          assert.equal(formatFrame(inward.frame), `${at(a.client, 40000)} > ${at(a.local, 8080)} ${mark}`);
          assertWhole(inward.frame);

          const reply = buildFrame({
            from: a.local,
            to: a.client,
            sport: 8080,
            dport: 40000,
            proto,
            flags: "SA",
            payload: "hi",
          });
          const outward = through(datapath, reply, "pod");
          assert.equal(outward.verdict, "pass");
          assert.equal(outward.reason, "REASON_REPLY");
          assert.equal(
            formatFrame(outward.frame),
            `${at(a.vip, 80)} > ${at(a.client, 40000)} ${proto === "UDP" ? "UDP" : "SA"}`,
          );
          assertWhole(outward.frame);

          const more = through(datapath, buildFrame({ ...request, flags: "A", ttl: 3 }));
          assert.equal(more.reason, "REASON_ESTABLISHED");
          assert.equal(
            formatFrame(more.frame),
            `${at(a.client, 40000)} > ${at(a.local, 8080)} ${proto === "UDP" ? "UDP" : "A"}`,
          );
          assertWhole(more.frame, 2);
          assert.equal(datapath.entries("flows").length, 2, "two flows for a local backend");
        });

        test("remote backend: DNAT and SNAT out, both undone for the reply", () => {
          publish(datapath, { address: a.vip, port: 80, proto }, [{ id: 1, address: a.remote }]);
          const onward = through(datapath, buildFrame(request));
          assert.equal(onward.reason, "REASON_NEW_FLOW");
          const sent = parseFrame(onward.frame);
          assert.deepEqual([sent.from, sent.to, sent.dport], [a.node, a.remote, 8080]);
          assert.ok(sent.sport >= PORTS.min && sent.sport <= PORTS.max, `port ${sent.sport}`);
          assertWhole(onward.frame);

          const reply = buildFrame({ from: a.remote, to: a.node, sport: 8080, dport: sent.sport, proto, flags: "SA" });
          const home = through(datapath, reply);
          assert.equal(home.reason, "REASON_REPLY");
          assert.equal(
            formatFrame(home.frame),
            `${at(a.vip, 80)} > ${at(a.client, 40000)} ${proto === "UDP" ? "UDP" : "SA"}`,
          );
          assertWhole(home.frame);

          assert.equal(through(datapath, buildFrame({ ...request, flags: "A" })).reason, "REASON_ESTABLISHED");
          assert.equal(datapath.entries("flows").length, 4, "four flows for a remote backend");
        });

        test("between the hooks the kernel sees a packet from the client to the backend, or back", () => {
          publish(datapath, { address: a.vip, port: 80, proto }, [{ id: 1, address: a.remote }]);
          datapath.configure({ next_hop_generation: 0 });
          const inward = datapath.ingress(buildFrame(request));
          assert.equal(formatFrame(inward.frame), `${at(a.client, 40000)} > ${at(a.remote, 8080)} ${mark}`);
          const sent = parseFrame(datapath.egress(inward.frame).frame);
          assert.equal(sent.from, a.node);
          const reply = buildFrame({ from: a.remote, to: a.node, sport: 8080, dport: sent.sport, proto, flags: "SA" });
          const back = datapath.ingress(reply);
          assert.deepEqual([back.reason, back.direct], ["REASON_REPLY", false]);
          assert.equal(
            formatFrame(back.frame),
            `${at(a.remote, 8080)} > ${at(a.client, 40000)} ${proto === "UDP" ? "UDP" : "SA"}`,
          );
          const home = parseFrame(datapath.egress(back.frame).frame);
          assert.deepEqual([home.from, home.to, home.dport], [a.vip, a.client, 40000]);
        });

        test("NodePort: at every node address, never at a loopback or a closed one, never at another's", () => {
          publish(datapath, { address: null, family: a.family, port: 30080, proto }, [
            { id: 1, address: a.local, local: true },
          ]);
          datapath.put("node_addresses", a.node as Address, { flags: 0 });
          datapath.put("node_addresses", a.other as Address, { flags: node_address_flag.NODE_ADDRESS_LOOPBACK });
          datapath.put("node_addresses", a.vip as Address, { flags: node_address_flag.NODE_ADDRESS_NO_NODEPORTS });
          const to = (address: string) => datapath.ingress(buildFrame({ ...request, to: address, dport: 30080 }));
          assert.equal(to(a.node).reason, "REASON_NEW_FLOW");
          assert.equal(to(a.other).reason, "REASON_NOT_OURS");
          assert.equal(to(a.vip).reason, "REASON_NOT_OURS");
          assert.equal(to(a.vip2).reason, "REASON_NOT_OURS");
        });

        test("what is not ours is left as it is, in both directions", () => {
          publish(datapath, { address: a.vip, port: 80, proto }, [{ id: 1, address: a.local, local: true }]);
          for (const frame of [
            buildFrame({ ...request, dport: 81 }),
            buildFrame({ ...request, to: a.vip2 }),
            buildFrame({ ...request, proto: proto === "TCP" ? "UDP" : "TCP" }),
          ]) {
            for (const outcome of [datapath.ingress(frame), datapath.egress(frame)]) {
              assert.equal(outcome.reason, "REASON_NOT_OURS");
              assert.equal(outcome.verdict, "pass");
              assert.deepEqual(outcome.frame, frame);
            }
          }
          assert.equal(datapath.entries("flows").length, 0);
        });

        test("no config yet: pass, untouched", () => {
          publish(datapath, { address: a.vip, port: 80, proto }, [{ id: 1, address: a.local, local: true }]);
          datapath.clearConfig();
          const frame = buildFrame(request);
          const outcome = datapath.ingress(frame);
          assert.equal(outcome.reason, "REASON_NO_CONFIG");
          assert.equal(outcome.verdict, "pass");
          assert.deepEqual(outcome.frame, frame);
        });
      });
    }
  }
});
