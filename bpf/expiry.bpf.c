// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Run by the agent every few seconds over all flows: removes connections that have been silent
 * for too long, counts what is left, and now and then looks closer: flows that belong to no
 * connection go, a connection gets back what it has lost. Without an agent nothing expires; what
 * gives way to newer connections (lifetime.h) still does.
 */
#include "lifetime.h"

#define UNUSED_FOR_S 60 /* a flow that packets follow is left alone */

struct pass {
	__u64 now_ns;
	struct expiry it;
};

/* `heard`: as find_heard(). */
static __always_inline bool has_timed_out(const struct flow *head, const struct flow *heard,
					  __u8 proto, __u32 most_s, __u64 now_ns)
{
	const struct config *config = get_config();
	__u32 state = state_of(head, proto);
	bool is_open = state == STATE_TCP_ESTABLISHED || state == STATE_UDP_STREAM;
	__u32 limit_s;

	if (!config)
		return false;
	limit_s = config->timeout_s[state & (TIMEOUTS - 1)];
	if (most_s && limit_s > most_s && !is_open)
		limit_s = most_s;
	return is_silent_for(head, heard, now_ns, limit_s);
}

/* The other direction may have been heard since. */
SUBPROGRAM int expire(const struct flow_key *key, const struct flow *head, __u32 most_s,
		      __u64 now_ns)
{
	struct connection *c = scratch_connection(OPENED);
	const struct flow *undo, *heard;

	if (!c || !key || !head)
		return false;
	recover(key, head, c);
	undo = find_flow(c, FLOW_UNDO_DNAT);
	heard = find_flow(c, heard_at(c->needs_snat));
	if (undo && is_undo_of(undo, c) && !has_timed_out(head, heard, c->proto, most_s, now_ns))
		return false;
	forget_connection(key, head);
	return true;
}

static __always_inline bool restore(const struct connection *c, __u32 kind)
{
	return !find_flow(c, kind) && !write_flow(c, kind, BPF_NOEXIST);
}

/* Whether anything was missing. */
SUBPROGRAM int heal(const struct flow_key *key, const struct flow *head)
{
	struct connection *c = scratch_connection(OPENED);
	bool healed;

	if (!c || !key || !head)
		return false;
	recover(key, head, c);
	healed = restore(c, FLOW_UNDO_DNAT);
	if (!c->node.port)
		return healed;
	healed |= restore(c, FLOW_UNDO_SNAT);
	return healed | restore(c, FLOW_SNAT);
}

static __always_inline void visit_head(const struct flow_key *at, const struct flow *head,
				       struct pass *pass)
{
	struct flow_key key = *at;

	if (has_timed_out(head, NULL, key.proto, pass->it.most_s, pass->now_ns) &&
	    expire(&key, head, pass->it.most_s, pass->now_ns)) {
		pass->it.expired++;
		return;
	}
	pass->it.connections[state_of(head, key.proto) & (TIMEOUTS - 1)]++;
	pass->it.entries += head->far_port ? 4 : 2;
	if (pass->it.thorough && heal(&key, head))
		pass->it.healed++;
}

/* What answers knows its head; a FLOW_SNAT does by the FLOW_UNDO_SNAT that answers it. */
static __always_inline bool has_head(const struct flow_key *at, const struct flow *flow)
{
	struct flow_key undo_key = *at, key;
	const struct flow *undo = flow;

	if (flow->kind == FLOW_SNAT) {
		struct party backend = destination_of(at), node = translation_of(flow);

		undo_key = key_of(FLOW_UNDO_SNAT, &backend, &node, at->proto);
		undo = bpf_map_lookup_elem(&flows, &undo_key);
		if (!undo || undo->kind != FLOW_UNDO_SNAT || undo->port != at->src_port ||
		    !same_addr(&undo->addr, &at->src_addr))
			return false;
	}
	return find_head(&undo_key, undo, &key);
}

SUBPROGRAM int is_orphan(const struct flow_key *key, const struct flow *flow)
{
	return key && flow && !has_head(key, flow);
}

static __always_inline void visit_other(const struct flow_key *at, const struct flow *flow,
					struct pass *pass)
{
	struct flow_key key = *at;

	if (!pass->it.thorough || !is_silent_for(flow, NULL, pass->now_ns, UNUSED_FOR_S))
		return;
	if (is_orphan(&key, flow) && !bpf_map_delete_elem(&flows, &key))
		pass->it.orphans++;
}

/* A connection that is nothing but this. */
static __always_inline void visit_alone(const struct flow_key *at, const struct flow *undo,
					struct pass *pass)
{
	struct flow_key key = *at;

	if (has_timed_out(undo, NULL, key.proto, pass->it.most_s, pass->now_ns) &&
	    forget_alone(&key, undo)) {
		pass->it.expired++;
		return;
	}
	pass->it.connections[state_of(undo, key.proto) & (TIMEOUTS - 1)]++;
	pass->it.entries++;
}

static long visit(void *map, const struct flow_key *key, const struct flow *flow, struct pass *pass)
{
	if (flow->kind == FLOW_DNAT)
		visit_head(key, flow, pass);
	else if (flow->flags & FLOW_ALONE)
		visit_alone(key, flow, pass);
	else
		visit_other(key, flow, pass);
	return 0;
}

SEC("syscall")
int expire_flows(struct expiry *expiry)
{
	struct pass pass = {.now_ns = bpf_ktime_get_boot_ns()};

	if (!get_config())
		return 1;
	pass.it.most_s = expiry->most_s;
	pass.it.thorough = expiry->thorough;
	bpf_for_each_map_elem(&flows, visit, &pass, 0);
	*expiry = pass.it;
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
