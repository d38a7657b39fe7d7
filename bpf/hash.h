/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Seeded hashing of small keys: MurmurHash3 x86_32 (Austin Appleby, public domain) over words. */
#ifndef BEELINE_HASH_H
#define BEELINE_HASH_H

#include "types.h"

static __always_inline __u32 rotate_left(__u32 x, int bits)
{
	return (x << bits) | (x >> (32 - bits));
}

static __always_inline __u32 hash_word(__u32 hash, __u32 word)
{
	hash ^= rotate_left(word * 0xcc9e2d51, 15) * 0x1b873593;
	return rotate_left(hash, 13) * 5 + 0xe6546b64;
}

static __always_inline __u32 hash_end(__u32 hash)
{
	hash = (hash ^ (hash >> 16)) * 0x85ebca6b;
	hash = (hash ^ (hash >> 13)) * 0xc2b2ae35;
	return hash ^ (hash >> 16);
}

static __always_inline __u32 hash_addr(__u32 hash, const struct addr *a)
{
	hash = hash_word(hash, a->word[0]);
	hash = hash_word(hash, a->word[1]);
	hash = hash_word(hash, a->word[2]);
	return hash_word(hash, a->word[3]);
}

static __always_inline __u32 hash_flow(const struct flow_key *key, __u32 seed)
{
	__u32 hash = hash_addr(hash_addr(seed, &key->src_addr), &key->dst_addr);

	hash = hash_word(hash, (__u32)key->src_port << 16 | key->dst_port);
	return hash_end(hash_word(hash, key->proto));
}

static __always_inline __u32 hash_u64(__u64 x, __u32 seed)
{
	return hash_end(hash_word(hash_word(seed, x), x >> 32));
}

#endif
