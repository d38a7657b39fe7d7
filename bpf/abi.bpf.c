// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* Never loaded: makes the compiler describe every shared type, for scripts/gen-abi.ts. */
#include "maps.h"

const volatile struct options options SEC(".rodata.options");
const volatile struct stale_socket abi_stale_socket;
const volatile enum scope abi_scope;
const volatile enum family abi_family;
const volatile enum service_flag abi_service_flag;
const volatile enum frontend_flag abi_frontend_flag;
const volatile enum frontend_address_flag abi_frontend_address_flag;
const volatile enum backend_state abi_backend_state;
const volatile enum backend_flag abi_backend_flag;
const volatile enum node_address_flag abi_node_address_flag;
const volatile enum flow_kind abi_flow_kind;
const volatile enum flow_flag abi_flow_flag;
const volatile enum way abi_way;
const volatile enum device_flag abi_device_flag;
const volatile enum socket_lb abi_socket_lb;
const volatile enum flow_state abi_flow_state;
const volatile enum way abi_way;
const volatile enum device_flag abi_device_flag;
const volatile enum forward abi_forward;
const volatile enum xdp_wanted abi_xdp_wanted;
const volatile enum forwarding abi_forwarding;
const volatile struct expiry abi_expiry;
const volatile enum hook abi_hook;
const volatile enum reason abi_reason;
const volatile struct event abi_event;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
