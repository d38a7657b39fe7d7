/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* From a frontend's run to one backend, and whether a remembered backend is still the same one. */
#ifndef BEELINE_BACKEND_H
#define BEELINE_BACKEND_H

#include "config.h"
#include "verdict.h"

struct choice {
	__u32 backend_id;
	const struct backend *backend;
};

/* NULL when the backend_id has another holder by now, or none. */
static __always_inline const struct backend *find_backend(__u32 backend_id, __u32 generation)
{
	const struct backend *backend = bpf_map_lookup_elem(&backends, &backend_id);

	if (!backend || backend->generation != generation || backend->state == BACKEND_NONE)
		return NULL;
	return backend;
}

static __always_inline bool is_in_run_of(const struct backend *backend,
					 const struct frontend *frontend)
{
	__u32 run = frontend->flags & FRONTEND_LOCAL ? BACKEND_IN_LOCAL : BACKEND_IN_CLUSTER;

	return backend->state == BACKEND_ACTIVE && backend->service_id == frontend->service_id &&
	       backend->flags & run;
}

/* `hash` over 2^32 as a share of the run: no division, and no bias that matters. */
static __always_inline int choose_by_hash(const struct frontend *frontend, __u32 hash,
					  struct choice *choice)
{
	__u32 slot = frontend->slot_base + ((__u64)hash * frontend->slot_count >> 32);
	const __u32 *backend_id = bpf_map_lookup_elem(&slots, &slot);

	if (!backend_id)
		return REASON_NO_SLOT;
	choice->backend_id = *backend_id;
	choice->backend = bpf_map_lookup_elem(&backends, &choice->backend_id);
	if (!choice->backend || choice->backend->state == BACKEND_NONE ||
	    choice->backend->service_id != frontend->service_id)
		return REASON_NO_BACKEND;
	return UNDECIDED;
}

static __always_inline void count_new_flow(__u32 backend_id)
{
	struct backend_stats *stats;

	if (!options.backend_stats)
		return;
	stats = bpf_map_lookup_elem(&backend_stats, &backend_id);
	if (stats)
		__sync_fetch_and_add(&stats->new_flows, 1);
}

static __always_inline void count_open_socket(__u32 backend_id, __s64 change)
{
	struct backend_stats *stats;

	if (!options.backend_stats)
		return;
	stats = bpf_map_lookup_elem(&backend_stats, &backend_id);
	if (stats)
		__sync_fetch_and_add(&stats->open_sockets, change);
}

#endif
