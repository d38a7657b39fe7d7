// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * The tc hooks of the node's devices, and of the devices of pods whose sockets are not
 * translated. Ingress rewrites destinations, egress rewrites sources; between the two the kernel
 * sees an ordinary packet from client to backend, or back.
 */
#include <linux/pkt_cls.h>
#include "connection.h"
#include "conntrack.h"
#include "event.h"
#include "fragment.h"
#include "icmp.h"
#include "nat.h"
#include "quoted.h"
#include "vip.h"

#define PACKET_HOST 0

/* What is ours goes on to the next program and to the kernel as well, translated. */
static __always_inline int verdict(int reason)
{
	switch (reason) {
	case REASON_NO_LOCAL_ENDPOINTS:
	case REASON_SOURCE_RANGE:
	case REASON_NO_SLOT:
	case REASON_NO_BACKEND:
	case REASON_SNAT_EXHAUSTED:
	case REASON_NO_SNAT_ADDRESS:
	case REASON_FLOW_CLASH:
	case REASON_FLOWS_FULL:
	case REASON_REWRITE_FAILED:
	case REASON_REPLY_REWRITE_FAILED:
	case REASON_REPLY_FAILED:
	case REASON_LOOPBACK:
	case REASON_EARLY_FRAGMENT:
	case REASON_UNREADABLE:
	case REASON_STRAY_ICMP:
	case REASON_FROM_ITSELF:
		return TC_ACT_SHOT;
	}
	return TC_ACT_UNSPEC;
}

/* Not a drop: what it brought comes in again. */
static __always_inline bool is_held(int reason)
{
	return reason == REASON_PARKED || reason == REASON_REORDERED;
}

/* Told at once, by an ICMP error. */
static __always_inline bool is_refusal(int reason)
{
	return reason == REASON_NO_ENDPOINTS || reason == REASON_UNLISTED_PORT ||
	       reason == REASON_PROTOCOL;
}

static __always_inline bool is_ending(int reason)
{
	return verdict(reason) == TC_ACT_SHOT || is_refusal(reason);
}

/* A backend had been chosen, but the connection could not be opened. */
static __always_inline bool is_after_choice(int reason)
{
	return reason == REASON_SNAT_EXHAUSTED || reason == REASON_NO_SNAT_ADDRESS ||
	       reason == REASON_FLOW_CLASH || reason == REASON_FLOWS_FULL;
}

/* Of a packet to a frontend the service is known, of one that follows a flow, or for which a
 * backend had been chosen, the backend, too. */
SUBPROGRAM int report(struct __sk_buff *ctx, const struct packet *packet, __u32 hook, __u32 reason)
{
	struct event *event = reserve_event(hook, reason);
	struct flow_key key;
	const struct connection *chosen;
	const struct flow *flow;

	if (!event)
		return 0;
	event->ifindex = ctx->ifindex;
	if (packet) {
		key = packet->key;
		event->key = key;
		event->service_id = service_of(&key, packet->scope);
		flow = bpf_map_lookup_elem(&flows, &key);
		if (flow) {
			event->service_id = flow->service_id;
			event->backend_id = flow->backend_id;
		}
		chosen = is_after_choice(reason) ? scratch_connection(OPENED) : NULL;
		if (chosen)
			event->backend_id = chosen->backend_id;
	}
	submit_event(event);
	return 0;
}

/* At ingress. The kernel routes it, and the other side is written where it leaves; or it is sent
 * on. */
static __always_inline bool translate(struct __sk_buff *ctx, struct packet *packet,
				      struct flow *flow)
{
	__u64 word = *state_in(flow);
	struct ends to;

	packet->forward = choose_forward(ctx, packet, flow);
	if (options.direct && !is_sent(packet->forward))
		leave_to_kernel(ctx, packet, flow, word);
	to = is_sent(packet->forward) ? both_ends(packet, flow) : one_end(packet, flow);
	return rewrite_ends(ctx, packet, &to) && (!is_sent(packet->forward) || send(ctx, packet));
}

