// `beeline apply -f`: programs this node once from manifests, and leaves. What is pinned and attached stays.
import { loadConfig } from "../agent/config.ts";
import { deviceFacts, openDataplane } from "../agent/dataplane.ts";
import { chooseDevices, choosePodDevices, readHost } from "../agent/host.ts";
import { createLog } from "../agent/log.ts";
import { compile } from "../compile/compile.ts";
import { readManifests } from "../k8s/manifests.ts";
import { InputError } from "../lib/errors.ts";
import type { Run } from "./command.ts";
import { reportProblems } from "./problems.ts";

export const apply: Run = async (args, io) => {
  const { config, warnings } = loadConfig(args);
  const log = createLog({ ...config.logging, format: args.logFormat ?? "text" }, (line) => io.err(line));
  for (const warning of warnings) log("warn", warning);
  const files = args.filename ?? [];
  if (files.length === 0) throw new InputError("apply needs manifests: -f FILE or folder");
  if (config.dataplane === "userspace")
    throw new InputError("apply: the userspace dataplane answers only while it runs (see beeline run)");
  const { snapshot, problems } = readManifests(files, config.nodeName);
  const host = readHost(deviceFacts);
  const { nodeName, nodePortAddresses } = config;
  const localAddresses = host.addresses.map((a) => a.address);
  const compiled = compile(snapshot, { nodeName, localAddresses, nodePortAddresses });
  reportProblems([...problems, ...compiled.problems], io);
  const { dataplane } = openDataplane(config, log);
  try {
    dataplane.setPodCIDRs?.(snapshot.node?.podCIDRs ?? []);
    const devices = chooseDevices(host, config.bpf.devices, snapshot.node?.addresses ?? []);
    dataplane.setDevices?.(devices, choosePodDevices(host, config.bpf, devices));
    const { written, removed } = await dataplane.apply(compiled.desired, { prune: true });
    io.err(
      `applied ${compiled.desired.services.size} service ports; written ${counts(written)}; removed ${counts(removed)}\n`,
    );
  } finally {
    dataplane.close();
  }
  return 0;
};

const counts = (tables: Readonly<Record<string, number>>): string =>
  Object.entries(tables)
    .map(([table, count]) => `${count} ${table}`)
    .join(", ") || "nothing";
