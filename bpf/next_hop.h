/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * By which device, and to whose MAC address, a packet goes on once it is translated. The kernel's
 * routing is asked once for many packets of a flow. What it answers is good as long as no change
 * has been told (config's generation), for some seconds at most, and for packets that come by the
 * same device. Anything but a plain next hop by a device that is known is left to the kernel.
 */
#ifndef BEELINE_NEXT_HOP_H
#define BEELINE_NEXT_HOP_H

#include "flow.h"

#define AF_INET 2
#define AF_INET6 10

/* For 2^10 ticks, 4 s with 250 of them a second: how long a wrong way lasts when nobody tells of
 * a change, because the agent is dead. */
#define WINDOW_BITS 10

/* The last eight bytes of a next hop, which say whether it is good: read and written at once. */
struct next_hop_state {
	__u16 mtu;
	__u8 way;
	__u8 version;
	__u16 generation;
	__u16 window;
};

static __always_inline volatile __u64 *state_in(const struct flow *flow)
{
	return (volatile __u64 *)(void *)&flow->next_hop.mtu;
}

static __always_inline struct next_hop_state state_of_word(__u64 word)
{
	struct next_hop_state state;

	__builtin_memcpy(&state, &word, sizeof(state));
	return state;
}

static __always_inline __u64 word_of_state(struct next_hop_state state)
{
	__u64 word;

	__builtin_memcpy(&word, &state, sizeof(word));
	return word;
}

/* Not over at the same moment for all flows. */
static __always_inline __u16 window_of(const struct flow_key *key)
{
	return (bpf_jiffies64() + key->src_port) >> WINDOW_BITS;
}

/* Whether what is known of a flow is good for a packet that came by the device `from`. */
static __always_inline bool is_good(const struct flow *flow, struct next_hop_state state,
				    const struct flow_key *key, __u16 generation, __u32 from)
{
	return state.generation == generation && state.window == window_of(key) &&
	       flow->next_hop.from == from;
}

#define IS_WRITTEN 1 /* of a version */

/* The frame's two addresses are the next hop's, in the same order: three words, not twelve bytes.
 */
static __always_inline void copy_macs(struct ethhdr *eth, const struct next_hop *hop)
{
	const __u32 *from = (const void *)hop->dmac;
	__u32 *to = (void *)eth->h_dest;

	to[0] = from[0];
	to[1] = from[1];
	to[2] = from[2];
}

/* Of several that write at once one does; the others use their own answer, once. Who reads
 * meanwhile sees that the state has changed. */
static __always_inline void write_next_hop(struct flow *flow, const struct next_hop *hop)
{
	__u64 before = *state_in(flow);
	__u8 version = state_of_word(before).version;
	struct next_hop_state busy = {.version = version | IS_WRITTEN};
	struct next_hop_state after = {
		.mtu = hop->mtu,
		.way = hop->way,
		.version = version + 2,
		.generation = hop->generation,
		.window = hop->window,
	};

	if (version & IS_WRITTEN ||
	    !__sync_bool_compare_and_swap(state_in(flow), before, word_of_state(busy)))
		return;
	flow->next_hop.from = hop->from;
	flow->next_hop.ifindex = hop->ifindex;
	__builtin_memcpy(flow->next_hop.dmac, hop->dmac, sizeof(hop->dmac));
	__builtin_memcpy(flow->next_hop.smac, hop->smac, sizeof(hop->smac));
	__sync_lock_test_and_set(state_in(flow), word_of_state(after));
}

/*
 * Remembers a next hop for the flow that a packet follows. The kernel gives the memory of a flow
 * that is removed to the next one that is written: if that happened since `created_ns` was read,
 * the other flow has got a next hop that is not its own, and loses it.
 */
SUBPROGRAM int remember_next_hop(const struct packet *packet, struct flow *flow, __u64 created_ns,
				 const struct next_hop *hop)
{
	struct flow_key key;

	if (!packet || !flow || !hop)
		return 0;
	key = packet->key;
	write_next_hop(flow, hop);
	if (bpf_map_lookup_elem(&flows, &key) != flow || flow->created_ns != created_ns)
		__sync_lock_test_and_set(state_in(flow), 0);
	return 0;
}

static __always_inline struct bpf_fib_lookup question_of(const struct flow_key *routed)
{
	struct bpf_fib_lookup route = {
		.family = AF_INET6,
		.l4_protocol = routed->proto,
		.sport = routed->src_port,
		.dport = routed->dst_port,
	};

	if (family_of(&routed->dst_addr) == FAMILY_IPV4) {
		route.family = AF_INET;
		route.ipv4_src = routed->src_addr.word[3];
		route.ipv4_dst = routed->dst_addr.word[3];
	} else {
		__builtin_memcpy(route.ipv6_src, &routed->src_addr, sizeof(struct addr));
		__builtin_memcpy(route.ipv6_dst, &routed->dst_addr, sizeof(struct addr));
	}
	return route;
}

/* The kernel's routing heeds what a route states itself; bpf_fib_lookup does when it is locked. */
static __always_inline __u16 mtu_of(const struct config *config, __u16 found)
{
	return config->route_mtu && config->route_mtu < found ? config->route_mtu : found;
}

/* Of each packet that is sent, with offloads. */
static __always_inline __u32 segment_size(const struct packet *packet)
{
	return packet->gso_size ? packet->l4 - packet->l3 + packet->l4_size + packet->gso_size
				: packet->l3_size;
}

/* Whether a route to the packet's source leads by the device that it came by. */
static __always_inline bool is_source_behind(struct __sk_buff *ctx, const struct flow_key *routed,
					     struct bpf_fib_lookup *route)
{
	long answer;

	*route = (struct bpf_fib_lookup){
		.family = AF_INET,
		.l4_protocol = routed->proto,
		.ifindex = ctx->ifindex,
		.ipv4_src = routed->dst_addr.word[3],
		.ipv4_dst = routed->src_addr.word[3],
	};
	answer = bpf_fib_lookup(ctx, route, sizeof(*route), 0);

	return (!answer || answer == BPF_FIB_LKUP_RET_NO_NEIGH ||
		answer == BPF_FIB_LKUP_RET_FRAG_NEEDED) &&
	       route->ifindex == ctx->ifindex;
}

static __always_inline __u32 device_flags(__u32 ifindex)
{
	const struct device *device = bpf_map_lookup_elem(&devices, &ifindex);

	return device ? device->flags : 0;
}

/* Whether the kernel would take a packet with this source from a device of these flags: it refuses
 * its own addresses, and those that nobody can have. `route` is for what is asked in between. */
static __always_inline bool is_source_plain(struct __sk_buff *ctx, const struct packet *packet,
					    const struct flow_key *routed, __u32 flags,
					    struct bpf_fib_lookup *route)
{
	struct addr source = routed->src_addr;

	if (is_no_single_host(&source) || bpf_map_lookup_elem(&node_addresses, &source))
		return false;
	return !(flags & DEVICE_STRICT) || packet->family != FAMILY_IPV4 ||
	       is_source_behind(ctx, routed, route);
}

static __always_inline __u8 way_by(__u32 ifindex)
{
	__u32 flags = device_flags(ifindex);

	if (flags & DEVICE_PEER)
		return WAY_PEER;
	return flags & DEVICE_WIRE ? WAY_WIRE : WAY_KERNEL;
}

/* The packet itself, if it is sent on, goes by the kernel's knowledge of its neighbours, which
 * is looked after as long as it is used. */
static __always_inline int use_neighbour(const struct bpf_fib_lookup *route)
{
	struct bpf_redir_neigh neighbour = {.nh_family = route->family};

	__builtin_memcpy(neighbour.ipv6_nh, route->ipv6_dst, sizeof(neighbour.ipv6_nh));
	bpf_redirect_neigh(route->ifindex, &neighbour, sizeof(neighbour), 0);
	return FORWARD_NEIGHBOUR;
}

static __always_inline int forward_by(__u8 way)
{
	switch (way) {
	case WAY_PEER:
		return FORWARD_PEER;
	case WAY_WIRE:
		return FORWARD_WIRE;
	}
	return FORWARD_NEXT_HOP;
}

/* By whose MAC addresses are written here. */
static __always_inline bool has_macs(int forward)
{
	return forward == FORWARD_PEER || forward == FORWARD_WIRE;
}

/*
 * Ways that packets have been sent, by where they are routed to: many flows are opened to one pod,
 * and answered to one client. A way into a pod is the same for all of them, one out by a wire for
 * those of one source. Kept as long as any next hop is, so that the kernel is asked often enough
 * to look after its neighbours.
 */
struct way_taken {
	struct addr to;
	struct addr source;  /* of the last packet: a plain one */
	struct next_hop hop; /* its window is that of the address, not of a flow */
	__u32 flags;	     /* of the device by which packets come */
};

#define WAYS_TAKEN 512

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, WAYS_TAKEN);
	__type(key, __u32);
	__type(value, struct way_taken);
} ways_taken SEC(".maps");

