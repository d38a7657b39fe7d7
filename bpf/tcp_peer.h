/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What a TCP socket asked for and was given: of interest to getpeername alone, and never more than
 * one peer. So it is in a place of an array, found by the socket's cookie, which costs a fifth of
 * storage in the socket; that serves where no place is free. sock_release frees the place.
 */
#ifndef BEELINE_TCP_PEER_H
#define BEELINE_TCP_PEER_H

#include "backend.h"
#include "kernel.h"

/* Of a socket there may be several, far apart: those that were opened together, and so have
 * cookies in a row, may last together, too. */
#define PLACES_OF_COOKIE 4
#define BETWEEN_PLACES 10007

/* NULL: another protocol's. */
static __always_inline const struct sock *tcp_sock_of(struct bpf_sock_addr *ctx)
{
	return (const struct sock *)bpf_skc_to_tcp_sock(ctx->sk);
}

/* 0: none was made, so nothing is kept of this socket. */
static __always_inline __u64 cookie_of(const struct sock *sk)
{
	return sk->__sk_common.skc_cookie.counter;
}

/* Nobody is told when the kernel closes a socket of its own: a network file system's, MPTCP's. */
static __always_inline bool is_of_kernel(const struct sock *sk)
{
	return BPF_CORE_READ_BITFIELD(sk, sk_kern_sock);
}

static __always_inline struct tcp_peer *place_of(const struct config *config, __u64 cookie,
						 __u32 which)
{
	__u32 place = (__u32)(cookie + which * BETWEEN_PLACES) % config->tcp_peers;

	return bpf_map_lookup_elem(&tcp_peers, &place);
}

static __always_inline struct tcp_peer *find_tcp_peer(__u64 cookie)
{
	const struct config *config = get_config();

	if (!cookie || !config)
		return NULL;
	for (__u32 i = 0; i < PLACES_OF_COOKIE; i++) {
		struct tcp_peer *place = place_of(config, cookie, i);

		if (place && place->cookie == cookie)
			return place;
	}
	return NULL;
}

/* A free place is all zero. */
static __always_inline void forget_tcp_peer(__u64 cookie)
{
	struct tcp_peer *held = find_tcp_peer(cookie);

	if (!held)
		return;
	count_open_socket(held->peer.backend_id, -1);
	__builtin_memset(&held->peer, 0, sizeof(held->peer));
	__sync_val_compare_and_swap(&held->cookie, cookie, 0);
}

/* NULL: it has to be kept in the socket. */
static __always_inline struct tcp_peer *take_place(__u64 cookie)
{
	const struct config *config = get_config();

	if (!config)
		return NULL;
	for (__u32 i = 0; i < PLACES_OF_COOKIE; i++) {
		struct tcp_peer *place = place_of(config, cookie, i);

		if (place && !__sync_val_compare_and_swap(&place->cookie, 0, cookie))
			return place;
	}
	return NULL;
}

static __always_inline bool keep_tcp_peer(struct bpf_sock_addr *ctx, const struct sock *sk,
					  const struct socket_peer *peer)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct tcp_peer *place = is_of_kernel(sk) ? NULL : take_place(cookie);

	if (!place)
		return false;
	place->peer = *peer;
	count_new_flow(peer->backend_id);
	count_open_socket(peer->backend_id, 1);
	return true;
}

#endif
