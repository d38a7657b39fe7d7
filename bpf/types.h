/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Every struct and constant that the programs and the agent share. scripts/gen-abi.ts turns
 * this into src/dataplane/bpf/abi.gen.ts; nothing here is written a second time elsewhere.
 * No byte holes, no bitfields: padding is a named field.
 */
#ifndef BEELINE_TYPES_H
#define BEELINE_TYPES_H

#include <linux/types.h>

/* An IP address of either family: IPv6 as it is, IPv4 as ::ffff:a.b.c.d. */
struct addr {
	__be32 word[4];
};

/* Which traffic policy applies: asked from inside (a pod or the node itself) or from outside. */
enum scope {
	SCOPE_EXTERNAL = 0,
	SCOPE_INTERNAL = 1,
};

enum family {
	FAMILY_IPV4 = 4,
	FAMILY_IPV6 = 6,
};

/* services: what a service_id is called. Written and read by the agent and the command only. */
enum service_flag {
	SERVICE_INTERNAL_LOCAL = 1, /* internalTrafficPolicy: Local */
	SERVICE_EXTERNAL_LOCAL = 2, /* externalTrafficPolicy: Local */
};

struct service {
	char namespace[64];
	char name[64];
	char port_name[64];
	__u8 proto;
	__u8 pad;
	__be16 health_check_port; /* healthCheckNodePort of the Service; 0: none */
	__u32 flags;
	__u32 affinity_timeout_s; /* 0: no session affinity */
};

/* frontends and nodeports: an address, port, protocol and scope a client can connect to. */
struct frontend_key {
	struct addr addr;
	__be16 port;
	__u8 proto;
	__u8 scope;
};

/* Asked when the destination is one of node_addresses. */
struct nodeport_key {
	__be16 port;
	__u8 proto;
	__u8 scope;
	__u8 family;
	__u8 pad[3];
};

enum frontend_flag {
	FRONTEND_CLUSTER_IP = 1,
	FRONTEND_NODE_PORT = 2,
	FRONTEND_LOAD_BALANCER = 4,
	FRONTEND_EXTERNAL_IP = 8,
	FRONTEND_LOCAL = 16, /* traffic policy Local applies in this scope */
	FRONTEND_DROP = 32, /* an empty run means drop (endpoints exist, none local); else refuse */
	FRONTEND_SOURCE_RANGES = 64, /* only clients in source_ranges may enter */
};

struct frontend {
	__u32 service_id;
	__u32 slot_base; /* first slot of the run */
	__u32 slot_count;
	__u32 affinity_timeout_s; /* 0: no session affinity */
	__u32 flags;		  /* enum frontend_flag */
};

/* frontend_addresses: every address that a key of `frontends` has. */
enum frontend_address_flag {
	FRONTEND_ADDRESS_VIP =
		1, /* no address of this node: a port that no service has is refused */
	FRONTEND_ADDRESS_CLUSTER_IP = 2, /* nobody else's either: to whoever is inside as well */
};

struct frontend_address {
	__u32 flags; /* enum frontend_address_flag */
};

/* backends: where traffic is sent. A backend_id belongs to one Service port. */
enum backend_state {
	BACKEND_NONE = 0,     /* nobody; the entry keeps the generation of its last holder */
	BACKEND_ACTIVE = 1,   /* takes new flows */
	BACKEND_DRAINING = 2, /* keeps the flows it has */
};

enum backend_flag {
	BACKEND_LOCAL = 1,	/* runs on this node: the reply comes back by itself, no SNAT */
	BACKEND_IN_CLUSTER = 2, /* in the run of frontends without FRONTEND_LOCAL */
	BACKEND_IN_LOCAL = 4,	/* in the run of frontends with FRONTEND_LOCAL */
};

struct backend {
	struct addr addr;
	__be16 port;
	__u8 proto;
	__u8 state;
	__u32 generation; /* +1 with every new holder of this backend_id; never 0 for a holder */
	__u32 service_id;
	__u32 flags; /* enum backend_flag */
};

