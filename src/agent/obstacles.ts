// Looks for what on this node may refuse or change the packets that it forwards: then packets of Services have to pass it,
// and go through the kernel. The rule, and the reasons for it, are in docs/operations.md ("Direct forwarding").
import { readFileSync } from "node:fs";
import { nftGeneration, ruleObstacles, xfrmObstacles } from "../dataplane/bpf/rules.ts";
import { legacyTableInfo } from "../dataplane/bpf/system/x-tables.ts";
import { obstaclesInSaved } from "../dataplane/iptables/obstacles.ts";
import { listLegacyTable, listRuleset } from "../dataplane/listing.ts";
import { obstaclesInRuleset } from "../dataplane/nftables/obstacles.ts";
import type { Obstacle } from "../dataplane/obstacle.ts";
import { messageOf } from "../lib/errors.ts";
import type { Family } from "../model/address.ts";

/** Takes some 50 ms, aside. What cannot be read is an obstacle itself: nobody knows what is there. */
export const findObstacles = async (): Promise<readonly Obstacle[]> => {
  const places: readonly (readonly [string, () => readonly Obstacle[] | Promise<readonly Obstacle[]>])[] = [
    ["nftables", inNftables],
    ["iptables-legacy", inLegacyTables],
    ["IP rules", ruleObstacles],
    ["IPsec (xfrm)", xfrmObstacles],
  ];
  const found = await Promise.all(
    places.map(async ([where, find]) => {
      try {
        return await find();
      } catch (error) {
        return [{ where, what: `cannot be read: ${messageOf(error)}` }];
      }
    }),
  );
  return found.flat();
};

/** Another text whenever findObstacles() may answer otherwise. Takes some 0.1 ms and starts no program. */
export const obstacleMark = (): string =>
  JSON.stringify([attempt(nftGeneration), attempt(ruleObstacles), attempt(xfrmObstacles), attempt(legacyMark)]);

const legacyMark = (): readonly string[] =>
  legacyTables().map(({ family, table }) => Buffer.from(legacyTableInfo(family, table)).toString("hex"));

const attempt = <T>(ask: () => T): T | string => {
  try {
    return ask();
  } catch (error) {
    return messageOf(error);
  }
};

/** Where no rule has ever been written, nft is not needed. */
const inNftables = async (): Promise<readonly Obstacle[]> => {
  const generation = nftGeneration();
  return generation === null || generation <= 1 ? [] : obstaclesInRuleset(await listRuleset(), "nft's listing");
};

/** Not nat: it refuses nothing, and may be very long. */
const inLegacyTables = async (): Promise<readonly Obstacle[]> => {
  const tables = legacyTables().filter(({ table }) => table !== "nat");
  const found = tables.map(async ({ family, table }) =>
    obstaclesInSaved(await listLegacyTable(family, table), family === "IPv4" ? "iptables-legacy" : "ip6tables-legacy"),
  );
  return (await Promise.all(found)).flat();
};

const legacyTables = (): readonly { readonly family: Family; readonly table: string }[] =>
  (["IPv4", "IPv6"] as const).flatMap((family) =>
    namesIn(`/proc/self/net/${family === "IPv4" ? "ip" : "ip6"}_tables_names`).map((table) => ({ family, table })),
  );

/** Only root may read them; a kernel without x_tables has no such file. */
const namesIn = (path: string): readonly string[] => {
  try {
    return readFileSync(path, "utf8").split("\n").filter(Boolean);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
};
