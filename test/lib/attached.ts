// Which BPF programs are attached on a node of a lab, asked of the kernel and not of beeline's own records.
import { fileURLToPath } from "node:url";
import { hasTcx } from "../../src/dataplane/bpf/probe.ts";
import { interfaceIndex } from "../../src/dataplane/bpf/system/interface.ts";
import { attachType, queryPrograms } from "../../src/dataplane/bpf/system/link.ts";
import type { Lab } from "./lab.ts";

/** Hook and program, of the node's cgroup and eth0, sorted: `cgroup_inet4_connect sock_connect4`, `tcx_ingress tc_ingress`. */
export const attachedPrograms = (lab: Lab, node: string): readonly string[] => {
  const output = (argv: readonly string[]): string => {
    const { status, stdout, stderr } = lab.run(node, argv);
    if (status !== 0) throw new Error(`${argv.join(" ")}: ${stderr}`);
    return stdout;
  };
  const lines: string[] = [];
  const cgroup = output(["bpftool", "-j", "cgroup", "show", lab.cgroup(node)]);
  for (const { attach_type, name } of parseList<{ attach_type: string; name: string }>(cgroup)) {
    lines.push(`${attach_type} ${name}`);
  }
  for (const direction of ["ingress", "egress"]) {
    const filters = output(["tc", "-j", "filter", "show", "dev", "eth0", direction]);
    for (const { options } of parseList<{ options?: { bpf_name?: string } }>(filters)) {
      if (options?.bpf_name !== undefined) lines.push(`clsact_${direction} ${options.bpf_name.replace(/:.*/, "")}`);
    }
  }
  const tcx = output([process.execPath, fileURLToPath(import.meta.url), "eth0"]); // bpftool 7.1 does not know tcx
  for (const [hook, id] of JSON.parse(tcx) as readonly (readonly [string, number])[]) {
    lines.push(`${hook} ${JSON.parse(output(["bpftool", "-j", "prog", "show", "id", String(id)])).name}`);
  }
  return lines.sort();
};

const parseList = <T>(json: string): readonly T[] => (json.trim() === "" ? [] : (JSON.parse(json) as readonly T[]));

/** Runs inside the node: program ids on a device's tcx hooks. */
const printTcx = (device: string): void => {
  if (!hasTcx()) return console.log("[]");
  const index = interfaceIndex(device);
  const hooks = (Object.keys(attachType) as (keyof typeof attachType)[]).filter((hook) => hook.startsWith("tcx_"));
  const found = hooks.flatMap((hook) => queryPrograms(index ?? 0, hook).program_ids.map((id) => [hook, id]));
  console.log(JSON.stringify(found));
};

if (import.meta.main && process.argv[2] !== undefined) printTcx(process.argv[2]);
