/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Connections that kube-proxy's rules set up are in the kernel's connection tracking. They stay
 * there: a node that changes over to beeline breaks none.
 */
#ifndef BEELINE_CONNTRACK_H
#define BEELINE_CONNTRACK_H

#include "packet.h"

#define IPS_DST_NAT (1 << 5) /* enum ip_conntrack_status */

/* As far as they are asked for; where they lie, the kernel says. */
struct nf_conn {
	unsigned long status;
} __attribute__((preserve_access_index));

struct bpf_ct_opts {
	__s32 netns_id;
	__s32 error;
	__u8 l4proto;
	__u8 dir;
	__u8 reserved[2];
};

struct nf_conn *bpf_skb_ct_lookup(struct __sk_buff *ctx, struct bpf_sock_tuple *tuple,
				  __u32 tuple__sz, struct bpf_ct_opts *opts,
				  __u32 opts__sz) __weak __ksym;
void bpf_ct_release(struct nf_conn *connection) __weak __ksym;

/* Whether a packet of the middle of a connection is one of kube-proxy's. Only asked where the
 * kernel can say (options.conntrack): the call has nowhere to go else. */
SUBPROGRAM int is_tracked(struct __sk_buff *ctx, const struct packet *packet)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_ct_opts opts = {.netns_id = BPF_F_CURRENT_NETNS};
	struct nf_conn *connection;
	bool is_translated;

	if (!options.conntrack || !packet)
		return false;
	opts.l4proto = packet->key.proto;
	if (packet->family == FAMILY_IPV4) {
		tuple.ipv4.saddr = packet->key.src_addr.word[3];
		tuple.ipv4.daddr = packet->key.dst_addr.word[3];
		tuple.ipv4.sport = packet->key.src_port;
		tuple.ipv4.dport = packet->key.dst_port;
		connection =
			bpf_skb_ct_lookup(ctx, &tuple, sizeof(tuple.ipv4), &opts, sizeof(opts));
	} else {
		__builtin_memcpy(tuple.ipv6.saddr, &packet->key.src_addr, sizeof(struct addr));
		__builtin_memcpy(tuple.ipv6.daddr, &packet->key.dst_addr, sizeof(struct addr));
		tuple.ipv6.sport = packet->key.src_port;
		tuple.ipv6.dport = packet->key.dst_port;
		connection =
			bpf_skb_ct_lookup(ctx, &tuple, sizeof(tuple.ipv6), &opts, sizeof(opts));
	}
	if (!connection)
		return false;
	is_translated = connection->status & IPS_DST_NAT;
	bpf_ct_release(connection);
	return is_translated;
}

#endif
