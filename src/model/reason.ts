// What happens to a packet and why, as one sentence each for operators. The words are those of enum reason in
// bpf/types.h, in lower case and without the prefix.

export const reasonTexts = {
  not_ours: "Passed untouched: the destination is no frontend and the packet belongs to no flow",
  new_flow: "Sent to a backend that was chosen for a new flow",
  established: "Sent to the backend of an existing flow",
  reply: "A reply: its source became the frontend's, or its destination the client's again",
  not_handled: "Passed untouched: a frontend by its address, of a protocol that is not handled yet",
  fragment: "Passed untouched: a later fragment of a datagram whose first one is not known as translated",
  malformed: "Passed untouched: too short or of wrong lengths, for the kernel to decide",
  no_endpoints: "Refused: the service has no endpoint anywhere",
  no_local_endpoints: "Dropped: the traffic policy is Local and the service has no endpoint on this node",
  source_range: "Dropped: the client is in none of the service's source ranges",
  no_slot: "Dropped: a frontend points outside the slots, which is a bug",
  no_backend: "Dropped: a slot names no backend, which is a bug",
  snat_exhausted: "Dropped: no source port is free for SNAT to this backend",
  no_snat_address: "Dropped: the node has no address of this family that a remote backend could reply to",
  flow_clash: "Dropped: other flows between this client and backend hold every way back that was tried",
  flows_full: "Dropped: the flow could not be stored",
  rewrite_failed: "Dropped: the kernel refused to change the packet",
  reply_failed: "Dropped: the ICMP message that refuses could not be built",
  no_config: "Passed untouched: the agent has not written its configuration yet",
  icmp_error: "An ICMP error about a packet of an existing flow: it shows the packet as its receiver sent it",
  loopback: "Dropped: a loopback address comes by no wire",
} as const satisfies Readonly<Record<string, string>>;

export type Reason = keyof typeof reasonTexts;

/** null: a newer program's reason that this version has no words for. */
export const reasonText = (reason: string): string | null => (isReason(reason) ? reasonTexts[reason] : null);

const isReason = (text: string): text is Reason => Object.hasOwn(reasonTexts, text);
