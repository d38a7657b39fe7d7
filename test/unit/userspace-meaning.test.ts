// Rules, listeners and lists of the userspace proxy, put together as the kernel and the agent do it, mean what evaluate()
// says.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { compile } from "../../src/compile/compile.ts";
import { evaluate } from "../../src/compile/evaluate.ts";
import { backendKey } from "../../src/dataplane/userspace/balance.ts";
import { listFor, type Surroundings } from "../../src/dataplane/userspace/client.ts";
import { rulesOf } from "../../src/dataplane/userspace/rules.ts";
import { placeOf, portalOf, wantedOf } from "../../src/dataplane/userspace/wanted.ts";
import { type Family, familyOf, type Prefix } from "../../src/model/address.ts";
import type { Backend, Desired } from "../../src/model/desired.ts";
import type { Packet, Verdict } from "../../src/model/verdict.ts";
import { arbitrarySnapshot, everyPacket, options } from "../lib/snapshots.ts";

const FAMILIES: readonly Family[] = ["IPv4", "IPv6"];

interface Rule {
  readonly chain: string;
  /** `10.96.0.1 tcp 80` */
  readonly to: string;
  readonly target: string;
}

const parse = (line: string): Rule => {
  const match = /^-A (\S+) .*-d (\S+)\/\d+ -p (\S+) .*--dport (\d+) -j (.+)$/.exec(line);
  const [, chain = "", address, protocol, port, target = ""] = match ?? [];
  return { chain, to: `${address} ${protocol} ${port}`, target };
};

/** What the kernel and the agent make of a packet: `backends a b`, `nobody`, `REJECT`, `DROP`, or `pass`. */
const proxyOf = (desired: Desired): ((packet: Packet) => string) => {
  const wanted = wantedOf(desired, FAMILIES);
  const portals = wanted.map((one, i) => portalOf(one, 1 + i));
  const rules = FAMILIES.flatMap((family) => rulesOf(portals, placeOf(desired, family)));
  const inTable = (table: string): readonly Rule[] =>
    rules.flatMap((one) => (one.table === table ? one.rules.filter((line) => line.includes(" -d ")).map(parse) : []));
  const tables = [inTable("nat"), inTable("filter")];
  const backends = [...desired.services.values()].flatMap((service) => service.backends);
  const surroundings: Surroundings = {
    own: new Set(options.localAddresses),
    podCIDRs: ["10.244.1.0/24", "fd00:1::/64"] as Prefix[],
    pods: new Set(backends.filter(({ local }) => local).map(({ address }) => address)),
  };
  return ({ from, to }) => {
    const side = from.place === "node" ? "HOST" : "CONTAINER";
    const local = options.localAddresses.includes(to.address);
    const chains = [`KUBE-PORTALS-${side}`, ...(local ? [`KUBE-NODEPORT-${side}`] : [])];
    const text = `${to.address} ${to.protocol.toLowerCase()} ${to.port}`;
    const [rule] = tables.flatMap((rows) =>
      chains.flatMap((chain) => rows.filter((row) => row.chain === chain && row.to === text)),
    );
    if (rule === undefined) return "pass";
    const port = /^DNAT --to-destination .*:(\d+)$/.exec(rule.target)?.[1];
    if (port === undefined) return rule.target;
    const asked = wanted[Number(port) - 1];
    assert.ok(asked !== undefined);
    return listed(listFor(from.address, asked.frontend, asked.service, surroundings).backends);
  };
};

const listed = (backends: readonly Backend[]): string =>
  backends.length === 0 ? "nobody" : `backends ${backends.map(backendKey).join(" ")}`;

/** Which of the proxy's answers a verdict allows. */
const meanings = (verdict: Verdict): readonly string[] => {
  switch (verdict.kind) {
    case "pass":
    case "unlisted":
      return ["pass"];
    case "forward":
      return [listed(verdict.backends.map(({ backend }) => backend))];
    case "reject":
      return ["REJECT"];
    case "drop":
      // Who may not enter is refused with everybody else where there is no endpoint, as by kube-proxy's iptables mode.
      if (verdict.reason === "not in source ranges") return ["nobody", "REJECT"];
      return verdict.frontend.kind === "ClusterIP" ? ["DROP"] : ["nobody"];
  }
};

/** A family in which the node has no address is not served, and nobody redirects the node from a backend. */
const isServed = (desired: Desired, { from, to }: Packet): boolean => {
  const place = placeOf(desired, familyOf(to.address));
  const way = `${familyOf(to.address) === "IPv6" ? `[${to.address}]` : to.address}:${to.port}`;
  return (
    place.listens !== null && !(from.place === "node" && place.backends.has(`${way}/${to.protocol.toLowerCase()}`))
  );
};

test("Every packet of a small world meets what evaluate() says", () => {
  const met = new Map<string, number>();
  fc.assert(
    fc.property(arbitrarySnapshot, (snapshot) => {
      const { desired } = compile(snapshot, options);
      const answer = proxyOf(desired);
      for (const packet of everyPacket.filter((one) => isServed(desired, one))) {
        const verdict = evaluate(desired, packet);
        const actual = answer(packet);
        const allowed = meanings(verdict);
        assert.ok(allowed.includes(actual), `${JSON.stringify(packet)}: ${actual}, not ${allowed.join(" or ")}`);
        met.set(verdict.kind, (met.get(verdict.kind) ?? 0) + 1);
      }
    }),
    { numRuns: 60 },
  );
  assert.deepEqual([...met.keys()].sort(), ["drop", "forward", "pass", "reject", "unlisted"]);
});
