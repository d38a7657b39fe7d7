/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The load of the benchmark: one program that makes UDP packets, run on live frames
 * (BPF_PROG_TEST_RUN), and two that count and swallow what arrives in a pod. None of them is part
 * of the dataplane.
 */
#include "load.h"
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct generator);
	__uint(max_entries, 1);
} generators SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct sink);
	__uint(max_entries, 1);
} sinks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct arrived);
	__uint(max_entries, 1);
} arrivals SEC(".maps");

static __always_inline __u16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* Sum of the two halves, in wire order. */
static __always_inline __u32 halves(__u32 word)
{
	return (word & 0xffff) + (word >> 16);
}

/* Looking at the clock for every packet would cost as much as a lookup. */
static __always_inline void note_time(struct generator *g)
{
	if (g->sent++ % PACKETS_PER_LOOK)
		return;
	g->last_ns = bpf_ktime_get_ns();
	g->timed = g->sent - 1;
	if (!g->timed)
		g->first_ns = g->last_ns;
}

/* Writes the whole packet: its memory is used again for the next one, with what became of it on its
 * way. */
SEC("xdp")
int generate(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct generator *g = bpf_map_lookup_elem(&generators, &zero);
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct iphdr *ip = (void *)(eth + 1);
	struct udphdr *udp = (void *)(ip + 1);
	__u64 *payload = (void *)(udp + 1);

	if (!g || (void *)(payload + 2) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	note_time(g);
	__u64 n = g->next++;
	__u32 flow = g->flows ? n % g->flows : n;
	__u16 length = ctx->data_end - ctx->data - sizeof(*eth);
	__be16 udp_length = bpf_htons(length - sizeof(*ip));
	__be32 daddr = g->daddr[flow & 1];
	__be32 saddr = bpf_htonl(g->saddr + flow / PORTS_PER_ADDRESS);
	__be16 sport = bpf_htons(g->sport + flow % PORTS_PER_ADDRESS);

	__builtin_memcpy(eth->h_dest, g->to_mac, ETH_ALEN);
	__builtin_memcpy(eth->h_source, g->from_mac, ETH_ALEN);
	eth->h_proto = bpf_htons(ETH_P_IP);
	*(__u8 *)ip = 0x45;
	ip->tos = 0;
	ip->tot_len = bpf_htons(length);
	ip->id = 0;
	ip->frag_off = bpf_htons(0x4000);
	ip->ttl = 64;
	ip->protocol = IPPROTO_UDP;
	ip->saddr = saddr;
	ip->daddr = daddr;
	__u32 addresses = halves(saddr) + halves(daddr);

	ip->check = fold(addresses + bpf_htons(0x4500) + ip->tot_len + ip->frag_off +
			 bpf_htons(64 << 8 | IPPROTO_UDP));
	udp->source = sport;
	udp->dest = g->dport;
	udp->len = udp_length;
	payload[0] = payload[1] = 0;
	udp->check = fold(addresses + bpf_htons(IPPROTO_UDP) + udp_length + sport + g->dport +
			  udp_length);
	return XDP_TX;
}

/* True: one of the packets that are counted. Other traffic (ARP, TCP) goes its way. */
static __always_inline int count(void *data, void *data_end)
{
	__u32 zero = 0;
	struct sink *sink = bpf_map_lookup_elem(&sinks, &zero);
	struct arrived *arrived = bpf_map_lookup_elem(&arrivals, &zero);
	struct ethhdr *eth = data;
	struct iphdr *ip = (void *)(eth + 1);
	struct udphdr *udp = (void *)(ip + 1);

	if (!sink || !arrived || (void *)(udp + 1) > data_end)
		return 0;
	if (eth->h_proto != bpf_htons(ETH_P_IP) || ip->protocol != IPPROTO_UDP)
		return 0;
	if (ip->daddr == sink->daddr && udp->dest == sink->dport)
		arrived->right++;
	else
		arrived->wrong++;
	return 1;
}

SEC("xdp")
int sink_xdp(struct xdp_md *ctx)
{
	return count((void *)(long)ctx->data, (void *)(long)ctx->data_end) ? XDP_DROP : XDP_PASS;
}

SEC("tc")
int sink_tc(struct __sk_buff *skb)
{
	return count((void *)(long)skb->data, (void *)(long)skb->data_end) ? TC_ACT_SHOT
									   : TC_ACT_OK;
}

char _license[] SEC("license") = "Dual MIT/GPL";
