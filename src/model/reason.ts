// What happens to a packet or a socket call and why, for operators: the verdict, which way the packet was going, and a
// sentence. The words are those of enum reason in bpf/types.h, in lower case and without the prefix.

/** What is held comes in again, and is counted again then. Whoever is refused is told at once, by ICMP or the errno of its call; a dropped packet ends in silence. */
export type PacketVerdict = "passed" | "translated" | "held" | "answered" | "refused" | "dropped";

/** As the connection goes, whatever the hook: from the client to the service, or back. */
export type Direction = "to_backend" | "to_client";

export interface Meaning {
  readonly verdict: PacketVerdict;
  /** null: not known, since it belongs to no connection of ours, or either. */
  readonly direction: Direction | null;
  readonly text: string;
}

const passed = (why: string): Meaning => ({ verdict: "passed", direction: null, text: `Passed untouched: ${why}` });
const translated = (direction: Direction | null, text: string): Meaning => ({ verdict: "translated", direction, text });
const held = (why: string): Meaning => ({ verdict: "held", direction: null, text: `Held: ${why}` });
const refused = (why: string): Meaning => ({ verdict: "refused", direction: "to_backend", text: `Refused: ${why}` });
const dropped = (why: string, direction: Direction | null = "to_backend"): Meaning => ({
  verdict: "dropped",
  direction,
  text: `Dropped: ${why}`,
});

export const reasons = {
  not_ours: passed("the destination is no frontend and the packet belongs to no flow"),
  new_flow: translated("to_backend", "Sent to a backend that was chosen for a new flow"),
  established: translated("to_backend", "Sent to the backend of an existing flow"),
  reply: translated("to_client", "A reply: its source became the frontend's, or its destination the client's again"),
  not_handled: passed("for a frontend, but nobody translates it here"),
  fragment: passed("a later fragment of a datagram whose first one is not known as translated"),
  malformed: passed("too short or of wrong lengths, for the kernel to decide"),
  no_endpoints: refused("the service has no endpoint anywhere"),
  no_local_endpoints: dropped("the traffic policy is Local and the service has no endpoint on this node"),
  source_range: dropped("the client is in none of the service's source ranges"),
  no_slot: dropped("a frontend points outside the slots, which is a bug"),
  no_backend: dropped("a slot names no backend, which is a bug"),
  snat_exhausted: dropped("no source port is free for SNAT to this backend"),
  no_snat_address: dropped("the node has no address of this family that a remote backend could reply to"),
  flow_clash: dropped("other flows between this client and backend hold every way back that was tried"),
  flows_full: dropped("the flow could not be stored"),
  rewrite_failed: dropped("the kernel refused to change a packet to a backend"),
  reply_failed: dropped("the ICMP message that refuses could not be built, or nobody may have it"),
  no_config: passed("the agent has not written its configuration yet"),
  icmp_error: translated(
    null,
    "An ICMP error about a packet of an existing flow: it shows the packet as its receiver sent it",
  ),
  conntrack: passed("kube-proxy's rules set this connection up, and the kernel knows it"),
  loopback: dropped("a loopback address comes by no wire", null),
  reply_rewrite_failed: dropped("the kernel refused to change a packet back to a client", "to_client"),
  unlisted_port: refused("a VIP was asked for a port that no service has"),
  protocol: refused("sent to a frontend or a VIP, of a protocol that is not handled"),
  echo: { verdict: "answered", direction: null, text: "Answered: a ping to a VIP" },
  early_fragment: dropped("a later fragment of a datagram to a VIP whose first one is not known as translated"),
  parked: held("a later fragment that came before its first one waits for it"),
  reordered: held("a first fragment that others waited for comes in again, and they behind it"),
  unreadable: dropped("sent to a VIP, too short or of wrong lengths"),
  stray_icmp: dropped("an ICMP message to a VIP that is no ping and about no known flow"),
  from_itself: dropped("it came by a wire from the address that it is for"),
} as const satisfies Readonly<Record<string, Meaning>>;

export type Reason = keyof typeof reasons;

/** null: a newer program's reason that this version has no words for. A call is not dropped: it fails. */
export const meaningOf = (hook: string, reason: string): Meaning | null => {
  if (!isReason(reason)) return null;
  const meaning: Meaning = reasons[reason];
  return hook === "sock" && meaning.verdict === "dropped" ? { ...meaning, verdict: "refused" } : meaning;
};

const isReason = (text: string): text is Reason => Object.hasOwn(reasons, text);
