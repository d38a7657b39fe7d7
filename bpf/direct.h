/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Sends a packet on without the kernel's routing: what both hooks would write is written at once,
 * and it leaves for the pod or the wire. Whatever there is to doubt about a packet, that packet
 * goes to the kernel, as all of them do without this file.
 */
#ifndef BEELINE_DIRECT_H
#define BEELINE_DIRECT_H

#include "conntrack.h"
#include "nat.h"
#include "next_hop.h"

/* In tc_index of what is sent out by a device: nothing is left to do at its egress, where it
 * might be taken for what it was. No device and no qdisc reads it. */
#define SENT_DIRECTLY 0xbee

static __always_inline void count_forward(__u32 hook, __u32 forward)
{
	__u32 index = hook * FORWARDS_PER_HOOK + forward;
	__u64 *counter = bpf_map_lookup_elem(&forwards, &index);

	if (counter)
		*counter += 1;
}

/* The first three of enum forward; UNDECIDED is none. */
static __always_inline bool is_sent(int forward)
{
	return (__u32)forward <= FORWARD_NEIGHBOUR;
}

/* UNDECIDED: there is nothing about this packet that only the kernel can do. */
static __always_inline int doubt_about(const struct packet *packet)
{
	__u32 plain = packet->family == FAMILY_IPV4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);

	if (packet->l3 != ETH_HLEN)
		return FORWARD_VLAN;
	if (packet->fragmented)
		return FORWARD_FRAGMENT;
	if (packet->l4 - packet->l3 != plain)
		return FORWARD_HEADERS;
	return packet->hop_limit <= 1 ? FORWARD_HOP_LIMIT : UNDECIDED;
}

static __always_inline int doubt_about_skb(struct __sk_buff *ctx, const struct packet *packet)
{
	if (options.l3_device)
		return FORWARD_L3_DEVICE;
	return ctx->vlan_present ? FORWARD_VLAN : doubt_about(packet);
}

static __always_inline __u16 next_hop_generation(void)
{
	const struct config *config = options.direct ? get_config() : NULL;

	return config ? *(volatile __u16 *)&config->next_hop_generation : 0;
}

/* As the kernel would route it, between the hooks. */
static __always_inline struct flow_key routed_by(const struct packet *packet,
						 const struct flow *flow)
{
	struct flow_key routed = packet->key;

	if (flow->kind == FLOW_UNDO_DNAT)
		return routed;
	if (flow->kind == FLOW_DNAT && flow->client_port)
		routed.src_port = flow->client_port;
	routed.dst_addr = flow->addr;
	routed.dst_port = flow->port;
	return routed;
}

static __always_inline bool write_macs(struct __sk_buff *ctx, const struct next_hop *hop)
{
	void *start = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = start;

	if (eth + 1 > end)
		return false;
	copy_macs(eth, hop);
	return true;
}

/* In place of a next hop, while all packets are left to the kernel: it knows the connection. */
#define ACQUAINTED word_of_state((struct next_hop_state){.version = 2})

/* Whether the kernel's connection tracking may have missed packets of this flow. `word`: the state
 * of its next hop before this packet. */
static __always_inline bool is_unseen(const struct config *config, const struct flow *flow,
				      __u64 word)
{
	__u16 generation = *(volatile __u16 *)&config->next_hop_generation;
	struct next_hop_state state = state_of_word(word);

	if (generation)
		return state.way != WAY_KERNEL || state.generation != generation;
	return flow->created_ns < config->forwarding_since_ns && word != ACQUAINTED;
}

/*
 * A packet of this flow is left to the kernel. Flows that always were are known to its connection
 * tracking; those whose packets go on by themselves are not, nor are their connections' others.
 */
SUBPROGRAM int leave_to_kernel(struct __sk_buff *ctx, const struct packet *packet,
			       struct flow *flow, __u64 word)
{
	const struct config *config = get_config();
	struct flow_key routed;

