/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Fragments of a translated datagram. The first has the ports and is translated like any other
 * packet; those that come after it follow by the same flow. One that comes before it is parked,
 * and comes in again behind its first one.
 */
#ifndef BEELINE_FRAGMENT_H
#define BEELINE_FRAGMENT_H

#include "flow.h"
#include "frontend.h"
#include "nat.h"

/* As long as the kernel waits for the rest of a datagram: ip_frag_time is 30 s, IPv6's 60 s. */
#define FRAGMENTS_FOR_NS (60 * 1000000000ull)

static __always_inline struct fragment_key fragment_key_of(const struct packet *packet)
{
	return (struct fragment_key){
		.src_addr = packet->key.src_addr,
		.dst_addr = packet->key.dst_addr,
		.id = packet->fragment_id,
		.proto = packet->family == FAMILY_IPV4 ? packet->key.proto : 0,
		.outward = packet->key.outward,
	};
}

/* As long as ip_frag_time: a first fragment that comes later is of another datagram. */
#define PARKED_FOR_NS (30 * 1000000000ull)

/* Where a parked fragment is put together; not on the stack, which has 512 bytes. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct parked_fragment);
} parked_scratch SEC(".maps");

/* Before a first fragment is translated: its ports, for those that follow. */
SUBPROGRAM int remember_fragment(const struct packet *packet)
{
	struct fragment_key key;
	struct fragment ports;

	if (!packet)
		return 0;
	key = fragment_key_of(packet);
	ports = (struct fragment){
		.src_port = packet->key.src_port,
		.dst_port = packet->key.dst_port,
		.proto = packet->key.proto,
		.seen_ns = bpf_ktime_get_boot_ns(),
	};
	return bpf_map_update_elem(&fragments, &key, &ports, BPF_ANY);
}

/* The flow of the datagram that a later fragment is of; NULL: it is not known. */
static __always_inline struct flow *find_flow_of_fragment(const struct packet *packet)
{
	struct fragment_key key = fragment_key_of(packet);
	const struct fragment *ports = bpf_map_lookup_elem(&fragments, &key);
	struct flow_key flow_key = packet->key;

	if (!ports || bpf_ktime_get_boot_ns() - ports->seen_ns > FRAGMENTS_FOR_NS)
		return NULL;
	flow_key.src_port = ports->src_port;
	flow_key.dst_port = ports->dst_port;
	flow_key.proto = ports->proto;
	return bpf_map_lookup_elem(&flows, &flow_key);
}

/*
 * What is for an address of ours or the node's own waits for its first fragment, and every first
 * fragment to there lets it go: it need not be ours, only what waits must not wait in vain.
 */
static __always_inline bool is_put_in_order(const struct fragment_key *datagram, __u8 proto)
{
	if (proto != IPPROTO_UDP && proto != IPPROTO_TCP)
		return false;
	return bpf_map_lookup_elem(&frontend_addresses, &datagram->dst_addr) ||
	       bpf_map_lookup_elem(&node_addresses, &datagram->dst_addr);
}

static __always_inline bool is_first_known(const struct fragment_key *datagram)
{
	const struct fragment *first = bpf_map_lookup_elem(&fragments, datagram);

	return first && bpf_ktime_get_boot_ns() - first->seen_ns <= FRAGMENTS_FOR_NS;
}

static __always_inline bool is_outdated(const struct parked_fragment *parked)
{
	return bpf_ktime_get_boot_ns() - parked->seen_ns > PARKED_FOR_NS;
}

/* The size itself, of 1 to PARKED_MAX_BYTES, in a way that the verifier of 6.1 can follow. */
static __always_inline __u32 bounded(__u32 size)
{
	__u32 last = size - 1;

	asm volatile("" : "+r"(last));
	return (last & (PARKED_MAX_BYTES - 1)) + 1;
}

/* In the first free place; false: there is none. */
static __always_inline bool store_parked(struct parked_key *key,
					 const struct parked_fragment *parked)
{
#pragma clang loop unroll(disable)
	for (__u32 place = 0; place < PARKED_PER_DATAGRAM; place++) {
		const struct parked_fragment *old;

		key->place = place;
		old = bpf_map_lookup_elem(&parked_fragments, key);
		if (old && is_outdated(old))
			bpf_map_delete_elem(&parked_fragments, key);
		if (!bpf_map_update_elem(&parked_fragments, key, parked, BPF_NOEXIST))
			return true;
	}
	return false;
}

