/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Reads a frame, or on an L3 device a packet, down to its ports. What has none, or is of no
 * interest, or makes no sense, is named and left alone: the kernel knows what to do with it.
 */
#ifndef BEELINE_PACKET_H
#define BEELINE_PACKET_H

#include <stddef.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include "config.h"
#include "verdict.h"

#define MAX_VLAN_TAGS 2
#define MAX_IPV6_EXTENSIONS 4
#define MAX_L4_OFFSET 192
#define MAX_HEADERS (MAX_L4_OFFSET + sizeof(struct tcphdr))

/* Not reasons. */
#define TOO_SHORT (-2)	  /* the headers are not all in the linear part of the packet */
#define ICMP_MESSAGE (-3) /* no ports; all else of `packet` is filled */
#define NO_PORTS (-4)	  /* a later fragment: the same */
#define NOT_READ (-5)	  /* of another protocol, or behind more headers than are read: the same */

struct packet {
	struct flow_key key; /* as it is on the wire */
	__u32 l3_size;	     /* bytes of the IP packet */
	__u16 l4;	     /* offset of the transport header in the frame */
	__u8 l3;	     /* offset of the IP header in the frame */
	__u8 family;
	bool opens;  /* TCP: SYN without ACK */
	bool closes; /* TCP: FIN or RST */
	bool fragmented;
	__u8 scope; /* SCOPE_INTERNAL: it came from a pod of this node */
	__be32 fragment_id;
	__u8 next_at; /* offset in the IP packet of what says the transport protocol */
	__u8 l4_size; /* bytes of the transport header: TCP, UDP */
	__u8 hop_limit;
	__u8 tos;	/* IPv4 */
	__u16 gso_size; /* bytes of a segment, with offloads; 0: it is one packet */
	int forward;	/* enum forward, or UNDECIDED: how it goes on, where it is translated */
	__u32 ifindex;	/* of the device by which it goes on, if it is sent */
};

struct frame {
	void *start;
	void *end;
	__u32 size; /* bytes of the whole, linear or not */
	bool gso;
};

/* Read and written as one word, wherever it lies. */
struct ports {
	__be16 source;
	__be16 dest;
} __attribute__((aligned(4)));

struct extension {
	__u8 next;
	__u8 size; /* in units of 8 bytes, without the first 8 */
	__u8 routing_type;
	__u8 segments_left;
};

struct fragment_extension {
	__u8 next;
	__u8 reserved;
	__be16 offset;
	__be32 id;
};

/* The last four bytes of a key at once: hashing reads them as a word, and a CPU waits for what was
 * written in pieces. */
static __always_inline void set_proto(struct packet *packet, __u8 proto)
{
	__be32 word = bpf_htonl((__u32)proto << 24 | (__u32)packet->key.outward << 16);

	__builtin_memcpy(&packet->key.proto, &word, sizeof(word));
}

static __always_inline bool has_ports(__u8 proto)
{
	return proto == IPPROTO_TCP || proto == IPPROTO_UDP || proto == IPPROTO_SCTP;
}

/* A packet of BIG TCP (over 64 KiB, made by offloads only) says 0 in its length field. */
static __always_inline __u32 l3_size(const struct frame *frame, const struct packet *packet,
				     __u32 stated)
{
	return !stated && frame->gso ? frame->size - packet->l3 : stated;
}

static __always_inline int parse_tcp(const struct frame *frame, struct packet *packet)
{
	const struct tcphdr *tcp = frame->start + packet->l4;

	if (tcp + 1 > frame->end)
		return TOO_SHORT;
	if (tcp->doff < 5 || packet->l3 + packet->l3_size < packet->l4 + tcp->doff * 4)
		return REASON_MALFORMED;
	packet->l4_size = tcp->doff * 4;
	packet->opens = tcp->syn && !tcp->ack;
	packet->closes = tcp->fin || tcp->rst;
	return UNDECIDED;
}

static __always_inline int parse_udp(const struct frame *frame, struct packet *packet)
{
	const struct udphdr *udp = frame->start + packet->l4;

	if (udp + 1 > frame->end)
		return TOO_SHORT;
	if (packet->l3 + packet->l3_size < packet->l4 + sizeof(*udp))
		return REASON_MALFORMED;
	packet->l4_size = sizeof(*udp);
	return UNDECIDED;
}

