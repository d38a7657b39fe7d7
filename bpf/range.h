/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Source ranges: who may enter through a restricted frontend. */
#ifndef BEELINE_RANGE_H
#define BEELINE_RANGE_H

#include "addr.h"
#include "maps.h"

static __always_inline bool is_in_range(__u32 service_id, const struct addr *client)
{
	struct source_range_key key = {
		.prefixlen = 32 + 128,
		.service_id = service_id,
		.addr = *client,
	};
	const struct source_range *range = bpf_map_lookup_elem(&source_ranges, &key);

	return range && range->allow;
}

#endif
