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

/* No client has shown to be there. Whoever spoofs a SYN may have sent a FIN or a RST as well. */
static __always_inline bool is_half_open(const struct flow *head)
{
	return !(head->flags & FLOW_SETTLED);
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

static __always_inline bool gives_way(const struct flow *head, __u8 proto, __u64 now_ns,
				      bool is_full)
{
	if (is_half_open(head))
		return true;
	return is_closed(state_of(head, proto)) &&
	       (is_full || is_silent_for(head, NULL, now_ns, CLOSED_FOR_S));
}

/* The connection whose place it is goes, if that is still there and gives way. Its key is copied,
 * for whoever takes the place writes another one, and not to the stack, which is full. */
static __always_inline bool evict(const struct expendable *place, __u64 now_ns, bool is_full)
{
	struct flow_entry *entry = scratch_entry();
	const struct flow *undo, *head;
	struct flow_key head_key;

	if (!entry)
		return false;
	entry->key = place->key;
	undo = bpf_map_lookup_elem(&flows, &entry->key);
	if (!undo || undo->created_ns != place->created_ns)
		return false;
	if (undo->flags & FLOW_ALONE)
		return forget_alone(&entry->key, undo);
	head = find_head(&entry->key, undo, &head_key);
	if (!head || !gives_way(head, head_key.proto, now_ns, is_full))
		return false;
	forget_connection(&head_key, head);
	return true;
}

/* The next place of the ring, + 1; 0: there is none. Who was there goes, if it gives way. */
SUBPROGRAM __u32 take_place(__u64 now_ns)
{
	__u32 number = next_place();
	const struct expendable *place = place_of(number);

	if (place && place->created_ns)
		evict(place, now_ns, false);
	return number;
}

/* A connection that has been opened: it has taken its place before. */
static __always_inline void make_expendable(const struct connection *c)
{
	struct expendable *place = place_of(c->place);

	if (!place)
		return;
	fill_key(&place->key, c, FLOW_UNDO_DNAT);
	place->created_ns = c->created_ns;
}

/* One that has been closed: a place that it still has will do. */
SUBPROGRAM int make_closed_expendable(const struct flow_key *key, const struct flow *head,
				      __u64 now_ns)
{
	struct expendable *place;
	struct flow_key undo_key;
	struct flow *undo;
	__u32 number;

	if (!key || !head)
		return 0;
	undo_key = undo_key_of(key, head);
	undo = bpf_map_lookup_elem(&flows, &undo_key);
	if (!undo || undo->created_ns != head->created_ns || is_at(undo->place, head->created_ns))
		return 0;
	number = take_place(now_ns);
	place = place_of(number);
	if (!place)
		return 0;
	undo->place = number;
	place->key = undo_key;
	place->created_ns = head->created_ns;
	return 0;
}

/* One that is established: from now on it gives way to nothing. */
SUBPROGRAM int make_permanent(const struct flow_key *key, const struct flow *head)
{
	const struct flow *undo;
	struct flow_key undo_key;

	if (!key || !head)
		return 0;
	undo_key = undo_key_of(key, head);
	undo = bpf_map_lookup_elem(&flows, &undo_key);
	if (undo)
		leave_place(undo->place, head->created_ns);
	return 0;
}

/* Places that are looked at are taken: who is there and does not give way needs none. */
static __noinline int evict_next(void)
{
	const struct expendable *place = place_of(next_place());

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
	c->now_ns = undo->last_seen_ns;
	c->created_ns = undo->created_ns;
	c->next_hop = (struct next_hop){};
	if (!write_flow(c, FLOW_DNAT, BPF_NOEXIST))
		undo->flags &= ~FLOW_ALONE;
	return 0;
}

/* A packet that may change the state of its connection, which `flow` is of. */
SUBPROGRAM int advance(struct __sk_buff *ctx, const struct packet *packet, struct flow *flow)
{
	bool from_backend;
	struct flow_key key;
	struct flow *head = flow;
	__u32 before, after;
	bool was_half_open;

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
	was_half_open = is_half_open(head);
	hear(ctx, packet, head, from_backend);
	after = state_of(head, key.proto);
	/* The client's own answer is what a backend's packets wait for. */
	if (from_backend && (head->flags & FLOW_SETTLED || key.proto != IPPROTO_TCP))
		flow->flags |= FLOW_SETTLED;
	if (is_closed(after) && !is_closed(before))
		make_closed_expendable(&key, head, flow->last_seen_ns);
	else if (was_half_open && !is_half_open(head) && !is_closed(after))
		make_permanent(&key, head);
	return 0;
}

#endif
