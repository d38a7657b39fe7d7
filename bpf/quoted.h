/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * ICMP errors about translated packets: whoever gets one must find in it the packet that it
 * sent. The packet that is quoted went the other way, so the flow of the error's own direction
 * is found by the quoted one turned round, and what it would write over one side of a reply is
 * written over the other side of the quoted packet.
 */
#ifndef BEELINE_QUOTED_H
#define BEELINE_QUOTED_H

#include <stddef.h>
#include "direct.h"
#include "icmp.h"

/* RFC 792, RFC 4443 2.1: unreachable, time exceeded, parameter problem; too big is a number of
 * its own in ICMPv6. */
static __always_inline bool is_error(__u8 family, __u8 type)
{
	if (family == FAMILY_IPV6)
		return type >= 1 && type <= 4;
	return type == 3 || type == 11 || type == 12;
}

static __always_inline int parse_quoted_ipv4(const struct frame *frame, struct packet *quoted)
{
	const struct iphdr *ip = frame->start + quoted->l3;

	if (ip + 1 > frame->end)
		return TOO_SHORT;
	if (ip->version != 4 || ip->ihl < 5 || !has_ports(ip->protocol) ||
	    ip->frag_off & bpf_htons(0x1fff))
		return REASON_NOT_OURS;
	quoted->key.src_addr = addr_from_ipv4(ip->saddr);
	quoted->key.dst_addr = addr_from_ipv4(ip->daddr);
	quoted->key.proto = ip->protocol;
	quoted->l4 = quoted->l3 + ip->ihl * 4;
	return UNDECIDED;
}

static __always_inline int parse_quoted_ipv6(const struct frame *frame, struct packet *quoted)
{
	const struct ipv6hdr *ip = frame->start + quoted->l3;

	if (ip + 1 > frame->end)
		return TOO_SHORT;
	if (ip->version != 6)
		return REASON_NOT_OURS;
	__builtin_memcpy(&quoted->key.src_addr, &ip->saddr, sizeof(struct addr));
	__builtin_memcpy(&quoted->key.dst_addr, &ip->daddr, sizeof(struct addr));
	quoted->l4 = quoted->l3 + sizeof(*ip);
	return skip_extensions(frame, quoted, ip->nexthdr);
}

/* `quoted` starts behind the ICMP header, and has no more than the error's bytes. */
static __always_inline int parse_quoted(struct __sk_buff *ctx, const struct packet *error,
					struct packet *quoted)
{
	struct frame frame = {
		.start = (void *)(long)ctx->data,
		.end = (void *)(long)ctx->data_end,
	};
	const struct icmp *icmp = frame.start + error->l4;
	const struct ports *ports;
	int reason;

	if (error->l4 > MAX_L4_OFFSET)
		return REASON_NOT_OURS;
	if (icmp + 1 > frame.end)
		return TOO_SHORT;
	if (!is_error(error->family, bpf_ntohs(icmp->what) >> 8))
		return REASON_NOT_OURS;
	quoted->family = error->family;
	quoted->l3 = error->l4 + sizeof(*icmp);
	quoted->l3_size = error->l3 + error->l3_size - quoted->l3;
	reason = error->family == FAMILY_IPV4 ? parse_quoted_ipv4(&frame, quoted)
					      : parse_quoted_ipv6(&frame, quoted);
	if (reason != UNDECIDED)
		return reason;
	/* Eight bytes of it are in every error, be it only those. */
	if (quoted->l4 > MAX_L4_OFFSET || quoted->l4 + 8 > error->l3 + error->l3_size)
		return REASON_NOT_OURS;
	ports = frame.start + quoted->l4;
	if (ports + 1 > frame.end)
		return TOO_SHORT;
	quoted->key.src_port = ports->source;
	quoted->key.dst_port = ports->dest;
	return UNDECIDED;
}

/* As a packet that answers would be at the same hook. */
static __always_inline struct flow_key turned_round(const struct flow_key *key)
{
	return (struct flow_key){
		.src_addr = key->dst_addr,
		.dst_addr = key->src_addr,
		.src_port = key->dst_port,
		.dst_port = key->src_port,
		.proto = key->proto,
		.outward = key->outward,
	};
}

