/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Writes other addresses and ports over a packet, one side of it or both at once, and keeps its
 * checksums as right or wrong as they were: incremental update, RFC 1624, never computed anew.
 */
#ifndef BEELINE_NAT_H
#define BEELINE_NAT_H

#include "kernel.h"
#include "packet.h"

enum side {
	SOURCE,
	DESTINATION,
};

/* What a packet says afterwards. */
struct ends {
	const struct addr *source;
	const struct addr *dest;
	struct ports ports;
};

/* What the pseudo-header and the ports become more: one's complement sums, unfolded. Apart,
 * because a checksum that the device is yet to complete has no ports in it. */
struct change {
	__u64 addrs;
	__u64 ports;
};

static __always_inline __u32 fold_to_word(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	return (__u32)sum + (__u32)(sum >> 32);
}

/* Its four 16-bit words are added at once: none waits for another. */
static __always_inline __u16 fold(__u64 sum)
{
	__u32 words = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32 & 0xffff) + (sum >> 48);

	words = (words & 0xffff) + (words >> 16);
	return words + (words >> 16);
}

static __always_inline __u64 difference(__u32 old, __u32 new)
{
	return (__u64)(__u32)~old + new;
}

/* Of IPv4 addresses all but the last words are alike. */
static __always_inline __u64 addr_difference(__u8 family, const struct addr *old,
					     const struct addr *new)
{
	__u64 sum = difference(old->word[3], new->word[3]);

	if (family == FAMILY_IPV6)
		for (int i = 0; i < 3; i++)
			sum += difference(old->word[i], new->word[i]);
	return sum;
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

static __always_inline struct change change_of(const struct packet *packet, const struct ends *to)
{
	return (struct change){
		.addrs = addr_difference(packet->family, &packet->key.src_addr, to->source) +
			 addr_difference(packet->family, &packet->key.dst_addr, to->dest),
		.ports = difference(word_of(packet_ports(packet)), word_of(to->ports)),
	};
}

static __always_inline bool write_ipv4_addrs(struct iphdr *ip, void *end, const struct ends *to,
					     __u64 change)
{
	if (ip + 1 > end)
		return false;
	ip->check = ~fold((__u16)~ip->check + change);
	ip->saddr = to->source->word[3];
	ip->daddr = to->dest->word[3];
	return true;
}

static __always_inline bool write_ipv6_addrs(struct ipv6hdr *ip, void *end, const struct ends *to)
{
	if (ip + 1 > end)
		return false;
	__builtin_memcpy(&ip->saddr, to->source, sizeof(*to->source));
	__builtin_memcpy(&ip->daddr, to->dest, sizeof(*to->dest));
	return true;
}

/* `change`: of the addresses. The checksum of an IPv4 header goes with them. */
static __always_inline bool write_addrs(void *start, void *end, const struct packet *packet,
					const struct ends *to, __u64 change)
{
	if (packet->family == FAMILY_IPV4)
		return write_ipv4_addrs(start + packet->l3, end, to, change);
	return write_ipv6_addrs(start + packet->l3, end, to);
}

static __always_inline bool write_ports(struct ports *ports, void *end, struct ports new)
{
	if (ports + 1 > end)
		return false;
	*ports = new;
	return true;
}

/* All but the transport checksum. */
static __always_inline bool write_ends(void *start, void *end, const struct packet *packet,
				       const struct ends *to, const struct change *change)
{
	return packet->l4 <= MAX_L4_OFFSET && write_ports(start + packet->l4, end, to->ports) &&
	       write_addrs(start, end, packet, to, change->addrs);
}

static __always_inline __u32 checksum_offset(const struct packet *packet)
{
	return packet->l4 + (packet->key.proto == IPPROTO_TCP ? 16 : 6);
}

/* A checksum that is complete. Of UDP 0 says that there is none. */
static __always_inline __u16 corrected(__u16 check, __u64 change, __u8 proto)
{
	if (proto == IPPROTO_UDP && !check)
		return 0;
	check = ~fold((__u16)~check + change);
	return proto == IPPROTO_UDP && !check ? 0xffff : check;
}

static __always_inline bool correct_checksum(void *start, void *end, const struct packet *packet,
					     const struct change *change)
{
	__u16 *check = start + checksum_offset(packet);

	if (packet->l4 > MAX_L4_OFFSET || check + 1 > end)
		return false;
	*check = corrected(*check, change->addrs + change->ports, packet->key.proto);
	return true;
}

/* Of a packet that is nothing but its bytes (XDP): its checksum is complete. */
static __always_inline bool rewrite_frame(const struct frame *frame, const struct packet *packet,
					  const struct ends *to)
{
	struct change change = change_of(packet, to);

	return write_ends(frame->start, frame->end, packet, to, &change) &&
	       correct_checksum(frame->start, frame->end, packet, &change);
}

/* What the kernel makes of a checksum: include/linux/skbuff.h, field ip_summed. */
enum checksum {
	CHECKSUM_NONE = 0,	  /* nobody has looked at it */
	CHECKSUM_UNNECESSARY = 1, /* it is right */
	CHECKSUM_COMPLETE = 2,	  /* the device has summed up the whole packet */
	CHECKSUM_PARTIAL = 3,	  /* a sum over the pseudo-header: the device completes it */
};

static __always_inline enum checksum checksum_of(struct __sk_buff *ctx)
{
	const struct sk_buff *skb = bpf_cast_to_kern_ctx(ctx);

	return BPF_CORE_READ_BITFIELD(skb, ip_summed);
}

/* One that the device is yet to complete: no complement, no ports. */
static __always_inline bool correct_seed(void *start, void *end, const struct packet *packet,
					 const struct change *change)
{
	__u16 *seed = start + checksum_offset(packet);

	if (packet->l4 > MAX_L4_OFFSET || seed + 1 > end)
		return false;
	*seed = fold(*seed + change->addrs);
	return true;
}

/*
 * Without being told, only the kernel's helper knows whether the checksum in the packet is complete
 * or, with transmit offload, a sum over the pseudo-header alone; so it gets the two changes apart.
 * Where the device has summed up the whole packet (CHECKSUM_COMPLETE) the helper takes the
 * change of the pseudo-header off that sum, which is right for IPv4; for IPv6, whose addresses
 * no header checksum covers, the change is put back. (From 6.16 on BPF_F_IPV6 says the same;
 * adding it back works everywhere.)
 */
static __always_inline bool fix_checksum(struct __sk_buff *ctx, const struct packet *packet,
					 const struct change *change, struct ports ports)
{
	__u32 offset = checksum_offset(packet), addrs = fold_to_word(change->addrs);
	__u32 old = word_of(packet_ports(packet)), new = word_of(ports);
	__u64 flags = packet->key.proto == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;

	if (bpf_l4_csum_replace(ctx, offset, 0, addrs, BPF_F_PSEUDO_HDR | flags))
		return false;
	if (packet->family == FAMILY_IPV6)
		bpf_csum_update(ctx, addrs);
	if (old == new)
		return true;
	return !bpf_l4_csum_replace(ctx, offset, old, new, flags | sizeof(new));
}

static __always_inline bool rewrite_ends(struct __sk_buff *ctx, const struct packet *packet,
					 const struct ends *to)
{
	struct change change = change_of(packet, to);
	void *start = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	if (!write_ends(start, end, packet, to, &change))
		return false;
	switch (options.kernel_context ? checksum_of(ctx) : CHECKSUM_COMPLETE) {
	case CHECKSUM_NONE:
	case CHECKSUM_UNNECESSARY:
		return correct_checksum(start, end, packet, &change);
	case CHECKSUM_PARTIAL:
		return correct_seed(start, end, packet, &change);
	case CHECKSUM_COMPLETE:
		return fix_checksum(ctx, packet, &change, to->ports);
	}
	return false;
}

#endif
