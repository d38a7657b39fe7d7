/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * A port of this node for a connection to a remote backend, so that the reply comes back here.
 * The port belongs to whoever's FLOW_UNDO_SNAT was inserted where there was none.
 */
#ifndef BEELINE_SNAT_H
#define BEELINE_SNAT_H

#include "flow.h"
#include "hash.h"

#define SNAT_TRIES 32
#define SNAT_STRIDE 7919 /* a prime: every port of a small range is tried, and none in a row */

/* Its own former port: a connection whose other flows were lost takes it up again. */
static __always_inline bool is_own(const struct flow *undo, const struct connection *c)
{
	return undo->kind == FLOW_UNDO_SNAT && undo->port == c->inner_port &&
	       same_addr(&undo->addr, &c->client.addr);
}

static __always_inline bool is_port_reusable(const struct flow *undo, const struct connection *c)
{
	struct party holder = translation_of(undo);
	struct flow_key key = key_of(&holder, &c->backend, c->proto);
	const struct flow *snat = bpf_map_lookup_elem(&flows, &key);

	if (snat && !is_translation_of(snat, &c->node))
		return true;
	return is_over(undo, snat, c->proto, c->now_ns);
}

SUBPROGRAM int claim(const struct connection *c)
{
	const struct flow *undo;
	struct flow_key key;
	int error;

	if (!c)
		return FAILED;
	error = write_flow(c, FLOW_UNDO_SNAT, BPF_NOEXIST);

	if (!error)
		return CLAIMED;
	if (error != -EEXIST)
		return FAILED;
	key = key_in(c, FLOW_UNDO_SNAT);
	undo = bpf_map_lookup_elem(&flows, &key);
	if (!undo)
		return TAKEN;
	if (is_own(undo, c))
		return write_flow(c, FLOW_UNDO_SNAT, BPF_ANY) ? FAILED : CLAIMED;
	return is_port_reusable(undo, c) ? REUSABLE : TAKEN;
}

/* Of several that see the same old connection, the one that deletes it takes its port. */
static __always_inline int take_over(const struct connection *c)
{
	if (forget_flow(c, FLOW_UNDO_SNAT))
		return REASON_SNAT_EXHAUSTED;
	return claim(c) == CLAIMED ? UNDECIDED : REASON_SNAT_EXHAUSTED;
}

/* Fills `c->node`. UNDECIDED: the port is this connection's. */
static __always_inline int claim_snat_port(struct connection *c, const struct config *config)
{
	__u32 first = config->snat_port_min, ports = config->snat_port_max - first + 1;
	__be16 reusable = 0;

	for (__u32 i = 0; i < SNAT_TRIES && i < ports; i++) {
		int answer;

		c->node.port = bpf_htons(first + (c->hash + i * SNAT_STRIDE) % ports);
		answer = claim(c);
		if (answer == CLAIMED)
			return UNDECIDED;
		if (answer == FAILED)
			return REASON_FLOWS_FULL;
		if (answer == REUSABLE)
			reusable = c->node.port;
	}
	c->node.port = reusable;
	return reusable ? take_over(c) : REASON_SNAT_EXHAUSTED;
}

#define AF_INET 2
#define AF_INET6 10

/* The device by which the kernel would send to the backend; 0: it would not. Whether it knows
 * the neighbour's address, or the path's MTU is too small, does not matter. */
SUBPROGRAM __u32 find_way(struct __sk_buff *ctx, const struct connection *c)
{
	struct bpf_fib_lookup way = {};
	long answer;

	if (!c)
		return 0;
	way.ifindex = ctx->ifindex;
	way.l4_protocol = c->proto;
	way.sport = c->client.port;
	way.dport = c->backend.port;
	way.family = AF_INET6;
	if (family_of(&c->backend.addr) == FAMILY_IPV4) {
		way.family = AF_INET;
		way.ipv4_src = c->client.addr.word[3];
		way.ipv4_dst = c->backend.addr.word[3];
	} else {
		__builtin_memcpy(way.ipv6_src, &c->client.addr, sizeof(struct addr));
		__builtin_memcpy(way.ipv6_dst, &c->backend.addr, sizeof(struct addr));
	}
	answer = bpf_fib_lookup(ctx, &way, sizeof(way), 0);
	if (answer && answer != BPF_FIB_LKUP_RET_NO_NEIGH && answer != BPF_FIB_LKUP_RET_FRAG_NEEDED)
		return 0;
	return way.ifindex;
}

/* NULL: the backend is behind none, or the tunnel has no address of the family. */
static __always_inline const struct addr *tunnel_addr(struct __sk_buff *ctx,
						      const struct connection *c)
{
	__u32 device = find_way(ctx, c);
	const struct tunnel *tunnel = bpf_map_lookup_elem(&tunnels, &device);
	const struct addr *addr;

	if (!tunnel)
		return NULL;
	addr = family_of(&c->backend.addr) == FAMILY_IPV4 ? &tunnel->addr_v4 : &tunnel->addr_v6;
	return is_unset(addr) ? NULL : addr;
}

/* Fills `c->node` with an address and a port. */
static __always_inline int claim_snat(struct __sk_buff *ctx, struct connection *c)
{
	const struct config *config = get_config();
	const struct addr *addr;

	if (!config)
		return REASON_NO_CONFIG;
	addr = tunnel_addr(ctx, c) ?: snat_addr(config, family_of(&c->backend.addr));
	c->node.addr = *addr;
	if (is_unset(&c->node.addr))
		return REASON_NO_SNAT_ADDRESS;
	return claim_snat_port(c, config);
}

#endif
