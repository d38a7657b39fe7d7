/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The kernel's own structs: what is read of them, by name, wherever this kernel has it (CO-RE). */
#ifndef BEELINE_KERNEL_H
#define BEELINE_KERNEL_H

#include <linux/in6.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

/* Of a program's context. Only where the kernel has it (options.kernel_context): the call has
 * nowhere to go else. */
void *bpf_cast_to_kern_ctx(void *ctx) __weak __ksym;

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct sk_buff {
	__u8 ip_summed : 2;
};
struct ns_common {
	unsigned int inum;
};
struct net {
	struct ns_common ns;
};
typedef struct {
	struct net *net;
} possible_net_t;
typedef struct {
	__s64 counter;
} atomic64_t;
struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	int skc_bound_dev_if;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
	atomic64_t skc_cookie;
};
struct sock {
	struct sock_common __sk_common;
	__u8 sk_kern_sock : 1;
	__u16 sk_protocol;
};
#pragma clang attribute pop

#endif