static __always_inline void notice(struct __sk_buff *ctx, const struct packet *packet,
				   struct flow *flow)
{
	touch(flow);
	if (packet->fragmented)
		remember_fragment(packet);
	if (packet->closes || !(flow->flags & FLOW_SETTLED))
		advance(ctx, packet, flow);
}

static __always_inline int follow(struct __sk_buff *ctx, struct packet *packet, struct flow *flow)
{
	int reason = reason_of(flow), failure = failure_of(flow);

	notice(ctx, packet, flow);
	return translate(ctx, packet, flow) ? reason : failure;
}

static __always_inline int follow_out(struct __sk_buff *ctx, const struct packet *packet,
				      struct flow *flow)
{
	int reason = reason_of(flow), failure = failure_of(flow);
	struct ends to = one_end(packet, flow);

	notice(ctx, packet, flow);
	return rewrite_ends(ctx, packet, &to) ? reason : failure;
}

/* UNDECIDED: the kernel routes it, and it is undone where it leaves. */
SUBPROGRAM int send_reply(struct __sk_buff *ctx, struct packet *packet, struct flow *flow)
{
	struct ends to;
	__u64 word;

	if (!packet || !flow)
		return UNDECIDED;
	word = *state_in(flow);
	packet->forward = choose_forward(ctx, packet, flow);
	if (!is_sent(packet->forward)) {
		leave_to_kernel(ctx, packet, flow, word);
		return UNDECIDED;
	}
	to = one_end(packet, flow);
	if (!rewrite_ends(ctx, packet, &to) || !send(ctx, packet))
		return REASON_REPLY_REWRITE_FAILED;
	return REASON_REPLY;
}

/* A pod's answer to somebody who came by a frontend: its flow is that of egress. */
static __always_inline int reply_directly(struct __sk_buff *ctx, struct packet *packet)
{
	struct flow *flow;
	int reason;

	packet->key.outward = true;
	flow = bpf_map_lookup_elem(&flows, &packet->key);
	if (!flow || flow->kind != FLOW_UNDO_DNAT)
		return UNDECIDED;
	reason = send_reply(ctx, packet, flow);
	if (reason != UNDECIDED)
		notice(ctx, packet, flow);
	return reason;
}

/* A table that is full has room again when one that is half-open, or closed, has gone. */
static __always_inline int connect(struct __sk_buff *ctx, const struct packet *packet,
				   bool is_beside)
{
	int reason = connect_packet(ctx, packet, is_beside);

	if (reason == REASON_FLOWS_FULL && make_room())
		reason = connect_packet(ctx, packet, is_beside);
	return reason;
}

/* The first packet of a flow that its connection did without before. */
static __always_inline int resume(struct __sk_buff *ctx, struct packet *packet)
{
	struct flow *flow = bpf_map_lookup_elem(&flows, &packet->key);

	return flow ? follow(ctx, packet, flow) : REASON_FLOWS_FULL;
}

/* The packet that has opened a connection, and is left to the kernel alone of all. */
SUBPROGRAM int leave_first_to_kernel(struct __sk_buff *ctx, const struct connection *c)
{
	struct flow_key routed;

	if (!c)
		return 0;
	routed = key_in(c, FLOW_SNAT);
	return acquaint(ctx, &routed);
}

static __always_inline bool is_left_alone(int forward)
{
	return forward > FORWARD_NEXT_HOP && forward != FORWARD_HAIRPIN;
}

/* The packet that has opened a connection. */
static __always_inline bool translate_first(struct __sk_buff *ctx, struct packet *packet)
{
	const struct connection *c = scratch_connection(OPENED);
	struct ends to;

	if (!c)
		return false;
	packet->forward = choose_first_forward(ctx, packet, c);
	if (options.direct && is_left_alone(packet->forward))
		leave_first_to_kernel(ctx, c);
	to = ends_of_opened(packet, c, is_sent(packet->forward));
	return rewrite_ends(ctx, packet, &to) && (!is_sent(packet->forward) || send(ctx, packet));
}

