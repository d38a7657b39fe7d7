// What an implementation of Services on a node can do. reconcile/ drives one; bpf, iptables and userspace are
// three. bpf and iptables never know each other.
import type { Desired } from "../model/desired.ts";

export interface Applied {
  /** Kernel objects written and removed, by table. */
  readonly written: Readonly<Record<string, number>>;
  readonly removed: Readonly<Record<string, number>>;
}

export interface Dataplane {
  readonly name: "bpf" | "iptables" | "userspace";
  /**
   * Makes the kernel do what `desired` says. Nothing that a packet can see is half done at any moment.
   * `prune: false` (before the sources have synced once) adds and changes but removes no frontend and no backend.
   * Throws (or rejects) when the kernel refuses: what was there goes on working, and the next apply starts from what the kernel holds.
   */
  apply(desired: Desired, options: { readonly prune: boolean }): Applied | Promise<Applied>;
  /** What the kernel holds now. */
  readBack(): Desired;
  close(): void;
}
