// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * The socket hooks: a process of this node asks for a frontend and is given a backend, once,
 * in the system call. Its packets need no translation, and it sees the VIP it asked for.
 */
#include "call.h"
#include "client.h"
#include "event.h"
#include "socket.h"
#include "tcp_peer.h"
#include "verdict.h"

#define ALLOW 1
#define REFUSE 0

/* The errno of a refused call; 0: the call goes on. */
static __always_inline int errno_of(int reason)
{
	switch (reason) {
	case REASON_NO_ENDPOINTS:
	case REASON_UNLISTED_PORT:
		return 111; /* ECONNREFUSED */
	case REASON_NO_LOCAL_ENDPOINTS:
	case REASON_NO_SLOT:
	case REASON_NO_BACKEND:
		return 113; /* EHOSTUNREACH */
	case REASON_SOURCE_RANGE:
		return 1; /* EPERM */
	case REASON_FLOWS_FULL:
		return 12; /* ENOMEM */
	}
	return 0;
}

SUBPROGRAM int report(struct bpf_sock_addr *ctx, const struct party *to, const struct addr *source,
		      __u32 reason)
{
	struct event *event = reserve_event(HOOK_SOCK, reason);
	struct flow_key key = {};

	if (!event)
		return 0;
	if (to && source) {
		key.src_addr = *source;
		key.dst_addr = to->addr;
		key.src_port = bpf_htons(ctx->sk->src_port);
		key.dst_port = to->port;
		key.proto = ctx->protocol;
		event->key = key;
		event->service_id = service_of(&key, SCOPE_INTERNAL);
	}
	event->netns_cookie = bpf_get_netns_cookie(ctx);
	event->pid = bpf_get_current_pid_tgid() >> 32;
	bpf_get_current_comm(event->process, sizeof(event->process));
	submit_event(event);
	return 0;
}

/* recvmsg and getpeername may not refuse, so this is for connect and sendmsg alone. */
static __always_inline int settle(struct bpf_sock_addr *ctx, const struct party *to,
				  const struct addr *source, int reason)
{
	int error = errno_of(reason);

	count(HOOK_SOCK, reason);
	if (!error)
		return ALLOW;
	report(ctx, to, source, reason);
	bpf_set_retval(-error);
	return REFUSE;
}

static __always_inline void forget(struct bpf_sock_addr *ctx, const struct sock *tcp)
{
	struct socket_peers *peers;

	if (tcp && !cookie_of(tcp))
		return; /* it has asked for nothing yet */
	peers = bpf_sk_storage_get(&sockets, ctx->sk, 0, 0);
	if (peers)
		forget_peers(peers);
	if (tcp)
		forget_tcp_peer(cookie_of(tcp));
}

static __always_inline bool keep_in_socket(struct bpf_sock_addr *ctx, const struct sock *tcp,
					   const struct socket_peer *peer)
{
	struct socket_peers *peers =
		bpf_sk_storage_get(&sockets, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);

	if (!peers)
		return false;
	connect_peer(peers, peer, !tcp || !is_of_kernel(tcp));
	return true;
}

/* Whatever the socket was connected to before, it is no longer. */
static __always_inline int connect(struct bpf_sock_addr *ctx, struct party *to,
				   const struct addr *source)
{
	const struct sock *tcp = tcp_sock_of(ctx);
	struct socket_peer peer;
	struct choice choice;
	int reason;

	forget(ctx, tcp);
	reason = choose_for_call(ctx, to, source, &choice);
	/* A UDP socket that is connected has sent nothing: resolvers connect one to any port, only
	 * to see whether and from where an address could be reached. */
	if (reason == REASON_UNLISTED_PORT && ctx->protocol == IPPROTO_UDP)
		return REASON_NOT_OURS;
	if (reason != REASON_NEW_FLOW)
		return reason;
	peer = new_peer(to, &choice);
	if (!(tcp && keep_tcp_peer(ctx, tcp, &peer)) && !keep_in_socket(ctx, tcp, &peer))
		return REASON_FLOWS_FULL;
	*to = backend_of(&peer);
	return REASON_NEW_FLOW;
}

/* A socket keeps its backend for a VIP while the backend lives, as conntrack would. */
static __always_inline bool keep_peer(struct socket_peers *peers, struct party *to)
{
	const struct socket_peer *peer = find_peer_of_vip(peers, to);

	if (!peer || !find_backend(peer->backend_id, peer->generation))
		return false;
	*to = backend_of(peer);
	return true;
}

static __always_inline int send(struct bpf_sock_addr *ctx, struct party *to,
				const struct addr *source)
{
	struct socket_peers *peers = bpf_sk_storage_get(&sockets, ctx->sk, 0, 0);
	struct socket_peer peer;
	struct choice choice;
	int reason;

	if (peers && keep_peer(peers, to))
		return REASON_ESTABLISHED;
	reason = choose_for_call(ctx, to, source, &choice);
	if (reason == REASON_NOT_OURS && peers && !is_connected_to_ipv4(ctx, to))
		forget_backend(peers, to);
	if (reason != REASON_NEW_FLOW)
		return reason;
	peers = bpf_sk_storage_get(&sockets, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!peers)
		return REASON_FLOWS_FULL;
	peer = new_peer(to, &choice);
	add_peer(peers, to, &peer);
	*to = backend_of(&peer);
	return REASON_NEW_FLOW;
}

