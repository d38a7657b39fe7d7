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

static __always_inline int follow(struct __sk_buff *ctx, const struct packet *packet,
				  struct flow *flow, enum side side)
{
	struct translation to = translation_by(flow);
	int reason = reason_of(flow), failure = failure_of(flow);

	touch(flow);
	if (packet->fragmented)
		remember_fragment(packet);
	if (packet->closes || !(flow->flags & FLOW_SETTLED))
		advance(ctx, packet, flow);
	return rewrite(ctx, packet, side, &to) ? reason : failure;
}

/* A table that is full has room again when one that is half-open, or closed, has gone. */
static __always_inline int connect(struct __sk_buff *ctx, const struct packet *packet,
				   struct translation *to, bool is_beside)
{
	int reason = connect_packet(ctx, packet, to, is_beside);

	if (reason == REASON_FLOWS_FULL && make_room())
		reason = connect_packet(ctx, packet, to, is_beside);
	return reason;
}

/* The first packet of a flow that its connection did without before. */
static __always_inline int resume(struct __sk_buff *ctx, const struct packet *packet)
{
	struct flow *flow = bpf_map_lookup_elem(&flows, &packet->key);

	return flow ? follow(ctx, packet, flow, DESTINATION) : REASON_FLOWS_FULL;
}

static __always_inline int open_new(struct __sk_buff *ctx, const struct packet *packet)
{
	struct translation to;
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
	if (packet->key.proto == IPPROTO_TCP && !packet->opens && is_tracked(ctx, packet))
		return REASON_CONNTRACK;
	reason = connect(ctx, packet, &to, is_beside);
	if (reason == REASON_ESTABLISHED)
		return resume(ctx, packet);
	if (reason != REASON_NEW_FLOW)
		return reason;
	if (packet->fragmented)
		remember_fragment(packet);
	return rewrite(ctx, packet, DESTINATION, &to) ? reason : REASON_REWRITE_FAILED;
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
	if (!flow)
		return open_new(ctx, packet);
	if (!is_stale(flow, packet))
		return follow(ctx, packet, flow, DESTINATION);
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
	return follow(ctx, packet, flow, SOURCE);
}

static __always_inline int receive(struct __sk_buff *ctx, enum scope scope)
{
	struct packet packet = {.scope = scope};
	int reason = ingress(ctx, &packet);

	if (is_refusal(reason) && !refuse(ctx, &packet, reason != REASON_PROTOCOL))
		reason = REASON_REPLY_FAILED;
	count(HOOK_TC_INGRESS, reason);
	if (is_ending(reason))
		report(ctx, &packet, HOOK_TC_INGRESS, reason);
	if (is_held(reason))
		return TC_ACT_SHOT;
	if (is_refusal(reason) || reason == REASON_ECHO)
		return bpf_redirect(ctx->ifindex, 0);
	return verdict(reason);
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

SEC("tc")
int tc_egress(struct __sk_buff *ctx)
{
	struct packet packet = {.key.outward = true, .scope = SCOPE_INTERNAL};
	int reason = egress(ctx, &packet);

	count(HOOK_TC_EGRESS, reason);
	if (is_ending(reason))
		report(ctx, &packet, HOOK_TC_EGRESS, reason);
	return verdict(reason);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