/* A later fragment that cannot follow. False: it does not wait, since there is no place, or its
 * first one has come, maybe just now on another CPU, which will not look again. */
SUBPROGRAM int park_fragment(struct __sk_buff *ctx, const struct packet *packet)
{
	struct parked_key key = {};
	struct parked_fragment *parked;
	__u32 zero = 0, size;

	if (!packet)
		return false;
	key.datagram = fragment_key_of(packet);
	if (!is_put_in_order(&key.datagram, packet->key.proto))
		return false;
	parked = bpf_map_lookup_elem(&parked_scratch, &zero);
	if (!parked || is_first_known(&key.datagram))
		return false;
	size = packet->l3_size;
	if (size > PARKED_MAX_BYTES ||
	    bpf_skb_load_bytes(ctx, packet->l3, parked->bytes, bounded(size)))
		return false;
	parked->size = size;
	parked->seen_ns = bpf_ktime_get_boot_ns();
	if (!store_parked(&key, parked))
		return false;
	return !is_first_known(&key.datagram) || bpf_map_delete_elem(&parked_fragments, &key);
}

/* Behind the link header that is there. */
static __always_inline bool become(struct __sk_buff *ctx, __u8 l3,
				   const struct parked_fragment *parked)
{
	__u32 size = bounded(parked->size);

	return !bpf_skb_change_tail(ctx, l3 + size, 0) &&
	       !bpf_skb_store_bytes(ctx, l3, parked->bytes, size, BPF_F_RECOMPUTE_CSUM);
}

/*
 * A first fragment. True: something was parked for it. Then the first has been sent to where it
 * came in, and behind it what was parked, and `ctx` is nothing any more. What is taken out of the
 * map by somebody else, or makes room there, while it is read is not sent.
 */
SUBPROGRAM int release_fragments(struct __sk_buff *ctx, const struct packet *packet)
{
	struct parked_key key = {};
	bool has_any = false;

	if (!packet)
		return false;
	key.datagram = fragment_key_of(packet);
	if (!is_put_in_order(&key.datagram, packet->key.proto))
		return false;
	remember_fragment(packet);
#pragma clang loop unroll(disable)
	for (__u32 place = 0; place < PARKED_PER_DATAGRAM; place++) {
		const struct parked_fragment *parked;
		bool is_written;

		key.place = place;
		parked = bpf_map_lookup_elem(&parked_fragments, &key);
		if (!parked)
			continue;
		if (is_outdated(parked)) {
			bpf_map_delete_elem(&parked_fragments, &key);
			continue;
		}
		if (!has_any && bpf_clone_redirect(ctx, ctx->ifindex, BPF_F_INGRESS))
			return false;
		has_any = true;
		is_written = become(ctx, packet->l3, parked);
		if (!bpf_map_delete_elem(&parked_fragments, &key) && is_written)
			bpf_clone_redirect(ctx, ctx->ifindex, BPF_F_INGRESS);
	}
	return has_any;
}

/* The transport checksum is in the first fragment, and was changed there for all of them. */
SUBPROGRAM int follow_fragment(struct __sk_buff *ctx, const struct packet *packet, bool is_outward)
{
	void *start = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ends to = {};
	struct flow *flow;
	__u64 change;

	if (!packet)
		return REASON_FRAGMENT;
	flow = find_flow_of_fragment(packet);
	if (!flow)
		return REASON_FRAGMENT;
	to.source = is_outward ? &flow->addr : &packet->key.src_addr;
	to.dest = is_outward ? &packet->key.dst_addr : &flow->addr;
	change = change_of(packet, &to).addrs;
	if (!write_addrs(start, end, packet, &to, change))
		return failure_of(flow);
	/* An IPv4 header takes up the change in its own checksum; where the device has summed up
	 * an IPv6 packet (CHECKSUM_COMPLETE), that sum has changed. */
	if (packet->family == FAMILY_IPV6)
		bpf_csum_update(ctx, fold_to_word(change));
	return reason_of(flow);
}

#endif
