/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Fragments of a translated datagram. The first has the ports and is translated like any other
 * packet; those that come after it follow by the same flow. One that comes before it cannot.
 */
#ifndef BEELINE_FRAGMENT_H
#define BEELINE_FRAGMENT_H

#include "flow.h"
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

/* The transport checksum is in the first fragment, and was changed there for all of them. */
SUBPROGRAM int follow_fragment(struct __sk_buff *ctx, const struct packet *packet, bool is_outward)
{
	struct flow *flow;
	__u32 change;

	if (!packet)
		return REASON_FRAGMENT;
	flow = find_flow_of_fragment(packet);
	if (!flow)
		return REASON_FRAGMENT;
	change =
		difference(is_outward ? &packet->key.src_addr : &packet->key.dst_addr, &flow->addr);
	if (!write_addr(ctx, packet->l3, packet->family, is_outward ? SOURCE : DESTINATION,
			&flow->addr, change))
		return failure_of(flow);
	/* An IPv4 header takes up the change in its own checksum; where the device has summed up
	 * an IPv6 packet (CHECKSUM_COMPLETE), that sum has changed. */
	if (packet->family == FAMILY_IPV6)
		bpf_csum_update(ctx, change);
	return reason_of(flow);
}

#endif