struct backend_stats {
	__u64 new_flows;    /* connections, or first datagrams of a flow, sent here */
	__u64 open_sockets; /* of those, sockets of this node that are still open */
};

/* source_ranges: LPM over service_id, then the client's address. */
struct source_range_key {
	__u32 prefixlen; /* bits: 32 for service_id, then 96 + n for an IPv4 prefix of n bits */
	__u32 service_id;
	struct addr addr;
};

struct source_range {
	__u32 allow; /* 0: the IPv4 clients below an IPv6 range that covers ::ffff:0:0/96 */
};

/* node_addresses: the node's own. */
enum node_address_flag {
	NODE_ADDRESS_LOOPBACK = 1,     /* an address of the host's network namespace alone */
	NODE_ADDRESS_NO_NODEPORTS = 2, /* nodePortAddresses leaves it out */
};

struct node_address {
	__u32 flags; /* enum node_address_flag */
};

/* affinity: which backend a client of a service was sent to. The same memory serves both
 * policies, as kube-proxy's does; a backend that the asking frontend's policy does not
 * allow (BACKEND_IN_*) is not used. */
struct affinity_key {
	struct addr client; /* address; for sockets {0xffffffff, family, netns cookie} */
	__u32 service_id;
};

struct affinity {
	__u32 backend_id;
	__u32 generation;
	__u64 last_used_ns; /* CLOCK_BOOTTIME, when a new connection last used it */
};

/* flows: one rewrite of one direction, keyed by the packet as it is at the hook.
 * tc ingress writes `addr`:`port` over the destination, tc egress over the source. */
struct flow_key {
	struct addr src_addr;
	struct addr dst_addr;
	__be16 src_port;
	__be16 dst_port;
	__u8 proto;
	__u8 outward; /* 1: as the packet is at egress */
	__u8 pad[2];
};

enum flow_kind {
	FLOW_DNAT = 1,	    /* ingress, client to VIP: to the backend */
	FLOW_SNAT = 2,	    /* egress, client to a remote backend: from the node */
	FLOW_UNDO_SNAT = 3, /* ingress, backend to node: to the client */
	FLOW_UNDO_DNAT = 4, /* egress, backend to client: from the VIP */
};

/* What is known of a connection stands in its FLOW_DNAT; the others have FLOW_SETTLED alone, and
 * a FLOW_UNDO_DNAT FLOW_ALONE. */
enum flow_flag {
	FLOW_SETTLED = 1,     /* nothing is waited for but an end: both sides have been heard */
	FLOW_ANSWERED = 2,    /* the backend has been heard */
	FLOW_CLIENT_FIN = 4,  /* the client has no more to send */
	FLOW_BACKEND_FIN = 8, /* nor has the backend */
	FLOW_RESET = 16,      /* either has broken it off */
	FLOW_ALONE = 32,      /* the connection has no other flow yet: one packet has been seen */
};

/* What follows from the flags of a FLOW_DNAT, and how long a connection may be silent in it. */
enum flow_state {
	STATE_TCP_HALF_OPEN = 0,   /* the client has yet to answer the backend's answer */
	STATE_TCP_ESTABLISHED = 1, /* it has */
	STATE_TCP_HALF_CLOSED = 2, /* one side has sent a FIN */
	STATE_TCP_CLOSED = 3,	   /* both have */
	STATE_TCP_RESET = 4,	   /* one has sent a RST */
	STATE_UDP = 5,		   /* the client has yet to answer the backend's answer */
	STATE_UDP_STREAM = 6,	   /* it has */
	FLOW_STATES = 7,
};

#define TIMEOUTS 8 /* one for each state, and padding */

/* How a packet goes on, once both its sides are written. */
enum way {
	WAY_KERNEL = 0, /* not known, or only the kernel can: it routes the packet */
	WAY_PEER = 1,	/* into the pod behind the device */
	WAY_WIRE = 2,	/* out by the device */
};

