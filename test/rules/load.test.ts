// The kernel takes the rules as they are meant: every step of every scenario, written, loaded into both flavours of
// iptables in a namespace of its own, and saved again, is the same rules.
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { after, test } from "node:test";
import { compile } from "../../src/compile/compile.ts";
import { COUNTERS } from "../../src/dataplane/iptables/names.ts";
import { DEFAULT_RULE_OPTIONS, type RuleOptions } from "../../src/dataplane/iptables/rules.ts";
import { type Family, makePrefix } from "../../src/model/address.ts";
import { inputOf, normalised } from "../lib/rule-text.ts";
import { readScenario, scenarioFiles } from "../lib/scenario.ts";
import { address } from "../lib/snapshots.ts";

const netns = `beeline-rules-${process.pid}`;
execFileSync("ip", ["netns", "add", netns]);
for (const name of COUNTERS) execFileSync("nsenter", [`--net=/run/netns/${netns}`, "nfacct", "add", name]);
after(() => execFileSync("ip", ["netns", "del", netns]));
process.on("exit", () => spawnSync("ip", ["netns", "del", netns]));

const iptables = (flavour: string, family: Family, program: "restore" | "save", input = ""): string => {
  const name = `${family === "IPv4" ? "iptables" : "ip6tables"}-${flavour}-${program}`;
  const argv = [`--net=/run/netns/${netns}`, name, ...(program === "restore" ? ["--counters"] : [])];
  const { status, stdout, stderr } = spawnSync("nsenter", argv, { input, encoding: "utf8" });
  assert.equal(status, 0, `${name}: ${stderr}${input}`);
  return stdout;
};

const samePrinted = (flavour: string, family: Family, input: string, name: string): void => {
  iptables(flavour, family, "restore", input);
  assert.deepEqual(normalised(iptables(flavour, family, "save"), family), normalised(input, family), name);
};

/** Every option at work, one way or the other. */
const OPTIONS: readonly RuleOptions[] = [
  {
    ...DEFAULT_RULE_OPTIONS,
    countPackets: true,
    localDetector: {
      kind: "cidr",
      IPv4: makePrefix(address("10.244.0.0"), 16),
      IPv6: makePrefix(address("fd00::"), 16),
    },
  },
  {
    ...DEFAULT_RULE_OPTIONS,
    localDetector: { kind: "bridge", name: "cbr0" },
    masqueradeBit: 31,
    localhostNodePorts: false,
    dropInvalid: false,
    randomFully: false,
  },
  { ...DEFAULT_RULE_OPTIONS, localDetector: { kind: "prefix", name: "veth" }, masqueradeAll: true, masqueradeBit: 0 },
];

for (const flavour of ["nft", "legacy"]) {
  test(`${flavour}: the rules of every scenario are loaded and read back`, () => {
    const loaded = new Set<string>();
    let number = 0;
    for (const path of scenarioFiles(new URL("../scenarios", import.meta.url).pathname)) {
      const { steps, options, file } = readScenario(path);
      for (const step of steps) {
        const { desired } = compile(step.snapshot, options);
        const rules = { ...(OPTIONS[number++ % OPTIONS.length] ?? DEFAULT_RULE_OPTIONS) };
        for (const family of ["IPv4", "IPv6"] as const) {
          const input = inputOf(desired, family, { ...rules, nodePortAddresses: options.nodePortAddresses });
          if (loaded.has(`${family} ${input}`)) continue;
          loaded.add(`${family} ${input}`);
          samePrinted(flavour, family, input, `${file} ${step.name} ${family}`);
        }
      }
    }
  });

  test(`${flavour}: the whole samples`, () => {
    for (const file of ["sample-cluster.rules", "sample-local.rules"])
      samePrinted(flavour, "IPv4", readFileSync(new URL(file, import.meta.url), "utf8"), file);
  });
}
