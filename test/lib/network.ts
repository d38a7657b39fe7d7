// The lab's network as a value, and as the shell script that makes it: an outside client, a wire (router for the
// client, bridge between the nodes), nodes, and pods behind point-to-point links. Who starts and removes it: lab.ts.
//
//   client 203.0.113.2 ── wire ──┬── node1 192.168.0.1 ── pod1a 10.244.1.11, pod1b 10.244.1.12, …
//                                └── node2 192.168.0.2 ── pod2a 10.244.2.11, …
//
// The wire knows no pod address: a reply that leaves its node unchanged is lost, as in most real clusters.

/** One network namespace and its addresses. */
export interface Place {
  /** `client`, `wire`, `node1`, `pod1a` (the first pod of node1). */
  readonly name: string;
  readonly v4: string;
  readonly v6: string;
  /** The node it is, or the node it runs on; null outside. */
  readonly node: string | null;
}

/** The client has a second address, for source ranges and affinity. */
export const CLIENT_OTHER = { v4: "203.0.113.130", v6: "fd00:203::130" } as const;

/** What the wire routes to a node: ClusterIPs (`from outside`), LoadBalancer IPs and external IPs; node1 at first. */
const VIP_PREFIXES = ["172.30.0.0/16", "198.51.100.0/24", "fd00:172:30::/112", "fd00:198::/64"] as const;

export const planPlaces = (nodes: number, podsPerNode: number): readonly Place[] => {
  if (nodes > 9 || podsPerNode > 26)
    throw new Error(`Cannot make a lab of ${nodes} nodes with ${podsPerNode} pods each`);
  const places: Place[] = [
    { name: "client", v4: "203.0.113.2", v6: "fd00:203::2", node: null },
    { name: "wire", v4: "192.168.0.254", v6: "fd00:192::fe", node: null },
  ];
  for (let n = 1; n <= nodes; n++) {
    const node = `node${n}`;
    places.push({ name: node, v4: `192.168.0.${n}`, v6: `fd00:192::${n}`, node });
    for (let p = 0; p < podsPerNode; p++) {
      const name = `pod${n}${String.fromCharCode(97 + p)}`;
      places.push({ name, v4: `10.244.${n}.${11 + p}`, v6: `fd00:244:${n}::${11 + p}`, node });
    }
  }
  return places;
};

export const isNode = (place: Place): boolean => place.name === place.node;

/** Shell that makes every namespace `PREFIX-name`, its links, addresses and routes. */
export const networkScript = (places: readonly Place[], prefix: string): string => {
  const inside = (name: string): string => `nsenter --net=/run/netns/${prefix}-${name}`;
  const lines = [
    "set -e",
    heredoc(
      "ip -batch -",
      places.map((p) => `netns add ${prefix}-${p.name}`),
    ),
  ];
  for (const place of places) lines.push(`${inside(place.name)} sh -ec '${sysctls(place)}'`);
  lines.push(heredoc(`${inside("wire")} ip -batch -`, links(places, prefix)));
  for (const place of places) lines.push(heredoc(`${inside(place.name)} ip -batch -`, settings(place, places)));
  // A ClusterIP that a node let pass: nobody out here knows it. Without these it would go round until its TTL ends.
  lines.push(`${inside("wire")} ip rule add iif br0 to ${VIP_PREFIXES[0]} blackhole`);
  lines.push(`${inside("wire")} ip -6 rule add iif br0 to ${VIP_PREFIXES[2]} blackhole`);
  return lines.join("\n");
};

const heredoc = (command: string, lines: readonly string[]): string =>
  [`${command} <<'END'`, ...lines, "END"].join("\n");

/** Without duplicate address detection a link-local address works at once instead of after a second or two. */
const sysctls = (place: Place): string => {
  const settings = ["ipv6/conf/all/accept_dad=0", "ipv6/conf/default/accept_dad=0", "ipv6/conf/default/accept_ra=0"];
  if (place.name === "wire" || isNode(place)) settings.push("ipv4/ip_forward=1", "ipv6/conf/all/forwarding=1");
  if (place.name === "wire") settings.push("ipv4/conf/all/send_redirects=0", "ipv4/conf/default/send_redirects=0");
  return settings
    .map((s) => `echo ${s.slice(s.indexOf("=") + 1)} >/proc/sys/net/${s.slice(0, s.indexOf("="))}`)
    .join("; ");
};

