// `beeline compile -f`: what a node would do with manifests, as Desired or as the entries of a dataplane's tables.
import { ruleOptions } from "../agent/rules.ts";
import { desiredToJson, formatDesired } from "../compile/format.ts";
import { TableProgrammer } from "../dataplane/bpf/programmer.ts";
import { formatTables, readTables, type Tables } from "../dataplane/bpf/tables.ts";
import { FakeStore } from "../dataplane/fake/fakestore.ts";
import { type RuleOptions, rulesOf } from "../dataplane/iptables/rules.ts";
import { restoreInput } from "../dataplane/iptables/text.ts";
import { InputError } from "../lib/errors.ts";
import type { Desired } from "../model/desired.ts";
import type { Args, Run } from "./command.ts";
import { compileOffline, type Offline } from "./offline.ts";
import { reportProblems } from "./problems.ts";
import { type Report, show } from "./report.ts";

export const compileCommand: Run = async (args, io) => {
  const files = args.filename ?? [];
  if (files.length === 0) throw new InputError("compile needs manifests: -f FILE or folder");
  const offline = await compileOffline(files, args);
  const { problems } = offline;
  reportProblems(problems, io);
  await show(args, io, () => reportOf(args.to, offline));
  return args.strict === true && problems.length > 0 ? 1 : 0;
};

const reportOf = (to: Args["to"], { compiled: { desired }, config, snapshot }: Offline): Report => {
  switch (to) {
    case undefined:
      return desiredReport(desired);
    case "bpf":
      return tableReport(desired);
    case "iptables":
      return rulesReport(desired, ruleOptions(config, snapshot.node?.podCIDRs ?? []));
  }
};

const desiredReport = (desired: Desired): Report => ({
  kind: "Desired",
  fields: { ...desiredToJson(desired) },
  text: () => formatDesired(desired),
});

const tableReport = (desired: Desired): Report => {
  const tables = tablesOf(desired);
  return { kind: "Tables", fields: tablesToJson(tables), text: () => formatTables(tables) };
};

/** What iptables-restore reads, and then what ip6tables-restore does. */
const rulesReport = (desired: Desired, options: RuleOptions): Report => {
  const inputs = {
    IPv4: restoreInput(rulesOf(desired, "IPv4", options)),
    IPv6: restoreInput(rulesOf(desired, "IPv6", options)),
  };
  const text = () =>
    `# iptables-restore --noflush --counters\n${inputs.IPv4}# ip6tables-restore --noflush --counters\n${inputs.IPv6}`;
  return { kind: "Rules", fields: inputs, text };
};

/** The tables of a node that was empty before. */
const tablesOf = (desired: Desired): Tables => {
  const store = new FakeStore();
  new TableProgrammer(store, { now_ns: () => 0n }).apply(desired, { prune: true });
  return readTables(store);
};

/** One list for each table; rows as the structs of bpf/types.h have them, with their number where the key is one. */
const tablesToJson = (tables: Tables) => ({
  services: [...tables.services].map(([service_id, row]) => ({ service_id, ...row })),
  frontends: tables.frontends.map(({ key, value }) => ({ key, value })),
  nodeports: tables.nodeports.map(({ key, value }) => ({ key, value })),
  frontend_addresses: [...tables.frontend_addresses].map(([address, row]) => ({ address, ...row })),
  slots: tables.slots,
  backends: [...tables.backends].map(([backend_id, row]) => ({ backend_id, ...row })),
  source_ranges: tables.source_ranges,
  node_addresses: [...tables.node_addresses].map(([address, row]) => ({ address, ...row })),
});
