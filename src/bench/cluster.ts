// The services that every mode is given: so many, with two endpoints each. The last one, `target`, is asked for, and one
// from outside, `remote`, whose only pod is on another node.
// Pure: equal numbers give equal services, in every mode.
import type { Address } from "../model/address.ts";
import {
  type Backend,
  type Desired,
  type DesiredService,
  type ServicePortName,
  servicePortKey,
} from "../model/desired.ts";
import type { Protocol } from "../model/snapshot.ts";

/** Where clients ask for the target service, over TCP and UDP. */
export const TARGET = { address: "10.111.255.1" as Address, port: 80 } as const;

/** The pods behind it, on the node that is measured. */
export const PODS = [
  { name: "pod1", address: "10.244.1.11" as Address },
  { name: "pod2", address: "10.244.1.12" as Address },
] as const;

/** Where a client outside asks for the remote service: an external IP. */
const REMOTE = { address: "198.51.100.1" as Address, port: 80 } as const;

/** The pod behind it, on the other node. */
export const REMOTE_POD = { name: "node2", address: "10.244.2.11" as Address } as const;

export const POD_PORT = 8080;

/** To the client, and to the other node. */
export const NODE = { address: "192.168.0.1" as Address, inner: "172.20.0.1" as Address } as const;
export const CLIENT = { address: "192.168.0.2" as Address } as const;

/** The target, the remote one, and one whose endpoints change. */
export const FEWEST_SERVICES = 3;
/** More do not fit into the addresses here. */
export const MOST_SERVICES = 60_000;

const [TARGET_PORTS, REMOTE_PORTS] = [2, 2];

/** Two ports of the target and of the remote service, and one port of each other one. */
export const clusterOf = (services: number): Desired => {
  const all = [
    ...Array.from({ length: services - 2 }, (_, i) => otherService(i, 0)),
    remoteService("TCP"),
    remoteService("UDP"),
    targetService("TCP"),
    targetService("UDP"),
  ];
  return {
    services: new Map(all.map((service) => [servicePortKey(service.name), service])),
    nodeAddresses: [{ address: NODE.address, loopback: false, primary: true, nodePorts: true }],
  };
};

/** The same, with one endpoint of a service in the middle replaced for the `change`th time; all else is identical. */
export const withOneChange = (desired: Desired, change: number): Desired => {
  const others = desired.services.size - TARGET_PORTS - REMOTE_PORTS;
  const changed = otherService(Math.floor(others / 2), change);
  return { ...desired, services: new Map(desired.services).set(servicePortKey(changed.name), changed) };
};

const portName = (name: string, protocol: Protocol): ServicePortName => ({
  namespace: "bench",
  name,
  port: protocol.toLowerCase(),
  protocol,
});

/** What a client asks for: a service whose pods are here, or one whose pod is on another node. */
export interface Asked {
  readonly service: "target" | "remote";
  readonly protocol: "TCP" | "UDP";
}

export const askedPort = ({ service, protocol }: Asked): ServicePortName => portName(service, protocol);

/** Where it is asked for, and who may answer. */
export const PLACES_OF = {
  target: { ...TARGET, pods: PODS },
  remote: { ...REMOTE, pods: [REMOTE_POD] },
} as const;

const remoteService = (protocol: Protocol): DesiredService => {
  const { address, port } = REMOTE;
  const backends: readonly Backend[] = [{ address: REMOTE_POD.address, port: POD_PORT, local: false, state: "active" }];
  const service = serviceOf(portName("remote", protocol), "10.111.255.2" as Address, backends);
  const outside = service.frontends.map((frontend) => ({ ...frontend, kind: "ExternalIP" as const, address, port }));
  return { ...service, frontends: [...service.frontends, ...outside] };
};

const targetService = (protocol: Protocol): DesiredService =>
  serviceOf(
    portName("target", protocol),
    TARGET.address,
    PODS.map(({ address }) => ({ address, port: POD_PORT, local: true, state: "active" })),
  );

/** Its name comes before the target's, as it is written and searched. */
const otherService = (i: number, change: number): DesiredService => {
  const number = i + 1;
  const address = `10.96.${number >> 8}.${number & 255}`;
  const name = portName(`service-${String(i).padStart(5, "0")}`, "TCP");
  return serviceOf(name, address as Address, [
    { address: podAddress(i, 0), port: POD_PORT, local: false, state: "active" },
    { address: podAddress(i, change === 0 ? 1 : 2 + (change % 100)), port: POD_PORT, local: false, state: "active" },
  ]);
};

/** Addresses that are no pod's: 10.0.0.0 upwards, a hundred and two for each service. */
const podAddress = (service: number, endpoint: number): Address => {
  const number = service * 102 + endpoint + 1;
  return `10.${number >> 16}.${(number >> 8) & 255}.${number & 255}` as Address;
};

const serviceOf = (name: ServicePortName, address: Address, backends: readonly Backend[]): DesiredService => {
  const choice = { kind: "backends", policy: "Cluster", backends } as const;
  return {
    name,
    affinity_timeout_s: 0,
    internalTrafficPolicy: "Cluster",
    externalTrafficPolicy: "Cluster",
    healthCheckNodePort: null,
    sourceRanges: [],
    backends,
    frontends: [
      {
        kind: "ClusterIP",
        family: "IPv4",
        address,
        port: TARGET.port,
        restricted: false,
        internal: choice,
        external: choice,
      },
    ],
  };
};
