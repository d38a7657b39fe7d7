// What is left to the kernel and what the kernel has of it: connections that go another way from now on, asked of its connection
// tracking itself. Which packets survive what rules make of that: test/netns/masquerade.test.ts and switches.test.ts.
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { afterEach, beforeEach, describe, test } from "node:test";
import { hasConntrack } from "../../src/dataplane/bpf/probe.ts";
import { enterCrossing } from "../lib/crossing.ts";
import { families, flowKey, publish } from "../lib/datapath.ts";
import { newDatapath } from "../lib/forwarding.ts";
import { buildFrame, type FrameOptions } from "../lib/packet.ts";
import { through } from "../lib/passage.ts";

enterCrossing();
const LONG_AGO = { forwarding_since_ns: 0n };
/** Every flow is from before the change. */
const JUST_NOW = { forwarding_since_ns: 2n ** 62n };

/** Without the module that lists connections there is nothing to look at. */
const skip =
  hasConntrack() && spawnSync("conntrack", ["-L"]).status === 0
    ? false
    : "this kernel cannot be asked for tracked connections, or does not list them";

/** `client:40000 > backend:8080`, in the direction in which each was made known. */
const tracked = (family: string): readonly string[] =>
  execFileSync("conntrack", ["-L", "-f", family.toLowerCase()], {
    encoding: "utf8",
    stdio: ["ignore", "pipe", "ignore"],
  })
    .split("\n")
    .flatMap((line) => {
      const [, from, to, sport, dport] = /src=(\S+) dst=(\S+) sport=(\d+) dport=(\d+)/.exec(line) ?? [];
      return from === undefined ? [] : [`${from}:${sport} > ${to}:${dport}`];
    });

for (const a of families) {
  for (const proto of ["TCP", "UDP"] as const) {
    describe(`${a.family} ${proto}`, { skip }, () => {
      const datapath = newDatapath("direct", { conntrack: 1 });
      beforeEach(() => void spawnSync("conntrack", ["-F"]));
      afterEach(() => datapath.close());

      const request = (change: Partial<FrameOptions> = {}): Uint8Array =>
        buildFrame({ from: a.client, to: a.vip, sport: 40000, dport: 80, proto, flags: "A", ...change });
      const reply = (flags: string): Uint8Array =>
        buildFrame({ from: a.local, to: a.client, sport: 8080, dport: 40000, proto, flags });
      const serve = (backend: "local" | "remote"): void =>
        publish(datapath, { address: a.vip, port: 80, proto }, [
          { id: 1, address: a[backend], local: backend === "local" },
        ]);
      const open = (): void => {
        through(datapath, request({ flags: "S" }));
        through(datapath, reply("SA"), "pod");
        through(datapath, request());
        assert.deepEqual(tracked(a.family), [], "nothing is known of what is sent on directly");
      };
      const toBackend = `${a.client}:40000 > ${a.local}:8080`;
      const toClient = `${a.local}:8080 > ${a.client}:40000`;

      for (const [who, send, expected] of [
        ["the backend", () => datapath.podReply(reply("A")), toClient],
        ["the client", () => datapath.ingress(request()), toBackend],
      ] as const) {
        test(`by the kernel from now on: a flow from before is made known by its next packet, ${who}'s, once`, () => {
          serve("local");
          open();
          datapath.configure({ next_hop_generation: 0, ...JUST_NOW });
          assert.equal(send().direct, false);
          assert.deepEqual(tracked(a.family), [expected]);
          spawnSync("conntrack", ["-F"]);
          send();
          assert.deepEqual(tracked(a.family), [], "what it makes of it since is its own business");
        });
      }

      test("by the kernel from now on: a flow that is younger it has seen itself", () => {
        datapath.configure({ next_hop_generation: 0, ...LONG_AGO });
        serve("local");
        through(datapath, request({ flags: "S" }));
        through(datapath, reply("SA"), "pod");
        datapath.podReply(reply("A"));
        datapath.ingress(request());
        assert.deepEqual(tracked(a.family), []);
      });

      test("by the kernel from now on: a first answer makes a datagram's flow known, and leaves a SYN to be sent again", () => {
        serve("local");
        datapath.ingress(request({ flags: "S" }));
        datapath.configure({ next_hop_generation: 0, ...JUST_NOW });
        datapath.podReply(reply("SA"));
        assert.deepEqual(tracked(a.family), proto === "TCP" ? [] : [toClient]);
      });

      for (const backend of ["local", "remote"] as const) {
        for (const [what, nat] of [
          ["netfilter has translated", ["--src-nat", a.node]],
          ["netfilter has left alone", []],
        ] as const) {
          test(`directly from now on, ${backend} backend: what ${what} ${nat.length > 0 ? "stays with the kernel" : "goes directly"}`, () => {
            datapath.configure({ next_hop_generation: 0, ...LONG_AGO });
            serve(backend);
            datapath.ingress(request({ flags: "S" }));
            datapath.ingress(request());
            const made = spawnSync("conntrack", [
              ..."-I -t 60 -u SEEN_REPLY,ASSURED".split(" "),
              ...["-p", proto.toLowerCase()],
              ...["-s", a.client, "-d", a[backend], "--sport", "40000", "--dport", "8080"],
              ...(proto === "TCP" ? ["--state", "ESTABLISHED"] : []),
              ...nat,
            ]);
            assert.equal(made.status, 0, String(made.stderr));
            datapath.configure({ next_hop_generation: 3, ...JUST_NOW });
            const ways = [1, 2, 3].map(() => datapath.ingress(request()).direct);
            assert.deepEqual(
              ways,
              ways.map(() => nat.length === 0),
            );
            const { next_hop } = datapath.get("flows", flowKey([a.client, 40000], [a.vip, 80], proto)) ?? assert.fail();
            assert.equal(next_hop.generation, 3);
            // The next connection of this client is another one, whatever conntrack remembers.
            datapath.configure({ next_hop_generation: 4, ...LONG_AGO });
            const opened = request({ sport: 40000, to: a.vip, flags: "S" });
            datapath.remove("flows", flowKey([a.client, 40000], [a.vip, 80], proto));
            assert.equal(datapath.ingress(opened).direct, true);
            assert.equal(datapath.ingress(request()).direct, true);
          });
        }
      }
    });
  }
}
