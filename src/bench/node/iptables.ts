// kube-proxy's iptables rules, written by beeline's reference dataplane. The service's own rules count: each first
// packet of a flow meets one of them.

import { openIptablesDataplane } from "../../dataplane/iptables/iptables.ts";
import { serviceChains } from "../../dataplane/iptables/names.ts";
import { readIptables } from "../../dataplane/iptables/readback.ts";
import { DEFAULT_RULE_OPTIONS } from "../../dataplane/iptables/rules.ts";
import { type Asked, askedPort } from "../cluster.ts";
import { flushConntrack } from "./conntrack.ts";
import type { NodeSide } from "./node.ts";
import { runProgram } from "./programs.ts";

const SYNC_PERIOD_MS = 30_000;

export const openIptablesNode = (flavour: "legacy" | "nft"): NodeSide => {
  const dataplane = openIptablesDataplane({
    // As on a node that nobody asked for NodePorts at 127.0.0.1.
    rules: () => ({ ...DEFAULT_RULE_OPTIONS, localhostNodePorts: false }),
    families: ["IPv4"],
    flavour,
    syncPeriod_ms: SYNC_PERIOD_MS,
    now_ms: () => performance.now(),
    log: () => {},
  });
  let start = 0;
  return {
    async install(desired) {
      await dataplane.apply(desired, { prune: true });
    },
    async change(_before, after) {
      await dataplane.apply(after, { prune: true });
    },
    read: () => readIptables(saved(flavour), { from: "this node", localAddresses: null }),
    reset(asked) {
      flushConntrack();
      start = countEntered(flavour, asked);
    },
    carried: (asked) => ({
      counter: `packets that the service's rules counted (iptables-${flavour})`,
      counted: countEntered(flavour, asked) - start,
      intruder: null,
    }),
    close: () => dataplane.close(),
  };
};

const saved = (flavour: "legacy" | "nft") =>
  (["filter", "nat"] as const).map((table) => ({
    name: table,
    text: runProgram(`iptables-${flavour}-save`, ["-t", table]),
    family: "IPv4" as const,
  }));

/** One chain only: of the legacy flavour every listing fetches the whole table, a third of a second for 10,000 services. */
const countEntered = (flavour: "legacy" | "nft", asked: Asked): number => {
  const { cluster } = serviceChains(askedPort(asked));
  // Columns: packets, bytes, target, …
  const listed = runProgram(`iptables-${flavour}`, ["-w", "5", "-t", "nat", "-nvxL", cluster]);
  const counts = listed.split("\n").flatMap((line) => /^\s*(\d+)\s+\d+\s+KUBE-SEP-/.exec(line)?.[1] ?? []);
  return counts.reduce((sum, count) => sum + Number(count), 0);
};
