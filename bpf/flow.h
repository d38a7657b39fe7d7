/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What is remembered of a connection: two flows when its backend is on this node, four when it
 * is remote. The pair of a flow is the one that undoes it.
 */
#ifndef BEELINE_FLOW_H
#define BEELINE_FLOW_H

#include "backend.h"
#include "packet.h"

/* When what a connection holds may be given to another that needs it. As nf_conntrack's
 * timeouts, but for one that was closed: the other side's TIME_WAIT accepts a new SYN. */
#define CLOSED_FOR_NS (10 * 1000000000ull)
#define UNANSWERED_FOR_NS (60 * 1000000000ull)
#define IDLE_UDP_FOR_NS (120 * 1000000000ull)
#define IDLE_TCP_FOR_NS (86400 * 1000000000ull)

/* Whoever inserts a flow where there was none holds what its key stands for. */
enum claim {
	CLAIMED,
	REUSABLE, /* of a connection that is over: to be taken when nothing is free */
	TAKEN,
	FAILED,
};

#define EEXIST 17

struct connection {
	struct party client;
	struct party vip;
	struct party backend;
	struct party node; /* as which a remote backend sees the client; port 0: it does not */
	__be16 inner_port; /* the client's between the hooks: its own, or another one */
	__u8 proto;
	bool needs_snat; /* the backend is to see this node */
	__u32 hash;	 /* of the packet that opens it */
	__u32 service_id;
	__u32 backend_id;
	__u32 generation;
	__u64 now_ns;
};

/* A flow of the other hook may have the same key; it is not this hook's to follow. */
static __always_inline bool is_inward(const struct flow *flow)
{
	return flow->kind == FLOW_DNAT || flow->kind == FLOW_UNDO_SNAT;
}

/* What is said of a packet that follows it. */
static __always_inline int reason_of(const struct flow *flow)
{
	return flow->kind == FLOW_DNAT || flow->kind == FLOW_SNAT ? REASON_ESTABLISHED
								  : REASON_REPLY;
}

/* The same, of one that could not be made to. */
static __always_inline int failure_of(const struct flow *flow)
{
	return reason_of(flow) == REASON_REPLY ? REASON_REPLY_REWRITE_FAILED
					       : REASON_REWRITE_FAILED;
}

static __always_inline struct flow_key key_of(const struct party *from, const struct party *to,
					      __u8 proto)
{
	return (struct flow_key){
		.src_addr = from->addr,
		.dst_addr = to->addr,
		.src_port = from->port,
		.dst_port = to->port,
		.proto = proto,
	};
}

static __always_inline struct party source_of(const struct packet *packet)
{
	return (struct party){.addr = packet->key.src_addr, .port = packet->key.src_port};
}

static __always_inline struct party destination_of(const struct packet *packet)
{
	return (struct party){.addr = packet->key.dst_addr, .port = packet->key.dst_port};
}

static __always_inline struct party translation_of(const struct flow *flow)
{
	return (struct party){.addr = flow->addr, .port = flow->port};
}

static __always_inline struct flow_key key_in(const struct connection *c, __u32 kind)
{
	struct flow_key key;

	switch (kind) {
	case FLOW_DNAT:
		return key_of(&c->client, &c->vip, c->proto);
	case FLOW_SNAT:
		key = key_of(&c->client, &c->backend, c->proto);
		key.src_port = c->inner_port;
		return key;
	case FLOW_UNDO_SNAT:
		return key_of(&c->backend, &c->node, c->proto);
	default:
		key = key_of(&c->backend, &c->client, c->proto);
		key.dst_port = c->inner_port;
		return key;
	}
}

static __always_inline const struct party *translation_in(const struct connection *c, __u32 kind)
{
	switch (kind) {
	case FLOW_DNAT:
		return &c->backend;
	case FLOW_SNAT:
		return &c->node;
	case FLOW_UNDO_SNAT:
		return &c->client;
	default:
		return &c->vip;
	}
}

/* What a flow writes over the client's port; 0: nothing. */
static __always_inline __be16 client_port_in(const struct connection *c, __u32 kind)
{
	if (c->inner_port == c->client.port)
		return 0;
	if (kind == FLOW_DNAT)
		return c->inner_port;
	return kind == FLOW_UNDO_DNAT ? c->client.port : 0;
}