static __always_inline int open_new(struct __sk_buff *ctx, struct packet *packet)
{
	bool is_beside;
	int reason;

	if (is_loopback(&packet->key.dst_addr) || is_loopback(&packet->key.src_addr))
		return REASON_LOOPBACK;
	reason = find_entrance(packet);
	/* UDP would have to look with every packet that is not ours: 44 ns more than 111. */
	is_beside = reason == REASON_NOT_OURS;
	if (is_beside && !packet->opens)
		return reason;
	/* Answered, it would be sent to the frontend again, and its answer, and so on. */
	if (!is_beside && same_addr(&packet->key.src_addr, &packet->key.dst_addr))
		return REASON_FROM_ITSELF;
	if (packet->key.proto == IPPROTO_SCTP)
		return REASON_PROTOCOL;
	if (!is_beside && reason != UNDECIDED)
		return reason;
	if (packet->key.proto == IPPROTO_TCP && !packet->opens &&
	    is_translated(ctx, &packet->key, IPS_DST_NAT))
		return REASON_CONNTRACK;
	reason = connect(ctx, packet, is_beside);
	if (reason == REASON_ESTABLISHED)
		return resume(ctx, packet);
	if (reason != REASON_NEW_FLOW)
		return reason;
	if (packet->fragmented)
		remember_fragment(packet);
	return translate_first(ctx, packet) ? reason : REASON_REWRITE_FAILED;
}

/* `parsed`: what parse() said. What follows no flow, and is for a VIP, ends here. */
static __always_inline int ingress_without_ports(struct __sk_buff *ctx, const struct packet *packet,
						 int parsed)
{
	int reason = parsed == NOT_READ ? REASON_NOT_OURS : parsed;

	if (parsed == ICMP_MESSAGE)
		reason = translate_error(ctx, packet, false);
	if (parsed == NO_PORTS)
		reason = follow_fragment(ctx, packet, false);
	if (reason == REASON_FRAGMENT)
		reason = park_fragment(ctx, packet) ? REASON_PARKED
						    : follow_fragment(ctx, packet, false);
	if (reason != REASON_NOT_OURS && reason != REASON_FRAGMENT && reason != REASON_MALFORMED)
		return reason;
	if (!packet->family || !refuses(&packet->key.dst_addr, packet->scope))
		return reason;
	return answer_for_vip(ctx, packet, parsed);
}

static __always_inline int ingress(struct __sk_buff *ctx, struct packet *packet)
{
	struct flow *flow;
	int reason;

	/* A pod's device hears nobody else; and below a bridge its frames are for the bridge. */
	if (packet->scope == SCOPE_EXTERNAL && ctx->pkt_type != PACKET_HOST)
		return REASON_NOT_OURS;
	reason = parse(ctx, packet);
	if (reason != UNDECIDED)
		return ingress_without_ports(ctx, packet, reason);
	if (packet->fragmented && release_fragments(ctx, packet))
		return REASON_REORDERED;
	flow = bpf_map_lookup_elem(&flows, &packet->key);
	if (!flow && packet->scope == SCOPE_INTERNAL && options.direct) {
		reason = reply_directly(ctx, packet);
		if (reason != UNDECIDED)
			return reason;
		packet->key.outward = false;
	}
	if (!flow)
		return open_new(ctx, packet);
	if (!is_stale(flow, packet))
		return follow(ctx, packet, flow);
	forget_connection(&packet->key, flow);
	return open_new(ctx, packet);
}

/* Without socket hooks nobody translates what the node itself sends to a frontend: too late to
 * route it anew here, so it is counted and goes on. */
static __always_inline int miss(const struct packet *packet)
{
	if (options.socket_lb == SOCKET_LB_OFF && find_entrance(packet) == UNDECIDED)
		return REASON_NOT_HANDLED;
	return REASON_NOT_OURS;
}

