/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* From the first packet of a connection to its flows: all of them, or none. */
#ifndef BEELINE_CONNECTION_H
#define BEELINE_CONNECTION_H

#include "affinity.h"
#include "client_port.h"
#include "direct.h"
#include "frontend.h"
#include "range.h"
#include "snat.h"

/* The flow that admits packets comes last: before it, no packet is translated. */
static __always_inline int store(const struct connection *c)
{
	if (c->is_alone)
		return REASON_NEW_FLOW;
	if ((c->node.port && write_flow(c, FLOW_SNAT, BPF_ANY)) ||
	    write_flow(c, FLOW_DNAT, BPF_ANY)) {
		forget_flows(c);
		return REASON_FLOWS_FULL;
	}
	return c->is_resumed ? REASON_ESTABLISHED : REASON_NEW_FLOW;
}

/* Routing is asked where the answer is used: for the next hop, for the address of a tunnel. */
SUBPROGRAM int find_first_hop(struct __sk_buff *ctx, const struct packet *packet,
			      struct connection *c)
{
	const struct config *config = get_config();
	struct flow_entry *routed;

	if (!config || !packet || !c)
		return 0;
	c->next_hop = (struct next_hop){};
	c->forward = FORWARD_NEXT_HOP;
	if (!next_hop_generation() && !(c->needs_snat && config->has_tunnels))
		return 0;
	routed = scratch_entry_for(c, FLOW_SNAT);
	if (!routed)
		return 0;
	c->forward = find_next_hop(ctx, packet, &routed->key, &c->next_hop);
	if (c->needs_snat)
		c->forward = forward_to_remote(c->forward, &c->next_hop);
	return 0;
}

/* One packet is one flow: a second one, from either side, brings the other. Not where the packet
 * needs one at each hook, nor where fragments that follow it do. */
static __always_inline bool may_be_alone(const struct packet *packet, const struct connection *c)
{
	bool is_beside = same_addr(&c->vip.addr, &c->backend.addr);

	return !c->needs_snat && !packet->fragmented && !is_beside;
}

static __always_inline int open_connection(struct __sk_buff *ctx, const struct packet *packet,
					   struct connection *c)
{
	int reason;

	c->is_alone = may_be_alone(packet, c);
	c->is_resumed = false;
	c->created_ns = c->now_ns;
	c->place = take_place(c->now_ns);
	reason = claim_client_port(c);
	if (reason != UNDECIDED)
		return reason;
	find_first_hop(ctx, packet, c);
	if (c->needs_snat) {
		reason = claim_snat(c);
		if (reason != UNDECIDED) {
			forget_flow(c, FLOW_UNDO_DNAT);
			return reason;
		}
	}
	return store(c);
}

static __always_inline struct frontend_key frontend_key_of(const struct packet *packet)
{
	return (struct frontend_key){
		.addr = packet->key.dst_addr,
		.port = packet->key.dst_port,
		.proto = packet->key.proto,
		.scope = packet->scope,
	};
}

/*
 * UNDECIDED: `frontend` in its place of scratch answers. The address is asked before the port, so
 * that most packets, which are for no frontend's, cost no more lookups than they must. Inlined,
 * since a call costs them some 10 ns.
 */
static __always_inline int find_entrance(const struct packet *packet)
{
	struct frontend_key key = frontend_key_of(packet);
	const struct frontend_address *address =
		bpf_map_lookup_elem(&frontend_addresses, &key.addr);
	struct connection *c = scratch_connection(OPENED);
	bool loopback = false;

	if (!c)
		return REASON_NOT_OURS;
	if (read_frontend(&key, &c->frontend, address, &loopback))
		return loopback ? REASON_NOT_OURS : UNDECIDED;
	return refuses_for(address, key.scope) ? REASON_UNLISTED_PORT : REASON_NOT_OURS;
}

/* Whether the reply would not come back by itself: from another node to a client outside, or
 * from a pod to itself. */