static __always_inline int parse_l4(const struct frame *frame, struct packet *packet)
{
	const struct ports *ports = frame->start + packet->l4;

	if (ports + 1 > frame->end)
		return TOO_SHORT;
	__builtin_memcpy(&packet->key.src_port, ports, sizeof(*ports));
	if (packet->key.proto == IPPROTO_TCP)
		return parse_tcp(frame, packet);
	if (packet->key.proto == IPPROTO_UDP)
		return parse_udp(frame, packet);
	return UNDECIDED;
}

static __always_inline int parse_ipv4(const struct frame *frame, struct packet *packet)
{
	const struct iphdr *ip = frame->start + packet->l3;
	__u32 header_size;

	if (ip + 1 > frame->end)
		return TOO_SHORT;
	packet->family = FAMILY_IPV4;
	packet->key.src_addr = addr_from_ipv4(ip->saddr);
	packet->key.dst_addr = addr_from_ipv4(ip->daddr);
	header_size = ip->ihl * 4;
	packet->l3_size = l3_size(frame, packet, bpf_ntohs(ip->tot_len));
	/* Said apart: the verifier of 6.1 would follow the comparison of a header with 0 to where
	 * it cannot lead, and take the header to end before it begins. */
	if (!packet->l3_size)
		return REASON_MALFORMED;
	asm volatile("" : "+r"(header_size));
	if (ip->version != 4 || header_size < sizeof(*ip) || packet->l3_size < header_size ||
	    packet->l3_size > frame->size - packet->l3)
		return REASON_MALFORMED;
	set_proto(packet, ip->protocol);
	packet->tos = ip->tos;
	packet->hop_limit = ip->ttl;
	packet->l4 = packet->l3 + header_size;
	packet->next_at = offsetof(struct iphdr, protocol);
	packet->fragmented = ip->frag_off & bpf_htons(0x3fff);
	packet->fragment_id = (__be32)ip->id;
	if (ip->frag_off & bpf_htons(0x1fff))
		return NO_PORTS;
	if (ip->protocol == IPPROTO_ICMP)
		return ICMP_MESSAGE;
	return has_ports(ip->protocol) ? parse_l4(frame, packet) : NOT_READ;
}

/* One step along the chain: `next` and `l4` move on. A route not travelled to its end hides
 * the real destination: not ours. */
static __always_inline int skip_extension(const struct frame *frame, struct packet *packet,
					  __u8 *next)
{
	const struct extension *extension = frame->start + packet->l4;
	const struct fragment_extension *fragment = frame->start + packet->l4;

	if (fragment + 1 > frame->end)
		return TOO_SHORT;
	if (packet->l4 + sizeof(*fragment) > packet->l3 + packet->l3_size)
		return REASON_MALFORMED;
	if (*next == IPPROTO_FRAGMENT) {
		if (packet->fragmented)
			return REASON_MALFORMED; /* a fragment of a fragment: RFC 8200 has none */
		packet->fragmented = fragment->offset & bpf_htons(0xfff9);
		packet->fragment_id = fragment->id;
		packet->key.proto = fragment->next;
		if (fragment->offset & bpf_htons(0xfff8))
			return NO_PORTS;
	}
	if (*next == IPPROTO_ROUTING && extension->segments_left)
		return NOT_READ;
	packet->next_at = packet->l4 - packet->l3;
	packet->l4 += *next == IPPROTO_FRAGMENT ? 8 : (extension->size + 1) * 8;
	*next = extension->next;
	return packet->l4 > MAX_L4_OFFSET ? NOT_READ : UNDECIDED;
}

static __always_inline bool is_extension(__u8 next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_DSTOPTS || next == IPPROTO_ROUTING ||
	       next == IPPROTO_FRAGMENT;
}

static __always_inline int skip_extensions(const struct frame *frame, struct packet *packet,
					   __u8 next)
{
	for (int i = 0; i < MAX_IPV6_EXTENSIONS && is_extension(next); i++) {
		int reason = skip_extension(frame, packet, &next);

		if (reason != UNDECIDED)
			return reason;
	}
	set_proto(packet, next);
	if (next == IPPROTO_ICMPV6)
		return ICMP_MESSAGE;
	return has_ports(next) ? UNDECIDED : NOT_READ;
}

