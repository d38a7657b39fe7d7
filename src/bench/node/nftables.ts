// kube-proxy's nftables layout. Its rules have no counters, as kube-proxy's have none: connection tracking says which flows
// to the services are answered by their pods.
import { readNftables } from "../../dataplane/nftables/readback.ts";
import type { Desired, DesiredService } from "../../model/desired.ts";
import { nftablesChange, nftablesInput } from "../nftables.ts";
import { countTranslated, flushConntrack } from "./conntrack.ts";
import type { NodeSide } from "./node.ts";
import { runProgram } from "./programs.ts";

export const openNftablesNode = (): NodeSide => ({
  async install(desired) {
    runProgram("nft", ["-f", "-"], nftablesInput(desired));
  },
  async change(before, after) {
    for (const [old, changed] of changedServices(before, after))
      runProgram("nft", ["-f", "-"], nftablesChange(old, changed));
  },
  read: () =>
    readNftables([runProgram("nft", ["-j", "list", "table", "ip", "kube-proxy"])], {
      from: "this node",
      localAddresses: null,
      families: ["IPv4"],
    }),
  reset: flushConntrack,
  carried: (asked) => ({
    counter: "tracked flows to the service that its pods answer (conntrack)",
    counted: countTranslated(asked),
    intruder: null,
  }),
  close() {},
});

const changedServices = (before: Desired, after: Desired): readonly (readonly [DesiredService, DesiredService])[] =>
  [...after.services].flatMap(([key, service]) => {
    const old = before.services.get(key);
    return old === undefined || old === service ? [] : [[old, service] as const];
  });