/* 0, or a negative errno. */
static __noinline int write_flow(const struct connection *c, __u32 kind, __u64 flags)
{
	struct flow_key key = key_in(c, kind);
	const struct party *to = translation_in(c, kind);
	struct flow flow = {
		.addr = to->addr,
		.port = kind == FLOW_UNDO_SNAT ? c->inner_port : to->port,
		.kind = kind,
		.service_id = c->service_id,
		.backend_id = c->backend_id,
		.generation = c->generation,
		.snat_port = kind == FLOW_DNAT ? c->node.port : 0,
		.client_port = client_port_in(c, kind),
		.created_ns = c->now_ns,
		.last_seen_ns = c->now_ns,
	};

	return bpf_map_update_elem(&flows, &key, &flow, flags);
}

static __noinline int forget_flow(const struct connection *c, __u32 kind)
{
	struct flow_key key = key_in(c, kind);

	return bpf_map_delete_elem(&flows, &key);
}

/* The way out first, so that no packet is translated whose reply would not be. */
static __always_inline void forget_connection(const struct connection *c)
{
	forget_flow(c, FLOW_DNAT);
	forget_flow(c, FLOW_UNDO_DNAT);
	if (!c->node.port)
		return;
	forget_flow(c, FLOW_SNAT);
	forget_flow(c, FLOW_UNDO_SNAT);
}

/* A clock read costs 37 ns, a quarter of all that is done for a packet: once a tick is enough. */
static __always_inline void touch(struct flow *flow)
{
	__u32 tick = bpf_jiffies64();

	if (flow->last_tick == tick)
		return;
	flow->last_tick = tick;
	flow->last_seen_ns = bpf_ktime_get_boot_ns();
}

/* `undo` is the half that translates replies, `forward` the other half of the pair. */
static __always_inline bool is_over(const struct flow *undo, const struct flow *forward,
				    __u32 proto, __u64 now_ns)
{
	__u64 seen_ns, limit_ns;

	if (!forward)
		return true;
	seen_ns = undo->last_seen_ns;
	if ((__s64)(forward->last_seen_ns - seen_ns) > 0)
		seen_ns = forward->last_seen_ns;
	limit_ns = proto == IPPROTO_TCP ? IDLE_TCP_FOR_NS : IDLE_UDP_FOR_NS;
	if (undo->last_seen_ns == undo->created_ns)
		limit_ns = UNANSWERED_FOR_NS;
	if ((undo->flags | forward->flags) & FLOW_CLOSING)
		limit_ns = CLOSED_FOR_NS;
	return (__s64)(now_ns - seen_ns) > (__s64)limit_ns;
}

static __always_inline bool is_translation_of(const struct flow *flow, const struct party *to)
{
	return flow->port == to->port && same_addr(&flow->addr, &to->addr);
}

/* The pair answers what the translated packet is answered with, and turns it back. */
SUBPROGRAM int mark_closing(const struct packet *packet, struct flow *flow, bool is_source)
{
	struct party to, other, replaced;
	struct flow_key pair_key;
	struct flow *pair;

	if (!packet || !flow)
		return 0;
	flow->flags |= FLOW_CLOSING;
	to = translation_of(flow);
	other = is_source ? destination_of(packet) : source_of(packet);
	replaced = is_source ? source_of(packet) : destination_of(packet);
	if (flow->client_port)
		other.port = flow->client_port;
	pair_key = is_source ? key_of(&other, &to, packet->key.proto)
			     : key_of(&to, &other, packet->key.proto);
	pair = bpf_map_lookup_elem(&flows, &pair_key);
	if (pair && is_translation_of(pair, &replaced))
		pair->flags |= FLOW_CLOSING;
	return 0;
}

/*
 * A TCP connection stays with the backend it has, dead or alive; another one is chosen when
 * the client starts anew. A UDP flow has no end: it leaves a backend that is gone.
 */
static __always_inline bool is_stale(const struct flow *flow, const struct packet *packet)
{
	if (flow->kind != FLOW_DNAT)
		return false;
	if (packet->key.proto == IPPROTO_TCP && !packet->opens)
		return false;
	return flow->flags & FLOW_CLOSING || !find_backend(flow->backend_id, flow->generation);
}

#endif
