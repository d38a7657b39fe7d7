// kube-proxy's thirty flows: every kind of client to every kind of frontend under every policy. Which endpoints they reach,
// and whether these are shown the node instead of the client, where pods can be told from others.

export const POLICIES = {
  plain: {},
  external: { externalTrafficPolicy: "Local" },
  internal: { internalTrafficPolicy: "Local" },
} as const;
export type Policy = keyof typeof POLICIES;
export const POLICY_NAMES = ["plain", "external", "internal"] as const;

export type Client = "pod" | "node" | "localhost" | "ext";
export type FrontendName = "ClusterIP" | "NodePort" | "LoadBalancer";
export type Cell = "all" | "all masq" | "local" | "local masq";

/** In the order of POLICY_NAMES. */
export const THIRTY_FLOWS: readonly (readonly [Client, FrontendName, Cell, Cell, Cell])[] = [
  ["pod", "ClusterIP", "all", "all", "local"],
  ["pod", "NodePort", "all masq", "all", "all masq"],
  ["pod", "LoadBalancer", "all masq", "all", "all masq"],
  ["node", "ClusterIP", "all masq", "all masq", "local masq"],
  ["node", "NodePort", "all masq", "all masq", "all masq"],
  ["localhost", "NodePort", "all masq", "all masq", "all masq"],
  ["node", "LoadBalancer", "all masq", "all masq", "all masq"],
  ["ext", "ClusterIP", "all masq", "all masq", "local masq"],
  ["ext", "NodePort", "all masq", "local", "all masq"],
  ["ext", "LoadBalancer", "all masq", "local", "all masq"],
];
