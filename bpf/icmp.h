/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Turns a packet that nobody here serves into the ICMP error that says so. */
#ifndef BEELINE_ICMP_H
#define BEELINE_ICMP_H

#include "nat.h"

#define MAX_ICMP_PACKET 576    /* RFC 1812 4.3.2.3 */
#define MAX_ICMPV6_PACKET 1280 /* RFC 4443 2.4 (c) */
#define ICMP_PROTOCOL_UNREACHABLE bpf_htons(3 << 8 | 2)
#define ICMP_PORT_UNREACHABLE bpf_htons(3 << 8 | 3)
#define ICMPV6_PORT_UNREACHABLE bpf_htons(1 << 8 | 4)
#define ICMPV6_UNKNOWN_NEXT_HEADER bpf_htons(4 << 8 | 1)
#define INTERNET_CONTROL 0xc0 /* RFC 1812 4.3.2.5: precedence of an ICMP error */
#define CHUNK 64

struct icmp {
	__be16 what; /* type and code */
	__u16 check;
	__be32 rest; /* IPv6, unknown next header: the offset of what says it; else 0 */
};

struct icmpv4_reply {
	struct iphdr ip;
	struct icmp icmp;
};

struct icmpv6_reply {
	struct ipv6hdr ip;
	struct icmp icmp;
};

static __always_inline __u32 reply_size(const struct packet *packet)
{
	return packet->family == FAMILY_IPV4 ? sizeof(struct icmpv4_reply)
					     : sizeof(struct icmpv6_reply);
}

/* As much of the original as the error may hold. */
static __always_inline __u32 quoted_size(const struct packet *packet)
{
	__u32 room = packet->family == FAMILY_IPV4 ? MAX_ICMP_PACKET : MAX_ICMPV6_PACKET;

	room -= reply_size(packet);
	return packet->l3_size < room ? packet->l3_size : room;
}

/* Unfolded sum of bytes of the frame; -1 when they are not there. */
SUBPROGRAM __s64 sum_of(struct __sk_buff *ctx, __u32 offset, __u32 size)
{
	__u32 end = offset + size;
	__s64 sum = 0;

	for (int i = 0; i < MAX_ICMPV6_PACKET / CHUNK && offset < end; i++) {
		__be32 chunk[CHUNK / 4] = {};
		__u32 left = end - offset;

		if (left > CHUNK)
			left = CHUNK;
		/* Says "1 to CHUNK" so that the verifier of 6.1 believes it: "invalid zero-sized
		 * read". The compiler must not see that it knew already. */
		asm volatile("" : "+r"(left));
		left = ((left - 1) & (CHUNK - 1)) + 1;
		if (bpf_skb_load_bytes(ctx, offset, chunk, left))
			return -1;
		sum = bpf_csum_diff(NULL, 0, chunk, sizeof(chunk), sum);
		offset += CHUNK;
	}
	return sum;
}

/*
 * Whether the checksum is left to the sending device (CHECKSUM_PARTIAL): then the kernel's
 * helper leaves the field alone when something outside the pseudo-header changes. Kernels
 * before 6.2 have no other way to tell. `seed` becomes what the field holds.
 */
static __always_inline bool is_checksum_partial(struct __sk_buff *ctx, __u32 offset, __u16 *seed)
{
	__u16 after;

	if (bpf_skb_load_bytes(ctx, offset, seed, sizeof(*seed)) ||
	    bpf_l4_csum_replace(ctx, offset, 0, 1, 0) ||
	    bpf_skb_load_bytes(ctx, offset, &after, sizeof(after)))
		return false;
	if (after == *seed)
		return true;
	bpf_skb_store_bytes(ctx, offset, seed, sizeof(*seed), 0);
	return false;
}

/*
 * Sum of the quoted bytes as they will be on the wire. A device that completes the checksum
 * makes everything from the transport header on sum up to the seed's complement, so that is
 * known before it is done.
 */
static __always_inline __s64 sum_of_quoted(struct __sk_buff *ctx, const struct packet *packet,
					   __u32 size)
{
	bool has_checksum = packet->key.proto == IPPROTO_TCP || packet->key.proto == IPPROTO_UDP;
	__u16 seed;
	__s64 sum;

	if (!has_checksum || !is_checksum_partial(ctx, checksum_offset(packet), &seed))
		return sum_of(ctx, packet->l3, size);
	sum = sum_of(ctx, packet->l3, packet->l4 - packet->l3);
	return sum < 0 ? sum : sum + (__u16)~seed;
}