	if (!packet || !flow || !config || !is_unseen(config, flow, word))
		return 0;
	/* A SYN is what conntrack knows a connection by; of the answer to one it makes nothing. */
	if (flow->flags & FLOW_ALONE && packet->key.proto == IPPROTO_TCP)
		return 0;
	routed = routed_by(packet, flow);
	acquaint(ctx, &routed);
	if (!config->next_hop_generation) /* once: now all of them are */
		__sync_lock_test_and_set(state_in(flow), ACQUAINTED);
	return 0;
}

/*
 * The backend knows the client by what netfilter wrote when the kernel routed this connection's
 * packets: before any were sent on directly, or before its own way was plain. So they stay there.
 */
static __always_inline bool is_netfilters(struct __sk_buff *ctx, const struct flow *flow,
					  const struct flow_key *routed, __u64 created_ns)
{
	struct next_hop_state state = state_of_word(*state_in(flow));
	const struct config *config = get_config();

	if (flow->kind != FLOW_DNAT || state.way != WAY_KERNEL || !config)
		return false;
	return (state.generation || created_ns < config->forwarding_since_ns) &&
	       is_translated(ctx, routed, IPS_SRC_NAT | IPS_DST_NAT);
}

/* Of a flow that has no next hop, or an old one. */
SUBPROGRAM int find_forward(struct __sk_buff *ctx, struct packet *packet, struct flow *flow)
{
	struct flow_entry *routed = scratch_entry();
	struct next_hop hop;
	__u64 created_ns;
	int forward;

	if (!packet || !flow || !routed)
		return FORWARD_NEXT_HOP;
	created_ns = *(volatile __u64 *)&flow->created_ns;
	routed->key = routed_by(packet, flow);
	forward = find_next_hop(ctx, packet, &routed->key, &hop);
	if (flow->kind == FLOW_DNAT && flow->far_port)
		forward = forward_to_remote(forward, &hop);
	if (is_netfilters(ctx, flow, &routed->key, created_ns)) {
		hop.way = WAY_KERNEL;
		forward = FORWARD_NEXT_HOP;
	}
	if (hop.generation)
		remember_next_hop(packet, flow, created_ns, &hop);
	packet->ifindex = hop.ifindex;
	return !has_macs(forward) || write_macs(ctx, &hop) ? forward : FORWARD_NEXT_HOP;
}

/*
 * How a packet of a flow goes on; if it is sent, its MAC addresses are written, unless the kernel
 * does it. They mean nothing to the kernel's routing. UNDECIDED: all packets are left to that.
 */
static __always_inline int choose_forward(struct __sk_buff *ctx, struct packet *packet,
					  struct flow *flow)
{
	__u16 generation = next_hop_generation();
	struct next_hop_state state;
	int forward;
	__u64 word;

	if (!generation)
		return UNDECIDED;
	forward = doubt_about_skb(ctx, packet);
	if (forward != UNDECIDED)
		return forward;
	if (packet->scope == SCOPE_INTERNAL && flow->far_port)
		return FORWARD_HAIRPIN;
	word = *state_in(flow);
	state = state_of_word(word);
	if (!is_good(flow, state, &packet->key, generation, ctx->ifindex))
		return find_forward(ctx, packet, flow);
	forward = forward_by(state.way);
	if (!is_sent(forward))
		return forward;
	if (segment_size(packet) > state.mtu)
		return FORWARD_TOO_LARGE;
	packet->ifindex = flow->next_hop.ifindex;
	if (!write_macs(ctx, &flow->next_hop))
		return FORWARD_NEXT_HOP;
	asm volatile("" ::: "memory");
	return *state_in(flow) == word ? forward : find_forward(ctx, packet, flow);
}

