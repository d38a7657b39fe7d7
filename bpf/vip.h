/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What is sent to a VIP without a port: a ping is answered, and nothing else goes on, neither to
 * the host, which does not own the address, nor back to the router, which would return it.
 */
#ifndef BEELINE_VIP_H
#define BEELINE_VIP_H

#include "frontend.h"
#include "icmp.h"

#define ECHO_REPLY 0
#define ECHO_REQUEST 8
#define ECHO_REQUEST_V6 128
#define ECHO_REPLY_V6 129
#define REPLY_TTL 64
#define FOUR_NOPS bpf_htonl(0x01010101)
#define MAX_OPTION_WORDS 10

/* Options of the way here (routes, time stamps) say nothing of the way back: each becomes "no
 * operation". The two addresses change places, which no sum sees. */
static __always_inline bool turn_ipv4(struct iphdr *ip, void *end, __u32 option_bytes)
{
	__be32 *options = (void *)(ip + 1);
	__be32 source;
	__u64 change;

	if (ip + 1 > end)
		return false;
	source = ip->saddr;
	ip->saddr = ip->daddr;
	ip->daddr = source;
	change = (__u64)(__u16)~bpf_htons(ip->ttl << 8) + bpf_htons(REPLY_TTL << 8);
	ip->ttl = REPLY_TTL;
	for (__u32 i = 0; i < MAX_OPTION_WORDS && i * 4 < option_bytes; i++) {
		if (options + i + 1 > end)
			return false;
		change += (__u64)(__u32)~options[i] + FOUR_NOPS;
		options[i] = FOUR_NOPS;
	}
	ip->check = ~fold((__u64)(__u16)~ip->check + change);
	return true;
}

static __always_inline bool turn_ipv6(struct ipv6hdr *ip, void *end)
{
	struct in6_addr source;

	if (ip + 1 > end)
		return false;
	source = ip->saddr;
	ip->saddr = ip->daddr;
	ip->daddr = source;
	ip->hop_limit = REPLY_TTL;
	return true;
}

/* Back to whoever sent it; what it carries stays. */
static __always_inline bool turn(struct __sk_buff *ctx, const struct packet *packet)
{
	void *start = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct iphdr *ip = start + packet->l3;

	turn_ethernet(start, end, packet->l3);
	if (packet->family == FAMILY_IPV4)
		return turn_ipv4(ip, end, packet->l4 - packet->l3 - sizeof(*ip));
	return turn_ipv6(start + packet->l3, end);
}

/* A request becomes a reply; its checksum, whatever it was worth, goes along. */
static __always_inline int answer_message(struct __sk_buff *ctx, const struct packet *packet)
{
	__u32 offset = packet->l4;
	__be16 request, reply;

	if (offset > MAX_L4_OFFSET || offset + sizeof(struct icmp) > packet->l3 + packet->l3_size ||
	    bpf_skb_load_bytes(ctx, offset, &request, sizeof(request)))
		return REASON_STRAY_ICMP;
	if (bpf_ntohs(request) >> 8 !=
	    (packet->family == FAMILY_IPV4 ? ECHO_REQUEST : ECHO_REQUEST_V6))
		return REASON_STRAY_ICMP;
	reply = packet->family == FAMILY_IPV4 ? ECHO_REPLY : ECHO_REPLY_V6;
	reply = (request & bpf_htons(0xff)) | bpf_htons(reply << 8);
	/* The reply to an empty ping is all zeros: there a checksum of 0 would be wrong. */
	if (bpf_l4_csum_replace(ctx, offset + offsetof(struct icmp, check), request, reply,
				BPF_F_MARK_MANGLED_0 | BPF_F_MARK_ENFORCE | sizeof(reply)) ||
	    bpf_skb_store_bytes(ctx, offset, &reply, sizeof(reply), 0))
		return REASON_REWRITE_FAILED;
	return UNDECIDED;
}

/* The whole ping, or a fragment of it: only the first one has something to change. Of the others
 * nobody can say whether they are of a request; whatever they are, they are no more than they were.
 */
static __always_inline int answer_echo(struct __sk_buff *ctx, const struct packet *packet,
				       bool has_header)
{
	if (same_addr(&packet->key.src_addr, &packet->key.dst_addr))
		return REASON_FROM_ITSELF;
	if (!is_one_host(&packet->key.src_addr))
		return REASON_REPLY_FAILED;
	if (has_header) {
		int reason = answer_message(ctx, packet);

		if (reason != UNDECIDED)
			return reason;
	}
	return turn(ctx, packet) ? REASON_ECHO : REASON_REWRITE_FAILED;
}

static __always_inline bool is_icmp(const struct packet *packet)
{
	return packet->key.proto == (packet->family == FAMILY_IPV4 ? IPPROTO_ICMP : IPPROTO_ICMPV6);
}

/* `parsed`: what parse() said of a packet without ports. */
SUBPROGRAM int answer_for_vip(struct __sk_buff *ctx, const struct packet *packet, int parsed)
{
	if (!packet)
		return REASON_UNREADABLE;
	switch (parsed) {
	case ICMP_MESSAGE:
		return answer_echo(ctx, packet, true);
	case NO_PORTS:
		return is_icmp(packet) ? answer_echo(ctx, packet, false) : REASON_EARLY_FRAGMENT;
	case NOT_READ:
		return REASON_PROTOCOL;
	}
	return REASON_UNREADABLE;
}

#endif
