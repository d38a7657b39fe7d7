/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Which frontend, if any, answers at an address and port. */
#ifndef BEELINE_FRONTEND_H
#define BEELINE_FRONTEND_H

#include <linux/in.h>
#include "addr.h"
#include "maps.h"

static __always_inline const struct frontend *find_nodeport(const struct frontend_key *key,
							    bool *loopback)
{
	struct nodeport_key nodeport = {
		.port = key->port,
		.proto = key->proto,
		.scope = key->scope,
		.family = family_of(&key->addr),
	};
	const struct frontend *frontend = bpf_map_lookup_elem(&nodeports, &nodeport);
	const struct node_address *address;

	if (!frontend)
		return NULL;
	address = bpf_map_lookup_elem(&node_addresses, &key->addr);
	if (!address || address->flags & NODE_ADDRESS_NO_NODEPORTS)
		return NULL;
	*loopback = address->flags & NODE_ADDRESS_LOOPBACK;
	return frontend;
}

/* `loopback` becomes true when only the host's own network namespace means this frontend. `listed`:
 * the address may be a key's of `frontends`. */
static __always_inline const struct frontend *find_frontend(const struct frontend_key *key,
							    bool listed, bool *loopback)
{
	const struct frontend *frontend = listed ? bpf_map_lookup_elem(&frontends, key) : NULL;

	return frontend ?: find_nodeport(key, loopback);
}

/* Whether this address ends what is for no frontend. A ClusterIP is nobody else's; what somebody
 * inside sends to a load balancer's or external IP may be served out there. */
static __always_inline bool refuses_for(const struct frontend_address *address, __u8 scope)
{
	__u32 needed = FRONTEND_ADDRESS_VIP;

	if (scope == SCOPE_INTERNAL)
		needed |= FRONTEND_ADDRESS_CLUSTER_IP;
	return address && (address->flags & needed) == needed;
}

static __always_inline bool refuses(const struct addr *addr, __u8 scope)
{
	return refuses_for(bpf_map_lookup_elem(&frontend_addresses, addr), scope);
}

/*
 * A copy that is of one piece. The kernel gives the memory of a replaced entry to the next
 * write at once, of another key maybe: only an entry that is still in its place after it was
 * read has been read as it is. False: there is no such frontend.
 */
static __always_inline bool read_frontend(const struct frontend_key *key, struct frontend *frontend,
					  bool listed, bool *loopback)
{
#pragma clang loop unroll(disable)
	for (int i = 0; i < 3; i++) {
		const struct frontend *found = find_frontend(key, listed, loopback);

		if (!found)
			return false;
		*frontend = *found;
		asm volatile("" ::: "memory");
		if (find_frontend(key, listed, loopback) == found)
			return true;
	}
	return true;
}

/* What an empty run means to whoever asks. */
static __always_inline int why_empty(const struct frontend *frontend)
{
	return frontend->flags & FRONTEND_DROP ? REASON_NO_LOCAL_ENDPOINTS : REASON_NO_ENDPOINTS;
}

#endif
