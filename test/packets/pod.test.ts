// The program of pods' devices, both families: what a pod sends is asked as internal traffic, keeps its address, and is
// undone where it comes back to the pod; a pod that reaches itself meets its node's address.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { node_address_flag, scope, socket_lb } from "../../src/dataplane/bpf/abi.gen.ts";
import type { Address } from "../../src/model/address.ts";
import { type BackendSpec, type FrontendSpec, families, flowKey, PORTS, publish } from "../lib/datapath.ts";
import { inEveryForwarding, newDatapath } from "../lib/forwarding.ts";
import { buildFrame, formatFrame, parseFrame } from "../lib/packet.ts";

const at = (address: string, port: number): string =>
  address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`;

const assertWhole = (frame: Uint8Array): void => {
  const { ip_checksum_ok, checksum_ok } = parseFrame(frame);
  assert.deepEqual({ ip_checksum_ok, checksum_ok }, { ip_checksum_ok: true, checksum_ok: true });
};

inEveryForwarding((datapath, forwarding) => {
  for (const a of families) {
    for (const proto of ["TCP", "UDP"] as const) {
      const said = (flags: string): string => (proto === "UDP" ? "UDP" : flags);
      /** The pod of this node that asks; it is a backend, too. */
      const pod = a.local;

      describe(`${a.family} ${proto}`, () => {
        const serve = (backends: readonly BackendSpec[], spec: Partial<FrontendSpec> = {}): void =>
          publish(datapath, { address: a.vip, port: 80, proto, scope: scope.SCOPE_INTERNAL, ...spec }, backends);
        const request = (sport = 40000, flags = "S"): Uint8Array =>
          buildFrame({ from: pod, to: a.vip, sport, dport: 80, proto, flags, payload: "hello" });

        test("a remote backend sees the pod; its reply, which comes by the node's device, is undone at the pod's", () => {
          serve([{ id: 1, address: a.remote }]);
          const sent = datapath.podIngress(request());
          assert.equal(sent.reason, "REASON_NEW_FLOW");
          assert.equal(formatFrame(sent.frame), `${at(pod, 40000)} > ${at(a.remote, 8080)} ${said("S")}`);
          assertWhole(sent.frame);
          const left = datapath.egress(sent.frame);
          assert.deepEqual([left.reason, left.frame], ["REASON_NOT_OURS", sent.frame], "no SNAT on the way out");

          const reply = buildFrame({ from: a.remote, to: pod, sport: 8080, dport: 40000, proto, flags: "SA" });
          const entered = datapath.ingress(reply);
          assert.deepEqual([entered.reason, entered.frame], ["REASON_NOT_OURS", reply]);
          const back = datapath.egress(entered.frame);
          assert.equal(back.reason, "REASON_REPLY");
          assert.equal(formatFrame(back.frame), `${at(a.vip, 80)} > ${at(pod, 40000)} ${said("SA")}`);
          assertWhole(back.frame);
          assert.equal(datapath.podIngress(request(40000, "A")).reason, "REASON_ESTABLISHED");
          assert.equal(datapath.entries("flows").length, 2);
        });

        test("it is asked as internal traffic: what answers outside alone does not answer a pod, and the other way round", () => {
          serve([{ id: 1, address: a.remote }], { scope: scope.SCOPE_EXTERNAL });
          assert.equal(datapath.podIngress(request()).reason, "REASON_NOT_OURS");
          serve([{ id: 1, address: a.remote }], { scope: scope.SCOPE_INTERNAL });
          assert.equal(datapath.podIngress(request()).reason, "REASON_NEW_FLOW");
          assert.equal(datapath.remove("frontends", frontendKey(scope.SCOPE_EXTERNAL)), true);
          const fromOutside = buildFrame({ from: a.client, to: a.vip, sport: 1, dport: 80, proto, flags: "S" });
          assert.equal(datapath.ingress(fromOutside).reason, "REASON_NOT_OURS");
        });
        const frontendKey = (asked: number) => ({
          addr: a.vip as Address,
          port: 80,
          proto: proto === "TCP" ? 6 : 17,
          scope: asked,
        });

        test("Fault 74: hairpin: the pod meets its node's address, and hears the VIP", () => {
          serve([{ id: 1, address: pod, local: true }]);
          const sent = datapath.podIngress(request());
          assert.equal(sent.reason, "REASON_NEW_FLOW");
          assert.equal(formatFrame(sent.frame), `${at(pod, 40000)} > ${at(pod, 8080)} ${said("S")}`);
          const arrived = datapath.egress(sent.frame);
          assert.equal(arrived.reason, "REASON_ESTABLISHED");
          assertWhole(arrived.frame);
          const seen = parseFrame(arrived.frame);
          assert.deepEqual([seen.from, seen.to, seen.dport], [a.node, pod, 8080]);
          assert.ok(seen.sport >= PORTS.min && seen.sport <= PORTS.max, `port ${seen.sport}`);

          const reply = buildFrame({ from: pod, to: a.node, sport: 8080, dport: seen.sport, proto, flags: "SA" });
          const turned = datapath.podIngress(reply);
          assert.equal(turned.reason, "REASON_REPLY");
          assert.equal(formatFrame(turned.frame), `${at(pod, 8080)} > ${at(pod, 40000)} ${said("SA")}`);
          const heard = datapath.egress(turned.frame);
          assert.equal(heard.reason, "REASON_REPLY");
          assert.equal(formatFrame(heard.frame), `${at(a.vip, 80)} > ${at(pod, 40000)} ${said("SA")}`);
          assertWhole(heard.frame);
          assert.equal(datapath.entries("flows").length, 4);
        });

        test("hairpin from the very port that the pod serves: another port stands for it between the hooks", () => {
          serve([{ id: 1, address: pod, local: true }]);
          const sent = datapath.podIngress(request(8080));
          assert.equal(sent.reason, "REASON_NEW_FLOW");
          const inner = parseFrame(sent.frame).sport;
          assert.notEqual(inner, 8080);
          const seen = parseFrame(datapath.egress(sent.frame).frame);
          assert.equal(seen.from, a.node);
          const reply = buildFrame({ from: pod, to: a.node, sport: 8080, dport: seen.sport, proto, flags: "SA" });
          const heard = datapath.egress(datapath.podIngress(reply).frame);
          assert.equal(formatFrame(heard.frame), `${at(a.vip, 80)} > ${at(pod, 8080)} ${said("SA")}`);
          assertWhole(heard.frame);
          assert.equal(datapath.get("flows", flowKey([pod, 8080], [pod, 8080], proto)), null);
        });

        test("two pods of one Service: the other one sees the client itself", () => {
          serve([{ id: 1, address: a.other, local: true }]);
          const sent = datapath.podIngress(request());
          assert.equal(formatFrame(sent.frame), `${at(pod, 40000)} > ${at(a.other, 8080)} ${said("S")}`);
          assert.equal(datapath.egress(sent.frame).reason, "REASON_NOT_OURS");
        });

        test("a NodePort of the node's addresses, never of a loopback one", () => {
          serve([{ id: 1, address: a.remote }], { address: null, family: a.family, port: 30080 });
          datapath.put("node_addresses", a.node as Address, { flags: 0 });
          datapath.put("node_addresses", a.vip2 as Address, { flags: node_address_flag.NODE_ADDRESS_LOOPBACK });
          const to = (address: string) =>
            datapath.podIngress(buildFrame({ from: pod, to: address, sport: 1, dport: 30080, proto, flags: "S" }))
              .reason;
          assert.deepEqual([to(a.node), to(a.vip2)], ["REASON_NEW_FLOW", "REASON_NOT_OURS"]);
          const loopback = a.family === "IPv4" ? "127.0.0.1" : "::1";
          assert.equal(to(loopback), "REASON_LOOPBACK");
        });

        test("below a bridge a pod's frames are for the bridge, and the pod's device reads them; the node's does not", () => {
          const forSomebodyElse = { destination_mac: Uint8Array.of(2, 0, 0, 0, 0, 9) };
          const frame = buildFrame({
            from: pod,
            to: a.vip,
            sport: 5,
            dport: 80,
            proto,
            flags: "S",
            ...forSomebodyElse,
          });
          serve([{ id: 1, address: a.remote }]);
          serve([{ id: 1, address: a.remote }], { scope: scope.SCOPE_EXTERNAL });
          assert.equal(datapath.ingress(frame).reason, "REASON_NOT_OURS");
          assert.equal(datapath.podIngress(frame).reason, "REASON_NEW_FLOW");
        });

        test("no endpoint: an ICMP error goes back to the pod", () => {
          serve([]);
          const outcome = datapath.podIngress(request());
          assert.deepEqual([outcome.reason, outcome.verdict], ["REASON_NO_ENDPOINTS", "send back"]);
          assert.deepEqual([parseFrame(outcome.frame).from, parseFrame(outcome.frame).to], [a.vip, pod]);
        });
      });
    }

    test(`${a.family}: without socket hooks what leaves for a frontend is counted, and goes on as it is`, () => {
      const frame = buildFrame({ from: a.node, to: a.vip, sport: 40000, dport: 80, flags: "S" });
      const off = newDatapath(forwarding, { socket_lb: socket_lb.SOCKET_LB_OFF });
      for (const [inMode, reason] of [
        [off, "REASON_NOT_HANDLED"],
        [datapath, "REASON_NOT_OURS"],
      ] as const) {
        const spec = { address: a.vip, port: 80, scope: scope.SCOPE_INTERNAL } as const;
        publish(inMode, spec, [{ id: 1, address: a.remote }]);
        const outcome = inMode.egress(frame);
        assert.deepEqual([outcome.reason, outcome.verdict, outcome.frame], [reason, "pass", frame]);
      }
      off.close();
    });
  }
});
