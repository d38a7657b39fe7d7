// One stack's network, as the shell script that makes it: a client, the node that is measured, two pods on it, and another
// node that is a pod's address itself.
//
//   client 192.168.0.2 ── uplink, node 192.168.0.1 ──┬── pod1 10.244.1.11
//                                                    ├── pod2 10.244.1.12
//                                                    └── wire, node2 10.244.2.11
//
// Every stack has the same addresses, in namespaces of its own. Nothing is asked for by ARP: neighbours are permanent.
import { CLIENT, NODE, PODS, REMOTE_POD } from "../cluster.ts";

export const PLACES = ["client", "node", ...PODS.map(({ name }) => name), REMOTE_POD.name] as const;

/** The node's device towards the client: the one that a NIC would be. */
export const UPLINK = "uplink";

/** Its device towards the other node. */
export const WIRE = "wire";

export const netnsName = (lab: string, stack: string, place: string): string => `${lab}-${stack}-${place}`;

const CLIENT_MAC = "02:00:00:00:00:02";
export const NODE_MAC = "02:00:00:00:00:01";
const WIRE_MAC = "02:00:00:00:03:01";
const NODE2_MAC = "02:00:00:00:03:02";
const podMac = (i: number): string => `02:00:00:00:01:0${i + 1}`;
const gatewayMac = (i: number): string => `02:00:00:00:02:0${i + 1}`;

/** Makes the namespaces of all stacks, and everything inside. */
export const networkScript = (lab: string, stacks: readonly string[]): string =>
  [
    "set -e",
    heredoc(
      "ip -batch -",
      stacks.flatMap((stack) => PLACES.map((place) => `netns add ${netnsName(lab, stack, place)}`)),
    ),
    heredoc(
      "ip -batch -",
      stacks.flatMap((stack) => links((place) => netnsName(lab, stack, place))),
    ),
    ...stacks.flatMap((stack) =>
      PLACES.flatMap((place) => {
        const inside = `nsenter --net=/run/netns/${netnsName(lab, stack, place)}`;
        return [`${inside} sh -ec '${sysctls(place)}'`, heredoc(`${inside} ip -batch -`, settings(place))];
      }),
    ),
  ].join("\n");

const heredoc = (command: string, lines: readonly string[]): string =>
  [`${command} <<'END'`, ...lines, "END"].join("\n");

const links = (netns: (place: string) => string): readonly string[] => [
  link(UPLINK, netns("node"), NODE_MAC, netns("client"), CLIENT_MAC),
  link(WIRE, netns("node"), WIRE_MAC, netns(REMOTE_POD.name), NODE2_MAC),
  ...PODS.map(({ name }, i) => link(name, netns("node"), gatewayMac(i), netns(name), podMac(i))),
];

const link = (device: string, netns: string, mac: string, peerNetns: string, peerMac: string): string =>
  `link add name ${device} netns ${netns} address ${mac} type veth peer name eth0 netns ${peerNetns} address ${peerMac}`;

const sysctls = (place: string): string => {
  const wanted = ["ipv6/conf/all/disable_ipv6=1", "ipv6/conf/default/disable_ipv6=1", "ipv4/conf/all/rp_filter=0"];
  wanted.push("ipv4/conf/default/rp_filter=0");
  if (place === "node") wanted.push("ipv4/ip_forward=1", "ipv4/conf/all/send_redirects=0");
  // Above the ports of the packets that are made.
  if (place === "client") wanted.push('ipv4/ip_local_port_range="20000 65000"');
  return wanted
    .map((one) => one.split("="))
    .map(([path, value]) => `[ ! -e /proc/sys/net/${path} ] || echo ${value} >/proc/sys/net/${path}`)
    .join("; ");
};

