// XDP: packets of a settled connection to a remote backend, and its replies, go on in one step, as tc's two hooks and the
// kernel between them would have sent them. Everything else passes untouched and uncounted, for tc to go on with.
import assert from "node:assert/strict";
import { after, before, beforeEach, describe, test } from "node:test";
import { backend_state, device_flag, type Flow, flow_flag, flow_kind, way } from "../../src/dataplane/bpf/abi.gen.ts";
import {
  type Addresses,
  Datapath,
  families,
  type KeyOf,
  publish,
  putBackend,
  XDP_DEVICE,
  type XdpOutcome,
} from "../lib/datapath.ts";
import { windowOf } from "../lib/flow.ts";
import { buildFrame, type FrameOptions, formatFrame, parseFrame, splitFrame, tagFrame } from "../lib/packet.ts";

const GENERATION = 7;
const OTHER_DEVICE = 78;
const HERE = [2, 0, 0, 0, 0, 10];
const THERE = [2, 0, 0, 0, 0, 11];
const mac = (bytes: readonly number[]): string => bytes.map((b) => b.toString(16).padStart(2, "0")).join(":");

type Transport = "TCP" | "UDP";

type Change = (
  flow: Flow,
  key: KeyOf<"flows">,
) => Partial<Omit<Flow, "next_hop">> & { readonly next_hop?: Partial<Flow["next_hop"]> };

/** Of a flow that tc has seen in this very tick. */
const hopOf = (flow: Flow, key: KeyOf<"flows">): Flow["next_hop"] => ({
  from: XDP_DEVICE,
  ifindex: XDP_DEVICE,
  smac: HERE,
  dmac: THERE,
  mtu: 1500,
  way: way.WAY_WIRE,
  version: 2,
  generation: GENERATION,
  window: windowOf(flow.last_tick, key.src_port),
});

/** A connection by way of a VIP to a remote backend, opened and answered through tc. */
class Connection {
  readonly datapath: Datapath;
  readonly request: FrameOptions;
  readonly reply: FrameOptions;
  readonly #a: Addresses;
  #change: Change = () => ({});

  constructor(datapath: Datapath, a: Addresses, proto: Transport) {
    this.datapath = datapath;
    this.#a = a;
    const request = { from: a.client, to: a.vip, sport: 40000, dport: 80, proto, payload: "a request" } as const;
    const open = datapath.egress(datapath.ingress(buildFrame({ ...request, flags: "S" })).frame);
    const { sport } = parseFrame(open.frame);
    this.request = { ...request, flags: "PA", ack: 5001 };
    const reply = { from: a.remote, to: a.node, sport: 8080, dport: sport, proto, payload: "the reply" } as const;
    this.reply = { ...reply, flags: "PA", ack: 1001 };
    datapath.egress(datapath.ingress(buildFrame({ ...reply, flags: "SA", seq: 5000 })).frame);
    datapath.egress(datapath.ingress(buildFrame(this.request)).frame);
    datapath.egress(datapath.ingress(buildFrame(this.reply)).frame);
  }

  /** From now on the flows that XDP may follow are as the test says, and have a next hop. */
  change(to: Change): void {
    this.#change = to;
  }

