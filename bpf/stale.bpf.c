// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Which UDP sockets are connected to a backend that is gone: they were translated once, in
 * connect(), so without help they would send there for ever. An iterator over `sockets`, which
 * sees every network namespace; whoever reads it (stale.ts) destroys them. TCP connections end
 * by themselves, unconnected UDP sockets choose again with their next datagram.
 */
#include <linux/in.h>
#include <linux/in6.h>
#include "kernel.h"
#include "socket.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct seq_file;
struct bpf_iter_meta {
	struct seq_file *seq;
};
struct bpf_iter__bpf_sk_storage_map {
	struct bpf_iter_meta *meta;
	struct bpf_map *map;
	struct sock *sk;
	void *value;
};
#pragma clang attribute pop

#define AF_INET6 10

static __always_inline struct addr addr_from_ipv6(const struct in6_addr *address)
{
	return (struct addr){.word = {address->s6_addr32[0], address->s6_addr32[1],
				      address->s6_addr32[2], address->s6_addr32[3]}};
}

static __always_inline bool is_connected_udp(const struct sock *sk)
{
	return sk->sk_protocol == IPPROTO_UDP && sk->__sk_common.skc_state == BPF_TCP_ESTABLISHED;
}

static __always_inline struct stale_socket describe(const struct sock *sk)
{
	const struct sock_common *common = &sk->__sk_common;
	bool is_v6 = common->skc_family == AF_INET6;

	return (struct stale_socket){
		.local = is_v6 ? addr_from_ipv6(&common->skc_v6_rcv_saddr)
			       : addr_from_ipv4(common->skc_rcv_saddr),
		.remote = is_v6 ? addr_from_ipv6(&common->skc_v6_daddr)
				: addr_from_ipv4(common->skc_daddr),
		.local_port = bpf_htons(common->skc_num),
		.remote_port = common->skc_dport,
		.netns_inode = common->skc_net.net->ns.inum,
		.cookie = common->skc_cookie.counter,
		.device = common->skc_bound_dev_if,
		.domain = common->skc_family,
	};
}

/* A connect() that failed leaves a socket where it was, and ours says where it should be. */
static __always_inline bool is_connected_to(const struct stale_socket *socket,
					    const struct socket_peer *peer)
{
	return socket->remote_port == peer->backend_port &&
	       same_addr(&socket->remote, &peer->backend);
}

SEC("iter/bpf_sk_storage_map")
int find_stale(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	const struct socket_peers *peers = ctx->value;
	struct seq_file *seq = ctx->meta->seq;
	const struct sock *sk = ctx->sk;
	struct stale_socket socket;

	if (!sk || !peers || !peers->connected || !is_connected_udp(sk))
		return 0;
	if (find_backend(peers->peer[0].backend_id, peers->peer[0].generation))
		return 0;
	socket = describe(sk);
	if (is_connected_to(&socket, &peers->peer[0]))
		bpf_seq_write(seq, &socket, sizeof(socket));
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
