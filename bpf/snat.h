/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * A port of this node for a connection to a remote backend, so that the reply comes back here.
 * The port belongs to whoever's FLOW_UNDO_SNAT was inserted where there was none. When none is
 * free, one of a connection that is over is taken, else of the oldest that is half-open.
 */
#ifndef BEELINE_SNAT_H
#define BEELINE_SNAT_H

#include "hash.h"
#include "lifetime.h"

#define SNAT_TRIES 32
#define SNAT_STRIDE 7919 /* a prime: every port of a small range is tried, and none in a row */

/* How much a held port is to be had: not at all, or the more the longer ago it was claimed. */
#define NOT_TO_BE_HAD 0
#define NOBODYS (~0ull)

/* Its own former port: a connection whose other flows were lost takes it up again. */
static __always_inline bool is_own(const struct flow *undo, const struct connection *c)
{
	return undo->kind == FLOW_UNDO_SNAT && undo->port == c->inner_port &&
	       same_addr(&undo->addr, &c->client.addr);
}

SUBPROGRAM int claim(const struct connection *c)
{
	const struct flow *undo;
	int error;

	if (!c)
		return FAILED;
	error = write_flow(c, FLOW_UNDO_SNAT, BPF_NOEXIST);
	if (!error)
		return CLAIMED;
	if (error != -EEXIST)
		return FAILED;
	undo = find_flow(c, FLOW_UNDO_SNAT);
	if (!undo || !is_own(undo, c))
		return TAKEN;
	return write_flow(c, FLOW_UNDO_SNAT, BPF_ANY) ? FAILED : CLAIMED;
}

/* The head of the connection that holds `c->node`, and its key; NULL: it has lost it. */
static __always_inline const struct flow *
find_holder(const struct connection *c, const struct flow *undo_snat, struct flow_key *key)
{
	return find_head_of(&c->backend.addr, c->backend.port, &c->node.addr, c->node.port,
			    c->proto, undo_snat, key);
}

SUBPROGRAM __u64 availability(const struct connection *c)
{
	const struct config *config = get_config();
	const struct flow *undo_snat, *head;
	struct flow_key key;

	if (!config || !c)
		return NOT_TO_BE_HAD;
	undo_snat = find_flow(c, FLOW_UNDO_SNAT);
	if (!undo_snat)
		return NOBODYS;
	head = find_holder(c, undo_snat, &key);
	if (!head || is_over(head, undo_snat, c->proto, config, c->now_ns))
		return NOBODYS;
	return is_half_open(head) ? c->now_ns - head->created_ns : NOT_TO_BE_HAD;
}

/* Of several that want the same port, the one that removes who holds it takes it. */
SUBPROGRAM int take_over(const struct connection *c)
{
	const struct flow *undo_snat, *head;
	struct flow_key key;

	if (!c)
		return REASON_SNAT_EXHAUSTED;
	undo_snat = find_flow(c, FLOW_UNDO_SNAT);
	head = undo_snat ? find_holder(c, undo_snat, &key) : NULL;
	if (undo_snat && forget_flow(c, FLOW_UNDO_SNAT))
		return REASON_SNAT_EXHAUSTED;
	if (head)
		forget_connection(&key, head);
	return claim(c) == CLAIMED ? UNDECIDED : REASON_SNAT_EXHAUSTED;
}

static __always_inline __be16 snat_port(const struct connection *c, const struct config *config,
					__u32 i)
{
	__u32 first = config->snat_port_min, ports = config->snat_port_max - first + 1;

	return bpf_htons(first + (c->hash + i * SNAT_STRIDE) % ports);
}

static __always_inline int claim_held_port(struct connection *c, const struct config *config,
					   __u32 tries)
{
	__u64 best = NOT_TO_BE_HAD;
	__be16 port = 0;

	for (__u32 i = 0; i < SNAT_TRIES && i < tries; i++) {
		__u64 available;

		c->node.port = snat_port(c, config, i);
		available = availability(c);
		if (available <= best)
			continue;
		best = available;
		port = c->node.port;
	}
	c->node.port = port;
	return port ? take_over(c) : REASON_SNAT_EXHAUSTED;
}

/* Fills `c->node.port`. UNDECIDED: the port is this connection's. */
static __always_inline int claim_snat_port(struct connection *c, const struct config *config)
{
	__u32 tries = config->snat_port_max - config->snat_port_min + 1;

	for (__u32 i = 0; i < SNAT_TRIES && i < tries; i++) {
		int answer;

		c->node.port = snat_port(c, config, i);
		answer = claim(c);
		if (answer == CLAIMED)
			return UNDECIDED;
		if (answer == FAILED)
			return REASON_FLOWS_FULL;
	}
	return claim_held_port(c, config, tries);
}

/* NULL: the backend is behind none, or the tunnel has no address of the family. */
static __always_inline const struct addr *tunnel_addr(const struct connection *c)
{
	__u32 device = c->next_hop.ifindex;
	const struct tunnel *tunnel = bpf_map_lookup_elem(&tunnels, &device);
	const struct addr *addr;

	if (!tunnel)
		return NULL;
	addr = family_of(&c->backend.addr) == FAMILY_IPV4 ? &tunnel->addr_v4 : &tunnel->addr_v6;
	return is_unset(addr) ? NULL : addr;
}

/* Fills `c->node` with an address and a port. */
static __always_inline int claim_snat(struct connection *c)
{
	const struct config *config = get_config();
	const struct addr *addr;

	if (!config)
		return REASON_NO_CONFIG;
	addr = tunnel_addr(c) ?: snat_addr(config, family_of(&c->backend.addr));
	c->node.addr = *addr;
	if (is_unset(&c->node.addr))
		return REASON_NO_SNAT_ADDRESS;
	return claim_snat_port(c, config);
}

#endif
