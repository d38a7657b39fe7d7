// Warns when the SNAT ports towards a backend are nearly all taken, once, and says when there is room again.
import { NEAR_LIMIT, type SnatUse } from "../dataplane/bpf/snat.ts";
import { messageOf } from "../lib/errors.ts";
import { formatHostPort } from "../model/address.ts";
import type { Log } from "./log.ts";

export interface SnatWatchParts {
  readonly read: () => SnatUse;
  /** Flows of any kind: with fewer than a destination needs to be near its limit, nothing is read. null: not known. */
  readonly flows: () => number | null;
  readonly ports: number;
  readonly log: Log;
}

const EVERY_MS = 60_000;

export const startSnatWatch = (parts: SnatWatchParts): { look(): void; close(): void } => {
  let warned = new Set<string>();
  let failed = "";

  const look = (): void => {
    const { flows, ports, log } = parts;
    const few = (flows() ?? 0) < ports * NEAR_LIMIT;
    if (few && warned.size === 0) return;
    const near = parts.read().destinations.filter((one) => one.nearLimit);
    const names = new Set(near.map((one) => `${formatHostPort(one.address, one.port)}/${one.protocol}`));
    for (const [i, name] of [...names].entries()) {
      if (!warned.has(name))
        log("warn", "SNAT ports towards a backend run out", { backend: name, taken: near[i]?.taken, ports });
    }
    for (const name of warned) {
      if (!names.has(name)) log("info", "SNAT ports towards a backend are free again", { backend: name, ports });
    }
    warned = names;
  };

  const timer = setInterval(() => {
    try {
      look();
      failed = "";
    } catch (error) {
      if (messageOf(error) !== failed) parts.log("error", "Cannot read the flows", { error: messageOf(error) });
      failed = messageOf(error);
    }
  }, EVERY_MS);
  return { look, close: () => clearInterval(timer) };
};
