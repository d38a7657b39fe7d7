/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The ring of connections that give way to newer ones: as many as it has places, whoever opens
 * them. A place is left by a connection that is established, or forgotten, so that it costs the
 * next one nothing. Who gives way is in lifetime.h.
 */
#ifndef BEELINE_EXPENDABLE_H
#define BEELINE_EXPENDABLE_H

#include "config.h"
#include "maps.h"

/* The next place to be taken, + 1; 0: there is none. */
static __always_inline __u32 next_place(void)
{
	const struct config *config = get_config();
	__u32 zero = 0, *cursor = bpf_map_lookup_elem(&expendable_cursor, &zero);

	if (!config || !config->expendables || !cursor)
		return 0;
	return __sync_fetch_and_add(cursor, 1) % config->expendables + 1;
}

/* `place`: + 1, as flows have it. */
static __always_inline struct expendable *place_of(__u32 place)
{
	__u32 number = place - 1;

	return bpf_map_lookup_elem(&expendables, &number);
}

/* Is this place still that of the connection that was created then? */
static __always_inline bool is_at(__u32 place, __u64 created_ns)
{
	const struct expendable *found = place_of(place);

	return found && found->created_ns == created_ns;
}

/*
 * A connection that does not give way any more leaves its place; another's is left alone. The time
 * says whose it is: two of the same nanosecond do not have the same place, unless the whole ring
 * was taken in that. It is compared and cleared at once, since who takes the place at this moment
 * would else lose it, and be one more than there are places. What is not left (its flow is lost, or
 * written anew meanwhile) costs whoever takes it a look at nobody. A head whose first flow gives
 * way while it is written is in no place, until it times out.
 */
static __always_inline void leave_place(__u32 place, __u64 created_ns)
{
	struct expendable *found = place_of(place);

	if (found && found->created_ns == created_ns)
		__sync_bool_compare_and_swap(&found->created_ns, created_ns, 0);
}

#endif