static __always_inline const struct socket_peer *
find_peer(struct bpf_sock_addr *ctx, const struct sock *tcp, const struct party *backend)
{
	const struct tcp_peer *held = tcp ? find_tcp_peer(cookie_of(tcp)) : NULL;
	const struct socket_peers *peers;

	if (held)
		return is_of_backend(&held->peer, backend) ? &held->peer : NULL;
	peers = bpf_sk_storage_get(&sockets, ctx->sk, 0, 0);
	return peers ? find_peer_of_backend(peers, backend) : NULL;
}

/* The other end, as the socket knows it: a backend it was given is the VIP it asked for. `tcp`:
 * NULL for another protocol's. */
static __always_inline int unmask(struct bpf_sock_addr *ctx, const struct sock *tcp,
				  struct party *other)
{
	const struct socket_peer *peer = find_peer(ctx, tcp, other);

	if (!peer)
		return REASON_NOT_OURS;
	*other = vip_of(peer);
	return REASON_REPLY;
}

static __always_inline bool is_translated(int reason)
{
	return reason == REASON_NEW_FLOW || reason == REASON_ESTABLISHED || reason == REASON_REPLY;
}

static __always_inline int unmask_ipv4(struct bpf_sock_addr *ctx, const struct sock *tcp)
{
	struct party other = party_ipv4(ctx);
	int reason = unmask(ctx, tcp, &other);

	if (is_translated(reason))
		write_ipv4(ctx, &other);
	count(HOOK_SOCK, reason);
	return ALLOW;
}

static __always_inline int unmask_ipv6(struct bpf_sock_addr *ctx, const struct sock *tcp)
{
	struct party other = party_ipv6(ctx);
	int reason = unmask(ctx, tcp, &other);

	if (is_translated(reason))
		write_ipv6(ctx, &other);
	count(HOOK_SOCK, reason);
	return ALLOW;
}

SEC("cgroup/connect4")
int sock_connect4(struct bpf_sock_addr *ctx)
{
	struct party to = party_ipv4(ctx);
	struct addr source = bound_ipv4(ctx);
	int reason = connect(ctx, &to, &source);

	if (is_translated(reason))
		write_ipv4(ctx, &to);
	return settle(ctx, &to, &source, reason);
}

SEC("cgroup/connect6")
int sock_connect6(struct bpf_sock_addr *ctx)
{
	struct party to = party_ipv6(ctx);
	struct addr source = bound_ipv6(ctx);
	int reason = connect(ctx, &to, &source);

	if (is_translated(reason))
		write_ipv6(ctx, &to);
	return settle(ctx, &to, &source, reason);
}

SEC("cgroup/sendmsg4")
int sock_sendmsg4(struct bpf_sock_addr *ctx)
{
	struct party to = party_ipv4(ctx);
	struct addr source = message_source_ipv4(ctx);
	int reason = send(ctx, &to, &source);

	if (is_translated(reason))
		write_ipv4(ctx, &to);
	return settle(ctx, &to, &source, reason);
}

SEC("cgroup/sendmsg6")
int sock_sendmsg6(struct bpf_sock_addr *ctx)
{
	struct party to = party_ipv6(ctx);
	struct addr source = message_source_ipv6(ctx);
	int reason = send(ctx, &to, &source);

	if (is_translated(reason))
		write_ipv6(ctx, &to);
	return settle(ctx, &to, &source, reason);
}

SEC("cgroup/recvmsg4")
int sock_recvmsg4(struct bpf_sock_addr *ctx)
{
	return unmask_ipv4(ctx, NULL);
}

SEC("cgroup/recvmsg6")
int sock_recvmsg6(struct bpf_sock_addr *ctx)
{
	return unmask_ipv6(ctx, NULL);
}

SEC("cgroup/getpeername4")
int sock_getpeername4(struct bpf_sock_addr *ctx)
{
	return unmask_ipv4(ctx, tcp_sock_of(ctx));
}

SEC("cgroup/getpeername6")
int sock_getpeername6(struct bpf_sock_addr *ctx)
{
	return unmask_ipv6(ctx, tcp_sock_of(ctx));
}

/* One is made for it only where the kernel does not say whether it has one. */
static __always_inline __u64 cookie_of_closed(struct bpf_sock *ctx)
{
	return options.kernel_context ? cookie_of(bpf_cast_to_kern_ctx(ctx))
				      : bpf_get_socket_cookie(ctx);
}

SEC("cgroup/sock_release")
int sock_release(struct bpf_sock *ctx)
{
	bool is_tcp = ctx->protocol == IPPROTO_TCP;
	__u64 cookie = is_tcp ? cookie_of_closed(ctx) : 0;
	struct socket_peers *peers;

	if (is_tcp && !cookie)
		return ALLOW; /* it has asked for nothing */
	forget_tcp_peer(cookie);
	peers = bpf_sk_storage_get(&sockets, ctx, 0, 0);
	if (peers)
		uncount(peers);
	return ALLOW;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
