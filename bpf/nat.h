/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Writes another address and port over one side of a packet, and maybe another port over the
 * other, and keeps its checksums as right or wrong as they were: incremental update, RFC 1624,
 * never computed anew.
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

static __always_inline bool write_ipv4_addr(struct iphdr *ip, void *end, enum side side,
					    const struct addr *addr, __u32 change)
{
	if (ip + 1 > end)
		return false;
	ip->check = ~fold((__u64)(__u16)~ip->check + change);
	if (side == SOURCE)
		ip->saddr = addr->word[3];
	else
		ip->daddr = addr->word[3];
	return true;
}

static __always_inline bool write_ipv6_addr(struct ipv6hdr *ip, void *end, enum side side,
					    const struct addr *addr)
{
	if (ip + 1 > end)
		return false;
	__builtin_memcpy(side == SOURCE ? &ip->saddr : &ip->daddr, addr, sizeof(*addr));
	return true;
}

static __always_inline bool write_ports(struct ports *ports, void *end, struct ports new)
{
	if (ports + 1 > end)
		return false;
	*ports = new;
	return true;
}

static __always_inline bool write_addr(struct __sk_buff *ctx, __u32 l3, __u8 family, enum side side,
				       const struct addr *to, __u32 change)
{
	void *start = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;

	if (family == FAMILY_IPV4)
		return write_ipv4_addr(start + l3, end, side, to, change);
	return write_ipv6_addr(start + l3, end, side, to);
}

static __always_inline bool write_headers(struct __sk_buff *ctx, const struct packet *packet,
					  enum side side, const struct addr *to, struct ports ports,
					  __u32 change)
{
	void *start = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;

	return packet->l4 <= MAX_L4_OFFSET && write_ports(start + packet->l4, end, ports) &&
	       write_addr(ctx, packet->l3, packet->family, side, to, change);
}

static __always_inline struct ports packet_ports(const struct packet *packet)
{
	return (struct ports){packet->key.src_port, packet->key.dst_port};
}

/* As the checksum sees them. */
static __always_inline __u32 word_of(struct ports ports)
{
	__u32 word;

	__builtin_memcpy(&word, &ports, sizeof(word));
	return word;
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
					 __u32 change, struct ports ports)
{
	__u32 offset = checksum_offset(packet);
	__u32 old = word_of(packet_ports(packet)), new = word_of(ports);
	__u64 flags = packet->key.proto == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;

	if (bpf_l4_csum_replace(ctx, offset, 0, change, BPF_F_PSEUDO_HDR | flags))
		return false;
	if (packet->family == FAMILY_IPV6)
		bpf_csum_update(ctx, change);
	if (old == new)
		return true;
	return !bpf_l4_csum_replace(ctx, offset, old, new, flags | sizeof(new));
}

static __always_inline struct ports translated_ports(const struct packet *packet, enum side side,
						     const struct translation *to)
{
	if (side == SOURCE)
		return (struct ports){to->port, to->other_port ?: packet->key.dst_port};
	return (struct ports){to->other_port ?: packet->key.src_port, to->port};
}

static __always_inline bool rewrite(struct __sk_buff *ctx, const struct packet *packet,
				    enum side side, const struct translation *to)
{
	const struct flow_key *key = &packet->key;
	__u32 change = difference(side == SOURCE ? &key->src_addr : &key->dst_addr, &to->addr);
	struct ports ports = translated_ports(packet, side, to);

	return write_headers(ctx, packet, side, &to->addr, ports, change) &&
	       fix_checksum(ctx, packet, change, ports);
}

#endif
