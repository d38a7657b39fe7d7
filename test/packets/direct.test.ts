// Direct forwarding in tc: byte for byte what the kernel's way makes of a packet, sent on at once; and every doubt, which
// hands that one packet to the kernel, and is counted. The namespace of this process has a wire and a pod's device.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { afterEach, describe, test } from "node:test";
import { device_flag, flow_kind, scope } from "../../src/dataplane/bpf/abi.gen.ts";
import type { Address } from "../../src/model/address.ts";
import { type DeviceName, enterCrossing, MACS, routeTo } from "../lib/crossing.ts";
import { Datapath, families, flowKey, type Outcome, publish } from "../lib/datapath.ts";
import { newDatapath } from "../lib/forwarding.ts";
import { buildFrame, type FrameOptions, formatFrame, parseFrame, splitFrame, tagFrame } from "../lib/packet.ts";
import { through } from "../lib/passage.ts";

const crossing = enterCrossing();
const ip = (...args: readonly string[]): void => void execFileSync("ip", args);

const GSO_SIZE = 176; // in struct __sk_buff
const gsoContext = (gso_size: number): Uint8Array => {
  const context = new Uint8Array(192);
  new DataView(context.buffer).setUint32(GSO_SIZE, gso_size, true);
  return context;
};

for (const a of families) {
  for (const proto of ["TCP", "UDP"] as const) {
    describe(`${a.family} ${proto}`, () => {
      const direct = newDatapath("direct");
      afterEach(() => direct.close());

      const request = (change: Partial<FrameOptions> = {}): Uint8Array =>
        buildFrame({
          from: a.client,
          to: a.vip,
          sport: 40000,
          dport: 80,
          proto,
          payload: "hello",
          flags: "A",
          ...change,
        });
      const serve = (datapath: Datapath, backend: "local" | "remote"): void =>
        publish(datapath, { address: a.vip, port: 80, proto }, [
          { id: 1, address: a[backend], local: backend === "local" },
        ]);
      /** Opens a connection both ways. What the backend sees of it. */
      const open = (datapath: Datapath, change: Partial<FrameOptions> = {}) => {
        const seen = parseFrame(through(datapath, request({ flags: "S", ...change })).frame);
        const reply = (more: Partial<FrameOptions> = {}): Uint8Array =>
          buildFrame({
            from: seen.to,
            to: seen.from,
            sport: seen.dport,
            dport: seen.sport,
            proto,
            flags: "SA",
            ...more,
          });
        through(datapath, reply(), seen.to === a.local ? "pod" : "wire");
        through(datapath, request({ flags: "A", ack: 1001, ...change }));
        return { seen, reply };
      };
      /** By what is remembered, where that has not just become too old. */
      const again = (send: () => Outcome): Outcome => {
        const first = send();
        return first.forward === "FORWARD_NEIGHBOUR" ? send() : first;
      };
      const assertAddressed = (outcome: Outcome, device: DeviceName): void => {
        const { to, destination_mac, source_mac, ttl } = parseFrame(outcome.frame);
        const text = (mac: Uint8Array): string => [...mac].map((b) => b.toString(16).padStart(2, "0")).join(":");
        assert.deepEqual(
          { destination_mac, source_mac, ttl },
          { destination_mac: text(routeTo(to).mac), source_mac: text(MACS[device]), ttl: 63 },
        );
      };

      for (const backend of ["local", "remote"] as const) {
        test(`${backend} backend: each packet leaves as the kernel's way would send it, byte for byte`, () => {
          const kernel = new Datapath();
          for (const datapath of [kernel, direct]) serve(datapath, backend);
          const ways = [kernel, direct].map((datapath) => open(datapath));
          const [first, second] = ways;
          assert.ok(first !== undefined && second !== undefined);
          assert.deepEqual(second.seen, first.seen, "the first packet");
          const from = backend === "local" ? "pod" : "wire";
          for (let size = 0; size < 40; size += 3) {
            const payload = new Uint8Array(size).fill(size * 7);
            const frames: readonly (readonly [Uint8Array, DeviceName])[] = [
              [request({ payload, ttl: 2 + size }), "wire"],
              [first.reply({ payload, ttl: 255 - size, flags: "A" }), from],
            ];
            for (const [frame, device] of frames) {
              const [routed, sent] = [through(kernel, frame, device), through(direct, frame, device)];
              assert.equal(routed.direct, false);
              assert.equal(sent.direct, true);
              assert.equal(sent.reasons.length, 1, "one hook has seen it");
              assert.deepEqual(sent.frame, routed.frame);
            }
          }
          kernel.close();
        });
      }

      test("into the pod, out of it, and on to another node: by which device, to whose MAC address, one hop less", () => {
        serve(direct, "local");
        const local = open(direct);
        const into = direct.ingress(request());
        assert.equal(into.forward, "FORWARD_PEER");
        assertAddressed(into, "pod");
        const out = again(() => direct.podReply(local.reply({ flags: "A" })));
        assert.equal(out.forward, "FORWARD_WIRE");
        assertAddressed(out, "wire");

        publish(direct, { address: a.vip2, port: 80, proto, service_id: 2, slot_base: 10 }, [
          { id: 2, address: a.remote },
        ]);
        const remote = open(direct, { to: a.vip2 });
        const on = again(() => direct.ingress(request({ to: a.vip2 })));
        assert.equal(on.forward, "FORWARD_WIRE");
        assertAddressed(on, "wire");
        const back = again(() => direct.ingress(remote.reply({ flags: "A" })));
        assert.equal(back.forward, "FORWARD_WIRE");
        assertAddressed(back, "wire");
        assert.match(formatFrame(back.frame), proto === "TCP" ? /:80 > .*:40000 A$/ : /:80 > .*:40000 UDP$/);
      });

      test("the first packet goes directly, too; the kernel finds the neighbour, as for each that is looked up", () => {
        serve(direct, "remote");
        const alone = { shares_ways: 0 }; // of others' ways nothing is known
        direct.configure({ next_hop_generation: 1, ...alone });
        const first = direct.ingress(request({ flags: "S" }));
        assert.deepEqual([first.reason, first.forward], ["REASON_NEW_FLOW", "FORWARD_NEIGHBOUR"]);
        assert.equal(parseFrame(first.frame).ttl, 63);
        assert.equal(again(() => direct.ingress(request())).forward, "FORWARD_WIRE");
        direct.configure({ next_hop_generation: 2, ...alone });
        assert.equal(direct.ingress(request()).forward, "FORWARD_NEIGHBOUR", "looked up anew");
        assert.equal(again(() => direct.ingress(request())).forward, "FORWARD_WIRE");
        const key = flowKey([a.client, 40000], [a.vip, 80], proto);
        const { next_hop } = direct.get("flows", key) ?? assert.fail("no flow");
        assert.deepEqual([next_hop.generation, next_hop.ifindex, next_hop.from], [2, crossing.wire, crossing.wire]);
        const flow = direct.get("flows", key) ?? assert.fail("no flow");
        direct.put("flows", key, { ...flow, next_hop: { ...next_hop, window: next_hop.window ^ 0x8000 } });
        assert.equal(direct.ingress(request()).forward, "FORWARD_NEIGHBOUR", "too old, though nobody told of a change");
        direct.put("flows", key, { ...flow, next_hop: { ...next_hop, from: crossing.pod } });
        assert.equal(direct.ingress(request()).forward, "FORWARD_NEIGHBOUR", "found for packets of another device");
        direct.put("flows", key, { ...flow, next_hop: { ...next_hop, version: 3 } });
        direct.configure({ next_hop_generation: 3, ...alone });
        assert.equal(direct.ingress(request()).forward, "FORWARD_NEIGHBOUR");
        const { generation } = direct.get("flows", key)?.next_hop ?? assert.fail("no flow");
        assert.equal(generation, 2, "another CPU is at it: this packet has its own answer, once");
      });

      test("a way by the wire is asked for once from one address to another, by its first flow, unless ports decide", () => {
        serve(direct, "remote");
        let generation = 1;
        let sport = 41_000;
        /** By how many of some new flows the kernel was asked. Each CPU asks for itself, and a window may end just then. */
        const asked = (change: Partial<FrameOptions> = {}): number =>
          Array.from({ length: 8 }, () => {
            const { forward, frame } = direct.ingress(request({ flags: "S", sport: ++sport, ...change }));
            assert.equal(parseFrame(frame).ttl, 63);
            if (forward === "FORWARD_WIRE") assert.equal(parseFrame(frame).destination_mac, "02:00:00:00:02:02");
            else assert.equal(forward, "FORWARD_NEIGHBOUR");
            return Number(forward === "FORWARD_NEIGHBOUR");
          }).reduce((sum, one) => sum + one);
        const few = (n: number): boolean => n > 0 && n < 8;
        assert.ok(few(asked()), "the first one");
        assert.ok(few(asked({ from: a.other })), "of another source");
        assert.ok(few(asked()), "which has taken its place");
        direct.configure({ next_hop_generation: ++generation });
        assert.ok(few(asked()), "of another generation");
        direct.configure({ next_hop_generation: generation, shares_ways: 0 });
        assert.equal(asked(), 8, "ports have a part in routing");
        direct.configure({ next_hop_generation: generation });
        const marked = request({ flags: "S", sport: ++sport });
        marked[15] = 4; // IPv4: the type of service
        if (a.family === "IPv4")
          assert.equal(direct.ingress(marked).forward, "FORWARD_NEIGHBOUR", "so has the service's type");
      });

      test("answers to one client take the way of the first one", () => {
        serve(direct, "local");
        const forwards = Array.from({ length: 8 }, (_, i) => {
          const opened = through(direct, request({ flags: "S", sport: 42_000 + i }));
          const seen = parseFrame(opened.frame);
          const back = { from: seen.to, to: seen.from, sport: seen.dport, dport: seen.sport, proto, flags: "SA" };
          return direct.podReply(buildFrame(back)).forward;
        });
        assert.equal(forwards[0], "FORWARD_NEIGHBOUR");
        assert.ok(forwards.filter((forward) => forward === "FORWARD_WIRE").length > 4, forwards.join(" "));
      });

      test("generation 0: all packets are left to the kernel, in the middle of a connection, too, and none is counted", () => {
        serve(direct, "remote");
        open(direct);
        direct.configure({ next_hop_generation: 0 });
        const routed = direct.ingress(request());
        assert.deepEqual([routed.direct, routed.forward, routed.reason], [false, null, "REASON_ESTABLISHED"]);
        assert.equal(direct.egress(routed.frame).reason, "REASON_ESTABLISHED");
        direct.configure({ next_hop_generation: 1 });
        assert.equal(again(() => direct.ingress(request())).forward, "FORWARD_WIRE");
      });

      for (const backend of ["local", "remote"] as const) {
        test(`doubts, ${backend} backend: the packet goes to the kernel, in the kernel's way, and is counted`, () => {
          serve(direct, backend);
          const { reply } = open(direct);
          const v4 = a.family === "IPv4";
          const headers = v4
            ? { options: Uint8Array.of(1, 1, 1, 1) }
            : { extensions: [[60, Uint8Array.of(0, 0, 1, 4, 0, 0, 0, 0)]] as const };
          const [fragment = assert.fail()] = splitFrame(request({ payload: new Uint8Array(64) }), 32, 77);
          const doubts: readonly (readonly [string, Uint8Array, Uint8Array?])[] = [
            ["FORWARD_HOP_LIMIT", request({ ttl: 1 })],
            ["FORWARD_HOP_LIMIT", request({ ttl: 0 })],
            ["FORWARD_HEADERS", request(headers)],
            ["FORWARD_FRAGMENT", fragment],
            ["FORWARD_TOO_LARGE", request({ payload: new Uint8Array(1500) })],
            ["FORWARD_TOO_LARGE", request({ payload: new Uint8Array(3000) }), gsoContext(1490)],
            ["FORWARD_VLAN", tagFrame(request(), 0x8100)],
          ];
          for (const [forward, frame, context] of doubts) {
            const outcome = direct.ingress(frame, context);
            assert.deepEqual([outcome.forward, outcome.verdict, outcome.direct], [forward, "pass", false]);
            assert.equal(outcome.reason, "REASON_ESTABLISHED");
            if (forward === "FORWARD_VLAN") continue;
            const { from, to, ttl } = parseFrame(outcome.frame);
            assert.deepEqual([from, to, ttl], [a.client, a[backend], parseFrame(frame).ttl], "one side, no hop");
          }
          const answered = backend === "local" ? direct.podReply(reply({ ttl: 1 })) : direct.ingress(reply({ ttl: 1 }));
          assert.deepEqual([answered.forward, answered.direct], ["FORWARD_HOP_LIMIT", false]);
          if (backend === "local") assert.deepEqual(answered.frame, reply({ ttl: 1 }), "it is undone where it leaves");
        });
      }

      test("as large as the route's MTU, whole or in segments, is no doubt; one byte more is", () => {
        serve(direct, "local");
        open(direct);
        const headers = (a.family === "IPv4" ? 20 : 40) + (proto === "TCP" ? 20 : 8);
        const forwardOf = (payload: number, gso_size = 0) =>
          direct.ingress(request({ payload: new Uint8Array(payload) }), gsoContext(gso_size)).forward;
        assert.equal(forwardOf(1500 - headers), "FORWARD_PEER");
        assert.equal(forwardOf(1501 - headers), "FORWARD_TOO_LARGE");
        assert.equal(forwardOf(3000, 1500 - headers), "FORWARD_PEER");
        assert.equal(forwardOf(3000, 1501 - headers), "FORWARD_TOO_LARGE");
        direct.configure({ next_hop_generation: 2 });
        assert.equal(forwardOf(1501 - headers), "FORWARD_TOO_LARGE", "found out by the lookup");
        direct.configure({ next_hop_generation: 3, route_mtu: 1300 });
        for (const _ of ["looked up", "remembered"]) {
          assert.equal(forwardOf(1301 - headers), "FORWARD_TOO_LARGE", "a route states less than its device");
          assert.equal(forwardOf(1300 - headers), "FORWARD_PEER");
        }
        direct.configure({ next_hop_generation: 4 });
        assert.equal(forwardOf(1500 - headers), "FORWARD_PEER");
      });

      test("a device that is not known, or may nothing, is the kernel's, until it may", () => {
        serve(direct, "remote");
        direct.remove("devices", crossing.wire);
        const first = direct.ingress(request({ flags: "S" }));
        assert.deepEqual([first.reason, first.forward, first.direct], ["REASON_NEW_FLOW", "FORWARD_NEXT_HOP", false]);
        direct.put("devices", crossing.wire, { flags: device_flag.DEVICE_XDP });
        direct.configure({ next_hop_generation: 2 });
        assert.equal(direct.ingress(request()).forward, "FORWARD_NEXT_HOP");
        direct.put("devices", crossing.wire, { flags: device_flag.DEVICE_WIRE });
        assert.equal(direct.ingress(request()).forward, "FORWARD_NEXT_HOP", "remembered as well");
        direct.configure({ next_hop_generation: 3 });
        assert.equal(direct.ingress(request()).forward, "FORWARD_NEIGHBOUR");
      });

      test("routes and neighbours that change count from the next generation on: none, another device, nobody", () => {
        serve(direct, "remote");
        open(direct);
        let generation = 1;
        const changed = (...args: readonly string[]) => {
          ip(...args);
          direct.configure({ next_hop_generation: ++generation });
          return direct.ingress(request()).forward;
        };
        const { prefix, gateway, none } =
          a.family === "IPv4"
            ? { prefix: "10.2.0.0/16", gateway: "192.168.0.2", none: "10.1.255.254" }
            : { prefix: "fd00:2::/64", gateway: "fd00:168::2", none: "fd00:1::fffe" };
        const lladdr = "02:00:00:00:02:02";
        try {
          assert.equal(changed("neigh", "del", gateway, "dev", "wire"), "FORWARD_NEIGHBOUR");
          assert.equal(direct.ingress(request()).forward, "FORWARD_NEIGHBOUR", "nothing to remember");
          changed("neigh", "replace", gateway, "lladdr", "02:00:00:00:09:09", "nud", "permanent", "dev", "wire");
          const moved = again(() => direct.ingress(request()));
          assert.equal(parseFrame(moved.frame).destination_mac, "02:00:00:00:09:09");
          assert.equal(changed("route", "replace", prefix, "via", none, "dev", "pod", "onlink"), "FORWARD_NEXT_HOP");
          assert.equal(changed("route", "replace", "blackhole", prefix), "FORWARD_NEXT_HOP");
          assert.equal(direct.ingress(request()).forward, "FORWARD_NEXT_HOP");
        } finally {
          ip("neigh", "replace", gateway, "lladdr", lladdr, "nud", "permanent", "dev", "wire");
          execFileSync("sh", ["-c", `ip route del blackhole ${prefix} 2>/dev/null || true`]);
          ip("route", "replace", prefix, "via", gateway, "dev", "wire", "onlink");
        }
        direct.configure({ next_hop_generation: ++generation });
        direct.ingress(request());
        assertAddressed(
          again(() => direct.ingress(request())),
          "wire",
        );
      });

      test("the way into a pod is asked for once, by its first flow, and anew in the next generation", () => {
        serve(direct, "local");
        const first = (sport: number, generation: number, change: Partial<FrameOptions> = {}) => {
          direct.configure({ next_hop_generation: generation });
          const outcome = direct.ingress(request({ flags: "S", sport, ...change }));
          return [outcome.forward, parseFrame(outcome.frame).destination_mac];
        };
        const gateway = a.family === "IPv4" ? "10.1.255.254" : "fd00:1::fffe";
        const [known, moved] = ["02:00:00:00:02:01", "02:00:00:00:08:08"];
        const neighbour = (lladdr: string) =>
          ip("neigh", "replace", gateway, "lladdr", lladdr, "nud", "permanent", "dev", "pod");
        const isKept = (generation: number): boolean => {
          neighbour(known);
          assert.deepEqual(first(41000 + generation, generation), ["FORWARD_PEER", known]);
          neighbour(moved);
          return first(42000 + generation, generation)[1] === known;
        };
        try {
          // Each CPU asks for itself, and a window may end just then: not every time.
          assert.ok([2, 3, 4, 5, 6, 7, 8, 9].some(isKept));
          assert.deepEqual(first(43000, 10), ["FORWARD_PEER", moved]);
        } finally {
          neighbour(known);
        }
        assert.deepEqual(first(43001, 11), ["FORWARD_PEER", known]);
        assert.equal(first(43002, 11, { payload: "x".repeat(1480) })[0], "FORWARD_TOO_LARGE", "as large as any");
        direct.put("node_addresses", a.node as Address, { flags: 0 });
        assert.equal(first(43003, 11, { from: a.node })[0], "FORWARD_NEXT_HOP", "whoever is the source");
        assert.equal(first(43004, 0)[0], null);
      });

      test("who cannot be a source, to the kernel, is left to it: the node's own address", () => {
        serve(direct, "remote");
        direct.put("node_addresses", a.client as Address, { flags: 0 });
        assert.equal(direct.ingress(request({ flags: "S" })).forward, "FORWARD_NEXT_HOP");
      });

      test("where the kernel filters by the way back (IPv4), what it would refuse is left to it", () => {
        serve(direct, "remote");
        const { DEVICE_WIRE, DEVICE_STRICT } = device_flag;
        direct.put("devices", crossing.wire, { flags: DEVICE_WIRE | DEVICE_STRICT });
        const forwardOf = (from: string) => direct.ingress(request({ from, flags: "S" })).forward;
        assert.equal(forwardOf(a.client), "FORWARD_NEIGHBOUR");
        const refused = a.family === "IPv4" ? "FORWARD_NEXT_HOP" : "FORWARD_NEIGHBOUR";
        assert.equal(forwardOf(a.local), refused, "the way back is by the pod's device");
      });

      test("a pod's own device: to another pod or node directly, to itself by the kernel", () => {
        const inside = (backends: Parameters<typeof publish>[2]): void =>
          publish(direct, { address: a.vip, port: 80, proto, scope: scope.SCOPE_INTERNAL }, backends);
        const fromPod = (sport: number, flags = "S"): Uint8Array => request({ from: a.local, sport, flags });
        inside([{ id: 1, address: a.remote }]);
        assert.equal(direct.podIngress(fromPod(1)).forward, "FORWARD_NEIGHBOUR");
        assert.equal(again(() => direct.podIngress(fromPod(1, "A"))).forward, "FORWARD_WIRE");
        inside([{ id: 2, address: `${a.local}0`, local: true }]);
        assert.equal(direct.podIngress(fromPod(2)).forward, "FORWARD_PEER");
        inside([{ id: 3, address: a.local, local: true }]);
        assert.equal(direct.podIngress(fromPod(3)).forward, "FORWARD_HAIRPIN");
        assert.equal(direct.podIngress(fromPod(3, "A")).forward, "FORWARD_HAIRPIN");
        inside([{ id: 1, address: a.remote }]);
        direct.put("devices", crossing.pod, { flags: 0 });
        direct.configure({ next_hop_generation: 2 });
        assert.equal(direct.podIngress(fromPod(4)).forward, "FORWARD_NEXT_HOP", "behind a bridge, for all one knows");
      });

      test("a backend that is here and does not say so: its source is kept, and both ways are the kernel's", () => {
        publish(direct, { address: a.vip, port: 80, proto }, [{ id: 1, address: a.local, local: false }]);
        for (const [generation, flags] of [
          [1, "S"],
          [1, "A"],
          [2, "A"],
        ] as const) {
          direct.configure({ next_hop_generation: generation });
          const asked = direct.ingress(request({ flags, ack: 1001 }));
          assert.deepEqual([asked.forward, asked.direct], ["FORWARD_NEXT_HOP", false]);
          const { from, sport, to, dport, ttl } = parseFrame(asked.frame);
          assert.deepEqual([from, sport, to, ttl], [a.client, 40000, a.local, 64]);
          const answer = flags === "S" ? "SA" : "A";
          const reply = buildFrame({ from: to, to: from, sport: dport, dport: sport, proto, flags: answer });
          const answered = direct.podReply(reply);
          assert.deepEqual([answered.forward, answered.direct], ["FORWARD_HAIRPIN", false]);
          assert.deepEqual(answered.frame, reply);
          assert.equal(parseFrame(direct.egress(reply).frame).from, a.vip);
        }
        const head = direct.get("flows", flowKey([a.client, 40000], [a.vip, 80], proto)) ?? assert.fail("no flow");
        assert.equal(head.flags & 3, 3, "settled and answered");
      });

      test("a backend that is here and does not say so: the kernel asks for its neighbour, too", () => {
        publish(direct, { address: a.vip, port: 80, proto }, [{ id: 1, address: a.local, local: false }]);
        const neighbour = [a.family === "IPv4" ? "10.1.255.254" : "fd00:1::fffe", "dev", "pod"];
        ip("neigh", "del", ...neighbour);
        try {
          for (const flags of ["S", "A"]) {
            const asked = direct.ingress(request({ flags }));
            assert.deepEqual([asked.forward, asked.direct], ["FORWARD_NEXT_HOP", false]);
            assert.equal(parseFrame(asked.frame).from, a.client);
          }
        } finally {
          ip("neigh", "replace", ...neighbour, "lladdr", "02:00:00:00:02:01", "nud", "permanent");
        }
      });

      test("what a pod sends that is no reply passes as it is, and is counted as not ours", () => {
        serve(direct, "local");
        const { reply } = open(direct);
        for (const frame of [reply({ dport: 40001 }), reply({ to: a.other }), reply({ sport: 8081 })]) {
          const passed = direct.podReply(frame);
          assert.deepEqual([passed.reason, passed.verdict, passed.forward], ["REASON_NOT_OURS", "pass", null]);
          assert.deepEqual(passed.frame, frame);
        }
      });

      test("the backend of a connection that goes directly is heard, and so is its end", () => {
        for (const backend of ["local", "remote"] as const) {
          serve(direct, backend);
          const sport = backend === "local" ? 41000 : 42000;
          open(direct, { sport });
          const heads = direct.entries("flows").filter(([key]) => key.src_port === sport);
          const head = heads.find(([, flow]) => flow.kind === flow_kind.FLOW_DNAT)?.[1] ?? assert.fail("no head");
          assert.equal(head.flags & 3, 3, `${backend}: settled and answered`);
        }
      });
    });
  }
}
