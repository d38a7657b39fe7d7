/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Session affinity: the backend a client had is the backend it gets, until the timeout. */
#ifndef BEELINE_AFFINITY_H
#define BEELINE_AFFINITY_H

#include "backend.h"

/* The remembered backend, if this frontend may still use it. Refreshes the memory. */
static __always_inline int recall(const struct affinity_key *key, const struct frontend *frontend,
				  __u64 now_ns, struct choice *choice)
{
	struct affinity *memory = bpf_map_lookup_elem(&affinity, key);

	if (!memory || now_ns - memory->last_used_ns >= frontend->affinity_timeout_s * NS_PER_S)
		return UNDECIDED;
	choice->backend_id = memory->backend_id;
	choice->backend = find_backend(memory->backend_id, memory->generation);
	if (!choice->backend || !is_in_run_of(choice->backend, frontend))
		return UNDECIDED;
	memory->last_used_ns = now_ns;
	return REASON_NEW_FLOW;
}

static __always_inline void remember(const struct affinity_key *key, const struct choice *choice,
				     __u64 now_ns)
{
	struct affinity memory = {
		.backend_id = choice->backend_id,
		.generation = choice->backend->generation,
		.last_used_ns = now_ns,
	};

	bpf_map_update_elem(&affinity, key, &memory, BPF_ANY);
}

static __always_inline int choose_with_affinity(const struct frontend *frontend,
						const struct addr *client, __u32 hash,
						struct choice *choice)
{
	struct affinity_key key = {.client = *client, .service_id = frontend->service_id};
	__u64 now_ns = bpf_ktime_get_boot_ns();
	int reason = recall(&key, frontend, now_ns, choice);

	if (reason != UNDECIDED)
		return reason;
	reason = choose_by_hash(frontend, hash, choice);
	if (reason != UNDECIDED)
		return reason;
	remember(&key, choice, now_ns);
	return REASON_NEW_FLOW;
}

/* REASON_NEW_FLOW and a backend for a new connection, or why there is none. */
static __always_inline int choose(const struct frontend *frontend, const struct addr *client,
				  __u32 hash, struct choice *choice)
{
	int reason;

	if (frontend->affinity_timeout_s)
		return choose_with_affinity(frontend, client, hash, choice);
	reason = choose_by_hash(frontend, hash, choice);
	return reason == UNDECIDED ? REASON_NEW_FLOW : reason;
}

#endif