/* Where it goes without being routed. The last eight bytes are written at once. */
struct next_hop {
	__u32 from;    /* interface index of the device by which the packets come */
	__u32 ifindex; /* of the one by which they go on */
	__u8 dmac[6];
	__u8 smac[6];
	__u16 mtu;	  /* of the route; an IP packet may be as large */
	__u8 way;	  /* enum way */
	__u8 version;	  /* changes with each writing; odd: somebody is at it */
	__u16 generation; /* of config, when it was found; 0: never */
	__u16 window;	  /* of time, when it was found */
};

struct flow {
	struct addr addr;
	__be16 port;
	__u8 kind;
	__u8 flags;
	__u32 service_id;
	__u32 backend_id;
	__u32 generation;   /* of the backend; a flow to another generation is to a backend that is
			       gone */
	__be16 far_port;    /* 0: nothing is written over the far side */
	__be16 client_port; /* FLOW_DNAT and FLOW_UNDO_DNAT write it over the client's port, where
			       the backend sees another one; FLOW_UNDO_SNAT: what FLOW_UNDO_DNAT
			       will write there; else 0 */
	__u32 last_tick;    /* the kernel tick (jiffies) in which last_seen_ns was written */
	union {
		__u32 awaited_ack; /* FLOW_DNAT: what acknowledges the backend's SYN; 0: any */
		__u32 place;	   /* FLOW_UNDO_DNAT: the place in expendables that was taken
				      last for its connection, + 1; 0: none */
	};
	struct next_hop next_hop;
	__u64 created_ns; /* CLOCK_BOOTTIME; the same in all flows of a connection */
	__u64 last_seen_ns;
	/* What the other hook writes over the other side. FLOW_DNAT to a remote backend: this node
	 * and the port that SNAT took. FLOW_UNDO_SNAT: the VIP and its port. FLOW_UNDO_DNAT of a
	 * remote backend: the client. */
	struct addr far_addr;
};

/* expendables: a ring of connections that give way to newer ones, if they are still half-open
 * or closed when their place is wanted. */
struct expendable {
	struct flow_key key; /* of the FLOW_UNDO_DNAT */
	__u64 created_ns;    /* of the connection: another one under the same key has a place of
				its own. 0: nobody is here */
};

/* What the agent asks of expire_flows, and what it is told: numbers of connections, but for
 * `entries` and `orphans`. */
struct expiry {
	__u32 most_s; /* whatever is not established goes after so long at most; 0: as configured */
	__u32 thorough;		     /* 1: orphans are removed, and what is missing is healed */
	__u32 entries;		     /* left in flows */
	__u32 expired;		     /* timed out, and removed */
	__u32 healed;		     /* had lost a flow, and have it again */
	__u32 orphans;		     /* flows of no connection, removed */
	__u32 connections[TIMEOUTS]; /* left, by state */
};

/* fragments: the ports of a datagram, from its first fragment, for those that have none. As the
 * packet is at the hook, so that a datagram that passes both has an entry for each. */
struct fragment_key {
	struct addr src_addr;
	struct addr dst_addr;
	__be32 id;
	__u8 proto;   /* IPv4: an id is one protocol's. IPv6: 0 */
	__u8 outward; /* 1: as the packet is at egress */
	__u8 pad[2];
};

struct fragment {
	__be16 src_port;
	__be16 dst_port;
	__u8 proto;
	__u8 pad[3];
	__u64 seen_ns; /* CLOCK_BOOTTIME, when the first fragment came */
};

/* parked_fragments: later fragments that came before their first one, as IP packets. */
#define PARKED_PER_DATAGRAM 8
#define PARKED_MAX_BYTES 2048

struct parked_key {
	struct fragment_key datagram;
	__u32 place; /* below PARKED_PER_DATAGRAM */
};