/* The quoted packet's transport checksum, where the quote goes that far. Returns by how much
 * that changes the sum of the quoted bytes. */
static __always_inline __u64 correct_quoted_checksum(struct __sk_buff *ctx,
						     const struct packet *error,
						     const struct packet *quoted, __u64 change)
{
	void *start = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 offset = checksum_offset(quoted);
	__u16 *check, old, new;

	if (offset > MAX_HEADERS || offset + sizeof(*check) > error->l3 + error->l3_size)
		return 0;
	check = start + offset;
	if (quoted->key.proto == IPPROTO_SCTP || check + 1 > end)
		return 0;
	old = *check;
	new = corrected(old, change, quoted->key.proto);
	*check = new;
	return (__u64)(__u16)~old + new;
}

/*
 * Changes the quoted packet, and with it the sum that the error's checksum covers. What changes
 * in an IPv4 header is no part of that: its own checksum takes up the difference.
 */
static __always_inline bool correct_quoted(struct __sk_buff *ctx, const struct packet *error,
					   const struct packet *quoted, enum side side,
					   const struct flow *flow)
{
	void *start = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ends ends = ends_of(quoted, side, flow);
	struct change change = change_of(quoted, &ends);
	__u64 sum = change.ports;

	if (!write_ends(start, end, quoted, &ends, &change))
		return false;
	sum += correct_quoted_checksum(ctx, error, quoted, change.addrs + change.ports);
	if (quoted->family == FAMILY_IPV6)
		sum += change.addrs;
	return !bpf_l4_csum_replace(ctx, error->l4 + offsetof(struct icmp, check), 0, fold(sum), 0);
}

/* As the kernel's NAT does, whoever sent the error: a router behind the node is not shown. */
static __always_inline bool correct_error(struct __sk_buff *ctx, const struct packet *error,
					  const struct flow *flow)
{
	void *start = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ends ends = one_end(error, flow);
	__u64 change = change_of(error, &ends).addrs;

	if (!write_addrs(start, end, error, &ends, change))
		return false;
	if (error->family == FAMILY_IPV4)
		return true;
	bpf_csum_update(ctx, fold_to_word(change)); /* see fix_checksum() */
	return !bpf_l4_csum_replace(ctx, error->l4 + offsetof(struct icmp, check), 0,
				    fold_to_word(change), BPF_F_PSEUDO_HDR);
}

/* UNDECIDED: `quoted` is filled, and its headers lie in the linear part. */
SUBPROGRAM int find_quoted(struct __sk_buff *ctx, const struct packet *error, struct packet *quoted)
{
	if (!error || !quoted)
		return REASON_NOT_OURS;
#pragma clang loop unroll(disable)
	for (int attempt = 0; attempt < 2; attempt++) {
		int reason = parse_quoted(ctx, error, quoted);

		if (reason == ICMP_MESSAGE || reason == NO_PORTS || reason == NOT_READ)
			return REASON_NOT_OURS;
		if (reason != TOO_SHORT)
			return reason;
		if (bpf_skb_pull_data(ctx, ctx->len < MAX_HEADERS ? ctx->len : MAX_HEADERS))
			break;
	}
	return REASON_NOT_OURS;
}

/* An error goes the same way as a reply to the packet that it quotes. */
SUBPROGRAM int translate_error(struct __sk_buff *ctx, const struct packet *error, bool is_outward)
{
	struct packet quoted = {};
	const struct flow *flow;
	struct flow_entry *entry = scratch_entry();
	int reason;

	if (!error || !entry)
		return REASON_NOT_OURS;
	quoted.key.outward = is_outward;
	reason = find_quoted(ctx, error, &quoted);
	if (reason != UNDECIDED)
		return reason;
	entry->key = turned_round(&quoted.key);
	flow = bpf_map_lookup_elem(&flows, &entry->key);
	if (!flow || !same_addr(&error->key.dst_addr, &quoted.key.src_addr))
		return REASON_NOT_OURS;
	if (!correct_quoted(ctx, error, &quoted, is_outward ? DESTINATION : SOURCE, flow) ||
	    !correct_error(ctx, error, flow))
		return failure_of(flow);
	return REASON_ICMP_ERROR;
}

#endif