/* Pods answer one client each by its own device. */
static __always_inline struct way_taken *way_of(const struct packet *packet,
						const struct flow_key *routed)
{
	__u32 from = packet->scope == SCOPE_INTERNAL ? routed->src_addr.word[3] : 0;
	__u32 bytes = routed->dst_addr.word[3] ^ from;
	__u32 place = (bytes ^ bytes >> 8 ^ bytes >> 24) & (WAYS_TAKEN - 1);

	return bpf_map_lookup_elem(&ways_taken, &place);
}

static __always_inline __u16 window_now(void)
{
	return bpf_jiffies64() >> WINDOW_BITS;
}

static __always_inline bool is_way_good(const struct way_taken *way, const struct addr *to,
					__u16 generation, __u32 from)
{
	return way->hop.generation == generation && way->hop.window == window_now() &&
	       way->hop.from == from && same_addr(&way->to, to);
}

static __always_inline void remember_way(const struct packet *packet, const struct flow_key *routed,
					 const struct next_hop *hop, __u32 flags)
{
	struct way_taken *way = way_of(packet, routed);

	if (!way)
		return;
	way->to = routed->dst_addr;
	way->source = routed->src_addr;
	way->hop = *hop;
	way->hop.window = window_now();
	way->flags = flags;
}

/*
 * Asks the kernel's routing where a packet goes that will be as `routed` between the hooks. Says
 * how this one goes on. `hop` is what is to be remembered; its generation is 0 where that is
 * nothing, its ifindex, where the kernel would route it at all, the device.
 */