struct parked_fragment {
	__u64 seen_ns; /* CLOCK_BOOTTIME, when it came */
	__u32 size;
	__u32 pad;
	__u8 bytes[PARKED_MAX_BYTES];
};

/* sockets, tcp_peers: what a socket asked for and was given. */
struct socket_peer {
	struct addr vip;
	struct addr backend;
	__be16 vip_port;
	__be16 backend_port;
	__u32 service_id;
	__u32 backend_id;
	__u32 generation;
};

#define SOCKET_PEERS 4 /* VIPs one unconnected UDP socket can talk to at a time */

struct socket_peers {
	struct socket_peer peer[SOCKET_PEERS];
	__u32 next;	/* peer overwritten next */
	__u8 connected; /* 1: connect() was given peer[0]'s backend */
	__u8 counted;	/* 1: counted in its open_sockets */
	__u8 pad[2];
};

struct tcp_peer {
	__u64 cookie; /* of the socket; 0: the place is free */
	struct socket_peer peer;
};

/* What the iterator over `sockets` says of a UDP socket that is connected to a removed backend:
 * enough to destroy that very socket, by sock_diag, in its network namespace. */
struct stale_socket {
	struct addr local;
	struct addr remote;
	__be16 local_port;
	__be16 remote_port;
	__u32 netns_inode; /* of /proc/PID/ns/net */
	__u64 cookie;	   /* 0: none was made */
	__u32 device;	   /* interface index it is bound to; 0: none */
	__u32 domain;	   /* AF_INET or AF_INET6: of the socket, not of the addresses */
};

/* tunnels: the addresses of devices by which packets leave in other packets. What goes to a
 * backend behind one comes from there, else the reply would come back outside of it. */
struct tunnel {
	struct addr addr_v4; /* 0: none */
	struct addr addr_v6;
};

/* devices: what may be done with a packet by a device of the node, besides leaving it to the
 * kernel. One that is not here: nothing. */
enum device_flag {
	DEVICE_PEER = 1,   /* a pod is at its other end, and nothing on the way there is skipped */
	DEVICE_WIRE = 2,   /* Ethernet: frames may be sent out by it */
	DEVICE_XDP = 4,	   /* the XDP program is on it, so XDP may send out by it */
	DEVICE_STRICT = 8, /* packets come by it from where it leads to (IPv4 rp_filter 1) */
};

struct device {
	__u32 flags; /* enum device_flag */
};

/* bpf.forwarding: who routes packets. */
enum forwarding {
	FORWARDING_KERNEL = 0,
	FORWARDING_DIRECT = 1, /* the programs do, where a packet's way is plain */
	FORWARDING_AUTO = 2,   /* the same, unless something on the node may refuse packets */
};

/* bpf.xdp: which node devices have the XDP program. */
enum xdp_wanted {
	XDP_WANTED_AUTO = 0, /* those whose driver can */
	XDP_WANTED_OFF = 1,
	XDP_WANTED_REQUIRED = 2, /* all that can at all, or the agent does not start */
};

/* config: what the agent tells the programs at run time; one entry. */
struct config {
	struct addr
		snat_addr_v4; /* this node's own addresses as remote backends see them; 0: none */
	struct addr snat_addr_v6;
	__u64 host_netns_cookie;   /* of the namespace the agent runs in */
	__u64 forwarding_since_ns; /* CLOCK_BOOTTIME, when packets began to go on as they do now,
				      directly or by the kernel; 0: always. The first second may
				      be before it */
	__u32 hash_seed;
	__u16 snat_port_min; /* first and last port SNAT may take */
	__u16 snat_port_max;
	__u32 backend_ids_end;	   /* backends from here on were never held, so readers may stop; 0:
				      unknown */
	__u32 expendables;	   /* places in that ring */
	__u32 tcp_peers;	   /* places in that array */
	__u32 timeout_s[TIMEOUTS]; /* by enum flow_state */
	__u16 next_hop_generation; /* another one after each change of routes, neighbours or
				      devices; 0: all packets are left to the kernel's routing */
	__u8 has_tunnels;	   /* 0: there is none in tunnels */
	__u8 forwarding;	   /* enum forwarding: what the agent was told, for the command */
	__u8 xdp;		   /* enum xdp_wanted: the same */
	__u8 shares_ways;	   /* 1: ports have no part in routing, so that packets of one
				      source to one destination have the same next hop */
	__u16 route_mtu; /* the least that a route states, which bpf_fib_lookup does not heed; 0:
			    none */
	__u8 pad2[4];
};

