// Events: what is refused or dropped is written down while somebody listens, so often and no more, and what is not
// written is counted.
import assert from "node:assert/strict";
import { beforeEach, describe, test } from "node:test";
import { flow_kind, frontend_flag, hook, reason, rings } from "../../src/dataplane/bpf/abi.gen.ts";
import { bootTime_ns } from "../../src/dataplane/bpf/system/clock.ts";
import type { Address } from "../../src/model/address.ts";
import { families, flowKey, publish, type ReasonName } from "../lib/datapath.ts";
import { flowOf } from "../lib/flow.ts";
import { inEveryForwarding } from "../lib/forwarding.ts";
import { buildError, buildFrame, type FrameOptions, protocolNumber } from "../lib/packet.ts";

inEveryForwarding((datapath) => {
  for (const a of families) {
    const syn = (change: Partial<FrameOptions> = {}): Uint8Array =>
      buildFrame({ from: a.client, to: a.vip, flags: "S", ...change });
    const restricted = { address: a.vip, port: 80, flags: frontend_flag.FRONTEND_SOURCE_RANGES, service_id: 7 };
    const backend = { id: 3, address: a.local, local: true };
    const ingressCounts = (name: ReasonName) => datapath.eventCounts(hook.HOOK_TC_INGRESS, name);

    describe(`${a.family}: an event`, () => {
      test("says what, when, where, why and of which service", () => {
        publish(datapath, restricted, [backend]);
        datapath.listen(100);
        const before = bootTime_ns();
        assert.equal(datapath.ingress(syn({ sport: 40001 })).verdict, "drop");
        const [event, ...others] = datapath.events();
        assert.deepEqual(others, []);
        assert.ok(event !== undefined && event.time_ns >= before && event.time_ns <= bootTime_ns());
        assert.deepEqual(
          { ...event, time_ns: 0n },
          {
            time_ns: 0n,
            netns_cookie: 0n,
            key: {
              src_addr: a.client,
              dst_addr: a.vip,
              src_port: 40001,
              dst_port: 80,
              outward: 0,
              proto: protocolNumber.TCP,
            },
            ifindex: datapath.deviceIndex("wire"),
            service_id: 7,
            backend_id: 0,
            pid: 0,
            process: "",
            hook: hook.HOOK_TC_INGRESS,
            reason: reason.REASON_SOURCE_RANGE,
          },
        );
      });

      test("of a refusal shows the packet that was refused, not the answer to it", () => {
        publish(datapath, { address: a.vip, port: 80, proto: "UDP", service_id: 9 }, []);
        datapath.listen(100);
        assert.equal(datapath.ingress(syn({ proto: "UDP" })).verdict, "send back");
        const [event] = datapath.events();
        assert.deepEqual(
          [event?.reason, event?.service_id, event?.key],
          [reason.REASON_NO_ENDPOINTS, 9, { ...flowKey([a.client, 40000], [a.vip, 80], "UDP") }],
        );
      });

      test("of a NodePort has its service, too", () => {
        publish(
          datapath,
          { address: null, family: a.family, port: 30080, service_id: 5, flags: frontend_flag.FRONTEND_DROP },
          [],
        );
        datapath.put("node_addresses", a.node as Address, { flags: 0 });
        datapath.listen(100);
        assert.equal(datapath.ingress(syn({ to: a.node, dport: 30080 })).reason, "REASON_NO_LOCAL_ENDPOINTS");
        assert.equal(datapath.events()[0]?.service_id, 5);
      });

      test("of a packet for no service has none", () => {
        datapath.listen(100);
        assert.equal(
          datapath.ingress(syn({ from: a.family === "IPv4" ? "127.0.0.1" : "::1" })).reason,
          "REASON_LOOPBACK",
        );
        const [event] = datapath.events();
        assert.deepEqual([event?.reason, event?.service_id], [reason.REASON_LOOPBACK, 0]);
      });

      test("is written for every reason to refuse or drop that can be brought about", () => {
        datapath.put("node_addresses", a.node as Address, { flags: 0 });
        const at = (port: number, flags = 0, slot_count = 0) => ({
          address: a.vip,
          port,
          service_id: port,
          flags,
          slot_count,
        });
        publish(datapath, at(1), []);
        publish(datapath, at(2, frontend_flag.FRONTEND_DROP), []);
        publish(datapath, { ...at(3, frontend_flag.FRONTEND_SOURCE_RANGES, 1), slot_base: 1 }, [backend]);
        publish(datapath, { ...at(4, 0, 1), slot_base: 4_000_000 }, []);
        publish(datapath, { ...at(5, 0, 1), slot_base: 100 }, []);
        publish(datapath, { ...at(6, 0, 1), slot_base: 200 }, [{ id: 6, address: a.remote }]);
        datapath.configure({ snat_addr_v4: "::" as Address, snat_addr_v6: "::" as Address });
        datapath.listen(1000);
        const wanted: Readonly<Record<number, ReasonName>> = {
          1: "REASON_NO_ENDPOINTS",
          2: "REASON_NO_LOCAL_ENDPOINTS",
          3: "REASON_SOURCE_RANGE",
          4: "REASON_NO_SLOT",
          5: "REASON_NO_BACKEND",
          6: "REASON_NO_SNAT_ADDRESS",
        };
        for (const [port, name] of Object.entries(wanted)) {
          assert.equal(datapath.ingress(syn({ dport: Number(port) })).reason, name);
          const events = datapath.events();
          assert.deepEqual(
            events.map((e) => [e.reason, e.service_id, e.key.dst_port]),
            [[reason[name], Number(port), Number(port)]],
          );
        }
      });

      test("names the backend that had been chosen, where the connection to it could not be opened", () => {
        const two = [
          { id: 5, address: a.remote },
          { id: 6, address: a.other },
        ];
        publish(datapath, { address: a.vip, port: 80, service_id: 7 }, two);
        datapath.configure({ snat_addr_v4: "::" as Address, snat_addr_v6: "::" as Address });
        datapath.listen(1000);
        for (let i = 0; i < 30; i++) {
          assert.equal(datapath.ingress(syn({ sport: 40000 + i })).reason, "REASON_NO_SNAT_ADDRESS");
        }
        const events = datapath.events();
        assert.deepEqual(new Set(events.map((event) => event.service_id)), new Set([7]));
        assert.deepEqual(new Set(events.map((event) => event.backend_id)), new Set([5, 6]));
      });

      test("is not written for what passes or is translated", () => {
        publish(datapath, { address: a.vip, port: 80 }, [backend]);
        datapath.listen(1_000_000);
        datapath.ingress(syn({ to: a.other }));
        datapath.ingress(syn());
        datapath.ingress(syn({ flags: "A" }));
        const reply = buildFrame({ from: a.local, sport: 8080, to: a.client, dport: 40000 });
        assert.equal(datapath.egress(reply).reason, "REASON_REPLY");
        const unreachable = a.family === "IPv4" ? ([3, 3] as const) : ([1, 4] as const);
        assert.equal(
          datapath.egress(
            buildError(
              { from: a.local, to: a.client, icmp: unreachable },
              buildFrame({ from: a.client, sport: 40000, to: a.local, dport: 8080 }),
            ),
          ).reason,
          "REASON_ICMP_ERROR",
        );
        assert.deepEqual(datapath.events(), []);
      });
    });

    describe(`${a.family}: how many events`, () => {
      beforeEach(() => publish(datapath, restricted, [backend]));
      const drop = (times: number): void => {
        datapath.time("tc_ingress", syn(), times); // all on one CPU, in a moment
      };

      test("none while nobody listens, or once the listener has gone silent", () => {
        drop(10);
        datapath.listen(100, -1n);
        drop(10);
        assert.deepEqual(datapath.events(), []);
        assert.deepEqual(ingressCounts("REASON_SOURCE_RANGE"), { written: 0, limited: 0, lost: 0 });
      });

      test("as many at once as may be written in a second; the others are counted", () => {
        datapath.listen(5);
        drop(50);
        assert.equal(datapath.events().length, 5);
        assert.deepEqual(ingressCounts("REASON_SOURCE_RANGE"), { written: 5, limited: 45, lost: 0 });
      });

      test("after a burst as many as the rate says, and no second burst", async () => {
        datapath.listen(20);
        drop(100);
        assert.equal(datapath.events().length, 20);
        await new Promise((resolve) => setTimeout(resolve, 120));
        drop(100);
        const later = datapath.events().length;
        assert.ok(later >= 2 && later <= 20, `${later} events after 120 ms or more`); // on another CPU, its own burst
      });

      test("one reason does not use up what another may write", () => {
        publish(datapath, { address: a.vip, port: 81, flags: frontend_flag.FRONTEND_DROP }, []);
        datapath.listen(3);
        drop(50);
        datapath.ingress(syn({ dport: 81 }));
        assert.deepEqual(
          datapath.events().map((e) => e.reason),
          [
            reason.REASON_SOURCE_RANGE,
            reason.REASON_SOURCE_RANGE,
            reason.REASON_SOURCE_RANGE,
            reason.REASON_NO_LOCAL_ENDPOINTS,
          ],
        );
      });

      test("Fault 61: what a full buffer has no room for is counted as lost; once it is read there is room again", () => {
        const room = Math.floor((rings.events.size_bytes - 1) / (96 + 8));
        datapath.listen(1e9);
        for (let round = 1; round <= 3; round++) {
          drop(room + 100);
          const events = datapath.events();
          assert.equal(events.length, room, `round ${round}`);
          assert.ok(
            events.every(
              (e) => e.service_id === 7 && e.key.dst_addr === a.vip && e.reason === reason.REASON_SOURCE_RANGE,
            ),
          );
          const { written, limited, lost } = ingressCounts("REASON_SOURCE_RANGE");
          assert.deepEqual([written, limited, lost], [room * round, 0, 100 * round]);
        }
      });
    });

    test(`${a.family}: a flow of the other hook with the same key says nothing of the packet`, () => {
      publish(datapath, restricted, [backend]);
      const other = { service_id: 8, backend_id: 4, generation: 1, kind: flow_kind.FLOW_SNAT, flags: 0 };
      const where = { addr: a.local as Address, port: 8080, created_ns: 1n, last_seen_ns: 1n };
      datapath.put("flows", flowKey([a.client, 40000], [a.vip, 80], "TCP", "out"), flowOf({ ...other, ...where }));
      datapath.listen(100);
      assert.equal(datapath.ingress(syn()).reason, "REASON_SOURCE_RANGE");
      const [event] = datapath.events();
      assert.deepEqual([event?.service_id, event?.backend_id], [7, 0]);
    });
  }
});
