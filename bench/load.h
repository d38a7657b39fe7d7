/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What load.bpf.c and the programs that load it share. */
#ifndef BEELINE_BENCH_LOAD_H
#define BEELINE_BENCH_LOAD_H

#include <linux/types.h>

/* Source ports from sport on; then the next source address. */
#define PORTS_PER_ADDRESS 50000
#define PACKETS_PER_LOOK 64

/* Of one run. */
struct generator {
	__u64 next; /* number of the next packet: it makes the ports and addresses */
	__u64 sent;
	__u64 first_ns;	 /* when the first packet was made, */
	__u64 last_ns;	 /* the last time that the clock was looked at, */
	__u64 timed;	 /* and packets between the two */
	__u32 flows;	 /* 0: every packet is another flow */
	__u32 saddr;	 /* host order: it is counted up */
	__be32 daddr[2]; /* of flows with even and odd numbers */
	__u16 sport;	 /* host order */
	__be16 dport;
	__u8 to_mac[6];
	__u8 from_mac[6];
	__u32 pad;
};

/* Where a packet must be addressed to when it arrives. */
struct sink {
	__be32 daddr;
	__be16 dport;
	__u16 pad;
};

struct arrived {
	__u64 right;
	__u64 wrong; /* UDP to anywhere else */
};

#endif
