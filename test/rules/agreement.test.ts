// The rules do what evaluate() says, but for the intended differences: for every probe of every scenario, and for every
// packet of generated worlds.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type CompileOptions, compile } from "../../src/compile/compile.ts";
import { DEFAULT_RULE_OPTIONS, type RuleOptions } from "../../src/dataplane/iptables/rules.ts";
import { familyOf, makePrefix } from "../../src/model/address.ts";
import type { Desired } from "../../src/model/desired.ts";
import type { Packet } from "../../src/model/verdict.ts";
import { tablesOf } from "../lib/rule-text.ts";
import { meaningText, outcomeText } from "../lib/rules-meaning.ts";
import { formatPacket, readScenario, scenarioFiles } from "../lib/scenario.ts";
import { address, arbitrarySnapshot, everyPacket, options } from "../lib/snapshots.ts";
import { type RuleTables, trace } from "../lib/trace-rules.ts";

const ruleOptions: RuleOptions = {
  ...DEFAULT_RULE_OPTIONS,
  localDetector: { kind: "bridge", name: "cbr0" }, // what a pod is, is known by where it comes from, as to evaluate()
};

const INTERFACES = { pod: "cbr0", node: null, outside: "eth0" } as const;

/** Only the node sends to 127.0.0.1, and only from 127.0.0.1 (difference 5; KUBE-FIREWALL drops all else). */
const isPossible = ({ from, to }: Packet): boolean =>
  !to.address.startsWith("127.") || (from.place === "node" && from.address.startsWith("127."));

const disagreements = (
  desired: Desired,
  packets: readonly Packet[],
  node: CompileOptions,
  rules: RuleOptions,
): readonly string[] => {
  const tables = new Map<string, RuleTables>();
  return packets.filter(isPossible).flatMap((packet) => {
    const family = familyOf(packet.to.address);
    const read = tables.get(family) ?? tablesOf(desired, family, rules);
    tables.set(family, read);
    const { from, to } = packet;
    const outcomes = trace(
      read,
      { addresses: node.localAddresses },
      {
        in: INTERFACES[from.place],
        source: from.address,
        destination: to.address,
        port: to.port,
        protocol: to.protocol,
      },
    );
    assert.ok(Math.abs(outcomes.reduce((sum, { probability }) => sum + probability, 0) - 1) < 1e-6);
    const [is, should] = [outcomeText(outcomes), meaningText(desired, packet, rules, node.localAddresses)];
    return is === should ? [] : [`${formatPacket(packet)}: rules ${is}, meaning ${should}`];
  });
};

for (const path of scenarioFiles(new URL("../scenarios", import.meta.url).pathname)) {
  const scenario = readScenario(path);
  const packets = scenario.steps.flatMap((step) => step.packets);
  if (packets.length === 0) continue;
  test(`${scenario.file}: the rules do what is expected of every probe`, () => {
    for (const step of scenario.steps) {
      const { desired } = compile(step.snapshot, scenario.options);
      const rules = { ...ruleOptions, nodePortAddresses: scenario.options.nodePortAddresses };
      assert.deepEqual(disagreements(desired, packets, scenario.options, rules), [], step.name);
    }
  });
}

test("for any objects every packet meets in the rules what evaluate() says", () => {
  const seed = Number(process.env.SEED ?? Date.now() % 2 ** 31);
  const narrowings = [[], "primary", [makePrefix(address("127.0.0.0"), 8)], [makePrefix(address("192.0.2.0"), 24)]];
  fc.assert(
    fc.property(
      arbitrarySnapshot,
      fc.constantFrom(...(narrowings as CompileOptions["nodePortAddresses"][])),
      fc.boolean(),
      (snapshot, nodePortAddresses, masqueradeAll) => {
        const node = { ...options, nodePortAddresses };
        const { desired } = compile(snapshot, node);
        const rules = { ...ruleOptions, nodePortAddresses, masqueradeAll };
        assert.deepEqual(disagreements(desired, everyPacket, node, rules), []);
      },
    ),
    { numRuns: 60, seed },
  );
});
