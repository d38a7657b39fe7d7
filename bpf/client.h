/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* A process of this node, as a client of a frontend: who it is, and which backend it gets. */
#ifndef BEELINE_CLIENT_H
#define BEELINE_CLIENT_H

#include <linux/in.h>
#include "affinity.h"
#include "frontend.h"
#include "hash.h"
#include "range.h"

/* Before a socket is bound its address is unknown: the network namespace stands for it, once
 * for each family, as there would be an address of each. */
static __always_inline struct addr client_of_netns(__u64 netns_cookie, __u8 family)
{
	return (struct addr){.word = {0xffffffff, family, netns_cookie, netns_cookie >> 32}};
}

static __always_inline bool is_of_host(struct bpf_sock_addr *ctx, const struct config *config)
{
	return bpf_get_netns_cookie(ctx) == config->host_netns_cookie;
}

/* Pods behind some devices are translated there. */
static __always_inline bool is_unhooked(struct bpf_sock_addr *ctx)
{
	__u64 netns_cookie = bpf_get_netns_cookie(ctx);

	return bpf_map_lookup_elem(&unhooked_netns, &netns_cookie);
}

static __always_inline bool is_translated_here(struct bpf_sock_addr *ctx,
					       const struct config *config)
{
	if (options.socket_lb == SOCKET_LB_HOST)
		return is_of_host(ctx, config);
	return options.socket_lb != SOCKET_LB_OTHERS || !is_unhooked(ctx);
}

struct node_question {
	__u32 service_id;
	__u8 family;
	bool yes;
};

static long ask_node_address(void *map, const struct addr *address,
			     const struct node_address *flags, struct node_question *question)
{
	if (family_of(address) != question->family || flags->flags & NODE_ADDRESS_LOOPBACK)
		return 0;
	question->yes = is_in_range(question->service_id, address);
	return question->yes;
}

/*
 * The node's own traffic may enter when one of the node's addresses may: any where NodePorts
 * answer, or the one that remote backends see.
 */
static __always_inline bool is_node_in_range(__u32 service_id, __u8 family,
					     const struct config *config)
{
	struct node_question question = {.service_id = service_id, .family = family};

	if (is_in_range(service_id, snat_addr(config, family)))
		return true;
	bpf_for_each_map_elem(&node_addresses, ask_node_address, &question, 0);
	return question.yes;
}

static __always_inline bool is_unbound(const struct addr *a)
{
	return !a->word[3] && (family_of(a) == FAMILY_IPV4 || is_unset(a));
}

/*
 * A bound source is judged as it is. An unbound one of the host's namespace by the node's
 * addresses; one of a pod is let in: no hook of a system call knows the address it will get.
 */
static __always_inline bool may_enter(struct bpf_sock_addr *ctx, __u32 service_id,
				      const struct addr *source, __u8 family,
				      const struct config *config)
{
	if (!is_unbound(source))
		return is_in_range(service_id, source);
	return !is_of_host(ctx, config) || is_node_in_range(service_id, family, config);
}

/* TCP connections spread at random; a UDP socket's hash keeps it on one backend. */
static __always_inline __u32 hash_of_call(struct bpf_sock_addr *ctx, const struct config *config)
{
	if (ctx->protocol == IPPROTO_TCP)
		return bpf_get_prandom_u32();
	return hash_u64(bpf_get_socket_cookie(ctx), config->hash_seed);
}

/* A ping's socket comes by here, too. */
static __always_inline int why_no_frontend(const struct frontend_key *key)
{
	if (key->proto != IPPROTO_TCP && key->proto != IPPROTO_UDP)
		return REASON_NOT_OURS;
	return refuses(&key->addr, key->scope) ? REASON_UNLISTED_PORT : REASON_NOT_OURS;
}

/* UNDECIDED: `frontend` is what the call is for. */
static __always_inline int find_for_call(struct bpf_sock_addr *ctx, const struct party *to,
					 const struct config *config, struct frontend *frontend)
{
	struct frontend_key key = {
		.addr = to->addr,
		.port = to->port,
		.proto = ctx->protocol,
		.scope = SCOPE_INTERNAL,
	};
	bool loopback = false;

	if (!is_translated_here(ctx, config))
		return REASON_NOT_OURS;
	if (!is_family_on(family_of(&to->addr)))
		return REASON_NOT_OURS;
	if (!read_frontend(&key, frontend, true, &loopback))
		return why_no_frontend(&key);
	return loopback && !is_of_host(ctx, config) ? REASON_NOT_OURS : UNDECIDED;
}

/* REASON_NEW_FLOW and a backend for a call to `to`, or why there is none. */
static __always_inline int choose_for_call(struct bpf_sock_addr *ctx, const struct party *to,
					   const struct addr *source, struct choice *choice)
{
	const struct config *config = get_config();
	struct frontend frontend;
	struct addr client = {};
	int reason;

	if (!config)
		return REASON_NO_CONFIG;
	reason = find_for_call(ctx, to, config, &frontend);
	if (reason != UNDECIDED)
		return reason;
	if (frontend.flags & FRONTEND_SOURCE_RANGES &&
	    !may_enter(ctx, frontend.service_id, source, family_of(&to->addr), config))
		return REASON_SOURCE_RANGE;
	if (!frontend.slot_count)
		return why_empty(&frontend);
	if (frontend.affinity_timeout_s)
		client = client_of_netns(bpf_get_netns_cookie(ctx), family_of(&to->addr));
	return choose(&frontend, &client, hash_of_call(ctx, config), choice);
}

#endif
