/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * A port of the client's for a connection, as its backend will see it. The reply is known by
 * backend and client alone, so a port that already talks to this backend by way of another VIP
 * is taken: then, as the kernel's NAT does, another one stands for it between the hooks. The
 * port belongs to whoever's FLOW_UNDO_DNAT was inserted where there was none.
 */
#ifndef BEELINE_CLIENT_PORT_H
#define BEELINE_CLIENT_PORT_H

#include "lifetime.h"

#define CLIENT_PORT_TRIES 16
#define CLIENT_PORT_STRIDE 7919 /* a prime, so that no port is tried twice */

/* The head of the connection that holds `c->inner_port` by `undo`, and its key; as find_head(). */
static __always_inline const struct flow *
find_head_of_holder(const struct connection *c, const struct flow *undo, struct flow_key *key)
{
	const struct flow *head;

	*key = (struct flow_key){
		.src_addr = c->client.addr,
		.dst_addr = undo->addr,
		.src_port = undo->client_port ?: c->inner_port,
		.dst_port = undo->port,
		.proto = c->proto,
	};
	head = bpf_map_lookup_elem(&flows, key);
	if (!head || head->kind != FLOW_DNAT || !is_translation_of(head, &c->backend) ||
	    (head->client_port ?: key->src_port) != c->inner_port)
		return NULL;
	return head;
}

/* The connection that holds the port: over, or its way in is gone, and so is all of it now. */
SUBPROGRAM int is_holder_gone(const struct connection *c, const struct flow *undo)
{
	const struct config *config = get_config();
	const struct flow *head;
	struct flow_key key;

	/* Where it is no reply, it is a request of whom the client serves, of this very port. */
	if (!config || !c || !undo || undo->kind != FLOW_UNDO_DNAT)
		return false;
	if (undo->flags & FLOW_ALONE) {
		key = key_in(c, FLOW_UNDO_DNAT);
		return is_over(undo, NULL, c->proto, config, c->now_ns) && forget_alone(&key, undo);
	}
	head = find_head_of_holder(c, undo, &key);
	if (head && !is_over(head, find_heard(&key, head), key.proto, config, c->now_ns))
		return false;
	/* Of several that see the same old connection, the one that deletes it takes its port. */
	if (forget_flow(c, FLOW_UNDO_DNAT))
		return false;
	if (head)
		forget_connection(&key, head);
	return true;
}

/* A pod that asks itself, from the very port that it serves: both directions of it would be one
 * flow. */
static __always_inline bool is_reflection(const struct connection *c)
{
	return c->inner_port == c->backend.port && same_addr(&c->client.addr, &c->backend.addr);
}

/* The client answers its backend from this port, as a backend itself: at egress the request would
 * be taken for that answer. */
static __always_inline bool is_answer(const struct connection *c)
{
	const struct flow *undo;

	if (!c->needs_snat)
		return false;
	undo = find_flow(c, FLOW_SNAT);
	return undo && undo->kind == FLOW_UNDO_DNAT;
}

/* The one flow of a connection, which `c` goes on with. */
static __always_inline bool is_first_of(const struct flow *undo, const struct connection *c)
{
	return undo->flags & FLOW_ALONE && !c->needs_snat && undo->backend_id == c->backend_id &&
	       undo->generation == c->generation;
}

/* Whether `c->inner_port` is this connection's from now on. */
SUBPROGRAM int claim_inner_port(struct connection *c)
{
	const struct flow *undo;
	int error;

	if (!c)
		return FAILED;
	if (is_reflection(c) || is_answer(c))
		return TAKEN;
	error = write_flow(c, FLOW_UNDO_DNAT, BPF_NOEXIST);
	if (!error)
		return CLAIMED;
	if (error != -EEXIST)
		return FAILED;
	undo = find_flow(c, FLOW_UNDO_DNAT);
	if (!undo)
		return TAKEN;
	if (is_undo_of(undo, c)) {
		c->is_resumed = is_first_of(undo, c);
		c->is_alone = false;
		leave_place(undo->place, undo->created_ns);
		return write_flow(c, FLOW_UNDO_DNAT, BPF_ANY) ? FAILED : CLAIMED;
	}
	if (!is_holder_gone(c, undo))
		return TAKEN;
	return write_flow(c, FLOW_UNDO_DNAT, BPF_NOEXIST) ? TAKEN : CLAIMED;
}

/* Some servers trust a port below 1024: such a one is replaced by its like. */
static __always_inline __be16 other_port(__be16 own, __u32 choice)
{
	if (bpf_ntohs(own) < 1024)
		return bpf_htons(600 + choice % (1024 - 600));
	return bpf_htons(1024 + choice % (65536 - 1024));
}

/* Fills `c->inner_port`. UNDECIDED: it is this connection's, and FLOW_UNDO_DNAT is written. */
static __always_inline int claim_client_port(struct connection *c)
{
	c->inner_port = c->client.port;
	for (__u32 i = 0; i < CLIENT_PORT_TRIES; i++) {
		int answer = claim_inner_port(c);

		if (answer == CLAIMED)
			return UNDECIDED;
		if (answer == FAILED)
			return REASON_FLOWS_FULL;
		c->inner_port = other_port(c->client.port, c->hash + i * CLIENT_PORT_STRIDE);
	}
	return REASON_FLOW_CLASH;
}

#endif
