// The services that every mode is given: so many, with two endpoints each, of which the last one, `target`, is asked for.
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

export const POD_PORT = 8080;

export const NODE = { address: "192.168.0.1" as Address } as const;
export const CLIENT = { address: "192.168.0.2" as Address } as const;

/** The target, and one whose endpoints change. */
export const FEWEST_SERVICES = 2;
/** More do not fit into the addresses here. */
export const MOST_SERVICES = 60_000;

/** The target's two ports, and one port of each other service. */
export const clusterOf = (services: number): Desired => {
  const all = [
    ...Array.from({ length: services - 1 }, (_, i) => otherService(i, 0)),
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
  const others = desired.services.size - 2;
  const changed = otherService(Math.floor(others / 2), change);
  return { ...desired, services: new Map(desired.services).set(servicePortKey(changed.name), changed) };
};

/** The target service's port of this protocol. */
export const targetName = (protocol: Protocol): ServicePortName => ({
  namespace: "bench",
  name: "target",
  port: protocol.toLowerCase(),
  protocol,
});

const targetService = (protocol: Protocol): DesiredService =>
  serviceOf(
    targetName(protocol),
    TARGET.address,
    PODS.map(({ address }) => ({ address, port: POD_PORT, local: true, state: "active" })),
  );

/** Its name comes before the target's, as it is written and searched. */
const otherService = (i: number, change: number): DesiredService => {
  const number = i + 1;
  const address = `10.96.${number >> 8}.${number & 255}`;
  const name: ServicePortName = {
    namespace: "bench",
    name: `service-${String(i).padStart(5, "0")}`,
    port: "tcp",
    protocol: "TCP",
  };
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
