// The process on a node of the lab: `process.ts MODE SERVICES BPFFS CGROUP`. Holds the mode's dataplane, and does over IPC
// what it is asked. It must not be in a namespace of somebody else's: it is started inside the lab's (lab/inside.ts).
import { compare } from "../../compile/difference.ts";
import { wholeReading } from "../../compile/reading.ts";
import { messageOf } from "../../lib/errors.ts";
import { type Asked, clusterOf, FEWEST_SERVICES, withOneChange } from "../cluster.ts";
import { type BpfPlace, openBpfNode } from "./bpf.ts";
import { openIptablesNode } from "./iptables.ts";
import { openNftablesNode } from "./nftables.ts";
import type { Carried, NodeSide } from "./node.ts";
import { openRoute } from "./route.ts";

/** What can be asked, and what is answered. */
export interface NodeCommands {
  /** First: loads and attaches what the mode needs before it takes services. */
  readonly open: null;
  /** Writes every service: seconds that took. */
  readonly install: number;
  /** Changes one endpoint: seconds until it was in effect. */
  readonly change: number;
  readonly reset: null;
  readonly carried: Carried;
  /** Services that the kernel holds, read back, and how many of them it should; `different`: what is not as it should be. */
  readonly check: { readonly held: number; readonly wanted: number; readonly different: number };
}

const MODES: Readonly<Record<string, (place: BpfPlace) => NodeSide>> = {
  route: openRoute,
  "iptables-legacy": () => openIptablesNode("legacy"),
  "iptables-nft": () => openIptablesNode("nft"),
  nftables: openNftablesNode,
  "bpf-socket": (place) => openBpfNode({ hook: "sock", forwarding: "kernel", xdp: "off" }, place),
  "bpf-tc": (place) => openBpfNode({ hook: "tc_ingress", forwarding: "kernel", xdp: "off" }, place),
  "bpf-tc-direct": (place) => openBpfNode({ hook: "tc_ingress", forwarding: "direct", xdp: "off" }, place),
  "bpf-xdp": (place) => openBpfNode({ hook: "tc_ingress", forwarding: "direct", xdp: "required" }, place),
};

const [mode = "", services = "", bpffs = "", cgroup = ""] = process.argv.slice(2);
let node: NodeSide = openRoute();
let desired = clusterOf(Math.max(FEWEST_SERVICES, Number(services)));
let changes = 0;

const time = async (action: () => Promise<void>): Promise<number> => {
  const start = performance.now();
  await action();
  return (performance.now() - start) / 1000;
};

const commands: { readonly [C in keyof NodeCommands]: (asked: Asked) => Promise<NodeCommands[C]> } = {
  async open() {
    const opened = MODES[mode]?.({ bpffs, cgroup, services: Number(services) });
    if (opened === undefined) throw new Error(`No mode ${mode}`);
    node = opened;
    return null;
  },
  install: () => time(() => node.install(desired)),
  async change() {
    const before = desired;
    desired = withOneChange(before, ++changes);
    return time(() => node.change(before, desired));
  },
  async reset(asked) {
    node.reset(asked);
    return null;
  },
  carried: async (asked) => node.carried(asked),
  async check() {
    const reading = node.read();
    if (reading === null) return { held: 0, wanted: 0, different: 0 };
    const { differences } = compare(wholeReading("desired", "the benchmark", desired), reading);
    return { held: reading.desired.services.size, wanted: desired.services.size, different: differences.length };
  },
};

interface Message {
  readonly id: number;
  readonly command: keyof NodeCommands;
  /** Of reset and carried. */
  readonly request: Asked;
}

process.on("message", async ({ id, command, request }: Message) => {
  try {
    process.send?.({ id, response: await commands[command](request) });
  } catch (error) {
    process.send?.({ id, error: messageOf(error) });
  }
});
process.on("disconnect", () => process.exit(0));
process.send?.("ready");
