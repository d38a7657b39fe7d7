/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What is remembered of a connection: two flows when its backend is on this node, four when it
 * is remote. They are written and removed together. The FLOW_DNAT is its head: it has the state,
 * and says where the others are. How long they live is in lifetime.h.
 */
#ifndef BEELINE_FLOW_H
#define BEELINE_FLOW_H

#include "backend.h"
#include "expendable.h"
#include "packet.h"

/* Whoever inserts a flow where there was none holds what its key stands for. */
enum claim {
	CLAIMED,
	TAKEN,
	FAILED,
};

#define ENOENT 2
#define EEXIST 17

struct connection {
	struct frontend frontend; /* by which it is opened */
	struct party client;
	struct party vip;
	struct party backend;
	struct party node; /* as which a remote backend sees the client; port 0: it does not */
	__be16 inner_port; /* the client's between the hooks: its own, or another one */
	__u8 proto;
	bool needs_snat; /* the backend is to see this node */
	bool is_alone;	 /* its FLOW_UNDO_DNAT is all that there is */
	bool is_resumed; /* it was that, and this is the client's second packet */
	__u16 pad;
	__u32 hash; /* of the packet that opens it */
	__u32 service_id;
	__u32 backend_id;
	__u32 generation;
	__u64 now_ns;
	__u64 created_ns;
	__u32 place; /* as in its FLOW_UNDO_DNAT */
	int forward; /* how the packet that opens it goes on: as find_next_hop() */
	struct next_hop next_hop;
};

/* Too large for the stack, and each program has its own: one that is opened, one that is
 * forgotten meanwhile. Whoever takes it fills it. */
enum scratch_place {
	OPENED,
	FORGOTTEN,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct connection);
} scratch SEC(".maps");

static __always_inline struct connection *scratch_connection(__u32 place)
{
	return bpf_map_lookup_elem(&scratch, &place);
}

/* What is said of a packet that follows it. */
static __always_inline int reason_of(const struct flow *flow)
{
	return flow->kind == FLOW_DNAT || flow->kind == FLOW_SNAT ? REASON_ESTABLISHED
								  : REASON_REPLY;
}

/* The same, of one that could not be made to. */
static __always_inline int failure_of(const struct flow *flow)
{
	return reason_of(flow) == REASON_REPLY ? REASON_REPLY_REWRITE_FAILED
					       : REASON_REWRITE_FAILED;
}

static __always_inline bool is_outward(__u32 kind)
{
	return kind == FLOW_SNAT || kind == FLOW_UNDO_DNAT;
}

static __always_inline struct flow_key key_of(__u32 kind, const struct party *from,
					      const struct party *to, __u8 proto)
{
	return (struct flow_key){
		.src_addr = from->addr,
		.dst_addr = to->addr,
		.src_port = from->port,
		.dst_port = to->port,
		.proto = proto,
		.outward = is_outward(kind),
	};
}

static __always_inline struct party source_of(const struct flow_key *key)
{
	return (struct party){.addr = key->src_addr, .port = key->src_port};
}

static __always_inline struct party destination_of(const struct flow_key *key)
{
	return (struct party){.addr = key->dst_addr, .port = key->dst_port};
}

static __always_inline struct party translation_of(const struct flow *flow)
{
	return (struct party){.addr = flow->addr, .port = flow->port};
}

static __always_inline bool is_translation_of(const struct flow *flow, const struct party *to)
{
	return flow->port == to->port && same_addr(&flow->addr, &to->addr);
}

