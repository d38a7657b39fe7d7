/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* A system call's addresses, read and written in the one shape of both families. */
#ifndef BEELINE_CALL_H
#define BEELINE_CALL_H

#include <linux/bpf.h>
#include "addr.h"

/* Where the call goes, or where what it received came from. */
static __always_inline struct party party_ipv4(const struct bpf_sock_addr *ctx)
{
	return (struct party){.addr = addr_from_ipv4(ctx->user_ip4), .port = ctx->user_port};
}

static __always_inline struct party party_ipv6(const struct bpf_sock_addr *ctx)
{
	return (struct party){
		.addr = {.word = {ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2],
				  ctx->user_ip6[3]}},
		.port = ctx->user_port,
	};
}

static __always_inline void write_ipv4(struct bpf_sock_addr *ctx, const struct party *to)
{
	ctx->user_ip4 = to->addr.word[3];
	ctx->user_port = to->port;
}

static __always_inline void write_ipv6(struct bpf_sock_addr *ctx, const struct party *to)
{
	ctx->user_ip6[0] = to->addr.word[0];
	ctx->user_ip6[1] = to->addr.word[1];
	ctx->user_ip6[2] = to->addr.word[2];
	ctx->user_ip6[3] = to->addr.word[3];
	ctx->user_port = to->port;
}

/* The address a socket is bound to; 0.0.0.0 or :: when the kernel has yet to choose one. */
static __always_inline struct addr bound_ipv4(const struct bpf_sock_addr *ctx)
{
	return addr_from_ipv4(ctx->sk->src_ip4);
}

static __always_inline struct addr bound_ipv6(const struct bpf_sock_addr *ctx)
{
	const struct bpf_sock *sk = ctx->sk;

	return (struct addr){
		.word = {sk->src_ip6[0], sk->src_ip6[1], sk->src_ip6[2], sk->src_ip6[3]}};
}

/* The source a datagram is sent from: of the message, else of the socket. */
static __always_inline struct addr message_source_ipv4(const struct bpf_sock_addr *ctx)
{
	return addr_from_ipv4(ctx->msg_src_ip4);
}

static __always_inline struct addr message_source_ipv6(const struct bpf_sock_addr *ctx)
{
	return (struct addr){.word = {ctx->msg_src_ip6[0], ctx->msg_src_ip6[1], ctx->msg_src_ip6[2],
				      ctx->msg_src_ip6[3]}};
}

/* Where a socket is connected to. An IPv6 socket that is connected to an IPv4 address comes
 * through sendmsg4 as if it named that address with every datagram. */
static __always_inline bool is_connected_to_ipv4(const struct bpf_sock_addr *ctx,
						 const struct party *to)
{
	const struct bpf_sock *sk = ctx->sk;

	return sk->state == BPF_TCP_ESTABLISHED && sk->dst_ip4 == to->addr.word[3] &&
	       sk->dst_port == to->port;
}

#endif
