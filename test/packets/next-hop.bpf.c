// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* For next-hop.test.ts alone: one CPU writes the next hop of a flow, again and again, as tc does,
 * another one reads it as XDP does. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

/* It is asked between the first look at a next hop and the second: whoever writes has the time to.
 */
static __always_inline __u64 jiffies_after_a_while(void)
{
	for (int i = 0; i < 8; i++)
		bpf_ktime_get_ns();
	return bpf_jiffies64();
}
#define bpf_jiffies64 jiffies_after_a_while
#include "xdp.bpf.c"

#define TIMES 10000

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} readings SEC(".maps");

enum reading {
	REFUSED,
	WHOLE,
	TORN,
	ANOTHER, /* than the reading before: somebody writes meanwhile */
};

static __always_inline struct flow *the_flow(void)
{
	struct flow_key key = {.proto = IPPROTO_UDP};

	return bpf_map_lookup_elem(&flows, &key);
}

/* One that XDP may take, and one that it may not: all bytes of both addresses are its own. */
static long write_one(__u32 i, void *unused)
{
	bool is_wire = i & 1;
	struct flow_key key = {.proto = IPPROTO_UDP};
	struct flow *flow = the_flow();
	struct next_hop hop = {
		.from = options.device,
		.ifindex = options.device,
		.mtu = 1500,
		.way = is_wire ? WAY_WIRE : WAY_PEER,
		.generation = next_hop_generation(),
		.window = window_of(&key),
	};

	if (!flow)
		return 1;
	__builtin_memset(hop.dmac, hop.way, sizeof(hop.dmac));
	__builtin_memset(hop.smac, hop.way, sizeof(hop.smac));
	write_next_hop(flow, &hop);
	return 0;
}

static __always_inline enum reading read_once(const struct flow *flow)
{
	struct packet packet = {.key.proto = IPPROTO_UDP, .l3_size = 100};
	struct next_hop hop;

	if (!recall_next_hop(flow, &packet, &hop))
		return REFUSED;
	for (int i = 0; i < 6; i++)
		if (hop.dmac[i] != WAY_WIRE || hop.smac[i] != WAY_WIRE)
			return TORN;
	return WHOLE;
}

static __always_inline void count_reading(__u32 reading)
{
	__u64 *count = bpf_map_lookup_elem(&readings, &reading);

	if (count)
		*count += 1;
}

static long read_one(__u32 i, __u32 *last)
{
	const struct flow *flow = the_flow();
	__u32 reading;

	if (!flow)
		return 1;
	reading = read_once(flow);
	count_reading(reading);
	if (i && reading != *last)
		count_reading(ANOTHER);
	*last = reading;
	return 0;
}

SEC("tc")
int write_next_hops(struct __sk_buff *ctx)
{
	return bpf_loop(TIMES, write_one, NULL, 0) == TIMES;
}

SEC("tc")
int read_next_hops(struct __sk_buff *ctx)
{
	__u32 last = REFUSED;

	return bpf_loop(TIMES, read_one, &last, 0) == TIMES;
}