/* options: fixed when a program is loaded, so that the verifier removes what is off. Every
 * object has one `const volatile struct options options` in the section .rodata.options. */
struct options {
	__u8 ipv4; /* 0: the node has no IPv4; IPv4 packets are not ours */
	__u8 ipv6;
	__u8 backend_stats;  /* count in backend_stats */
	__u8 socket_lb;	     /* enum socket_lb */
	__u8 l3_device;	     /* packets start with the IP header: tunnels, WireGuard */
	__u8 conntrack;	     /* the kernel can be asked for tracked connections */
	__u8 direct;	     /* packets may go on without being routed by the kernel */
	__u8 kernel_context; /* programs can read the kernel's own struct behind their context */
	__u8 device_mac[6];  /* XDP: of the device that the program is loaded for */
	__u8 pad[2];
	__u32 device; /* and its interface index: a bond's, where its slaves have others */
};

/* Whose sockets are translated in their system calls. */
enum socket_lb {
	SOCKET_LB_ALL = 0,
	SOCKET_LB_HOST = 1,   /* those of the host's network namespace; pods at their devices */
	SOCKET_LB_OFF = 2,    /* none; what the host itself sends is not translated at all */
	SOCKET_LB_OTHERS = 3, /* all but those of unhooked_netns */
};

/* counters: one per hook and reason, index hook * REASONS_PER_HOOK + reason. */
enum hook {
	HOOK_SOCK = 0,
	HOOK_TC_INGRESS = 1,
	HOOK_TC_EGRESS = 2,
	HOOK_XDP = 3,
	HOOKS = 4,
};

#define REASONS_PER_HOOK 64

/* What happens to a packet or a call, and why. src/model/reason.ts has the words. */
enum reason {
	REASON_NOT_OURS = 0,	       /* pass: no frontend, no flow */
	REASON_NEW_FLOW = 1,	       /* translated: a backend was chosen */
	REASON_ESTABLISHED = 2,	       /* translated: an existing flow */
	REASON_REPLY = 3,	       /* translated: a reply of an existing flow */
	REASON_NOT_HANDLED = 4,	       /* pass: for a frontend, but nobody translates it here */
	REASON_FRAGMENT = 5,	       /* pass: a later fragment of which no first one is known */
	REASON_MALFORMED = 6,	       /* pass: too short or wrong lengths; the kernel decides */
	REASON_NO_ENDPOINTS = 7,       /* refused: the service has no endpoint anywhere */
	REASON_NO_LOCAL_ENDPOINTS = 8, /* dropped: policy Local and no endpoint on this node */
	REASON_SOURCE_RANGE = 9,       /* dropped: the client is in no source range */
	REASON_NO_SLOT = 10,	       /* dropped: a frontend points outside slots (a bug) */
	REASON_NO_BACKEND = 11,	       /* dropped: a slot names no backend (a bug) */
	REASON_SNAT_EXHAUSTED = 12,    /* dropped: no free SNAT port to this backend */
	REASON_NO_SNAT_ADDRESS = 13,   /* dropped: the node has no address of this family */
	REASON_FLOW_CLASH = 14,	    /* dropped: no port of the client is free towards the backend */
	REASON_FLOWS_FULL = 15,	    /* dropped: the flow could not be stored */
	REASON_REWRITE_FAILED = 16, /* dropped: the kernel refused to change it, to a backend */
	REASON_REPLY_FAILED = 17,   /* dropped: the ICMP refusal could not be built */
	REASON_NO_CONFIG = 18,	    /* pass: the agent has not written config yet */
	REASON_ICMP_ERROR = 19,	    /* translated: an ICMP error about a packet of a flow */
	REASON_LOOPBACK = 20,	    /* dropped: a loopback address comes by no wire */
	REASON_REPLY_REWRITE_FAILED = 21, /* dropped: the same, on the way back to a client */
	REASON_UNLISTED_PORT = 22,	  /* refused: to a VIP, at a port that no service has */
	REASON_PROTOCOL = 23,	    /* refused: to a frontend or VIP, of a protocol not handled */
	REASON_ECHO = 24,	    /* answered: a ping to a VIP */
	REASON_EARLY_FRAGMENT = 25, /* dropped: to a VIP, as FRAGMENT */
	REASON_UNREADABLE = 26,	    /* dropped: to a VIP, as MALFORMED */
	REASON_STRAY_ICMP = 27,	    /* dropped: to a VIP, no ping and about no flow */
	REASON_CONNTRACK = 28,	    /* pass: kube-proxy's rules set this connection up */
	REASON_FROM_ITSELF = 29,    /* dropped: from the address that it is for, by a wire */
	REASON_PARKED = 30,	    /* held: a later fragment, until its first one comes */
	REASON_REORDERED = 31,	    /* held: comes in again, and after it what was parked for it */
	REASONS = 32,
};