static __always_inline int parse_ipv6(const struct frame *frame, struct packet *packet)
{
	const struct ipv6hdr *ip = frame->start + packet->l3;
	int reason;

	if (ip + 1 > frame->end)
		return TOO_SHORT;
	packet->family = FAMILY_IPV6;
	__builtin_memcpy(&packet->key.src_addr, &ip->saddr, sizeof(struct addr));
	__builtin_memcpy(&packet->key.dst_addr, &ip->daddr, sizeof(struct addr));
	packet->l3_size = l3_size(frame, packet, bpf_ntohs(ip->payload_len));
	if (ip->payload_len)
		packet->l3_size += sizeof(*ip);
	if (ip->version != 6 || packet->l3_size < sizeof(*ip) ||
	    packet->l3_size > frame->size - packet->l3)
		return REASON_MALFORMED;
	packet->hop_limit = ip->hop_limit;
	packet->l4 = packet->l3 + sizeof(*ip);
	packet->next_at = offsetof(struct ipv6hdr, nexthdr);
	reason = skip_extensions(frame, packet, ip->nexthdr);
	return reason == UNDECIDED ? parse_l4(frame, packet) : reason;
}

struct vlan_tag {
	__be16 tci;
	__be16 type; /* of what follows */
};

static __always_inline bool is_vlan(__be16 type)
{
	return type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD);
}

/* Behind the tags that are still in the frame (the kernel, or the device, takes off the outer
 * one on the way in): offset of what follows << 16 | its type. 0: there are too many. */
SUBPROGRAM __u32 skip_vlan_tags(struct __sk_buff *ctx)
{
	__u32 offset = ETH_HLEN;

	for (int i = 0; i < MAX_VLAN_TAGS; i++) {
		struct vlan_tag tag;

		if (bpf_skb_load_bytes(ctx, offset, &tag, sizeof(tag)))
			return 0;
		offset += sizeof(tag);
		if (!is_vlan(tag.type))
			return offset << 16 | tag.type;
	}
	return 0;
}

static __always_inline int parse_ip(const struct frame *frame, struct packet *packet, __be16 type)
{
	if (type == bpf_htons(ETH_P_IP) && options.ipv4)
		return parse_ipv4(frame, packet);
	if (type == bpf_htons(ETH_P_IPV6) && options.ipv6)
		return parse_ipv6(frame, packet);
	return REASON_NOT_OURS;
}

static __always_inline int parse_skb(struct __sk_buff *ctx, struct packet *packet)
{
	struct frame frame = {
		.start = (void *)(long)ctx->data,
		.end = (void *)(long)ctx->data_end,
		.size = ctx->len,
		.gso = ctx->gso_size,
	};
	const struct ethhdr *eth = frame.start;
	__be16 type = ctx->protocol;

	packet->gso_size = ctx->gso_size;
	packet->l3 = 0;
	if (!options.l3_device) {
		if (eth + 1 > frame.end)
			return TOO_SHORT;
		packet->l3 = sizeof(*eth);
		type = eth->h_proto;
	}
	if (!options.l3_device && is_vlan(type)) {
		__u32 found = skip_vlan_tags(ctx);

		packet->l3 = found >> 16 & 31;
		type = found;
	}
	return parse_ip(&frame, packet, type);
}

/* UNDECIDED: `packet` is filled, its headers lie in the linear part. Else why not. A packet is
 * only pulled together when its headers are scattered, which few drivers do. */
static __always_inline int parse(struct __sk_buff *ctx, struct packet *packet)
{
#pragma clang loop unroll(disable)
	for (int attempt = 0; attempt < 2; attempt++) {
		int reason = parse_skb(ctx, packet);

		if (reason != TOO_SHORT)
			return reason;
		if (bpf_skb_pull_data(ctx, ctx->len < MAX_HEADERS ? ctx->len : MAX_HEADERS))
			break;
	}
	return REASON_MALFORMED;
}

/* The same of a frame as the driver has it. Not looked behind are VLAN tags; nothing is pulled
 * together: TOO_SHORT. */
static __always_inline int parse_frame(const struct frame *frame, struct packet *packet)
{
	const struct ethhdr *eth = frame->start;

	if (eth + 1 > frame->end)
		return TOO_SHORT;
	packet->l3 = sizeof(*eth);
	return parse_ip(frame, packet, eth->h_proto);
}

#endif