static __always_inline struct icmp error_of(const struct packet *packet, bool port)
{
	if (packet->family == FAMILY_IPV4)
		return (struct icmp){
			.what = port ? ICMP_PORT_UNREACHABLE : ICMP_PROTOCOL_UNREACHABLE,
		};
	if (port)
		return (struct icmp){.what = ICMPV6_PORT_UNREACHABLE};
	return (struct icmp){.what = ICMPV6_UNKNOWN_NEXT_HEADER,
			     .rest = bpf_htonl(packet->next_at)};
}

/* A device without Ethernet has nothing to turn. */
static __always_inline void turn_ethernet(struct ethhdr *eth, void *end, __u32 l3)
{
	__u8 mac[ETH_ALEN];

	if (!l3 || eth + 1 > end)
		return;
	__builtin_memcpy(mac, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, eth->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, mac, ETH_ALEN);
}

static __always_inline bool write_icmpv4(struct __sk_buff *ctx, const struct packet *packet,
					 struct icmp error, __u32 quoted, __u64 sum)
{
	void *start = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct icmpv4_reply *reply = start + packet->l3;

	if (reply + 1 > end)
		return false;
	turn_ethernet(start, end, packet->l3);
	*reply = (struct icmpv4_reply){
		.ip.version = 4,
		.ip.ihl = 5,
		.ip.tos = INTERNET_CONTROL,
		.ip.tot_len = bpf_htons(sizeof(*reply) + quoted),
		.ip.frag_off = bpf_htons(0x4000),
		.ip.ttl = 64,
		.ip.protocol = IPPROTO_ICMP,
		.ip.saddr = packet->key.dst_addr.word[3],
		.ip.daddr = packet->key.src_addr.word[3],
		.icmp = error,
	};
	reply->ip.check = ~fold(bpf_csum_diff(NULL, 0, (__be32 *)&reply->ip, sizeof(reply->ip), 0));
	reply->icmp.check = ~fold(sum + error.what);
	return true;
}

/* RFC 8200 8.1: the pseudo-header is in the sum. */
static __always_inline __u64 pseudo_sum(const struct packet *packet, __u32 size)
{
	__u64 sum = (__u64)bpf_htonl(size) + bpf_htonl(IPPROTO_ICMPV6);

	for (int i = 0; i < 4; i++)
		sum += (__u64)packet->key.src_addr.word[i] + packet->key.dst_addr.word[i];
	return (sum & 0xffffffff) + (sum >> 32);
}

static __always_inline bool write_icmpv6(struct __sk_buff *ctx, const struct packet *packet,
					 struct icmp error, __u32 quoted, __u64 sum)
{
	void *start = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct icmpv6_reply *reply = start + packet->l3;
	__u32 size = sizeof(reply->icmp) + quoted;

	if (reply + 1 > end)
		return false;
	turn_ethernet(start, end, packet->l3);
	*reply = (struct icmpv6_reply){
		.ip.version = 6,
		.ip.payload_len = bpf_htons(size),
		.ip.nexthdr = IPPROTO_ICMPV6,
		.ip.hop_limit = 64,
		.icmp = error,
	};
	__builtin_memcpy(&reply->ip.saddr, &packet->key.dst_addr, sizeof(struct addr));
	__builtin_memcpy(&reply->ip.daddr, &packet->key.src_addr, sizeof(struct addr));
	reply->icmp.check = ~fold(sum + pseudo_sum(packet, size) + error.what + error.rest);
	return true;
}

/* Who may be told something. */
static __always_inline bool is_one_host(const struct addr *addr)
{
	return !is_no_single_host(addr) && !is_loopback(addr);
}

/* False: the packet is in no state to be sent. From the address that was asked, like the
 * kernel's REJECT; `port` is what is unreachable, else the protocol. */
SUBPROGRAM int refuse(struct __sk_buff *ctx, const struct packet *packet, bool port)
{
	struct icmp error;
	__u32 quoted;
	__s64 sum;

	if (!packet)
		return false;
	if (!is_one_host(&packet->key.src_addr))
		return false;
	error = error_of(packet, port);
	quoted = quoted_size(packet);
	sum = sum_of_quoted(ctx, packet, quoted);
	if (sum < 0 || bpf_skb_change_tail(ctx, packet->l3 + quoted, 0))
		return false;
	if (bpf_skb_adjust_room(ctx, reply_size(packet), BPF_ADJ_ROOM_MAC, 0))
		return false;
	if (packet->family == FAMILY_IPV4)
		return write_icmpv4(ctx, packet, error, quoted, sum);
	return write_icmpv6(ctx, packet, error, quoted, sum);
}

#endif