/* forwards: how packets that are translated went on, index hook * FORWARDS_PER_HOOK + forward; of
 * those that the kernel routes, as all do when config says so, those that it need not have. */
#define FORWARDS_PER_HOOK 16

enum forward {
	FORWARD_PEER = 0,      /* into a pod */
	FORWARD_WIRE = 1,      /* out by a device, to a MAC address that is remembered */
	FORWARD_NEIGHBOUR = 2, /* out by a device, to the MAC address that the kernel finds */
	/* To the kernel, because: */
	FORWARD_NEXT_HOP = 3,  /* its routing knows no plain next hop by a device that is known */
	FORWARD_HOP_LIMIT = 4, /* it may not live on */
	FORWARD_HEADERS = 5,   /* of IPv4 options, or IPv6 extension headers */
	FORWARD_FRAGMENT = 6,
	FORWARD_TOO_LARGE = 7, /* for the route's MTU */
	FORWARD_VLAN = 8,      /* it has a tag */
	FORWARD_L3_DEVICE = 9, /* it came without an Ethernet header */
	FORWARD_HAIRPIN = 10,  /* a pod asks itself */
	FORWARDS = 11,
};

/* listener: who wants events; one entry. Nothing is written when the time is over. */
struct listener {
	__u64 until_ns;	   /* CLOCK_BOOTTIME; put off while somebody reads */
	__u64 interval_ns; /* between two events of one hook, reason and CPU, in the long run */
};

#define EVENT_BURST_NS 1000000000ull /* events saved up while there were fewer */

/* event_budgets: how many events may be written, and what became of them; index as in counters. */
struct event_budget {
	__u64 spent_until_ns; /* CLOCK_BOOTTIME; each event spends one interval */
	__u64 written;
	__u64 limited; /* not written: over the rate */
	__u64 lost;    /* not written: the reader was too slow, and the buffer full */
};

/* events: what was refused or dropped. */
struct event {
	__u64 time_ns;	     /* CLOCK_BOOTTIME */
	__u64 netns_cookie;  /* of the calling process; 0: a packet */
	struct flow_key key; /* as the packet came; of a socket, 0 where it is not bound yet */
	__u32 ifindex;	     /* 0: a call */
	__u32 service_id;    /* 0: not known */
	__u32 backend_id;    /* 0: none, or not known */
	__u32 pid;	     /* of the calling process; 0: a packet */
	char process[16];
	__u8 hook;
	__u8 reason;
	__u8 pad[6];
};

#endif
