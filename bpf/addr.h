/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Addresses of both families in one shape. Knows nothing of packets or sockets. */
#ifndef BEELINE_ADDR_H
#define BEELINE_ADDR_H

#include <stdbool.h>
#include <bpf/bpf_endian.h>
#include "types.h"

/* An address and port that can talk, or be talked to. */
struct party {
	struct addr addr;
	__be16 port;
	__u16 pad;
};

static __always_inline struct addr addr_from_ipv4(__be32 address)
{
	return (struct addr){.word = {0, 0, bpf_htonl(0xffff), address}};
}

static __always_inline __u8 family_of(const struct addr *a)
{
	bool mapped = !a->word[0] && !a->word[1] && a->word[2] == bpf_htonl(0xffff);

	return mapped ? FAMILY_IPV4 : FAMILY_IPV6;
}

static __always_inline bool same_addr(const struct addr *a, const struct addr *b)
{
	return a->word[3] == b->word[3] && a->word[2] == b->word[2] && a->word[1] == b->word[1] &&
	       a->word[0] == b->word[0];
}

static __always_inline bool is_unset(const struct addr *a)
{
	return !(a->word[0] | a->word[1] | a->word[2] | a->word[3]);
}

static __always_inline bool is_loopback(const struct addr *a)
{
	if (family_of(a) == FAMILY_IPV4)
		return (a->word[3] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
	return !(a->word[0] | a->word[1] | a->word[2]) && a->word[3] == bpf_htonl(1);
}

/* Never the sender of something that deserves an answer: RFC 1122 3.2.2, RFC 4443 2.4 (e). */
static __always_inline bool is_no_single_host(const struct addr *a)
{
	if (family_of(a) == FAMILY_IPV4)
		return !a->word[3] || (a->word[3] & bpf_htonl(0xe0000000)) == bpf_htonl(0xe0000000);
	return is_unset(a) || (a->word[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000);
}

#endif
