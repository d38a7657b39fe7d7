// The dependency rule: lib ◄ model ◄ compile ◄ dataplane ◄ agent ◄ bench ◄ commands ◄ main; k8s knows only model, reconcile
// only lib, bpf and iptables never know each other; pure folders import no node: module; two files touch FFI, one starts
// programs that write, one programs that list, three those of the benchmark.
import { globSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";

/** Folder (longest match first) to the folders it may import from, besides itself. */
const MAY: Readonly<Record<string, readonly string[]>> = {
  "src/dataplane/bpf/system": [],
  "src/dataplane/bpf": ["src/dataplane/bpf/system", "src/dataplane", "src/compile", "src/model", "src/lib"],
  "src/dataplane/iptables": ["src/dataplane", "src/compile", "src/model", "src/lib"],
  "src/dataplane/nftables": ["src/dataplane", "src/compile", "src/model", "src/lib"],
  "src/dataplane/ipvs": ["src/dataplane", "src/compile", "src/model", "src/lib"],
  "src/dataplane/userspace": ["src/dataplane", "src/dataplane/iptables", "src/compile", "src/model", "src/lib"],
  "src/dataplane/fake": ["src/dataplane", "src/dataplane/bpf", "src/model", "src/lib"],
  "src/dataplane": ["src/compile", "src/model", "src/lib"],
  "src/lib": [],
  "src/model": ["src/lib"],
  "src/compile": ["src/model", "src/lib"],
  "src/k8s": ["src/model", "src/lib"],
  "src/reconcile": ["src/lib"],
  "src/agent": [
    "src/dataplane",
    "src/dataplane/bpf",
    "src/dataplane/bpf/system",
    "src/dataplane/iptables",
    "src/dataplane/userspace",
    "src/dataplane/nftables",
    "src/dataplane/ipvs",
    "src/compile",
    "src/k8s",
    "src/model",
    "src/reconcile",
    "src/lib",
  ],
  "src/bench": [
    "src/agent",
    "src/dataplane",
    "src/dataplane/bpf",
    "src/dataplane/bpf/system",
    "src/dataplane/iptables",
    "src/dataplane/nftables",
    "src/compile",
    "src/k8s",
    "src/model",
    "src/lib",
  ],
  "src/commands": [
    "src/agent",
    "src/bench",
    "src/dataplane",
    "src/dataplane/bpf",
    "src/dataplane/bpf/system",
    "src/dataplane/iptables",
    "src/dataplane/userspace",
    "src/dataplane/nftables",
    "src/dataplane/ipvs",
    "src/dataplane/fake",
    "src/compile",
    "src/k8s",
    "src/model",
    "src/reconcile",
    "src/lib",
  ],
  src: ["src/commands", "src/lib"],
};

/** No clock, no randomness, no I/O: no node: module and none of these words. */
const PURE = [
  "src/model/",
  "src/compile/",
  "src/bench/statistics",
  "src/bench/standing",
  "src/bench/quantity",
  "src/bench/report/",
  "src/dataplane/bpf/plan",
  "src/dataplane/bpf/tables",
  "src/dataplane/bpf/codec",
  "src/dataplane/bpf/actual",
  "src/dataplane/bpf/ids",
  "src/dataplane/bpf/order",
  "src/dataplane/bpf/programmer",
  "src/dataplane/bpf/readback",
  "src/dataplane/bpf/rows",
  "src/dataplane/bpf/runs",
  "src/dataplane/entries",
  "src/dataplane/iptables/parse",
  "src/dataplane/iptables/chains",
  "src/dataplane/iptables/family",
  "src/dataplane/iptables/readback",
  "src/dataplane/iptables/rules",
  "src/dataplane/iptables/text",
  "src/dataplane/userspace/balance",
  "src/dataplane/userspace/client",
  "src/dataplane/userspace/rules",
  "src/dataplane/userspace/wanted",
  "src/dataplane/iptables/jumps",
  "src/dataplane/iptables/saved",
  "src/dataplane/iptables/flows",
  "src/dataplane/iptables/obstacles",
  "src/dataplane/nftables/obstacles",
  "src/dataplane/obstacle",
  "src/dataplane/nftables/readback",
  "src/dataplane/nftables/ruleset",
  "src/dataplane/ipvs/readback",
];
const IMPURE = /\bDate\.now\b|\bnew Date\(\)|\bMath\.random\b|\bprocess\./;
const ONLY_IN: Readonly<Record<string, readonly string[]>> = {
  koffi: ["src/dataplane/bpf/system/libbpf.ts", "src/dataplane/bpf/system/libc.ts"],
  "@kubernetes/client-node": ["src/k8s/api.ts"],
  "node:child_process": [
    "src/dataplane/iptables/command.ts",
    "src/dataplane/listing.ts",
    "src/bench/lab/leftovers.ts",
    "src/bench/lab/process.ts",
    "src/bench/node/programs.ts",
  ],
};

const errors: string[] = [];
const folderOf = (file: string): string => {
  const folder = Object.keys(MAY).find((f) => file.startsWith(`${f}/`));
  return folder ?? "src";
};

for (const file of globSync("src/**/*.ts")) {
  const text = readFileSync(file, "utf8");
  const pure = PURE.some((p) => file.startsWith(p));
  if (pure && IMPURE.test(text)) errors.push(`${file}: a pure file uses a clock, randomness or the process`);
  for (const [, target = ""] of text.matchAll(/(?:from|import\()\s*"([^"]+)"/g)) {
    if (target.startsWith(".")) {
      const to = folderOf(relative(".", join(dirname(file), target)));
      const from = folderOf(file);
      if (to !== from && !(MAY[from] ?? []).includes(to))
        errors.push(`${file}: ${from} may not import from ${to} (${target})`);
    } else {
      if (pure && target.startsWith("node:")) errors.push(`${file}: a pure file imports ${target}`);
      const only = ONLY_IN[target];
      if (only !== undefined && !only.includes(file))
        errors.push(`${file}: only ${only.join(", ")} may import ${target}`);
    }
  }
}
for (const error of errors) console.error(error);
process.exit(errors.length > 0 ? 1 : 0);