const settings = (place: string): readonly string[] => {
  switch (place) {
    case "client":
      return [
        "link set lo up",
        "link set eth0 up",
        `addr add ${CLIENT.address}/16 dev eth0`,
        "route add local 192.168.1.0/26 dev lo", // as many addresses more, for flows that are never seen twice
        `neigh replace ${NODE.address} lladdr ${NODE_MAC} dev eth0 nud permanent`,
        `route add default via ${NODE.address}`,
      ];
    case "node":
      return [
        "link set lo up",
        `link set ${UPLINK} up`,
        `addr add ${NODE.address}/16 dev ${UPLINK}`,
        `neigh replace ${CLIENT.address} lladdr ${CLIENT_MAC} dev ${UPLINK} nud permanent`,
        `route add default via ${CLIENT.address}`,
        `link set ${WIRE} up`,
        `addr add ${NODE.inner}/24 dev ${WIRE}`,
        `route add ${REMOTE_POD.address}/32 dev ${WIRE}`,
        `neigh replace ${REMOTE_POD.address} lladdr ${NODE2_MAC} dev ${WIRE} nud permanent`,
        ...PODS.flatMap(({ name, address }, i) => [
          `link set ${name} up`,
          `route add ${address}/32 dev ${name} src ${NODE.address}`,
          `neigh replace ${address} lladdr ${podMac(i)} dev ${name} nud permanent`,
        ]),
      ];
    case REMOTE_POD.name:
      return [
        "link set lo up",
        "link set eth0 up",
        `addr add ${REMOTE_POD.address}/32 dev eth0`,
        `route add ${NODE.inner} dev eth0`,
        `neigh replace ${NODE.inner} lladdr ${WIRE_MAC} dev eth0 nud permanent`,
        `route add default via ${NODE.inner}`,
      ];
    default: {
      const i = PODS.findIndex(({ name }) => name === place);
      return [
        "link set lo up",
        "link set eth0 up",
        `addr add ${PODS[i]?.address}/32 dev eth0`,
        `route add ${NODE.address} dev eth0`,
        `neigh replace ${NODE.address} lladdr ${gatewayMac(i)} dev eth0 nud permanent`,
        `route add default via ${NODE.address}`,
      ];
    }
  }
};

/**
 * What devices do for packets. `usual`: segmentation and joining as they come. `small`: neither, so that every packet is
 * 1500 bytes. `wire`: at the client and the other node as behind a wire: checksums are written before it, and what XDP
 * redirects to them arrives (a veth's end takes that with GRO or XDP on only, as a NIC has it).
 */
export type Offloads = "usual" | "small" | "wire";

interface Features {
  /** Of the client's and the other node's device. */
  readonly far: string;
  /** Of the node's device towards the client. Frames that XDP sends are taken in with GRO (or XDP) on only, as a NIC has it. */
  readonly uplink?: string;
  /** Of both ends of the pods' devices. */
  readonly pods?: string;
}

const FEATURES: Readonly<Record<Offloads, Features>> = {
  usual: { far: "tx on tso on gso on gro off", uplink: "tso on gso on gro on", pods: "tso on gso on gro off" },
  small: { far: "tso off gso off gro off", uplink: "tso off gso off gro off", pods: "tso off gso off gro off" },
  wire: { far: "tx off gro on" },
};

export const offloadScript = (lab: string, stack: string, offloads: Offloads): string => {
  const { far, uplink, pods } = FEATURES[offloads];
  const ethtool = (place: string, device: string, features: string | undefined): readonly string[] =>
    features === undefined
      ? []
      : [`nsenter --net=/run/netns/${netnsName(lab, stack, place)} ethtool -K ${device} ${features}`];
  return [
    "set -e",
    ...ethtool("client", "eth0", far),
    ...ethtool(REMOTE_POD.name, "eth0", far),
    ...ethtool("node", UPLINK, uplink),
    ...PODS.flatMap(({ name }) => [...ethtool("node", name, pods), ...ethtool(name, "eth0", pods)]),
  ].join("\n");
};
