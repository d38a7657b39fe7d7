/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * How long a connection lives: what its packets say of its state, when it is over, and which
 * one gives way when there is no room. One that is established gives way to nothing.
 */
#ifndef BEELINE_LIFETIME_H
#define BEELINE_LIFETIME_H

#include "flow.h"

#define FLOW_FINS (FLOW_CLIENT_FIN | FLOW_BACKEND_FIN)

/* What a closed connection holds may be had by another that needs it: the TIME_WAIT of its
 * ends accepts a new SYN by then. */
#define CLOSED_FOR_S 10

/* The first data of a server that answers by TCP Fast Open are acknowledged with its SYN. */
#define ACK_WINDOW 65536

/* Places that are looked at for one that can be had when the table is full. */
#define PLACES_TRIED 256

static __always_inline __u32 state_of(const struct flow *head, __u8 proto)
{
	if (proto != IPPROTO_TCP)
		return head->flags & FLOW_SETTLED ? STATE_UDP_STREAM : STATE_UDP;
	if (head->flags & FLOW_RESET)
		return STATE_TCP_RESET;
	if ((head->flags & FLOW_FINS) == FLOW_FINS)
		return STATE_TCP_CLOSED;
	if (head->flags & FLOW_FINS)
		return STATE_TCP_HALF_CLOSED;
	return head->flags & FLOW_SETTLED ? STATE_TCP_ESTABLISHED : STATE_TCP_HALF_OPEN;
}

static __always_inline bool is_closed(__u32 state)
{
	return state == STATE_TCP_CLOSED || state == STATE_TCP_RESET;
}

/* One that no client has shown to be there. */
static __always_inline bool is_half_open(__u32 state)
{
	return state == STATE_TCP_HALF_OPEN || state == STATE_UDP;
}

/* `heard`: as find_heard(). */
static __always_inline bool is_silent_for(const struct flow *head, const struct flow *heard,
					  __u64 now_ns, __u32 seconds)
{
	__u64 seen_ns = head->last_seen_ns;

	if (heard && (__s64)(heard->last_seen_ns - seen_ns) > 0)
		seen_ns = heard->last_seen_ns;
	return (__s64)(now_ns - seen_ns) > (__s64)(seconds * NS_PER_S);
}

/* May another connection, which needs it, have what this one holds? */
static __always_inline bool is_over(const struct flow *head, const struct flow *heard, __u8 proto,
				    const struct config *config, __u64 now_ns)
{
	__u32 state = state_of(head, proto);
	__u32 limit_s = config->timeout_s[state & (TIMEOUTS - 1)];

	if (is_closed(state) && limit_s > CLOSED_FOR_S)
		limit_s = CLOSED_FOR_S;
	return is_silent_for(head, heard, now_ns, limit_s);
}

/* The connection whose place it is, if that is still to be had. */
static __always_inline bool gives_way(const struct expendable *place, const struct flow *head,
				      __u64 now_ns, bool is_full)
{
	__u32 state = state_of(head, place->key.proto);

	if (head->kind != FLOW_DNAT || head->created_ns != place->created_ns)
		return false;
	return is_half_open(state) ||
	       (is_closed(state) && (is_full || is_silent_for(head, NULL, now_ns, CLOSED_FOR_S)));
}

static __always_inline bool evict(const struct expendable *place, __u64 now_ns, bool is_full)
{
	struct flow_key key = place->key;
	const struct flow *flow = bpf_map_lookup_elem(&flows, &key);

	if (!flow)
		return false;
	if (flow->flags & FLOW_ALONE)
		return flow->created_ns == place->created_ns && !bpf_map_delete_elem(&flows, &key);
	if (!gives_way(place, flow, now_ns, is_full))
		return false;
	forget_connection(&key, flow);
	return true;
}

/* The next place of the ring; the one who was there goes, unless it has become established. */
static __always_inline struct expendable *take_place(__u64 now_ns)
{
	const struct config *config = get_config();
	__u32 zero = 0, number;
	struct expendable *place;
	__u32 *cursor;

	if (!config || !config->expendables)
		return NULL;
	cursor = bpf_map_lookup_elem(&expendable_cursor, &zero);
	if (!cursor)
		return NULL;
	number = __sync_fetch_and_add(cursor, 1) % config->expendables;
	place = bpf_map_lookup_elem(&expendables, &number);
	if (place && place->created_ns)
		evict(place, now_ns, false);
	return place;
}

/* A connection that has been opened. */
SUBPROGRAM int make_expendable(const struct connection *c)
{
	struct expendable *place;

	if (!c)
		return 0;
	place = take_place(c->now_ns);
	if (!place)
		return 0;
	fill_key(&place->key, c, c->is_alone ? FLOW_UNDO_DNAT : FLOW_DNAT);
	place->created_ns = c->now_ns;
	return 0;
}

/* One that has been closed. */
SUBPROGRAM int make_closed_expendable(const struct flow_key *key, const struct flow *head,
				      __u64 now_ns)
{
	struct expendable *place;

	if (!key || !head)
		return 0;
	place = take_place(now_ns);
	if (!place)
		return 0;
	place->key = *key;
	place->created_ns = head->created_ns;
	return 0;
}

