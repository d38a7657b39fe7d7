// The intended differences from kube-proxy, by their number in docs/semantics.md, with the sentence that opens each
// there. difference.ts says where one of them shows.

export const INTENDED = {
  1: "A client's address is kept wherever the reply comes back by itself.",
  2: "Hairpin keeps its address.",
  3: "Answers come at once.",
  4: "SCTP is refused.",
  5: "127.0.0.1 NodePorts are for the node's own sockets",
  6: "Source ranges at the socket.",
  7: "Who is in no source range is dropped, endpoints or not.",
  8: "Source ranges hold for the address",
  9: "Affinity at the socket is by network namespace",
  10: "Conflicts have one answer.",
  11: "An endpoint at a ClusterIP is left out.",
  12: "Pods of other nodes are outside.",
  13: "NodePorts do not answer on link-local IPv6 addresses",
  14: "No firewall is opened or closed.",
  15: "healthCheckNodePort counts pods, not addresses",
  16: "A NodePort is refused where it would be served.",
  17: "The node itself is refused as well.",
  18: "A refusal goes back to the neighbour that the packet came from",
  19: "An address that is closed hides the NodePort behind it.",
  20: "A VIP's unlisted port is refused.",
  21: "With `bpf.socketLB: off` the node's own processes reach no Service.",
  22: "A connected UDP socket ends with its backend.",
} as const satisfies Readonly<Record<number, string>>;

export type IntendedNumber = keyof typeof INTENDED;

/** Those that a comparison of two Desireds can show; the others are about packets, and hold whatever is compared. */
export const VISIBLE: readonly IntendedNumber[] = [4, 7, 8, 10, 11, 13];