/* The same for the packet that has opened a connection. */
static __always_inline int choose_first_forward(struct __sk_buff *ctx, struct packet *packet,
						const struct connection *c)
{
	int forward;

	if (!next_hop_generation())
		return UNDECIDED;
	forward = doubt_about_skb(ctx, packet);
	if (forward != UNDECIDED)
		return forward;
	if (packet->scope == SCOPE_INTERNAL && c->node.port)
		return FORWARD_HAIRPIN;
	packet->ifindex = c->next_hop.ifindex;
	if (has_macs(c->forward) && !write_macs(ctx, &c->next_hop))
		return FORWARD_NEXT_HOP;
	return c->forward;
}

/* One side is what a flow says, and maybe the port of the other. */
static __always_inline struct ends ends_of(const struct packet *packet, enum side side,
					   const struct flow *flow)
{
	__be16 other_port = flow->kind == FLOW_UNDO_SNAT ? 0 : flow->client_port;

	if (side == SOURCE)
		return (struct ends){
			.source = &flow->addr,
			.dest = &packet->key.dst_addr,
			.ports = {flow->port, other_port ?: packet->key.dst_port},
		};
	return (struct ends){
		.source = &packet->key.src_addr,
		.dest = &flow->addr,
		.ports = {other_port ?: packet->key.src_port, flow->port},
	};
}

/* What the hook writes that has the flow; the kernel routes it, and leaves the rest to another. */
static __always_inline struct ends one_end(const struct packet *packet, const struct flow *flow)
{
	return ends_of(packet, is_outward(flow->kind) ? SOURCE : DESTINATION, flow);
}

/* What is written by both hooks together. */
static __always_inline struct ends both_ends(const struct packet *packet, const struct flow *flow)
{
	struct ends to = {
		.source = flow->far_port ? &flow->far_addr : &packet->key.src_addr,
		.dest = &flow->addr,
		.ports = {flow->far_port ?: packet->key.src_port, flow->port},
	};

	if (flow->client_port && flow->kind == FLOW_UNDO_SNAT)
		to.ports.dest = flow->client_port;
	else if (flow->client_port && !flow->far_port)
		to.ports.source = flow->client_port;
	return to;
}

/* The same of a connection that is being opened: of both hooks, or of ingress alone. */
static __always_inline struct ends ends_of_opened(const struct packet *packet,
						  const struct connection *c, bool of_both)
{
	bool is_far = of_both && c->node.port;

	return (struct ends){
		.source = is_far ? &c->node.addr : &packet->key.src_addr,
		.dest = &c->backend.addr,
		.ports = {is_far ? c->node.port : c->inner_port, c->backend.port},
	};
}

static __always_inline void age_ipv4(struct iphdr *ip)
{
	__u32 check = ip->check + bpf_htons(1 << 8);

	ip->check = check + (check >= 0xffff);
	ip->ttl--;
}

static __always_inline bool age(struct __sk_buff *ctx, __u8 family)
{
	void *start = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ipv6hdr *ipv6 = start + ETH_HLEN;
	struct iphdr *ip = start + ETH_HLEN;

	if (ip + 1 > end || (family == FAMILY_IPV6 && ipv6 + 1 > end))
		return false;
	if (family == FAMILY_IPV4) {
		age_ipv4(ip);
		return true;
	}
	ipv6->hop_limit--;
	bpf_csum_update(ctx, (__u16)~bpf_htons(1)); /* where the device has summed it up */
	return true;
}

/* The verdict has to be TC_ACT_REDIRECT. Where FORWARD_NEIGHBOUR goes has been said before. */
static __always_inline bool send(struct __sk_buff *ctx, const struct packet *packet)
{
	if (!age(ctx, packet->family))
		return false;
	if (packet->forward == FORWARD_PEER) {
		bpf_redirect_peer(packet->ifindex, 0);
		return true;
	}
	ctx->tc_index = SENT_DIRECTLY;
	if (packet->forward == FORWARD_WIRE)
		bpf_redirect(packet->ifindex, 0);
	return true;
}

#endif
