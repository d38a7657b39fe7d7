// `beeline reset`: takes links, filters, maps and pins of every version of beeline's off this node.
import { requireRoot } from "../agent/dataplane.ts";
import { createLog } from "../agent/log.ts";
import { resetBpf } from "../dataplane/bpf/bpf.ts";
import type { Run } from "./command.ts";
import { bpffsOf } from "./pinned.ts";

export const reset: Run = async (args, io) => {
  const bpffs = await bpffsOf(args);
  requireRoot(`reset ${bpffs}`);
  const log = createLog({ format: args.logFormat ?? "text", level: args.logLevel ?? "info" }, (line) => io.err(line));
  const { removed } = resetBpf({ bpffs, log });
  for (const what of removed) io.out(`removed ${what}\n`);
  if (removed.length === 0) io.err(`nothing of beeline's under ${bpffs}\n`);
  return 0;
};
