// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* For rewrite.test.ts alone: writes what `wanted` says over both sides of a packet. */
#include <linux/pkt_cls.h>
#include "nat.h"

struct wanted {
	struct addr source;
	struct addr dest;
	struct ports ports;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct wanted);
} wanted SEC(".maps");

static __always_inline bool find_wanted(struct ends *to)
{
	__u32 zero = 0;
	const struct wanted *found = bpf_map_lookup_elem(&wanted, &zero);

	if (!found)
		return false;
	*to = (struct ends){&found->source, &found->dest, found->ports};
	return true;
}

SEC("tc")
int rewrite_in_tc(struct __sk_buff *ctx)
{
	struct packet packet = {};
	struct ends to;

	if (!find_wanted(&to) || parse(ctx, &packet) != UNDECIDED)
		return TC_ACT_SHOT;
	return rewrite_ends(ctx, &packet, &to) ? TC_ACT_OK : TC_ACT_SHOT;
}

SEC("xdp.frags")
int rewrite_in_xdp(struct xdp_md *ctx)
{
	struct frame frame = {
		.start = (void *)(long)ctx->data,
		.end = (void *)(long)ctx->data_end,
		.size = bpf_xdp_get_buff_len(ctx),
	};
	struct packet packet = {};
	struct ends to;

	if (!find_wanted(&to) || parse_frame(&frame, &packet) != UNDECIDED)
		return XDP_DROP;
	return rewrite_frame(&frame, &packet, &to) ? XDP_PASS : XDP_DROP;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
