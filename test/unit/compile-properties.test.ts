// What holds of compile() for any objects in any order.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type Compiled, compile, createMemory } from "../../src/compile/compile.ts";
import { evaluate } from "../../src/compile/evaluate.ts";
import { formatDesired } from "../../src/compile/format.ts";
import { formatHostPort } from "../../src/model/address.ts";
import type { Choice, Desired, DesiredService } from "../../src/model/desired.ts";
import type { Snapshot } from "../../src/model/snapshot.ts";
import { isOfService, type Packet, type Verdict } from "../../src/model/verdict.ts";
import { type ModelNode, modelAnswer } from "../lib/kube-proxy-model.ts";
import { address, arbitraryObjects, arbitrarySnapshot, everyPacket, options, snapshot } from "../lib/snapshots.ts";

const runs = { numRuns: 300 };

const asText = ({ desired, ...rest }: Compiled): object => ({ desired: formatDesired(desired), ...rest });

const choicesOf = ({ frontends }: DesiredService): readonly Choice[] =>
  frontends.flatMap(({ internal, external }) => [internal, external]);

const reversed = ({ services, slices, node }: Snapshot): Snapshot => ({
  services: new Map([...services].reverse()),
  slices: new Map([...slices].reverse().map(([key, of]) => [key, new Map([...of].reverse())])),
  node,
});

test("the order of objects does not show", () => {
  fc.assert(
    fc.property(arbitrarySnapshot, (one) => {
      assert.deepEqual(asText(compile(reversed(one), options)), asText(compile(one, options)));
    }),
    runs,
  );
});

test("the memory does not show: any history of snapshots ends as the last one alone", () => {
  fc.assert(
    fc.property(fc.array(arbitrarySnapshot, { minLength: 1, maxLength: 5 }), (history) => {
      const memory = createMemory();
      for (const one of history) assert.deepEqual(asText(compile(one, options, memory)), asText(compile(one, options)));
    }),
    runs,
  );
});

test("the memory does not show when objects come one at a time and keep their identity", () => {
  fc.assert(
    fc.property(arbitraryObjects, ({ services, slices, node }) => {
      const memory = createMemory();
      const unique = [...new Map(slices.map((one) => [one.name, one])).values()];
      for (let i = 0; i <= services.length + unique.length; i++) {
        const one = snapshot(services.slice(0, i), unique.slice(0, Math.max(0, i - services.length)), node);
        assert.deepEqual(asText(compile(one, options, memory)), asText(compile(one, options)));
      }
    }),
    runs,
  );
});

test("a choice sees backends of its service that are active, of its family, and local under policy Local", () => {
  fc.assert(
    fc.property(arbitrarySnapshot, (one) => {
      for (const service of compile(one, options).desired.services.values()) {
        for (const frontend of service.frontends) {
          for (const choice of [frontend.internal, frontend.external]) {
            if (choice.kind !== "backends") continue;
            assert.notEqual(choice.backends.length, 0);
            for (const backend of choice.backends) {
              assert.ok(service.backends.includes(backend));
              assert.equal(backend.state, "active");
              assert.equal(backend.address.includes(":"), frontend.family === "IPv6");
              if (choice.policy === "Local") assert.ok(backend.local);
            }
          }
        }
      }
    }),
    runs,
  );
});

test("a backend is active exactly when some choice has it", () => {
  fc.assert(
    fc.property(arbitrarySnapshot, (one) => {
      for (const service of compile(one, options).desired.services.values()) {
        const chosen = new Set(choicesOf(service).flatMap((c) => (c.kind === "backends" ? c.backends : [])));
        for (const backend of service.backends) assert.equal(backend.state === "active", chosen.has(backend));
      }
    }),
    runs,
  );
});

test("of the two choices of a frontend one refuses exactly when the other does: nobody has an endpoint", () => {
  fc.assert(
    fc.property(arbitrarySnapshot, (one) => {
      for (const service of compile(one, options).desired.services.values()) {
        for (const { internal, external } of service.frontends)
          assert.equal(internal.kind === "reject", external.kind === "reject");
      }
    }),
    runs,
  );
});

