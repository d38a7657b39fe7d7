// A client that never stops connecting, and counts.
import { setTimeout as sleep } from "node:timers/promises";
import type { Commands, Counts } from "./protocol.ts";
import { connectOnce } from "./tcp.ts";
import { askOnce } from "./udp.ts";
import { codeOf } from "./words.ts";

export interface Loop {
  counts(): Counts;
  drop(): void;
}

/** Tries again and again until dropped. */
export const startLoop = (how: Commands["startLoop"]["request"]): Loop => {
  let running = true;
  let [ok, failed] = [0, 0];
  const codes: Record<string, number> = {};
  const names: Record<string, number> = {};
  const turn = async (): Promise<void> => {
    const answer = how.transport === "TCP" ? await connectOnce(how) : await askOnce(how);
    if (answer.ok) {
      ok++;
      names[answer.name] = (names[answer.name] ?? 0) + 1;
    } else {
      failed++;
      codes[answer.code] = (codes[answer.code] ?? 0) + 1;
    }
  };
  const run = async (): Promise<void> => {
    while (running) {
      await turn();
      await sleep(how.pause_ms);
    }
  };
  const done = run();
  done.catch((error: unknown) => {
    codes[codeOf(error)] = 1;
    failed++;
  });
  return {
    counts: () => ({ ok, failed, codes: { ...codes }, names: { ...names } }),
    drop: () => {
      running = false;
    },
  };
};