static __always_inline void fill_key(struct flow_key *key, const struct connection *c, __u32 kind)
{
	bool is_from_client = kind == FLOW_DNAT || kind == FLOW_SNAT;
	const struct party *from = is_from_client ? &c->client : &c->backend, *to;

	switch (kind) {
	case FLOW_DNAT:
		to = &c->vip;
		break;
	case FLOW_SNAT:
		to = &c->backend;
		break;
	case FLOW_UNDO_SNAT:
		to = &c->node;
		break;
	default:
		to = &c->client;
	}
	key->src_addr = from->addr;
	key->dst_addr = to->addr;
	key->src_port = kind == FLOW_SNAT ? c->inner_port : from->port;
	key->dst_port = kind == FLOW_UNDO_DNAT ? c->inner_port : to->port;
	key->proto = c->proto;
	key->outward = is_outward(kind);
	__builtin_memset(key->pad, 0, sizeof(key->pad));
}

static __always_inline struct flow_key key_in(const struct connection *c, __u32 kind)
{
	struct flow_key key;

	fill_key(&key, c, kind);
	return key;
}

static __always_inline const struct party *translation_in(const struct connection *c, __u32 kind)
{
	switch (kind) {
	case FLOW_DNAT:
		return &c->backend;
	case FLOW_SNAT:
		return &c->node;
	case FLOW_UNDO_SNAT:
		return &c->client;
	default:
		return &c->vip;
	}
}

/* What a flow knows to be written over the client's port; 0: nothing. */
static __always_inline __be16 client_port_in(const struct connection *c, __u32 kind)
{
	if (c->inner_port == c->client.port || kind == FLOW_SNAT)
		return 0;
	return kind == FLOW_DNAT ? c->inner_port : c->client.port;
}

/* What the other hook writes over the other side; port 0: nothing. */
static __always_inline struct party far_side_in(const struct connection *c, __u32 kind)
{
	switch (kind) {
	case FLOW_DNAT:
		return c->node;
	case FLOW_UNDO_SNAT:
		return c->vip;
	case FLOW_UNDO_DNAT:
		return c->needs_snat ? c->client : (struct party){};
	default:
		return (struct party){};
	}
}

/* Where the backend is heard, whichever way its packets go on: as it comes in. One that was taken
 * for another node's, and is here, is heard at FLOW_UNDO_DNAT alone. */
static __always_inline __u32 heard_at(bool needs_snat)
{
	return needs_snat ? FLOW_UNDO_SNAT : FLOW_UNDO_DNAT;
}

/* A flow that is to be written, found or forgotten: too large for the stack. */
struct flow_entry {
	struct flow_key key;
	struct flow flow;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct flow_entry);
} scratch_flow SEC(".maps");

static __always_inline struct flow_entry *scratch_entry(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&scratch_flow, &zero);
}

/* With the key of `c`'s flow of that kind. */
static __always_inline struct flow_entry *scratch_entry_for(const struct connection *c, __u32 kind)
{
	struct flow_entry *entry = scratch_entry();

	if (entry)
		fill_key(&entry->key, c, kind);
	return entry;
}

static __always_inline __u8 flags_in(const struct connection *c, __u32 kind)
{
	if (kind == FLOW_SNAT)
		return FLOW_SETTLED;
	return kind == FLOW_UNDO_DNAT && c->is_alone ? FLOW_ALONE : 0;
}

/* 0, or a negative errno. */
static __noinline int write_flow(const struct connection *c, __u32 kind, __u64 flags)
{
	struct flow_entry *entry = scratch_entry_for(c, kind);
	const struct party *to = translation_in(c, kind);
	struct party far = far_side_in(c, kind);
	struct flow *flow;

	if (!entry)
		return -ENOENT;
	/* In its place: written on the stack first it would be copied. */
	flow = &entry->flow;
	flow->addr = to->addr;
	flow->port = kind == FLOW_UNDO_SNAT ? c->inner_port : to->port;
	flow->kind = kind;
	flow->flags = flags_in(c, kind);
	flow->service_id = c->service_id;
	flow->backend_id = c->backend_id;
	flow->generation = c->generation;
	flow->far_port = far.port;
	flow->client_port = client_port_in(c, kind);
	flow->last_tick = 0;
	flow->place = kind == FLOW_UNDO_DNAT ? c->place : 0;
	if (kind == FLOW_DNAT)
		flow->next_hop = c->next_hop;
	else
		__builtin_memset(&flow->next_hop, 0, sizeof(flow->next_hop));
	flow->created_ns = c->created_ns;
	flow->last_seen_ns = c->now_ns;
	flow->far_addr = far.addr;
	return bpf_map_update_elem(&flows, &entry->key, &entry->flow, flags);
}