test("no address and port is two services', and a ClusterIP is never taken by another kind", () => {
  fc.assert(
    fc.property(arbitrarySnapshot, (one) => {
      const { desired, problems } = compile(one, options);
      const owners = new Map<string, DesiredService>();
      for (const service of desired.services.values()) {
        for (const { address, family, port } of service.frontends) {
          const place = `${address ?? family} ${port} ${service.name.protocol}`;
          assert.equal(owners.get(place), undefined, place);
          owners.set(place, service);
        }
      }
      for (const { namespace, name, skip, clusterIPs, ports } of one.services.values()) {
        if (skip !== null) continue;
        for (const clusterIP of clusterIPs.slice(0, 1)) {
          for (const { port, protocol } of ports) {
            const owner = owners.get(`${clusterIP} ${port} ${protocol}`);
            const frontend = owner?.frontends.find((f) => f.address === clusterIP && f.port === port);
            assert.equal(frontend?.kind, "ClusterIP");
            const own = owner?.name.namespace === namespace && owner.name.name === name;
            if (!own) assert.ok(problems.some(({ object }) => object === `Service ${namespace}/${name}`));
          }
        }
      }
    }),
    runs,
  );
});

test("evaluate() reaches what the frontend's choice says, and nothing else, from everywhere", () => {
  const froms: readonly Packet["from"][] = [
    { place: "pod", address: address("10.244.1.9") },
    { place: "node", address: address("192.0.2.11") },
    { place: "outside", address: address("203.0.113.9") },
  ];
  const check = (desired: Desired, service: DesiredService, from: Packet["from"]): void => {
    for (const frontend of service.frontends) {
      if (frontend.family !== "IPv4") continue;
      const to = {
        address: frontend.address ?? address("192.0.2.11"),
        port: frontend.port,
        protocol: service.name.protocol,
      };
      const verdict = evaluate(desired, { from, to });
      const choice = from.place === "outside" ? frontend.external : frontend.internal;
      assert.ok(isOfService(verdict));
      assert.equal(verdict.frontend, frontend);
      if (verdict.kind === "forward") {
        assert.ok(choice.kind === "backends");
        assert.deepEqual(
          verdict.backends.map(({ backend }) => backend),
          choice.backends,
        );
        for (const { backend, source } of verdict.backends)
          assert.equal(source === "node", from.place === "outside" && !backend.local);
      } else if (verdict.kind === "drop" && verdict.reason === "not in source ranges") {
        assert.ok(frontend.restricted);
      } else assert.equal(verdict.kind, choice.kind);
    }
  };
  fc.assert(
    fc.property(arbitrarySnapshot, (one) => {
      const { desired } = compile(one, options);
      for (const service of desired.services.values()) for (const from of froms) check(desired, service, from);
    }),
    runs,
  );
});

test("for any objects and every packet, evaluate() of the compiled says what kube-proxy's meaning says of the objects", () => {
  const node: ModelNode = { name: "node-a", addresses: ["127.0.0.1", "192.0.2.11", "2001:db8::11"].map(address) };
  fc.assert(
    fc.property(arbitrarySnapshot, (one) => {
      const { desired } = compile(one, options);
      for (const packet of everyPacket) {
        const answer = inModelWords(evaluate(desired, packet));
        assert.equal(answer, modelAnswer(one, node, packet), JSON.stringify(packet));
      }
    }),
    { numRuns: 200 },
  );
});

const inModelWords = (verdict: Verdict): string =>
  verdict.kind === "forward"
    ? verdict.backends
        .map(({ backend, source }) => `${formatHostPort(backend.address, backend.port)}${source === "node" ? "!" : ""}`)
        .sort()
        .join(" ")
    : verdict.kind === "unlisted"
      ? "pass" // difference 20
      : verdict.kind;
