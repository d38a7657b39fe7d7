// What happens to a packet, and why: the answer of evaluate(), and of every dataplane.
import type { Address } from "./address.ts";
import type { Backend, Frontend, ServicePortName } from "./desired.ts";
import type { Protocol } from "./snapshot.ts";

export interface Packet {
  readonly from: { readonly place: "pod" | "node" | "outside"; readonly address: Address };
  readonly to: { readonly address: Address; readonly port: number; readonly protocol: Protocol };
}

export type Scope = "internal" | "external";

export type Verdict =
  /** Not a frontend of ours: untouched. */
  | { readonly kind: "pass"; readonly reason: "not a frontend" }
  /** An address that is only a frontend's, at a port that no service has: refused. */
  | { readonly kind: "unlisted"; readonly scope: Scope }
  | {
      readonly kind: "forward";
      readonly service: ServicePortName;
      readonly frontend: Frontend;
      readonly scope: Scope;
      /** Each with the source address it sees: the client's own, or this node's. */
      readonly backends: readonly { readonly backend: Backend; readonly source: "client" | "node" }[];
      /** 0: none. */
      readonly affinity_timeout_s: number;
    }
  | {
      readonly kind: "reject";
      readonly service: ServicePortName;
      readonly frontend: Frontend;
      readonly scope: Scope;
      readonly reason: "no endpoints";
    }
  | {
      readonly kind: "drop";
      readonly service: ServicePortName;
      readonly frontend: Frontend;
      readonly scope: Scope;
      readonly reason: "no local endpoints" | "not in source ranges";
    };

/** Some Service is asked, whatever it answers. */
export const isOfService = (verdict: Verdict): verdict is Extract<Verdict, { readonly frontend: Frontend }> =>
  "frontend" in verdict;
