// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Native XDP on a device of the node: packets of connections to remote backends, and their
 * replies, go on from the driver, both sides written, without an skb. It opens nothing, closes
 * nothing and refuses nothing: all else passes untouched, and tc goes on with the same flow.
 * Only what it sends on is counted here; what passes is counted by tc.
 */
#pragma clang diagnostic ignored "-Wunused-function" /* XDP writes no flows */
#include "direct.h"

/* A bridge or a promiscuous device hears what is for others. */
static __always_inline bool is_for_device(const struct ethhdr *eth)
{
	const __u16 *to = (const void *)eth->h_dest;
	const volatile __u16 *own = (const volatile void *)options.device_mac;

	return !((to[0] ^ own[0]) | (to[1] ^ own[1]) | (to[2] ^ own[2]));
}

/* Both sides have been heard, and the backend is remote. UDP leaves one that is gone. */
static __always_inline bool is_settled(const struct flow *flow, const struct packet *packet)
{
	return flow->flags & FLOW_SETTLED && flow->far_port && !is_stale(flow, packet);
}

static __always_inline bool may_send_by(__u32 ifindex)
{
	const struct device *device;

	if (ifindex == options.device)
		return true;
	device = bpf_map_lookup_elem(&devices, &ifindex);
	return device && device->flags & DEVICE_XDP;
}

/* What tc has found, if that is good for a packet that came by this device, and is not written
 * anew meanwhile. Nothing is looked up here: tc does that, for the next packet as well. */
static __always_inline bool recall_next_hop(const struct flow *flow, const struct packet *packet,
					    struct next_hop *hop)
{
	const struct config *config = get_config();
	__u64 word = *state_in(flow);
	struct next_hop_state state = state_of_word(word);

	if (!config || !config->next_hop_generation || state.way != WAY_WIRE ||
	    !is_good(flow, state, &packet->key, config->next_hop_generation, options.device))
		return false;
	*hop = flow->next_hop;
	asm volatile("" ::: "memory");
	return *state_in(flow) == word && packet->l3_size <= state.mtu && may_send_by(hop->ifindex);
}

static __always_inline bool age_frame(const struct frame *frame, __u8 family)
{
	struct ipv6hdr *ipv6 = frame->start + ETH_HLEN;
	struct iphdr *ip = frame->start + ETH_HLEN;

	if (family == FAMILY_IPV4) {
		if (ip + 1 > frame->end)
			return false;
		age_ipv4(ip);
		return true;
	}
	if (ipv6 + 1 > frame->end)
		return false;
	ipv6->hop_limit--;
	return true;
}

static __always_inline int forward(const struct frame *frame, const struct packet *packet,
				   struct flow *flow)
{
	struct ends ends = both_ends(packet, flow);
	struct ethhdr *eth = frame->start;
	struct next_hop hop;

	if (!recall_next_hop(flow, packet, &hop))
		return XDP_PASS;
	if (!rewrite_frame(frame, packet, &ends) || !age_frame(frame, packet->family))
		return XDP_PASS;
	copy_macs(eth, &hop);
	touch(flow);
	count(HOOK_XDP, reason_of(flow));
	return hop.ifindex == options.device ? XDP_TX : bpf_redirect(hop.ifindex, 0);
}

/* What lies in more than one buffer is too long for the first, to parse_frame(). */
SEC("xdp.frags")
int xdp_forward(struct xdp_md *ctx)
{
	struct frame frame = {.start = (void *)(long)ctx->data, .end = (void *)(long)ctx->data_end};
	struct ethhdr *eth = frame.start;
	struct packet packet = {};
	struct flow *flow;

	frame.size = frame.end - frame.start;
	if (eth + 1 > frame.end || !is_for_device(eth))
		return XDP_PASS;
	if (parse_frame(&frame, &packet) != UNDECIDED || packet.opens || packet.closes ||
	    doubt_about(&packet) != UNDECIDED)
		return XDP_PASS;
	flow = bpf_map_lookup_elem(&flows, &packet.key);
	if (!flow || !is_settled(flow, &packet))
		return XDP_PASS;
	return forward(&frame, &packet, flow);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