const links = (places: readonly Place[], prefix: string): readonly string[] => {
  const lines = ["link add br0 type bridge", `link add client type veth peer name eth0 netns ${prefix}-client`];
  for (const place of places.filter(isNode)) {
    lines.push(`link add ${place.name} type veth peer name eth0 netns ${prefix}-${place.name}`);
  }
  for (const pod of places.filter(isPod)) {
    lines.push(`link add ${pod.name} netns ${prefix}-${pod.node} type veth peer name eth0 netns ${prefix}-${pod.name}`);
  }
  return lines;
};

const isPod = (place: Place): boolean => place.node !== null && !isNode(place);

const settings = (place: Place, places: readonly Place[]): readonly string[] => {
  const lines = ["link set lo up"];
  if (place.name === "client") lines.push(...clientSettings(place));
  else if (place.name === "wire") lines.push(...wireSettings(place, places));
  else if (isNode(place)) lines.push(...nodeSettings(place, places));
  else lines.push(...podSettings(place, places));
  return lines;
};

const clientSettings = (client: Place): readonly string[] => [
  "link set eth0 up",
  `addr add ${client.v4}/24 dev eth0`,
  `addr add ${CLIENT_OTHER.v4}/24 dev eth0`,
  `addr add ${CLIENT_OTHER.v6}/64 dev eth0 nodad`,
  `addr add ${client.v6}/64 dev eth0 nodad`, // the address added last is the preferred one
  "route add default via 203.0.113.1",
  "route add default via fd00:203::1",
];

const wireSettings = (wire: Place, places: readonly Place[]): readonly string[] => [
  "link set client up",
  "addr add 203.0.113.1/24 dev client",
  "addr add fd00:203::1/64 dev client nodad",
  ...places.filter(isNode).flatMap((node) => [`link set ${node.name} master br0`, `link set ${node.name} up`]),
  "link set br0 up",
  `addr add ${wire.v4}/24 dev br0`,
  `addr add ${wire.v6}/64 dev br0 nodad`,
  ...VIP_PREFIXES.map((prefix) => vipRoute(prefix, places, "node1")),
];

/** The `ip` line, for the wire, that sends a VIP or a prefix of VIPs to a node. */
export const vipRoute = (prefix: string, places: readonly Place[], nodeName: string): string => {
  const node = places.find((p) => p.name === nodeName);
  if (node === undefined) throw new Error(`Cannot route ${prefix} to ${nodeName}: the lab has no such node`);
  return `route replace ${prefix} via ${prefix.includes(":") ? node.v6 : node.v4}`;
};

const nodeSettings = (node: Place, places: readonly Place[]): readonly string[] => [
  "link set eth0 up",
  `addr add ${node.v4}/24 dev eth0`,
  `addr add ${node.v6}/64 dev eth0 nodad`,
  "route add default via 192.168.0.254",
  "route add default via fd00:192::fe",
  ...places
    .filter((pod) => isPod(pod) && pod.node === node.name)
    .flatMap((pod) => [
      `link set ${pod.name} up`,
      `addr add fe80::1/64 dev ${pod.name} nodad`, // the pods' IPv6 gateway: neighbour discovery asks the very interface
      `route add ${pod.v4}/32 dev ${pod.name} src ${node.v4}`,
      `route add ${pod.v6}/128 dev ${pod.name} src ${node.v6}`,
    ]),
  ...places
    .filter((other) => isNode(other) && other !== node)
    .flatMap((other) => {
      const n = other.name.slice("node".length);
      return [`route add 10.244.${n}.0/24 via ${other.v4}`, `route add fd00:244:${n}::/64 via ${other.v6}`];
    }),
];

/** A pod knows its own address and its node; ARP for the node's address is answered on every one of its interfaces. */
const podSettings = (pod: Place, places: readonly Place[]): readonly string[] => {
  const node = places.find((p) => p.name === pod.node);
  return [
    "link set eth0 up",
    `addr add ${pod.v4}/32 dev eth0`,
    `addr add ${pod.v6}/128 dev eth0 nodad`,
    `route add ${node?.v4} dev eth0`,
    `route add default via ${node?.v4}`,
    "route add default via fe80::1 dev eth0",
  ];
};
