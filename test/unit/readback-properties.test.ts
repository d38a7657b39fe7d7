// Whatever a node should do, the rules that are written for it read back as the same, as far as rules can say it.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { compile } from "../../src/compile/compile.ts";
import { compare } from "../../src/compile/difference.ts";
import { type Reading, wholeReading } from "../../src/compile/reading.ts";
import { readIptables } from "../../src/dataplane/iptables/readback.ts";
import { DEFAULT_RULE_OPTIONS, type RuleOptions, rulesOf } from "../../src/dataplane/iptables/rules.ts";
import { restoreInput } from "../../src/dataplane/iptables/text.ts";
import { makePrefix } from "../../src/model/address.ts";
import type { Backend, Choice, Desired, DesiredService, Frontend } from "../../src/model/desired.ts";
import { readScenario, scenarioFiles } from "../lib/scenario.ts";
import { address, arbitrarySnapshot, options } from "../lib/snapshots.ts";

const ruleOptions: fc.Arbitrary<RuleOptions> = fc.record({
  masqueradeAll: fc.boolean(),
  masqueradeBit: fc.constantFrom(14, 0, 31),
  localDetector: fc.constantFrom(
    { kind: "none" } as const,
    { kind: "bridge", name: "cni0" } as const,
    { kind: "cidr", IPv4: makePrefix(address("10.244.0.0"), 16), IPv6: null } as const,
  ),
  nodePortAddresses: fc.constantFrom([], "primary" as const),
  localhostNodePorts: fc.constant(true),
  dropInvalid: fc.boolean(),
  randomFully: fc.boolean(),
  countPackets: fc.boolean(),
});

const readRules = (desired: Desired, how: RuleOptions = DEFAULT_RULE_OPTIONS): Reading =>
  readIptables(
    (["IPv4", "IPv6"] as const).map((family) => ({
      text: restoreInput(rulesOf(desired, family, how)),
      name: family,
      family,
    })),
    { from: "a test", localAddresses: options.localAddresses },
  );

test("restore input reads back as the Desired it was made from", () => {
  fc.assert(
    fc.property(arbitrarySnapshot, ruleOptions, (snapshot, how) => {
      const { desired } = compile(snapshot, { ...options, nodePortAddresses: how.nodePortAddresses });
      const reading = readRules(desired, how);
      const { differences } = compare(wholeReading("desired", "a test", desired), reading);
      assert.deepEqual(differences, []);
    }),
    { numRuns: 300 },
  );
});

test("the rules of every scenario read back, but for what is meant to differ", () => {
  const folder = new URL("../scenarios", import.meta.url).pathname;
  const numbers = new Set<number>();
  for (const path of scenarioFiles(folder)) {
    const { steps, options: place, file } = readScenario(path);
    for (const { snapshot, name } of steps) {
      const { desired } = compile(snapshot, place);
      const how = { ...DEFAULT_RULE_OPTIONS, nodePortAddresses: place.nodePortAddresses };
      const reading = readIptables(
        (["IPv4", "IPv6"] as const).map((family) => ({
          text: restoreInput(rulesOf(desired, family, how)),
          name: family,
          family,
        })),
        { from: "rules", localAddresses: place.localAddresses },
      );
      const { differences, intended } = compare(wholeReading("desired", "scenario", desired), reading);
      assert.deepEqual(differences, [], `${file} ${name}`);
      for (const one of intended) numbers.add(one.intended);
    }
  }
  assert.deepEqual([...numbers].sort(), [4, 7]);
});

test("a Desired that is another one in anything that rules can say is never taken for the same", () => {
  fc.assert(
    fc.property(arbitrarySnapshot, fc.nat(), (snapshot, seed) => {
      const { desired } = compile(snapshot, options);
      const other = changed(desired, seed);
      fc.pre(other !== null);
      const { differences, intended } = compare(
        wholeReading("desired", "a test", other ?? desired),
        readRules(desired),
      );
      assert.notEqual(differences.length + intended.length, 0);
    }),
    { numRuns: 300 },
  );
});

/** One thing changed that rules can say; null: there is nothing to change. */
const changed = (desired: Desired, seed: number): Desired | null => {
  const changes = [...desired.services].flatMap(([key, service]) =>
    changesOf(service).map((changed) => ({ ...desired, services: new Map(desired.services).set(key, changed) })),
  );
  return changes[seed % changes.length] ?? null;
};

const changesOf = (service: DesiredService): readonly DesiredService[] => {
  const served = service.frontends.some((f) => f.internal.kind === "backends" || f.external.kind === "backends");
  return [
    ...(served ? [{ ...service, affinity_timeout_s: service.affinity_timeout_s + 1 }] : []),
    ...(service.frontends.length === 0 ? [] : [{ ...service, healthCheckNodePort: 31999 }]),
    ...service.frontends.flatMap((frontend, i) => [
      { ...service, frontends: service.frontends.toSpliced(i, 1) },
      ...frontendChanges(frontend).map((one) => ({ ...service, frontends: service.frontends.with(i, one) })),
    ]),
  ];
};

const frontendChanges = (frontend: Frontend): readonly Frontend[] => [
  ...(["internal", "external"] as const).flatMap((scope) =>
    choiceChanges(frontend[scope]).map((choice) => ({ ...frontend, [scope]: choice })),
  ),
  ...(frontend.external.kind === "backends" ? [{ ...frontend, restricted: !frontend.restricted }] : []),
];

const stranger: Backend = { address: address("10.244.9.9"), port: 1, local: false, state: "active" };

const choiceChanges = (choice: Choice): readonly Choice[] => {
  if (choice.kind !== "backends") return [{ kind: "backends", policy: choice.policy, backends: [stranger] }];
  const { policy, backends } = choice;
  return [
    { kind: "reject", policy },
    { kind: "drop", policy: "Local" },
    { ...choice, policy: policy === "Local" ? "Cluster" : "Local" },
    { ...choice, backends: [...backends, stranger] },
    ...(backends.length > 1 ? [{ ...choice, backends: backends.slice(1) }] : []),
  ];
};
