// How many of the node's ports are taken for connections to remote backends. Each backend (address, port and protocol)
// has the whole range to itself. It walks the flows: for a command, or now and then.
import type { Address } from "../../model/address.ts";
import { flow_kind } from "./abi.gen.ts";
import { decode } from "./codec.ts";
import type { MapStore } from "./mapstore.ts";
import { protoName, readConfig } from "./tables.ts";

export interface SnatUse {
  /** Source ports towards each destination, first and last. */
  readonly min: number;
  readonly max: number;
  readonly ports: number;
  /** Those with a port taken, the fullest first. */
  readonly destinations: readonly SnatDestination[];
}

export interface SnatDestination {
  readonly address: Address;
  readonly port: number;
  readonly protocol: string;
  readonly taken: number;
  /** `taken` as a share of `ports` has passed NEAR_LIMIT: connections to it will soon be dropped. */
  readonly nearLimit: boolean;
}

/** From here on it takes several tries to find a free port. */
export const NEAR_LIMIT = 0.8;

export const readSnatUse = (store: MapStore): SnatUse => {
  const { snat_port_min: min, snat_port_max: max } = readConfig(store);
  const ports = max === 0 ? 0 : max - min + 1;
  const found = new Map<string, SnatDestination>();
  for (const [k, v] of store.entries("flows")) {
    if (decode("flow", v).kind !== flow_kind.FLOW_UNDO_SNAT) continue;
    const { src_addr: address, src_port: port, proto } = decode("flow_key", k);
    const protocol = protoName(proto);
    const name = `${address} ${port} ${protocol}`;
    const taken = (found.get(name)?.taken ?? 0) + 1;
    found.set(name, { address, port, protocol, taken, nearLimit: taken >= ports * NEAR_LIMIT });
  }
  const destinations = [...found].sort(([a, x], [b, y]) => y.taken - x.taken || (a < b ? -1 : 1));
  return { min, max, ports, destinations: destinations.map(([, destination]) => destination) };
};
