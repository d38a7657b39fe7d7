/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* A reason is decided once, counted once. What it means to a packet or a call is its hook's. */
#ifndef BEELINE_VERDICT_H
#define BEELINE_VERDICT_H

#include "maps.h"

/*
 * A function of its own to the verifier too: checked once by itself, not along every path that
 * leads to it. In return it must check its pointers for NULL.
 */
#define SUBPROGRAM __attribute__((noinline))

/* Answered by a step that has not decided: the next step goes on. Never counted. */
#define UNDECIDED (-1)

#define NS_PER_S 1000000000ull

static __always_inline void count(__u32 hook, __u32 reason)
{
	__u32 index = hook * REASONS_PER_HOOK + reason;
	__u64 *counter = bpf_map_lookup_elem(&counters, &index);

	if (counter)
		*counter += 1;
}

#endif