static __always_inline bool needs_snat(const struct packet *packet, const struct addr *backend,
				       bool is_local)
{
	if (packet->scope == SCOPE_INTERNAL)
		return same_addr(&packet->key.src_addr, backend);
	return !is_local;
}

static __always_inline void fill(struct connection *c, const struct packet *packet,
				 const struct choice *choice)
{
	c->client = source_of(&packet->key);
	c->vip = destination_of(&packet->key);
	c->backend.addr = choice->backend->addr;
	c->backend.port = choice->backend->port;
	c->node = (struct party){};
	c->needs_snat =
		needs_snat(packet, &choice->backend->addr, choice->backend->flags & BACKEND_LOCAL);
	c->proto = packet->key.proto;
	c->service_id = choice->backend->service_id;
	c->backend_id = choice->backend_id;
	c->generation = choice->backend->generation;
	c->now_ns = opening_time_ns();
}

/* By `c->frontend`. REASON_NEW_FLOW: `c` is filled but for `node`. Else why there is no backend. */
SUBPROGRAM int choose_for_packet(const struct packet *packet, struct connection *c)
{
	const struct config *config = get_config();
	const struct frontend *frontend;
	struct choice choice;
	int reason;

	if (!config || !packet || !c)
		return REASON_NO_CONFIG;
	frontend = &c->frontend;
	if (frontend->flags & FRONTEND_SOURCE_RANGES &&
	    !is_in_range(frontend->service_id, &packet->key.src_addr))
		return REASON_SOURCE_RANGE;
	if (!frontend->slot_count)
		return why_empty(frontend);
	c->hash = hash_flow(&packet->key, config->hash_seed);
	reason = choose(frontend, &packet->key.src_addr, c->hash, &choice);
	if (reason == REASON_NEW_FLOW)
		fill(c, packet, &choice);
	return reason;
}

/*
 * REASON_NEW_FLOW: `c` is a connection that is not ours, but whose backend's replies would be
 * taken for those of another one, of the same client port by way of a VIP. It gets what any
 * such clash gets, another client port; its VIP is the backend itself. Its replies come back as
 * the other one's do: the backend may have gone from the Service, and its number to another.
 */
SUBPROGRAM int choose_beside(const struct packet *packet, struct connection *c)
{
	const struct config *config = get_config();
	struct party client, backend;
	const struct flow *undo;
	struct flow_key key;

	if (!config || !packet || !c)
		return REASON_NOT_OURS;
	client = source_of(&packet->key);
	backend = destination_of(&packet->key);
	key = key_of(FLOW_UNDO_DNAT, &backend, &client, packet->key.proto);
	undo = bpf_map_lookup_elem(&flows, &key);
	if (!undo || undo->kind != FLOW_UNDO_DNAT)
		return REASON_NOT_OURS;
	c->client = client;
	c->vip = backend;
	c->backend = backend;
	c->node = (struct party){};
	c->proto = packet->key.proto;
	c->service_id = undo->service_id;
	c->backend_id = undo->backend_id;
	c->generation = undo->generation;
	c->needs_snat = needs_snat(packet, &backend.addr, !undo->far_port);
	c->hash = hash_flow(&packet->key, config->hash_seed);
	c->now_ns = opening_time_ns();
	return REASON_NEW_FLOW;
}

/* REASON_NEW_FLOW, or REASON_ESTABLISHED where it had one flow alone: its flows are stored, and it
 * stays in its place of scratch. */
SUBPROGRAM int connect_packet(struct __sk_buff *ctx, const struct packet *packet, bool is_beside)
{
	struct connection *c = scratch_connection(OPENED);
	int reason;

	if (!c || !packet)
		return REASON_NO_CONFIG;
	reason = is_beside ? choose_beside(packet, c) : choose_for_packet(packet, c);
	if (reason != REASON_NEW_FLOW)
		return reason;
	reason = open_connection(ctx, packet, c);
	if (reason != REASON_NEW_FLOW && reason != REASON_ESTABLISHED)
		return reason;
	make_expendable(c);
	if (!is_beside && !c->is_resumed)
		count_new_flow(c->backend_id);
	return reason;
}

#endif
