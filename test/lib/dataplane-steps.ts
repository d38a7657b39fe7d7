// A process that opens the real dataplane and takes steps with it, given as JSON: an agent without Kubernetes, to be
// started inside a Sandbox, killed, and started again. Prints one JSON line for every step and every log line.
import { execFileSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { DIRECTIONS, SOCKET_HOOKS } from "../../src/dataplane/bpf/attach.ts";
import { type BpfDataplane, type BpfOptions, openBpfDataplane, resetBpf } from "../../src/dataplane/bpf/bpf.ts";
import { openPinnedMaps } from "../../src/dataplane/bpf/pinned.ts";
import { linksDirectory, parseLinkPin, pinDirectory } from "../../src/dataplane/bpf/pins.ts";
import { tablesToDesired } from "../../src/dataplane/bpf/readback.ts";
import { clsactQuery } from "../../src/dataplane/bpf/system/clsact.ts";
import { closeFd, openDirectory, openPinned } from "../../src/dataplane/bpf/system/file.ts";
import { interfaceIndex } from "../../src/dataplane/bpf/system/interface.ts";
import { linkInfo, queryPrograms } from "../../src/dataplane/bpf/system/link.ts";
import { xdpPrograms } from "../../src/dataplane/bpf/system/native-xdp.ts";
import { readConfig, readTables } from "../../src/dataplane/bpf/tables.ts";
import { readXdp, type XdpRecord } from "../../src/dataplane/bpf/xdp.ts";
import { type Desired, servicePortKey } from "../../src/model/desired.ts";

export type Step =
  | { readonly open: true }
  | { readonly apply: DesiredText; readonly prune?: boolean }
  | { readonly setDevices: readonly string[] }
  | { readonly setForwarding: "direct" | "kernel" }
  | {
      readonly print:
        | "attachments"
        | "readBack"
        | "pinned"
        | "links"
        | "hooks"
        | "pressure"
        | "config"
        | "xdp"
        | "xdp record";
    }
  /** By device, ids of the XDP programs that the kernel says are on it. */
  | { readonly xdpOf: readonly string[] }
  /** Applies these in turn until it is killed. */
  | { readonly churn: readonly DesiredText[] }
  /** Looks at every hook of eth0 and of the cgroup for so long, and prints how often one had no program. */
  | { readonly watch_ms: number }
  | { readonly shell: string }
  | { readonly close: true }
  | { readonly reset: true }
  /** Says so, and waits to be killed. */
  | { readonly hold: true };

/** A Desired as JSON can hold it. */
export interface DesiredText {
  readonly services: readonly (Desired["services"] extends ReadonlyMap<unknown, infer S> ? S : never)[];
  readonly nodeAddresses: Desired["nodeAddresses"];
}

export type Options = Omit<BpfOptions, "log" | "cgroup"> & { readonly cgroup: string | null };

export const toText = (desired: Desired): DesiredText => ({
  services: [...desired.services.values()],
  nodeAddresses: desired.nodeAddresses,
});

const say = (line: object): void => void process.stdout.write(`${JSON.stringify(line, bigText)}\n`);

const bigText = (_: string, value: unknown): unknown => (typeof value === "bigint" ? String(value) : value);

const main = async (options: Options, steps: readonly Step[]): Promise<void> => {
  let opened: BpfDataplane | null = null;
  const dataplane = (): BpfDataplane => {
    if (opened === null) throw new Error("not opened");
    return opened;
  };
  const log: BpfOptions["log"] = (level, message, fields) => say({ log: `${level} ${message}`, fields });
  const take = async (step: Step): Promise<unknown> => {
    if ("open" in step) {
      opened = openBpfDataplane({ ...options, log });
      return "opened";
    }
    if ("apply" in step) return dataplane().apply(fromText(step.apply), { prune: step.prune ?? true });
    if ("setDevices" in step) return dataplane().setDevices(step.setDevices, []) ?? "set";
    if ("setForwarding" in step) return dataplane().setForwarding(step.setForwarding) ?? "set";
    if ("watch_ms" in step) return watch(options, step.watch_ms);
    if ("shell" in step) return execFileSync("sh", ["-ec", step.shell], { encoding: "utf8" });
    if ("close" in step) return dataplane().close() ?? "closed";
    if ("reset" in step) return resetBpf({ bpffs: options.bpffs, log }).removed;
    if ("churn" in step) {
      const list = step.churn.map(fromText);
      say({ result: "churning" });
      for (;;) for (const desired of list) dataplane().apply(desired, { prune: true });
    }
    if ("xdpOf" in step)
      return Object.fromEntries(step.xdpOf.map((name) => [name, xdpPrograms(interfaceIndex(name) ?? 0)]));
    if ("hold" in step) {
      say({ result: "holding" });
      return new Promise(() => setInterval(() => {}, 1000));
    }
    switch (step.print) {
      case "attachments":
        return dataplane().attachments();
      case "readBack":
        return toText(dataplane().readBack());
      case "pinned":
        return pinned(options.bpffs);
      case "links":
        return links(options.bpffs);
      case "hooks":
        return hooks(options);
      case "pressure":
        return dataplane().pressure();
      case "config":
        return readConfig(dataplane().store);
      case "xdp":
        return dataplane().xdp();
      case "xdp record":
        return recordedXdp(options.bpffs);
    }
  };
  for (const step of steps) {
    try {
      say({ result: await take(step) });
    } catch (error) {
      say({ error: error instanceof Error ? `${error.name}: ${error.message}` : String(error) });
    }
  }
};

/** What the pinned maps mean, read as a command reads them: without the agent. */
const pinned = (bpffs: string): DesiredText => {
  const store = openPinnedMaps(pinDirectory(bpffs));
  try {
    return toText(tablesToDesired(readTables(store)));
  } finally {
    store.close();
  }
};

/** The same of XDP. */
const recordedXdp = (bpffs: string): XdpRecord => {
  const store = openPinnedMaps(pinDirectory(bpffs));
  try {
    return readXdp(store, linksDirectory(pinDirectory(bpffs)));
  } finally {
    store.close();
  }
};

const fromText = ({ services, nodeAddresses }: DesiredText): Desired => ({
  services: new Map(services.map((service) => [servicePortKey(service.name), service])),
  nodeAddresses,
});

/** What is pinned below links/: by name, the link's id, program and target (for clsact the program's id is in the name). */
const links = (bpffs: string): object => {
  const directory = linksDirectory(pinDirectory(bpffs));
  return Object.fromEntries(
    (existsSync(directory) ? readdirSync(directory).sort() : []).map((name) => {
      if (parseLinkPin(name)?.kind === "clsact") return [name, null];
      const link = openPinned(`${directory}/${name}`);
      const info = linkInfo(link);
      closeFd(link);
      return [name, info];
    }),
  );
};

/** How many programs each hook of the cgroup, and of eth0, runs. */
const hooks = ({ cgroup }: Options): Record<string, number> => {
  const count: Record<string, number> = {};
  const target = cgroup === null ? -1 : openDirectory(cgroup);
  for (const [hook, type] of cgroup === null ? [] : Object.entries(SOCKET_HOOKS)) {
    count[hook] = queryPrograms(target, type).program_ids.length;
  }
  if (target >= 0) closeFd(target);
  const ifindex = interfaceIndex("eth0");
  for (const direction of ifindex === null ? [] : DIRECTIONS) {
    const filters = Array.from({ length: 16 }, (_, i) => clsactQuery(ifindex ?? 0, direction, 0xbee, 0xbe0 + i));
    const tcx = queryPrograms(ifindex ?? 0, `tcx_${direction}`).program_ids.length;
    count[direction] = tcx + filters.filter((id) => id !== null).length;
  }
  return count;
};

const watch = async (options: Options, watch_ms: number): Promise<object> => {
  let looks = 0;
  const empty: string[] = [];
  for (const end = performance.now() + watch_ms; performance.now() < end; looks++) {
    for (const [hook, count] of Object.entries(hooks(options))) if (count === 0) empty.push(hook);
    if (looks === 0) say({ result: "watching" });
    await new Promise((resolve) => setImmediate(resolve));
  }
  return { looks, empty };
};

const [given] = process.argv.slice(2);
if (given !== undefined && import.meta.filename === process.argv[1]) {
  const { options, steps } = JSON.parse(given) as { options: Options; steps: readonly Step[] };
  await main(options, steps);
}
