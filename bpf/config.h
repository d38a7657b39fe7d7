/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What the agent told the programs: at load time (options) and at run time (config). */
#ifndef BEELINE_CONFIG_H
#define BEELINE_CONFIG_H

#include "addr.h"
#include "maps.h"

/* A constant to the verifier: code for what is off is removed. */
const volatile struct options options SEC(".rodata.options");

/* NULL until the agent has written it. */
static __always_inline const struct config *get_config(void)
{
	__u32 zero = 0;
	const struct config *found = bpf_map_lookup_elem(&config, &zero);

	return found && found->snat_port_max ? found : NULL;
}

/* This node as remote backends see it. */
static __always_inline const struct addr *snat_addr(const struct config *config, __u8 family)
{
	return family == FAMILY_IPV4 ? &config->snat_addr_v4 : &config->snat_addr_v6;
}

static __always_inline bool is_family_on(__u8 family)
{
	return family == FAMILY_IPV4 ? options.ipv4 : options.ipv6;
}

#endif