SUBPROGRAM int find_next_hop(struct __sk_buff *ctx, const struct packet *packet,
			     const struct flow_key *routed, struct next_hop *hop)
{
	const struct config *config = get_config();
	bool is_known, is_of_last, is_plain, is_shared;
	struct bpf_fib_lookup route;
	struct way_taken *way;
	__u16 generation;
	__u32 size, flags;
	long answer;

	if (!config || !packet || !routed || !hop)
		return FORWARD_NEXT_HOP;
	/* Before the question: what changes meanwhile has another one. */
	generation = *(volatile __u16 *)&config->next_hop_generation;
	*hop = (struct next_hop){.from = ctx->ifindex, .window = window_of(&packet->key)};
	size = segment_size(packet);
	is_shared = config->shares_ways && !packet->tos && !ctx->mark;
	way = way_of(packet, routed);
	is_known = way && is_way_good(way, &routed->dst_addr, generation, hop->from);
	is_of_last = is_known && same_addr(&way->source, &routed->src_addr);
	flags = is_known ? way->flags : device_flags(hop->from);
	/* A pod's packets must not come by way of a bridge. */
	is_plain = generation && !ctx->mark &&
		   (packet->scope == SCOPE_EXTERNAL || flags & DEVICE_PEER) &&
		   (is_of_last || is_source_plain(ctx, packet, routed, flags, &route));
	if (is_known && is_shared && is_plain && size <= way->hop.mtu &&
	    (is_of_last || way->hop.way == WAY_PEER)) {
		__u16 window = hop->window;

		way->source = routed->src_addr;
		*hop = way->hop;
		hop->window = window;
		return forward_by(hop->way);
	}
	route = question_of(routed);
	route.ifindex = ctx->ifindex;
	route.tos = packet->tos;
	route.tot_len = size;
	answer = bpf_fib_lookup(ctx, &route, sizeof(route), 0);
	if (answer && answer != BPF_FIB_LKUP_RET_NO_NEIGH && answer != BPF_FIB_LKUP_RET_FRAG_NEEDED)
		route.ifindex = 0;
	hop->ifindex = route.ifindex;
	if (answer == BPF_FIB_LKUP_RET_FRAG_NEEDED || size > mtu_of(config, 0xffff))
		return FORWARD_TOO_LARGE;
	if (!generation)
		return FORWARD_NEXT_HOP;
	if (route.ifindex && is_plain)
		hop->way = way_by(route.ifindex);
	if (hop->way != WAY_KERNEL && answer == BPF_FIB_LKUP_RET_NO_NEIGH)
		return use_neighbour(&route);
	hop->generation = generation;
	if (hop->way == WAY_KERNEL)
		return FORWARD_NEXT_HOP;
	__builtin_memcpy(hop->dmac, route.dmac, sizeof(hop->dmac));
	__builtin_memcpy(hop->smac, route.smac, sizeof(hop->smac));
	hop->mtu = mtu_of(config, route.mtu_result);
	if (is_shared)
		remember_way(packet, routed, hop, flags);
	return hop->way == WAY_WIRE ? use_neighbour(&route) : FORWARD_PEER;
}

/* Where a backend that was taken for another node's is a pod here: the client is written over only
 * if the pod's device has tc_egress, which the kernel's way finds out. */
SUBPROGRAM int forward_to_remote(int forward, struct next_hop *hop)
{
	if (!hop || hop->way != WAY_PEER)
		return forward;
	hop->way = WAY_KERNEL;
	return FORWARD_NEXT_HOP;
}

#endif
