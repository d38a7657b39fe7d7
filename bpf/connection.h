/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* From the first packet of a connection to its flows: all of them, or none. */
#ifndef BEELINE_CONNECTION_H
#define BEELINE_CONNECTION_H

#include "affinity.h"
#include "frontend.h"
#include "range.h"
#include "snat.h"

/*
 * The reply is known by backend and client alone. When the client's port already talks to
 * this backend by way of another VIP, only one of the two can be answered: the living one.
 */
SUBPROGRAM int is_clash(const struct connection *c)
{
	const struct flow *undo, *dnat;
	struct flow_key key;
	struct party vip;

	if (!c)
		return 0;
	key = key_in(c, FLOW_UNDO_DNAT);
	undo = bpf_map_lookup_elem(&flows, &key);
	if (!undo || is_translation_of(undo, &c->vip))
		return 0;
	vip = translation_of(undo);
	key = key_of(&c->client, &vip, c->proto);
	dnat = bpf_map_lookup_elem(&flows, &key);
	if (!dnat || !is_translation_of(dnat, &c->backend))
		return 0;
	if ((undo->flags | dnat->flags) & FLOW_CLOSING)
		return 0;
	return !is_over(undo, dnat, c->proto, c->now_ns);
}

/* The flow that admits packets comes last: before it, no packet is translated. */
static __always_inline int store(const struct connection *c)
{
	if (write_flow(c, FLOW_UNDO_DNAT, BPF_ANY) ||
	    (c->node.port && write_flow(c, FLOW_SNAT, BPF_ANY)) ||
	    write_flow(c, FLOW_DNAT, BPF_ANY)) {
		forget_connection(c);
		return REASON_FLOWS_FULL;
	}
	return REASON_NEW_FLOW;
}

static __always_inline int open_connection(struct connection *c)
{
	int reason;

	if (is_clash(c))
		return REASON_FLOW_CLASH;
	if (!c->is_local) {
		reason = claim_snat(c);
		if (reason != UNDECIDED)
			return reason;
	}
	return store(c);
}

/* Has another connection of this client and backend taken over what answers them? */
static __always_inline bool is_taken_over(const struct connection *c)
{
	struct flow_key key = key_in(c, FLOW_UNDO_DNAT);
	const struct flow *undo = bpf_map_lookup_elem(&flows, &key);

	return undo && !is_translation_of(undo, &c->vip);
}

/* A connection that starts anew, or a UDP flow that loses its backend, leaves nothing of its
 * own behind: its SNAT port above all. */
SUBPROGRAM int forget_former(const struct packet *packet, const struct flow *dnat)
{
	const struct config *config = get_config();
	struct connection former = {};

	if (!config || !packet || !dnat)
		return 0;
	former.client = source_of(packet);
	former.vip = destination_of(packet);
	former.backend = translation_of(dnat);
	former.node.port = dnat->snat_port;
	former.node.addr = *snat_addr(config, packet->family);
	former.proto = packet->key.proto;
	if (is_taken_over(&former))
		return forget_flow(&former, FLOW_DNAT);
	forget_connection(&former);
	return 0;
}

static __always_inline struct frontend_key frontend_key_of(const struct packet *packet)
{
	return (struct frontend_key){
		.addr = packet->key.dst_addr,
		.port = packet->key.dst_port,
		.proto = packet->key.proto,
		.scope = SCOPE_EXTERNAL,
	};
}

/* Not inlined: most packets end here. */
static __noinline int is_for_frontend(const struct packet *packet)
{
	struct frontend_key key = frontend_key_of(packet);
	bool loopback = false;

	return find_frontend(&key, &loopback) && !loopback;
}

static __always_inline void fill(struct connection *c, const struct packet *packet,
				 const struct choice *choice)
{
	c->client = source_of(packet);
	c->vip = destination_of(packet);
	c->backend.addr = choice->backend->addr;
	c->backend.port = choice->backend->port;
	c->is_local = choice->backend->flags & BACKEND_LOCAL;
	c->proto = packet->key.proto;
	c->service_id = choice->backend->service_id;
	c->backend_id = choice->backend_id;
	c->generation = choice->backend->generation;
	c->now_ns = bpf_ktime_get_boot_ns();
}

/* REASON_NEW_FLOW: `c` is filled but for `node`. Else why there is no backend. */
SUBPROGRAM int choose_for_packet(const struct packet *packet, struct connection *c)
{
	const struct config *config = get_config();
	struct frontend frontend;
	struct frontend_key key;
	bool loopback = false;
	struct choice choice;
	int reason;

	if (!config || !packet || !c)
		return REASON_NO_CONFIG;
	key = frontend_key_of(packet);
	if (!read_frontend(&key, &frontend, &loopback))
		return REASON_NOT_OURS;
	if (frontend.flags & FRONTEND_SOURCE_RANGES &&
	    !is_in_range(frontend.service_id, &packet->key.src_addr))
		return REASON_SOURCE_RANGE;
	if (!frontend.slot_count)
		return why_empty(&frontend);
	c->hash = hash_flow(&packet->key, config->hash_seed);
	reason = choose(&frontend, &packet->key.src_addr, c->hash, &choice);
	if (reason == REASON_NEW_FLOW)
		fill(c, packet, &choice);
	return reason;
}

/* REASON_NEW_FLOW: the connection's flows are stored, and `to` is its backend. */
SUBPROGRAM int connect_packet(const struct packet *packet, struct party *to)
{
	struct connection c = {};
	int reason = choose_for_packet(packet, &c);

	if (reason != REASON_NEW_FLOW || !to)
		return reason;
	reason = open_connection(&c);
	if (reason != REASON_NEW_FLOW)
		return reason;
	count_new_flow(c.backend_id);
	*to = c.backend;
	return REASON_NEW_FLOW;
}

#endif