static __always_inline int egress(struct __sk_buff *ctx, struct packet *packet)
{
	struct flow *flow;
	int reason = parse(ctx, packet);

	if (reason == ICMP_MESSAGE)
		return translate_error(ctx, packet, true);
	if (reason == NO_PORTS)
		return follow_fragment(ctx, packet, true);
	if (reason == NOT_READ)
		return REASON_NOT_OURS;
	if (reason != UNDECIDED)
		return reason;
	flow = bpf_map_lookup_elem(&flows, &packet->key);
	if (!flow)
		return miss(packet);
	return follow_out(ctx, packet, flow);
}

/* On the same machine there may be other nodes, whose packets keep what was said of them. */
static __always_inline void forget_former(struct __sk_buff *ctx)
{
	if (options.direct && ctx->tc_index == SENT_DIRECTLY)
		ctx->tc_index = 0;
}

static __always_inline bool is_failed(int reason)
{
	return reason == REASON_REWRITE_FAILED || reason == REASON_REPLY_REWRITE_FAILED;
}

static __always_inline int conclude(struct __sk_buff *ctx, const struct packet *packet, int reason)
{
	count(HOOK_TC_INGRESS, reason);
	if (options.direct && packet->forward != UNDECIDED)
		count_forward(HOOK_TC_INGRESS, packet->forward);
	if (options.direct && is_sent(packet->forward) && !is_failed(reason))
		return TC_ACT_REDIRECT;
	if (is_ending(reason))
		report(ctx, packet, HOOK_TC_INGRESS, reason);
	if (is_held(reason))
		return TC_ACT_SHOT;
	if (is_refusal(reason) || reason == REASON_ECHO)
		return bpf_redirect(ctx->ifindex, 0);
	return verdict(reason);
}

static __always_inline int receive(struct __sk_buff *ctx, enum scope scope)
{
	struct packet packet = {.scope = scope, .forward = UNDECIDED};
	int reason;

	forget_former(ctx);
	reason = ingress(ctx, &packet);
	if (options.direct && is_sent(packet.forward))
		return conclude(ctx, &packet, reason);
	if (is_refusal(reason) && !refuse(ctx, &packet, reason != REASON_PROTOCOL))
		reason = REASON_REPLY_FAILED;
	return conclude(ctx, &packet, reason);
}

/* By a device of the node: from outside. */
SEC("tc")
int tc_ingress(struct __sk_buff *ctx)
{
	return receive(ctx, SCOPE_EXTERNAL);
}

/* By the node's end of a pod's device: from the pod. */
SEC("tc")
int tc_pod_ingress(struct __sk_buff *ctx)
{
	return receive(ctx, SCOPE_INTERNAL);
}

/* By the node's end of a pod's device, where its sockets are translated: what the pod answers. It
 * is there while packets are sent on directly, and after that, for connections from then. What is
 * not sent on from here is undone where it leaves, and counted there. */
SEC("tc")
int tc_pod_reply(struct __sk_buff *ctx)
{
	struct packet packet = {.scope = SCOPE_INTERNAL, .forward = UNDECIDED};
	int reason = UNDECIDED;

	forget_former(ctx);
	if (!options.direct)
		return TC_ACT_UNSPEC;
	if (ctx->pkt_type == PACKET_HOST && parse(ctx, &packet) == UNDECIDED)
		reason = reply_directly(ctx, &packet);
	if (reason != UNDECIDED)
		return conclude(ctx, &packet, reason);
	if (packet.forward != UNDECIDED)
		count_forward(HOOK_TC_INGRESS, packet.forward);
	else if (next_hop_generation())
		count(HOOK_TC_INGRESS, REASON_NOT_OURS);
	return TC_ACT_UNSPEC;
}

SEC("tc")
int tc_egress(struct __sk_buff *ctx)
{
	struct packet packet = {
		.key.outward = true,
		.scope = SCOPE_INTERNAL,
		.forward = UNDECIDED,
	};
	int reason;

	if (options.direct && ctx->tc_index == SENT_DIRECTLY) {
		ctx->tc_index = 0;
		return TC_ACT_UNSPEC;
	}
	reason = egress(ctx, &packet);
	count(HOOK_TC_EGRESS, reason);
	if (is_ending(reason))
		report(ctx, &packet, HOOK_TC_EGRESS, reason);
	return verdict(reason);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
