// A client that never stops connecting, and counts.
import { setTimeout as sleep } from "node:timers/promises";
import type { Commands, Counts, Failed, Failure } from "./protocol.ts";
import { connectOnce } from "./tcp.ts";
import { askOnce } from "./udp.ts";
import { codeOf } from "./words.ts";

export interface Loop {
  counts(): Counts;
  drop(): void;
}

const MOST_FAILURES = 100;

/** Tries again and again until dropped. */
export const startLoop = (how: Commands["startLoop"]["request"]): Loop => {
  let running = true;
  let [ok, failed] = [0, 0];
  const codes: Record<string, number> = {};
  const names: Record<string, number> = {};
  const failures: Failure[] = [];
  const fail = ({ code, localPort, ms }: Failed): void => {
    failed++;
    codes[code] = (codes[code] ?? 0) + 1;
    const began = new Date(Date.now() - ms).toISOString();
    if (failures.length < MOST_FAILURES) failures.push({ began, ms, localPort, code });
  };
  const turn = async (): Promise<void> => {
    const answer = how.transport === "TCP" ? await connectOnce(how) : await askOnce(how);
    if (answer.ok) {
      ok++;
      names[answer.name] = (names[answer.name] ?? 0) + 1;
    } else {
      fail(answer);
    }
  };
  const run = async (): Promise<void> => {
    while (running) {
      await turn();
      await sleep(how.pause_ms);
    }
  };
  const done = run();
  done.catch((error: unknown) => fail({ ok: false, code: codeOf(error), localPort: null, ms: 0 }));
  return {
    counts: () => ({ ok, failed, codes: { ...codes }, names: { ...names }, failures: [...failures] }),
    drop: () => {
      running = false;
    },
  };
};