/* Places that are looked at are taken: who is there and does not give way needs none. */
static __noinline int evict_next(void)
{
	const struct config *config = get_config();
	const struct expendable *place;
	__u32 zero = 0, number, *cursor = bpf_map_lookup_elem(&expendable_cursor, &zero);

	if (!config || !config->expendables || !cursor)
		return false;
	number = __sync_fetch_and_add(cursor, 1) % config->expendables;
	place = bpf_map_lookup_elem(&expendables, &number);
	return place && place->created_ns && evict(place, 0, true);
}

static long try_place(__u32 i, bool *found)
{
	*found = evict_next();
	return *found;
}

/* The table is full: the oldest of those that give way goes. False: none is found. */
SUBPROGRAM int make_room(void)
{
	bool found = false;

	bpf_loop(PLACES_TRIED, try_place, &found, 0);
	return found;
}

/* The client is there, and has what the backend sent: a spoofed address cannot say so. */
static __always_inline bool is_acknowledged(const struct flow *head, const struct tcphdr *tcp)
{
	__u32 beyond = bpf_ntohl(tcp->ack_seq) - head->awaited_ack;

	return tcp->ack && !tcp->syn && !tcp->rst && (!head->awaited_ack || beyond < ACK_WINDOW);
}

static __always_inline void hear_client(struct flow *head, const struct tcphdr *tcp)
{
	if (tcp->rst)
		head->flags |= FLOW_RESET;
	if (tcp->fin)
		head->flags |= FLOW_CLIENT_FIN;
	if (head->flags & FLOW_ANSWERED && is_acknowledged(head, tcp))
		head->flags |= FLOW_SETTLED;
}

static __always_inline void hear_backend(struct flow *head, const struct tcphdr *tcp)
{
	if (tcp->rst) {
		head->flags |= FLOW_RESET;
		return;
	}
	if (tcp->fin)
		head->flags |= FLOW_BACKEND_FIN;
	if (tcp->syn)
		head->awaited_ack = bpf_ntohl(tcp->seq) + 1;
	head->flags |= FLOW_ANSWERED;
}

/* UDP: whoever sends is there; the client is when it goes on after an answer. */
static __always_inline void hear(struct __sk_buff *ctx, const struct packet *packet,
				 struct flow *head, bool from_backend)
{
	struct tcphdr tcp = {};

	if (packet->key.proto != IPPROTO_TCP) {
		if (from_backend || head->flags & FLOW_ANSWERED)
			head->flags |= from_backend ? FLOW_ANSWERED : FLOW_SETTLED;
		return;
	}
	if (bpf_skb_load_bytes(ctx, packet->l4, &tcp, sizeof(tcp)))
		return;
	if (from_backend)
		hear_backend(head, &tcp);
	else
		hear_client(head, &tcp);
}

/* The backend of a connection that has one flow alone has answered: it gets its head. NULL: there
 * is no room, or the client has got another backend meanwhile. */
SUBPROGRAM int complete(const struct flow_key *key, struct flow *undo)
{
	struct connection *c = scratch_connection(OPENED);

	if (!c || !key || !undo)
		return 0;
	c->client = destination_of(key);
	c->client.port = undo->client_port ?: key->dst_port;
	c->vip = translation_of(undo);
	c->backend = source_of(key);
	c->node = (struct party){};
	c->inner_port = key->dst_port;
	c->proto = key->proto;
	c->needs_snat = false;
	c->is_alone = false;
	c->service_id = undo->service_id;
	c->backend_id = undo->backend_id;
	c->generation = undo->generation;
	c->now_ns = bpf_ktime_get_boot_ns();
	c->next_hop = (struct next_hop){};
	if (write_flow(c, FLOW_DNAT, BPF_NOEXIST))
		return 0;
	undo->flags &= ~FLOW_ALONE;
	make_expendable(c);
	return 0;
}

/* A packet that may change the state of its connection, which `flow` is of. */
SUBPROGRAM int advance(struct __sk_buff *ctx, const struct packet *packet, struct flow *flow)
{
	bool from_backend;
	struct flow_key key;
	struct flow *head = flow;
	__u32 before, after;

	if (!packet || !flow)
		return 0;
	from_backend = flow->kind == FLOW_UNDO_DNAT || flow->kind == FLOW_UNDO_SNAT;
	if (!from_backend && flow->kind != FLOW_DNAT)
		return 0;
	key = packet->key;
	if (from_backend && flow->flags & FLOW_ALONE)
		complete(&key, flow);
	if (from_backend)
		head = find_head(&packet->key, flow, &key);
	if (!head)
		return 0;
	before = state_of(head, key.proto);
	hear(ctx, packet, head, from_backend);
	after = state_of(head, key.proto);
	/* The client's own answer is what a backend's packets wait for. */
	if (from_backend && (head->flags & FLOW_SETTLED || key.proto != IPPROTO_TCP))
		flow->flags |= FLOW_SETTLED;
	if (is_closed(after) && !is_closed(before))
		make_closed_expendable(&key, head, flow->last_seen_ns);
	return 0;
}

#endif
