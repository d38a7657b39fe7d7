// `beeline reset`: takes links, filters, maps and pins of every version of beeline's off this node, or the rules of
// kube-proxy's iptables mode, which are also those of --dataplane iptables, or those of --dataplane userspace.
import { requireRoot } from "../agent/dataplane.ts";
import { hasIPv6 } from "../agent/host.ts";
import { createLog } from "../agent/log.ts";
import { resetBpf } from "../dataplane/bpf/bpf.ts";
import { resetIptables } from "../dataplane/iptables/reset.ts";
import { resetUserspace } from "../dataplane/userspace/reset.ts";
import type { Args, Io, Run } from "./command.ts";
import { bpffsOf, dataplaneOf } from "./pinned.ts";

export const reset: Run = async (args, io) => {
  if (args.kubeProxy === true) return resetRules(io);
  switch (await dataplaneOf(args)) {
    case "bpf":
      return resetMaps(args, io);
    case "iptables":
      return resetRules(io);
    case "userspace":
      return resetPortals(io);
  }
};

const resetMaps = async (args: Args, io: Io): Promise<number> => {
  const bpffs = await bpffsOf(args);
  requireRoot(`reset ${bpffs}`);
  const log = createLog({ format: args.logFormat ?? "text", level: args.logLevel ?? "info" }, (line) => io.err(line));
  const { removed } = resetBpf({ bpffs, log });
  for (const what of removed) io.out(`removed ${what}\n`);
  if (removed.length === 0) io.err(`nothing of beeline's under ${bpffs}\n`);
  return 0;
};

const resetPortals = (io: Io): number => {
  requireRoot("remove the userspace proxy's rules");
  const removed = resetUserspace(hasIPv6() ? ["IPv4", "IPv6"] : ["IPv4"]);
  for (const what of removed) io.out(`removed ${what}\n`);
  if (removed.length === 0) io.err("no rules of the userspace proxy\n");
  return 0;
};

const resetRules = (io: Io): number => {
  requireRoot("remove kube-proxy's rules");
  const { removed, kept } = resetIptables(hasIPv6() ? ["IPv4", "IPv6"] : ["IPv4"]);
  for (const what of removed) io.out(`removed ${what}\n`);
  for (const what of kept) io.err(`kept ${what}\n`);
  if (removed.length === 0) io.err("no rules of kube-proxy's iptables mode\n");
  return 0;
};
