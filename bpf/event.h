/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Tells whoever listens what was refused or dropped: where it was, why, and of which service.
 * Written by the outermost function of a program, into the ring buffer itself: the stack has no
 * room for it. Without a listener it costs one lookup for what is refused or dropped.
 */
#ifndef BEELINE_EVENT_H
#define BEELINE_EVENT_H

#include "frontend.h"
#include "verdict.h"

static __always_inline const struct listener *get_listener(void)
{
	__u32 zero = 0;
	const struct listener *found = bpf_map_lookup_elem(&listener, &zero);

	return found && found->until_ns ? found : NULL;
}

/* Each event spends an interval, and what is not spent is saved up for EVENT_BURST_NS. */
static __always_inline bool may_spend(struct event_budget *budget, __u64 interval_ns, __u64 now_ns)
{
	__u64 spent = budget->spent_until_ns;

	if ((__s64)(now_ns - spent) > (__s64)EVENT_BURST_NS)
		spent = now_ns - EVENT_BURST_NS;
	if ((__s64)(spent + interval_ns - now_ns) > 0)
		return false;
	budget->spent_until_ns = spent + interval_ns;
	return true;
}

/* NULL: nobody listens, or it is one too many, or there is no room. */
static __always_inline struct event *reserve_event(__u32 hook, __u32 reason)
{
	__u32 index = hook * REASONS_PER_HOOK + reason;
	const struct listener *listener = get_listener();
	struct event_budget *budget;
	struct event *event;
	__u64 now_ns;

	if (!listener)
		return NULL;
	now_ns = bpf_ktime_get_boot_ns();
	budget = bpf_map_lookup_elem(&event_budgets, &index);
	if (!budget || now_ns > listener->until_ns)
		return NULL;
	if (!may_spend(budget, listener->interval_ns, now_ns)) {
		budget->limited += 1;
		return NULL;
	}
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		budget->lost += 1;
		return NULL;
	}
	budget->written += 1;
	*event = (struct event){.time_ns = now_ns, .hook = hook, .reason = reason};
	return event;
}

/* The reader looks by itself from time to time: nobody is woken up. */
static __always_inline void submit_event(struct event *event)
{
	bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
}

/* 0: the destination is no frontend. */
static __always_inline __u32 service_of(const struct flow_key *key, __u8 scope)
{
	struct frontend_key wanted = {
		.addr = key->dst_addr,
		.port = key->dst_port,
		.proto = key->proto,
		.scope = scope,
	};
	const struct frontend *frontend;
	bool loopback = false;

	frontend = find_frontend(&wanted, true, &loopback);
	return frontend ? frontend->service_id : 0;
}

#endif
