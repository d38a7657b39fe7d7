/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What a socket asked for and was given, kept in the socket: UDP's, and whose tcp_peer.h has no
 * place for. A connected one has one peer, peer[0]; an unconnected UDP socket one for each VIP it
 * talks to, and forgets the eldest.
 */
#ifndef BEELINE_SOCKET_H
#define BEELINE_SOCKET_H

#include "backend.h"

static __always_inline bool is_party(const struct party *party, const struct addr *addr,
				     __be16 port)
{
	return party->port == port && same_addr(&party->addr, addr);
}

static __always_inline bool is_of_vip(const struct socket_peer *peer, const struct party *vip)
{
	return peer->backend_id && is_party(vip, &peer->vip, peer->vip_port);
}

static __always_inline bool is_of_backend(const struct socket_peer *peer,
					  const struct party *backend)
{
	return peer->backend_id && is_party(backend, &peer->backend, peer->backend_port);
}

static __always_inline struct party vip_of(const struct socket_peer *peer)
{
	return (struct party){.addr = peer->vip, .port = peer->vip_port};
}

static __always_inline struct party backend_of(const struct socket_peer *peer)
{
	return (struct party){.addr = peer->backend, .port = peer->backend_port};
}

static __always_inline struct socket_peer new_peer(const struct party *vip,
						   const struct choice *choice)
{
	return (struct socket_peer){
		.vip = vip->addr,
		.vip_port = vip->port,
		.backend = choice->backend->addr,
		.backend_port = choice->backend->port,
		.service_id = choice->backend->service_id,
		.backend_id = choice->backend_id,
		.generation = choice->backend->generation,
	};
}

/* The peer just used is `next - 1`, so that what is overwritten next is never that. */
static __always_inline void mark_used(struct socket_peers *peers, __u32 index)
{
	peers->next = (index + 1) % SOCKET_PEERS;
}

static __always_inline const struct socket_peer *find_peer_of_vip(struct socket_peers *peers,
								  const struct party *vip)
{
	for (__u32 i = 0; i < SOCKET_PEERS; i++) {
		if (!is_of_vip(&peers->peer[i], vip))
			continue;
		mark_used(peers, i);
		return &peers->peer[i];
	}
	return NULL;
}

/* Two VIPs may share a backend: the one that was sent to last is answered first. */
static __always_inline const struct socket_peer *
find_peer_of_backend(const struct socket_peers *peers, const struct party *backend)
{
	for (__u32 i = 0; i < SOCKET_PEERS; i++) {
		__u32 index = (peers->next + SOCKET_PEERS - 1 - i) % SOCKET_PEERS;

		if (is_of_backend(&peers->peer[index], backend))
			return &peers->peer[index];
	}
	return NULL;
}

/* Whoever talks to the backend itself wants to see the backend. */
static __always_inline void forget_backend(struct socket_peers *peers, const struct party *backend)
{
	for (__u32 i = 0; i < SOCKET_PEERS; i++)
		if (is_of_backend(&peers->peer[i], backend))
			peers->peer[i].backend_id = 0;
}

static __always_inline void uncount(struct socket_peers *peers)
{
	if (!peers->counted)
		return;
	peers->counted = 0;
	count_open_socket(peers->peer[0].backend_id, -1);
}

static __always_inline void forget_peers(struct socket_peers *peers)
{
	uncount(peers);
	__builtin_memset(peers, 0, sizeof(*peers));
}

/* `seen_closing`: sock_release is going to count it off. */
static __always_inline void connect_peer(struct socket_peers *peers, const struct socket_peer *peer,
					 bool seen_closing)
{
	peers->peer[0] = *peer;
	peers->connected = 1;
	mark_used(peers, 0);
	count_new_flow(peer->backend_id);
	if (!options.backend_stats || !seen_closing)
		return;
	peers->counted = 1;
	count_open_socket(peer->backend_id, 1);
}

/* The place of the same VIP's former backend, else of the eldest peer; never a connected one. */
static __always_inline void add_peer(struct socket_peers *peers, const struct party *vip,
				     const struct socket_peer *peer)
{
	__u32 index = peers->next % SOCKET_PEERS;

	for (__u32 i = 0; i < SOCKET_PEERS; i++)
		if (is_of_vip(&peers->peer[i], vip))
			index = i;
	if (!index && peers->connected)
		index = 1;
	peers->peer[index % SOCKET_PEERS] = *peer;
	mark_used(peers, index);
	count_new_flow(peer->backend_id);
}

#endif