static __noinline struct flow *find_flow(const struct connection *c, __u32 kind)
{
	struct flow_entry *entry = scratch_entry_for(c, kind);

	return entry ? bpf_map_lookup_elem(&flows, &entry->key) : NULL;
}

static __noinline int forget_flow(const struct connection *c, __u32 kind)
{
	struct flow_entry *entry = scratch_entry_for(c, kind);

	return entry ? bpf_map_delete_elem(&flows, &entry->key) : -ENOENT;
}

/* The way out first, so that no packet is translated whose reply would not be. */
static __always_inline void forget_flows(const struct connection *c)
{
	forget_flow(c, FLOW_DNAT);
	forget_flow(c, FLOW_UNDO_DNAT);
	if (!c->node.port)
		return;
	forget_flow(c, FLOW_SNAT);
	forget_flow(c, FLOW_UNDO_SNAT);
}

/* Is it this client port and this VIP that `undo`, found by `c`'s key, answers for? */
static __always_inline bool is_undo_of(const struct flow *undo, const struct connection *c)
{
	return is_translation_of(undo, &c->vip) &&
	       undo->client_port == client_port_in(c, FLOW_UNDO_DNAT);
}

/*
 * The head of the connection that `undo`, a FLOW_UNDO_DNAT or FLOW_UNDO_SNAT at the key from
 * `from` to `to`, answers for, and its key; NULL: it has lost it, or another connection has taken
 * over what answers it.
 */
static __always_inline struct flow *find_head_of(const struct addr *from, __be16 from_port,
						 const struct addr *to, __be16 to_port, __u8 proto,
						 const struct flow *undo, struct flow_key *key)
{
	bool is_remote = undo->kind == FLOW_UNDO_SNAT;
	__be16 inner_port = is_remote ? undo->port : to_port;
	__be16 client_port = undo->client_port ?: inner_port;
	struct flow *head;

	*key = (struct flow_key){
		.src_addr = is_remote ? undo->addr : *to,
		.dst_addr = is_remote ? undo->far_addr : undo->addr,
		.src_port = client_port,
		.dst_port = is_remote ? undo->far_port : undo->port,
		.proto = proto,
	};
	head = bpf_map_lookup_elem(&flows, key);
	if (!head || head->kind != FLOW_DNAT || head->port != from_port ||
	    !same_addr(&head->addr, from) || (head->client_port ?: client_port) != inner_port)
		return NULL;
	if (is_remote && (head->far_port != to_port || !same_addr(&head->far_addr, to)))
		return NULL;
	return head;
}

static __noinline struct flow *find_head(const struct flow_key *undo_key, const struct flow *undo,
					 struct flow_key *key)
{
	return find_head_of(&undo_key->src_addr, undo_key->src_port, &undo_key->dst_addr,
			    undo_key->dst_port, undo_key->proto, undo, key);
}

/* Of the FLOW_UNDO_DNAT that answers for a head. */
static __always_inline struct flow_key undo_key_of(const struct flow_key *head_key,
						   const struct flow *head)
{
	return (struct flow_key){
		.src_addr = head->addr,
		.dst_addr = head_key->src_addr,
		.src_port = head->port,
		.dst_port = head->client_port ?: head_key->src_port,
		.proto = head_key->proto,
		.outward = true,
	};
}

