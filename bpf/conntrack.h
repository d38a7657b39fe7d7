/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Connections that kube-proxy's rules set up are in the kernel's connection tracking. They stay
 * there: a node that changes over to beeline breaks none. So do ours that a network plugin's rules
 * masquerade, when packets begin to be sent on directly. And connections whose packets we send on
 * ourselves are not: when one of those is left to the kernel, it is made known there first.
 */
#ifndef BEELINE_CONNTRACK_H
#define BEELINE_CONNTRACK_H

#include "packet.h"

/* enum ip_conntrack_status */
#define IPS_SEEN_REPLY (1 << 1)
#define IPS_ASSURED (1 << 2)
#define IPS_SRC_NAT (1 << 4)
#define IPS_DST_NAT (1 << 5)

/* As far as they are asked for; where they lie, the kernel says. */
struct nf_conn {
	unsigned long status;
} __attribute__((preserve_access_index));

struct nf_conn___init {
	struct nf_conn ct;
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
struct nf_conn___init *bpf_skb_ct_alloc(struct __sk_buff *ctx, struct bpf_sock_tuple *tuple,
					__u32 tuple__sz, struct bpf_ct_opts *opts,
					__u32 opts__sz) __weak __ksym;
void bpf_ct_set_timeout(struct nf_conn___init *connection, __u32 timeout_ms) __weak __ksym;
int bpf_ct_set_status(const struct nf_conn___init *connection, __u32 status) __weak __ksym;
struct nf_conn *bpf_ct_insert_entry(struct nf_conn___init *connection) __weak __ksym;

static __always_inline __u32 tuple_of(const struct flow_key *key, struct bpf_sock_tuple *tuple)
{
	if (family_of(&key->dst_addr) == FAMILY_IPV4) {
		tuple->ipv4.saddr = key->src_addr.word[3];
		tuple->ipv4.daddr = key->dst_addr.word[3];
		tuple->ipv4.sport = key->src_port;
		tuple->ipv4.dport = key->dst_port;
		return FAMILY_IPV4;
	}
	__builtin_memcpy(tuple->ipv6.saddr, &key->src_addr, sizeof(struct addr));
	__builtin_memcpy(tuple->ipv6.daddr, &key->dst_addr, sizeof(struct addr));
	tuple->ipv6.sport = key->src_port;
	tuple->ipv6.dport = key->dst_port;
	return FAMILY_IPV6;
}

/* The sizes are constants for the verifier. */
static __always_inline struct nf_conn *look_up_tracked(struct __sk_buff *ctx, __u32 family,
						       struct bpf_sock_tuple *tuple,
						       struct bpf_ct_opts *opts)
{
	return family == FAMILY_IPV4
		       ? bpf_skb_ct_lookup(ctx, tuple, sizeof(tuple->ipv4), opts, sizeof(*opts))
		       : bpf_skb_ct_lookup(ctx, tuple, sizeof(tuple->ipv6), opts, sizeof(*opts));
}

/* Whether netfilter has translated the connection that a packet is of, in a way of `status`. Only
 * asked where the kernel can say (options.conntrack): the call has nowhere to go else. */
SUBPROGRAM int is_translated(struct __sk_buff *ctx, const struct flow_key *key, __u32 status)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_ct_opts opts = {.netns_id = BPF_F_CURRENT_NETNS};
	struct nf_conn *connection;
	bool is_translated;
	__u32 family;

	if (!options.conntrack || !key)
		return false;
	opts.l4proto = key->proto;
	family = tuple_of(key, &tuple);
	connection = look_up_tracked(ctx, family, &tuple, &opts);
	if (!connection)
		return false;
	is_translated = connection->status & status;
	bpf_ct_release(connection);
	return is_translated;
}

#define ACQUAINTANCE_MS 120000 /* the next packet that passes the kernel renews it */

/*
 * The kernel is about to route a packet of a connection that it may not have seen: `key` is the
 * packet as routed. To nf_conntrack that is a new connection, and whatever masquerades what pods
 * send, as every network plugin does, would take hold of it. One that is in its table, and has been
 * answered, is left alone.
 */
SUBPROGRAM int acquaint(struct __sk_buff *ctx, const struct flow_key *key)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_ct_opts opts = {.netns_id = BPF_F_CURRENT_NETNS};
	struct nf_conn___init *made;
	struct nf_conn *connection;
	__u32 family;

	if (!options.conntrack || !key)
		return 0;
	opts.l4proto = key->proto;
	family = tuple_of(key, &tuple);
	connection = look_up_tracked(ctx, family, &tuple, &opts);
	if (connection) {
		bpf_ct_release(connection);
		return 0;
	}
	made = family == FAMILY_IPV4
		       ? bpf_skb_ct_alloc(ctx, &tuple, sizeof(tuple.ipv4), &opts, sizeof(opts))
		       : bpf_skb_ct_alloc(ctx, &tuple, sizeof(tuple.ipv6), &opts, sizeof(opts));
	if (!made)
		return 0;
	bpf_ct_set_timeout(made, ACQUAINTANCE_MS);
	bpf_ct_set_status(made, IPS_SEEN_REPLY | IPS_ASSURED);
	connection = bpf_ct_insert_entry(made);
	if (connection)
		bpf_ct_release(connection);
	return 0;
}

#endif
