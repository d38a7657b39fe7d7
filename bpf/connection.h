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
static __noinline int is_clash(const struct connection *c)
{
	struct flow_key key = key_in(c, FLOW_UNDO_DNAT);
	const struct flow *undo = bpf_map_lookup_elem(&flows, &key);
	const struct flow *dnat;
	struct party vip;

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

static __always_inline int open_connection(struct connection *c, const struct backend *backend,
					   __u8 family, const struct config *config)
{
	int reason;

	if (is_clash(c))
		return REASON_FLOW_CLASH;
	if (!(backend->flags & BACKEND_LOCAL)) {
		reason = claim_snat(c, family, config);
		if (reason != UNDECIDED)
			return reason;
	}
	return store(c);
}

/* A connection that starts anew, or a UDP flow that loses its backend, leaves nothing behind:
 * its SNAT port above all. */
static __noinline int forget_former(const struct packet *packet, const struct flow *dnat,
				    const struct config *config)
{
	struct connection former = {
		.client = source_of(packet),
		.vip = destination_of(packet),
		.backend = translation_of(dnat),
		.node = {.port = dnat->snat_port},
		.proto = packet->key.proto,
	};

	former.node.addr =
		packet->family == FAMILY_IPV4 ? config->snat_addr_v4 : config->snat_addr_v6;
	forget_connection(&former);
	return 0;
}

/* Which frontend a packet from outside is for; a copy, for the entry may be replaced. */
static __always_inline int find_for_packet(const struct packet *packet, struct frontend *frontend)
{
	struct frontend_key key = {
		.addr = packet->key.dst_addr,
		.port = packet->key.dst_port,
		.proto = packet->key.proto,
		.scope = SCOPE_EXTERNAL,
	};
	const struct frontend *found;
	bool loopback = false;

	found = find_frontend(&key, &loopback);
	if (!found || loopback)
		return REASON_NOT_OURS;
	*frontend = *found;
	return packet->key.proto == IPPROTO_SCTP ? REASON_NOT_HANDLED : UNDECIDED;
}

/* REASON_NEW_FLOW and `backend`, or why there is none. */
static __always_inline int choose_for_packet(const struct packet *packet,
					     const struct frontend *frontend,
					     const struct config *config, struct choice *choice)
{
	if (frontend->flags & FRONTEND_SOURCE_RANGES &&
	    !is_in_range(frontend->service_id, &packet->key.src_addr))
		return REASON_SOURCE_RANGE;
	if (!frontend->slot_count)
		return why_empty(frontend);
	return choose(frontend, &packet->key.src_addr, hash_flow(&packet->key, config->hash_seed),
		      choice);
}

/* REASON_NEW_FLOW: the connection's flows are stored, and `to` is its backend. */
static __always_inline int connect_packet(const struct packet *packet, const struct flow *stale,
					  struct party *to)
{
	const struct config *config = get_config();
	struct connection c = {};
	struct frontend frontend;
	struct choice choice;
	int reason;

	if (!config)
		return REASON_NO_CONFIG;
	reason = find_for_packet(packet, &frontend);
	if (reason != UNDECIDED)
		return reason;
	if (stale)
		forget_former(packet, stale, config);
	reason = choose_for_packet(packet, &frontend, config, &choice);
	if (reason != REASON_NEW_FLOW)
		return reason;
	c.client = source_of(packet);
	c.vip = destination_of(packet);
	c.backend.addr = choice.backend->addr;
	c.backend.port = choice.backend->port;
	c.proto = packet->key.proto;
	c.service_id = frontend.service_id;
	c.backend_id = choice.backend_id;
	c.generation = choice.backend->generation;
	c.now_ns = bpf_ktime_get_boot_ns();
	*to = c.backend;
	reason = open_connection(&c, choice.backend, packet->family, config);
	if (reason == REASON_NEW_FLOW)
		count_new_flow(c.backend_id);
	return reason;
}

#endif