/* The flow by which the backend is heard, of the connection of a head; NULL: it is lost. */
static __always_inline const struct flow *find_heard(const struct flow_key *head_key,
						     const struct flow *head)
{
	struct flow_key key = undo_key_of(head_key, head);

	if (head->far_port) {
		key.dst_addr = head->far_addr;
		key.dst_port = head->far_port;
		key.outward = false;
	}
	return bpf_map_lookup_elem(&flows, &key);
}

/* Fills `c` with the connection that a head is of. */
static __always_inline void recover(const struct flow_key *key, const struct flow *head,
				    struct connection *c)
{
	c->client = source_of(key);
	c->vip = destination_of(key);
	c->backend = translation_of(head);
	c->inner_port = head->client_port ?: c->client.port;
	c->proto = key->proto;
	c->node = (struct party){.addr = head->far_addr, .port = head->far_port};
	c->needs_snat = head->far_port;
	c->is_alone = false;
	c->service_id = head->service_id;
	c->backend_id = head->backend_id;
	c->generation = head->generation;
	c->now_ns = head->last_seen_ns;
	c->created_ns = head->created_ns;
	c->place = 0;
	c->hash = 0;
}

/* A connection leaves nothing of its own behind, and nothing of another's is touched: another
 * one of this client and backend may have taken over what answers them. */
SUBPROGRAM int forget_connection(const struct flow_key *key, const struct flow *head)
{
	struct connection *c = scratch_connection(FORGOTTEN);
	const struct flow *undo;

	if (!c || !key || !head)
		return 0;
	recover(key, head, c);
	undo = find_flow(c, FLOW_UNDO_DNAT);
	if (undo && !is_undo_of(undo, c))
		return forget_flow(c, FLOW_DNAT);
	if (undo)
		c->place = undo->place;
	forget_flows(c);
	leave_place(c->place, c->created_ns);
	return 0;
}

/* A connection that is one FLOW_UNDO_DNAT. */
static __always_inline bool forget_alone(const struct flow_key *key, const struct flow *undo)
{
	__u64 created_ns = undo->created_ns;
	__u32 place = undo->place;

	if (bpf_map_delete_elem(&flows, key))
		return false;
	leave_place(place, created_ns);
	return true;
}

/* A clock read costs 37 ns, a quarter of all that is done for a packet: once a tick is enough. */
static __always_inline void touch(struct flow *flow)
{
	__u32 tick = bpf_jiffies64();

	if (flow->last_tick == tick)
		return;
	flow->last_tick = tick;
	flow->last_seen_ns = bpf_ktime_get_boot_ns();
}

/* What each CPU read off the clock last, and in which tick. */
struct clock_reading {
	__u64 now_ns;
	__u32 tick;
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct clock_reading);
} clock_readings SEC(".maps");

/* CLOCK_BOOTTIME, up to a tick late: when one connection after another is opened the clock is read
 * once a tick. No two of a CPU are opened at the same nanosecond. */
static __always_inline __u64 opening_time_ns(void)
{
	__u32 zero = 0, tick = bpf_jiffies64();
	struct clock_reading *last = bpf_map_lookup_elem(&clock_readings, &zero);

	if (!last)
		return bpf_ktime_get_boot_ns();
	if (last->tick != tick) {
		last->tick = tick;
		last->now_ns = bpf_ktime_get_boot_ns();
	}
	return ++last->now_ns;
}

/*
 * A TCP connection stays with the backend it has, dead or alive; another one is chosen when
 * the client starts anew. A UDP flow has no end: it leaves a backend that is gone.
 */
static __always_inline bool is_stale(const struct flow *flow, const struct packet *packet)
{
	if (flow->kind != FLOW_DNAT)
		return false;
	if (packet->key.proto == IPPROTO_TCP && !packet->opens)
		return false;
	return flow->flags & (FLOW_CLIENT_FIN | FLOW_BACKEND_FIN | FLOW_RESET) ||
	       !find_backend(flow->backend_id, flow->generation);
}

#endif
