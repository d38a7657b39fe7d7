// Decides by which way packets go on, as `bpf.forwarding` says, and again when this node changes. With `auto` they are sent on
// directly unless something here may refuse them; whoever writes policies usually starts after us, so it is looked for
// as long as we run. Flows go on when it changes.
import type { ForwardingMode } from "../dataplane/bpf/bpf.ts";
import { type Obstacle, obstacleText } from "../dataplane/obstacle.ts";
import { messageOf } from "../lib/errors.ts";
import type { Config } from "./config.ts";
import type { Log } from "./log.ts";

export interface ForwardingWatch {
  /** Why everything goes by the kernel; null: nothing has been looked for (yet). */
  obstacles(): readonly Obstacle[] | null;
  /** Something may be different now. Resolves when that is known. */
  look(): Promise<void>;
  close(): void;
}

export interface ForwardingParts {
  readonly wanted: Config["bpf"]["forwarding"];
  readonly set: (mode: ForwardingMode) => void;
  /** What may refuse, change or send elsewhere forwarded packets. */
  readonly find: () => Promise<readonly Obstacle[]>;
  /** Costs next to nothing: another text whenever find() may answer otherwise. */
  readonly mark: () => string;
  readonly log: Log;
  readonly periods_ms?: { readonly mark: number; readonly find: number };
}

/** Of x_tables the mark does not see everything (a rule replaced by one of the same size): now and then all is read. */
const PERIODS_MS = { mark: 2_000, find: 60_000 };

export const startForwarding = (parts: ForwardingParts): ForwardingWatch => {
  const { wanted, set, log } = parts;
  // Else the dataplane was opened with what is wanted.
  if (wanted !== "auto") return { obstacles: () => null, look: async () => {}, close: () => {} };
  const periods = parts.periods_ms ?? PERIODS_MS;
  let found: readonly Obstacle[] | null = null;
  let mode: ForwardingMode | null = null;
  let known = "";
  let found_ms = Number.NEGATIVE_INFINITY;
  let running: Promise<void> | null = null;
  let isClosed = false;

  const decide = async (): Promise<void> => {
    const mark = parts.mark(); // before: what changes while we read is seen the next time
    const obstacles = await parts.find();
    if (isClosed) return;
    [known, found, found_ms] = [mark, obstacles, performance.now()];
    const next: ForwardingMode = obstacles.length === 0 ? "direct" : "kernel";
    if (next === mode) return;
    set(next);
    mode = next;
    const because = obstacles.slice(0, MOST_NAMED).map(obstacleText);
    const fields = obstacles.length === 0 ? {} : { because, count: obstacles.length };
    log("info", next === "direct" ? DIRECT : KERNEL, fields);
  };
  const look = (): Promise<void> => {
    running ??= decide()
      .catch((error: unknown) => log("error", "Cannot decide how packets are forwarded", { error: messageOf(error) }))
      .finally(() => {
        running = null;
      });
    return running;
  };
  const timer = setInterval(() => {
    const isOld = performance.now() - found_ms >= periods.find;
    if (isOld || markOf(parts) !== known) void look();
  }, periods.mark);
  void look();
  return {
    obstacles: () => found,
    look,
    close() {
      isClosed = true;
      clearInterval(timer);
    },
  };
};

const MOST_NAMED = 3;
const DIRECT = "Packets are forwarded directly: nothing on this node may refuse them";
const KERNEL = "Packets are forwarded by the kernel: something on this node may refuse or change them";

/** One that cannot be had is another one each time. */
const markOf = ({ mark }: ForwardingParts): string | null => {
  try {
    return mark();
  } catch {
    return null;
  }
};