  #put(): void {
    for (const [key, flow] of this.datapath.entries("flows")) {
      if (key.outward === 1) continue;
      const { next_hop, ...change } = this.#change(flow, key);
      this.datapath.put("flows", key, { ...flow, ...change, next_hop: { ...hopOf(flow, key), ...next_hop } });
    }
  }

  /** What XDP makes of it when tc has looked at the flow just now. Just then the window may have ended. */
  xdp(frame: Uint8Array): XdpOutcome {
    for (let i = 0; ; i++) {
      this.datapath.ingress(buildFrame(this.request));
      this.datapath.ingress(buildFrame(this.reply));
      this.#put();
      const outcome = this.datapath.xdp(frame);
      if (outcome.verdict !== "pass" || i === 2) return outcome;
    }
  }

  /** The same of a flow that tc would not leave as it is. */
  alone(frame: Uint8Array): XdpOutcome {
    this.#put();
    return this.datapath.xdp(frame);
  }

  /** What tc and the kernel between its hooks make of it. */
  byKernel(frame: Uint8Array): Uint8Array {
    return this.datapath.egress(this.datapath.ingress(frame).frame).frame;
  }

  assertPasses(frame: Uint8Array, why: string): void {
    const { verdict, reason, frame: out } = this.xdp(frame);
    assert.equal(verdict, "pass", why);
    assert.equal(reason, null, `${why}: tc counts it`);
    assert.deepEqual([...out], [...frame], `${why}: untouched`);
  }

  assertForwards(frame: Uint8Array, verdict: XdpOutcome["verdict"] = "transmit"): XdpOutcome {
    const outcome = this.xdp(frame);
    assert.equal(outcome.verdict, verdict);
    return outcome;
  }

  otherClient(): Uint8Array {
    return buildFrame({ ...this.request, from: this.#a.other });
  }
}

let datapath: Datapath;
before(() => {
  datapath = new Datapath();
});
after(() => datapath.close());
const forgetAll = (): void => {
  for (const map of ["flows", "devices"] as const) {
    for (const [key] of datapath.entries(map)) datapath.remove(map, key);
  }
};
beforeEach(() => {
  forgetAll();
  datapath.configure({ next_hop_generation: GENERATION });
});

for (const a of families) {
  for (const proto of ["TCP", "UDP"] as const) {
    describe(`${a.family} ${proto}`, () => {
      let connection: Connection;
      beforeEach(() => {
        publish(datapath, { address: a.vip, port: 80, proto }, [{ id: 1, address: a.remote }]);
        connection = new Connection(datapath, a, proto);
      });
      const request = (over: Partial<FrameOptions> = {}): Uint8Array => buildFrame({ ...connection.request, ...over });
      const reply = (over: Partial<FrameOptions> = {}): Uint8Array => buildFrame({ ...connection.reply, ...over });

      test("a request and a reply leave as from tc, with one hop less and the next hop's MACs; each counted once", () => {
        for (const [frame, reason] of [
          [request(), "REASON_ESTABLISHED"],
          [reply(), "REASON_REPLY"],
          [request({ payload: "" }), "REASON_ESTABLISHED"],
          [reply({ payload: "x".repeat(1400) }), "REASON_REPLY"],
          [request({ checksum: 0x1234 }), "REASON_ESTABLISHED"], // damaged on its way, and arrives damaged
        ] as const) {
          const expected = connection.byKernel(frame);
          const outcome = connection.assertForwards(frame);
          assert.equal(outcome.reason, reason);
          const [got, wanted] = [parseFrame(outcome.frame), parseFrame(expected)];
          assert.equal(got.ttl, 63);
          assert.equal(got.ip_checksum_ok, true);
          assert.equal(got.checksum_ok, parseFrame(frame).checksum_ok);
          assert.deepEqual([got.source_mac, got.destination_mac], [mac(HERE), mac(THERE)]);
          assert.equal(formatFrame(outcome.frame), formatFrame(expected));
          assert.deepEqual(got.payload, wanted.payload);
          assert.equal(got.checksum, wanted.checksum);
        }
      });

      test("one client port that the backend sees as another is itself again on the way back", () => {
        // What is known of the other side is what tc wrote there: taken from the flows, and not from how they were made.
        connection.change(({ kind }) => (kind === flow_kind.FLOW_UNDO_SNAT ? { port: 41234, client_port: 40000 } : {}));
        const { frame } = connection.assertForwards(reply());
        assert.equal(parseFrame(frame).dport, 40000);
        assert.equal(parseFrame(frame).checksum_ok, true);
      });

      test("another device sends it where XDP is on that one, else it passes", () => {
        connection.change(() => ({ next_hop: { ifindex: OTHER_DEVICE } }));
        connection.assertPasses(request(), "a device that nothing is known of");
        datapath.put("devices", OTHER_DEVICE, { flags: device_flag.DEVICE_WIRE | device_flag.DEVICE_PEER });
        connection.assertPasses(request(), "a device without XDP");
        datapath.put("devices", OTHER_DEVICE, { flags: device_flag.DEVICE_WIRE | device_flag.DEVICE_XDP });
        connection.assertForwards(request(), "redirect");
        connection.assertForwards(reply(), "redirect");
      });

      test("what is not a plain packet of the connection passes", () => {
        const { assertPasses } = Connection.prototype;
        const passes = assertPasses.bind(connection);
        passes(connection.otherClient(), "of no flow");
        passes(request({ ttl: 1 }), "its last hop");
        passes(request({ ttl: 0 }), "less than its last hop");
        passes(request({ payload: "x".repeat(1500) }), "larger than the next hop's MTU");
        passes(tagFrame(request(), 0x8100), "a VLAN tag");
        passes(request({ destination_mac: Uint8Array.of(2, 0, 0, 0, 0, 0x99) }), "for another machine");
        passes(request({ destination_mac: new Uint8Array(6).fill(255) }), "a broadcast");
        for (const fragment of splitFrame(request({ payload: "x".repeat(1200) }), 600, 7)) {
          passes(fragment, "a fragment");
        }
        if (a.family === "IPv4") passes(request({ options: Uint8Array.of(1, 1, 1, 0) }), "IP options");
        else passes(request({ extensions: [[60, Uint8Array.of(0, 0, 1, 4, 0, 0, 0, 0)]] }), "an extension header");
        if (proto === "UDP") return;
        for (const flags of ["S", "F", "FA", "R", "RA", "FPA"]) passes(request({ flags }), `it has ${flags}`);
        for (const flags of ["FA", "RA"]) passes(reply({ flags }), `the reply has ${flags}`);
      });

      test("one byte more than the next hop's MTU passes, one that fills it goes on", () => {
        const headers = request({ payload: "" }).length - 14;
        for (const mtu of [1500, 1280, 9000]) {
          connection.change(() => ({ next_hop: { mtu } }));
          connection.assertForwards(request({ payload: "x".repeat(Math.min(mtu, 3400) - headers) }));
          if (mtu < 3400) connection.assertPasses(request({ payload: "x".repeat(mtu - headers + 1) }), `over ${mtu}`);
        }
      });

      test("a flow that is not settled, whose backend is local, or that has no fresh way passes", () => {
        const states: readonly (readonly [string, Parameters<Connection["change"]>[0]])[] = [
          ["half-open", () => ({ flags: 0 })],
          ["a local backend", () => ({ far_port: 0 })],
          ["no way known", () => ({ next_hop: { way: way.WAY_KERNEL } })],
          ["a pod behind the device", () => ({ next_hop: { way: way.WAY_PEER } })],
          ["a route of before", () => ({ next_hop: { generation: GENERATION - 1 } })],
          ["never looked up", () => ({ next_hop: { generation: 0 } })],
          ["looked up for packets by another device", () => ({ next_hop: { from: OTHER_DEVICE } })],
        ];
        for (const [why, change] of states) {
          forgetAll();
          connection = new Connection(datapath, a, proto);
          connection.assertForwards(request());
          connection.assertForwards(reply());
          connection.change(change);
          connection.assertPasses(request(), why);
          connection.assertPasses(reply(), why);
        }
      });

      test("with forwarding by the kernel, and without config, everything passes", () => {
        datapath.configure({ next_hop_generation: 0 });
        connection.change(() => ({ next_hop: { generation: 0 } }));
        connection.assertPasses(request(), "generation 0");
        datapath.clearConfig();
        const { verdict, reason } = datapath.xdp(request());
        assert.deepEqual([verdict, reason], ["pass", null]);
      });

      test("a flow whose next hop is to be looked at anew passes, until tc has done so; each packet is seen", () => {
        for (const change of [-1, 0x8000]) {
          connection.change((flow, key) => ({
            next_hop: { window: (windowOf(flow.last_tick, key.src_port) + change) & 0xffff },
          }));
          connection.assertPasses(request(), "the window is over");
        }
        connection.change(() => ({ last_seen_ns: 1n, last_tick: 0 })); // after its window was taken
        connection.assertForwards(request());
        const seen = datapath.entries("flows").find(([, f]) => f.kind === flow_kind.FLOW_DNAT)?.[1].last_seen_ns;
        assert.ok((seen ?? 0n) > 1n);
      });

      test("a backend that is gone: TCP drains by XDP, UDP passes, for tc to choose another", () => {
        putBackend(datapath, { id: 1, address: a.remote, state: backend_state.BACKEND_NONE });
        if (proto === "TCP") return void connection.assertForwards(request());
        const { verdict, reason } = connection.alone(request());
        assert.deepEqual([verdict, reason], ["pass", null]);
      });

      test("cut at any length, and with lengths that lie, it passes and is untouched", () => {
        const whole = request({ payload: "0123456789" });
        for (let size = 14; size < whole.length; size++) {
          const cut = whole.slice(0, size);
          try {
            connection.assertPasses(cut, `the first ${size} bytes`);
          } catch (error) {
            // BPF_PROG_TEST_RUN of newer kernels takes no frame that ends inside its Ethernet header, or just behind it.
            if (!(size < 54 && String(error).includes("EINVAL"))) throw error;
          }
        }
        for (const [at, value] of a.family === "IPv4"
          ? ([
              [14, 0x44],
              [14, 0x65],
              [16, 0xff],
            ] as const)
          : ([
              [14, 0x40],
              [18, 0xff],
            ] as const)) {
          const lying = whole.slice();
          lying[at] = value;
          connection.assertPasses(lying, `byte ${at} is ${value}`);
        }
        // Padding behind the packet is no harm, and stays.
        const padded = Uint8Array.of(...whole, 1, 2, 3, 4);
        assert.deepEqual([...connection.assertForwards(padded).frame.slice(-4)], [1, 2, 3, 4]);
      });
    });
  }

  test(`${a.family}: a UDP datagram without a checksum stays without, and a computed 0 is 0xffff`, () => {
    publish(datapath, { address: a.vip, port: 80, proto: "UDP" }, [{ id: 1, address: a.remote }]);
    const connection = new Connection(datapath, a, "UDP");
    const none = buildFrame({ ...connection.request, checksum: 0 });
    assert.equal(parseFrame(connection.assertForwards(none).frame).checksum, 0);
    const sums = new Set<number>();
    // Some payload makes the new checksum 0: every value of a word is tried in its place.
    const base = parseFrame(
      connection.assertForwards(buildFrame({ ...connection.request, payload: "\0\0" })).frame,
    ).checksum;
    for (const word of [base, base + 1, base - 1]) {
      const payload = Uint8Array.of((word >> 8) & 255, word & 255);
      const { frame } = connection.assertForwards(buildFrame({ ...connection.request, payload }));
      const out = parseFrame(frame);
      sums.add(out.checksum);
      assert.equal(out.checksum_ok, true);
      assert.notEqual(out.checksum, 0);
    }
    assert.ok(sums.has(0xffff), [...sums].join());
  });

  test(`${a.family}: ICMP, SCTP and other protocols pass`, () => {
    const icmp = a.family === "IPv4" ? "ICMP" : "ICMPv6";
    for (const proto of [icmp, "SCTP"] as const) {
      const frame = buildFrame({ from: a.client, to: a.vip, sport: 40000, dport: 80, proto });
      const { verdict, reason } = datapath.xdp(frame);
      assert.deepEqual([verdict, reason], ["pass", null]);
    }
  });
}

test("a family that the node does not have passes", () => {
  const [v4, v6] = families;
  for (const [a, options] of [
    [v4, { ipv4: 0 }],
    [v6, { ipv6: 0 }],
  ] as const) {
    if (a === undefined) continue;
    const datapath = new Datapath(options);
    const { verdict } = datapath.xdp(buildFrame({ from: a.client, to: a.vip, sport: 40000, dport: 80 }));
    assert.equal(verdict, "pass");
    datapath.close();
  }
});

test("it does not matter what stands in a flow that settles nothing: closed by either side it still drains by XDP", () => {
  const [a] = families;
  if (a === undefined) return;
  publish(datapath, { address: a.vip, port: 80 }, [{ id: 1, address: a.remote }]);
  const connection = new Connection(datapath, a, "TCP");
  connection.change(({ flags }) => ({ flags: flags | flow_flag.FLOW_SETTLED | flow_flag.FLOW_CLIENT_FIN }));
  connection.assertForwards(buildFrame({ ...connection.request, flags: "A" }));
  connection.assertForwards(buildFrame(connection.reply));
});
