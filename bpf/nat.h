/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Writes another address and port over one side of a packet, and keeps its checksums as right
 * or wrong as they were: incremental update, RFC 1624, never computed anew.
 */
#ifndef BEELINE_NAT_H
#define BEELINE_NAT_H

#include "packet.h"

enum side {
	SOURCE,
	DESTINATION,
};

/* One's complement `new - old`, unfolded. */
static __always_inline __u32 difference(const struct addr *old, const struct addr *new)
{
	__u64 sum = 0;

	for (int i = 0; i < 4; i++)
		sum += (__u64)(__u32)~old->word[i] + new->word[i];
	sum = (sum & 0xffffffff) + (sum >> 32);
	return (__u32)sum + (__u32)(sum >> 32);
}

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

static __always_inline bool write_ipv4_addr(void *start, void *end, enum side side,
					    const struct addr *addr, __u32 change)
{
	struct iphdr *ip = start + L3_OFFSET;

	if (ip + 1 > end)
		return false;
	ip->check = ~fold((__u64)(__u16)~ip->check + change);
	if (side == SOURCE)
		ip->saddr = addr->word[3];
	else
		ip->daddr = addr->word[3];
	return true;
}

static __always_inline bool write_ipv6_addr(void *start, void *end, enum side side,
					    const struct addr *addr)
{
	struct ipv6hdr *ip = start + L3_OFFSET;

	if (ip + 1 > end)
		return false;
	__builtin_memcpy(side == SOURCE ? &ip->saddr : &ip->daddr, addr, sizeof(*addr));
	return true;
}

static __always_inline bool write_port(void *start, void *end, __u32 l4, enum side side,
				       __be16 port)
{
	struct ports *ports = start + l4;

	if (ports + 1 > end)
		return false;
	if (side == SOURCE)
		ports->source = port;
	else
		ports->dest = port;
	return true;
}

static __always_inline bool write_headers(struct __sk_buff *ctx, const struct packet *packet,
					  enum side side, const struct party *to, __u32 change)
{
	void *start = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;

	if (packet->l4 > MAX_L4_OFFSET || !write_port(start, end, packet->l4, side, to->port))
		return false;
	if (packet->family == FAMILY_IPV4)
		return write_ipv4_addr(start, end, side, &to->addr, change);
	return write_ipv6_addr(start, end, side, &to->addr);
}

static __always_inline __u32 checksum_offset(const struct packet *packet)
{
	return packet->l4 + (packet->key.proto == IPPROTO_TCP ? 16 : 6);
}

/*
 * Only the kernel's helper knows whether the checksum in the packet is complete or, with
 * transmit offload, a sum over the pseudo-header alone; so it gets the two changes apart.
 * Where the device has summed up the whole packet (CHECKSUM_COMPLETE) the helper takes the
 * change of the pseudo-header off that sum, which is right for IPv4; for IPv6, whose addresses
 * no header checksum covers, the change is put back. (From 6.16 on BPF_F_IPV6 says the same;
 * adding it back works everywhere.)
 */
static __always_inline bool fix_checksum(struct __sk_buff *ctx, const struct packet *packet,
					 __u32 change, __be16 old_port, __be16 new_port)
{
	__u32 offset = checksum_offset(packet);
	__u64 flags = packet->key.proto == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;

	if (bpf_l4_csum_replace(ctx, offset, 0, change, BPF_F_PSEUDO_HDR | flags))
		return false;
	if (packet->family == FAMILY_IPV6)
		bpf_csum_update(ctx, change);
	if (old_port == new_port)
		return true;
	return !bpf_l4_csum_replace(ctx, offset, old_port, new_port, flags | sizeof(new_port));
}

static __always_inline bool rewrite(struct __sk_buff *ctx, const struct packet *packet,
				    enum side side, const struct party *to)
{
	bool source = side == SOURCE;
	const struct flow_key *key = &packet->key;
	__u32 change = difference(source ? &key->src_addr : &key->dst_addr, &to->addr);
	__be16 old_port = source ? key->src_port : key->dst_port;

	return write_headers(ctx, packet, side, to, change) &&
	       fix_checksum(ctx, packet, change, old_port, to->port);
}

#endif
