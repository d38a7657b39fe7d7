// Whether this node's services are in order, as kube-proxy's /healthz and /livez say it: healthy while every change
// has been applied soon enough, and eligible for load balancer traffic while the Node is there to stay.
import type { Family } from "../model/address.ts";
import type { Node } from "../model/snapshot.ts";
import { json, type Reply } from "./http.ts";

/** The cluster autoscaler is about to remove the node (KEP-3836). */
const LEAVING = "ToBeDeletedByClusterAutoscaler";

/** In kube-proxy's order, which is the order of the JSON. */
interface Body {
  readonly lastUpdated: string;
  readonly currentTime: string;
  readonly nodeEligible?: boolean;
  readonly healthy: boolean;
  readonly status: Readonly<Partial<Record<Family, { readonly lastUpdated: string; readonly healthy: boolean }>>>;
}

export interface Health {
  /** A change waits to be applied. */
  queued(): void;
  /** Everything that waited has been applied. */
  updated(): void;
  /** No change has waited longer than the timeout. True from the start: nothing waits yet. */
  healthy(): boolean;
  healthz(): Reply;
  livez(): Reply;
}

export const createHealth = (options: {
  readonly families: readonly Family[];
  /** kube-proxy's: twice the sync period. */
  readonly timeout_ms: number;
  readonly now_ms: () => number;
  readonly eligible: () => boolean;
}): Health => {
  let oldestQueued_ms: number | null = null;
  let lastUpdated_ms: number | null = null;
  const healthy = (): boolean => oldestQueued_ms === null || options.now_ms() - oldestQueued_ms < options.timeout_ms;
  const body = (extra: { readonly nodeEligible?: boolean }): Body => {
    const ok = healthy();
    const now = iso(options.now_ms());
    const updated = iso(lastUpdated_ms);
    // One apply serves both families, so they are never of different health.
    const status =
      lastUpdated_ms === null ? [] : options.families.map((f) => [f, { lastUpdated: updated, healthy: ok }]);
    return {
      lastUpdated: ok ? now : updated,
      currentTime: now,
      ...extra,
      healthy: ok,
      status: Object.fromEntries(status),
    };
  };
  return {
    queued: () => {
      oldestQueued_ms ??= options.now_ms();
    },
    updated: () => {
      oldestQueued_ms = null;
      lastUpdated_ms = options.now_ms();
    },
    healthy,
    healthz: () => {
      const nodeEligible = options.eligible();
      return json(healthy() && nodeEligible ? 200 : 503, JSON.stringify(body({ nodeEligible })));
    },
    livez: () => json(healthy() ? 200 : 503, JSON.stringify(body({}))),
  };
};

/** Whether load balancers may send traffic through this node. */
export const isEligible = (node: Node | null): boolean =>
  node !== null && !node.deleting && !node.taints.includes(LEAVING);

/** null is Go's zero time, as kube-proxy prints before its first sync. */
const iso = (ms: number | null): string => (ms === null ? "0001-01-01T00:00:00Z" : new Date(ms).toISOString());
