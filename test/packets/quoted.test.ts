// tc: ICMP errors about translated packets, on every way they can take: whoever gets one finds in it the packet that it
// sent. What comes out is compared byte for byte, checksums inside and outside, with an error built for its receiver.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { families, flowKey, type Outcome, publish } from "../lib/datapath.ts";
import { inEveryForwarding } from "../lib/forwarding.ts";
import { buildError, buildFrame, ETHERNET, type FrameOptions, parseFrame } from "../lib/packet.ts";

inEveryForwarding((datapath) => {
  for (const a of families) {
    const v4 = a.family === "IPv4";
    const ip = v4 ? 20 : 40;
    const router = v4 ? "192.0.2.1" : "2001:db8:9::1";
    const errors = v4
      ? ([
          [3, 1],
          [3, 3],
          [3, 4],
          [11, 0],
          [12, 0],
        ] as const)
      : ([
          [1, 4],
          [2, 0],
          [3, 0],
          [4, 1],
        ] as const);
    const unreachable = v4 ? ([3, 3] as const) : ([1, 4] as const);

    for (const proto of ["TCP", "UDP"] as const) {
      for (const stands_in of [false, true]) {
        const how = stands_in ? ", another port standing in for the client's" : "";

        describe(`Fault 72: ${a.family} ${proto}${how}: ICMP errors`, () => {
          const frame = (
            from: readonly [string, number],
            to: readonly [string, number],
            o: Partial<FrameOptions> = {},
          ) =>
            buildFrame({ from: from[0], sport: from[1], to: to[0], dport: to[1], proto, payload: "0123456789", ...o });
          const client = [a.client, 40000] as const;
          const vip = [a.vip, 80] as const;

          /** A connection from the client to the VIP; the client's port between the hooks, and SNAT's. */
          const connect = (backend: { address: string; local?: boolean }) => {
            const spec = { ...backend, id: 1 };
            publish(datapath, { address: a.vip, port: 80, proto }, [spec]);
            if (stands_in) {
              publish(datapath, { address: a.vip2, port: 80, proto, service_id: 2, slot_base: 10 }, [
                { ...spec, id: 2 },
              ]);
              datapath.ingress(frame(client, [a.vip2, 80], { flags: "S" }));
            }
            for (const reason of ["REASON_NEW_FLOW", "REASON_ESTABLISHED"])
              assert.equal(datapath.ingress(frame(client, vip, { flags: "S" })).reason, reason);
            const dnat = datapath.get("flows", flowKey(client, vip, proto));
            assert.ok(dnat !== null && (dnat.client_port !== 0) === stands_in);
            return {
              inner: [a.client, dnat.client_port || 40000] as const,
              backend: [backend.address, 8080] as const,
              node: [a.node, dnat.far_port] as const,
            };
          };
          const local = () => connect({ address: a.local, local: true });
          const remote = () => connect({ address: a.remote });
          const becomes = (outcome: Outcome, expected: Uint8Array): Uint8Array => {
            assert.deepEqual([outcome.verdict, outcome.reason], ["pass", "REASON_ICMP_ERROR"]);
            assert.deepEqual(outcome.frame, expected);
            return outcome.frame;
          };

          for (const icmp of errors) {
            test(`${icmp.join("/")} of a router about a reply: a local backend sees its own packet`, () => {
              const { inner, backend } = local();
              becomes(
                datapath.ingress(buildError({ from: router, to: a.vip, icmp }, frame(vip, client))),
                buildError({ from: router, to: backend[0], icmp }, frame(backend, inner)),
              );
            });

            test(`${icmp.join("/")} of a router about a request to a remote backend: the client sees its own`, () => {
              const { inner, backend, node } = remote();
              const between = becomes(
                datapath.ingress(buildError({ from: router, to: a.node, icmp }, frame(node, backend))),
                buildError({ from: router, to: a.client, icmp }, frame(inner, backend)),
              );
              becomes(datapath.egress(between), buildError({ from: a.vip, to: a.client, icmp }, frame(client, vip)));
            });

            test(`${icmp.join("/")} of a router about a reply that went on to a remote backend's client`, () => {
              const { inner, backend, node } = remote();
              const between = becomes(
                datapath.ingress(buildError({ from: router, to: a.vip, icmp }, frame(vip, client))),
                buildError({ from: router, to: backend[0], icmp }, frame(backend, inner)),
              );
              becomes(
                datapath.egress(between),
                buildError({ from: a.node, to: backend[0], icmp }, frame(backend, node)),
              );
            });
          }

          test("of a local backend about a request: from the VIP, with what the client sent", () => {
            const { inner, backend } = local();
            becomes(
              datapath.egress(buildError({ from: backend[0], to: a.client, icmp: unreachable }, frame(inner, backend))),
              buildError({ from: a.vip, to: a.client, icmp: unreachable }, frame(client, vip)),
            );
          });

          test("of the node itself, about a packet that it could not forward, either way", () => {
            const { inner, backend, node } = remote();
            becomes(
              datapath.egress(buildError({ from: a.node, to: a.client, icmp: unreachable }, frame(inner, backend))),
              buildError({ from: a.vip, to: a.client, icmp: unreachable }, frame(client, vip)),
            );
            becomes(
              datapath.egress(buildError({ from: a.node, to: backend[0], icmp: unreachable }, frame(backend, inner))),
              buildError({ from: a.node, to: backend[0], icmp: unreachable }, frame(backend, node)),
            );
          });

          test("a quote cut anywhere: translated from eight bytes of the transport header on, else untouched", () => {
            const { inner, backend } = local();
            const sent = frame(vip, client);
            for (let size = 0; size <= sent.length - ETHERNET; size++) {
              const error = buildError({ from: router, to: a.vip, icmp: unreachable }, sent, size);
              const outcome = datapath.ingress(error);
              if (size >= ip + 8) {
                // Half a checksum is left as it is.
                const half = proto === "TCP" && size === ip + 17 ? { checksum: parseFrame(sent).checksum } : {};
                const own = frame(backend, inner, half);
                becomes(outcome, buildError({ from: router, to: backend[0], icmp: unreachable }, own, size));
              } else {
                assert.deepEqual([outcome.verdict, outcome.reason], ["pass", "REASON_NOT_OURS"], `${size} bytes`);
                assert.deepEqual(outcome.frame, error);
              }
            }
          });

          test("what follows the error in the frame (padding) is no part of it", () => {
            const { inner, backend } = local();
            const cut = buildError({ from: router, to: a.vip, icmp: unreachable }, frame(vip, client), ip + 8);
            const padding = new Array<number>(20).fill(0xee);
            becomes(
              datapath.ingress(Uint8Array.of(...cut, ...padding)),
              Uint8Array.of(
                ...buildError({ from: router, to: backend[0], icmp: unreachable }, frame(backend, inner), ip + 8),
                ...padding,
              ),
            );
          });

          test("an error whose checksum is wrong stays as wrong as it was", () => {
            local();
            for (let wrong = 1; wrong < 0xffff; wrong += 4001) {
              const error = buildError(
                { from: router, to: a.vip, icmp: unreachable, checksum: wrong },
                frame(vip, client),
              );
              const [before, after] = [parseFrame(error), parseFrame(datapath.ingress(error).frame)];
              assert.equal(after.checksum_ok, before.checksum_ok);
              assert.equal(after.ip_checksum_ok, true);
            }
          });

          test("a quoted packet whose checksum is wrong is quoted as wrong, in an error that is right", () => {
            const { backend } = local();
            const sent = frame(vip, client, { checksum: 0x1234 });
            const f = parseFrame(
              datapath.ingress(buildError({ from: router, to: a.vip, icmp: unreachable }, sent)).frame,
            );
            assert.deepEqual([f.to, f.checksum_ok, f.ip_checksum_ok], [backend[0], true, true]);
            const quoted = parseFrame(Uint8Array.of(...sent.slice(0, ETHERNET), ...f.payload.slice(4)));
            assert.deepEqual([quoted.from, quoted.ip_checksum_ok, quoted.checksum_ok], [backend[0], true, false]);
          });

          if (proto === "UDP" && v4) {
            test("a quoted datagram without checksum stays without", () => {
              const { inner, backend } = local();
              const none = { checksum: 0 };
              becomes(
                datapath.ingress(buildError({ from: router, to: a.vip, icmp: unreachable }, frame(vip, client, none))),
                buildError({ from: router, to: backend[0], icmp: unreachable }, frame(backend, inner, none)),
              );
            });
          }

          test("headers that are longer than usual, inside and outside", () => {
            const { inner, backend } = local();
            const options = new Uint8Array(24);
            options[1] = 2;
            const longer = v4 ? { options: new Uint8Array(40).fill(1) } : { extensions: [[60, options]] as const };
            becomes(
              datapath.ingress(
                buildError({ from: router, to: a.vip, icmp: unreachable, ...longer }, frame(vip, client, longer)),
              ),
              buildError({ from: router, to: backend[0], icmp: unreachable, ...longer }, frame(backend, inner, longer)),
            );
          });

          test("what is about no flow, to somebody else, about a later fragment, or no error at all is left alone", () => {
            const { inner, backend } = local();
            const sent = frame(vip, client);
            const later = v4
              ? frame(vip, client, { fragment: 5 })
              : frame(vip, client, { extensions: [[44, fragment()]] });
            for (const error of [
              buildError({ from: router, to: a.vip, icmp: unreachable }, frame(vip, [a.other, 40000])),
              buildError({ from: router, to: a.vip, icmp: unreachable }, frame(vip, [a.client, 40009])),
              buildError({ from: router, to: a.vip2, icmp: unreachable }, sent),
              buildError({ from: router, to: a.vip, icmp: unreachable }, later),
              buildError({ from: router, to: a.vip, icmp: v4 ? [8, 0] : [128, 0] }, sent),
              buildError({ from: router, to: a.vip, icmp: v4 ? [5, 1] : [137, 0] }, sent),
              buildError({ from: backend[0], to: a.client, icmp: unreachable }, frame(inner, backend)),
            ]) {
              const outcome = datapath.ingress(error);
              assert.deepEqual([outcome.verdict, outcome.frame], ["pass", error]);
              assert.ok(["REASON_NOT_OURS", "REASON_FRAGMENT"].includes(outcome.reason), outcome.reason);
            }
            const inward = buildError({ from: router, to: a.vip, icmp: unreachable }, sent);
            assert.deepEqual(datapath.egress(inward).frame, inward, "the other hook's");
          });
        });
      }
    }

    const fragment = (): Uint8Array => {
      const bytes = new Uint8Array(8);
      new DataView(bytes.buffer).setUint16(2, (5 << 3) | 1);
      return bytes;
    };
  }
});
