// What the node itself gives: its addresses, where NodePorts answer, the SNAT addresses, how far the backends reach.
import { type Address, type Family, familyOf } from "../../model/address.ts";
import type { NodeAddress } from "../../model/desired.ts";
import type * as abi from "./abi.gen.ts";
import { node_address_flag } from "./abi.gen.ts";
import { encode } from "./codec.ts";
import { type Draft, NOTHING, refuse } from "./draft.ts";
import { NO_ADDRESS } from "./tables.ts";

export const planNodeAddresses = (draft: Draft, wanted: readonly NodeAddress[]): void => {
  const { actual, changes, prune } = draft;
  if (actual.nodeAddressesFrom === wanted) return;
  const rows = new Map<Address, abi.NodeAddress>(wanted.map((node) => [node.address, { flags: flagsOf(node) }]));
  const added = [...rows.keys()].filter((address) => !actual.node_addresses.has(address));
  const missing = added.length - actual.room.node_addresses;
  for (const address of missing > 0 ? added.slice(actual.room.node_addresses) : []) rows.delete(address);
  if (missing > 0) refuse(draft, null, { node_addresses: missing });
  for (const [address, row] of rows) {
    const old = actual.node_addresses.get(address);
    if (old?.flags === row.flags) continue;
    changes.add_node_addresses.push({ key: encode("addr", address), value: encode("node_address", row) });
    if (old === undefined) actual.room.node_addresses--;
    actual.node_addresses.set(address, row);
  }
  for (const address of prune ? [...actual.node_addresses.keys()] : []) {
    if (rows.has(address)) continue;
    changes.drop_node_addresses.push({ key: encode("addr", address), value: NOTHING });
    actual.node_addresses.delete(address);
  }
  for (const { address } of [...(actual.nodeAddressesFrom ?? []), ...wanted]) actual.unsettled.add(address);
  actual.nodeAddressesFrom = prune && missing <= 0 ? wanted : null;
};

const flagsOf = ({ loopback, nodePorts }: NodeAddress): number =>
  (loopback ? node_address_flag.NODE_ADDRESS_LOOPBACK : 0) |
  (nodePorts ? 0 : node_address_flag.NODE_ADDRESS_NO_NODEPORTS);

/** What follows from Desired: the primary addresses (without prune one that is not known (yet) stays), and the ids. */
export const planConfig = (draft: Draft, nodeAddresses: readonly NodeAddress[]): void => {
  const { actual, prune } = draft;
  const primary = (family: Family, old: Address): Address => {
    const found = nodeAddresses.find((node) => node.primary && familyOf(node.address) === family);
    return found?.address ?? (prune ? NO_ADDRESS : old);
  };
  const held = actual.config;
  const config: abi.Config = {
    ...held,
    snat_addr_v4: primary("IPv4", held.snat_addr_v4),
    snat_addr_v6: primary("IPv6", held.snat_addr_v6),
    backend_ids_end: Math.max(held.backend_ids_end, Math.ceil(actual.backend_ids.end() / ID_STEP) * ID_STEP),
  };
  if (Object.entries(config).every(([name, value]) => held[name as keyof abi.Config] === value)) return;
  draft.changes.set_config.push({ key: encode("u32", 0), value: encode("config", config) });
  actual.config = config;
};

/** Rounded up, so that it is not written with every new backend. */
const ID_STEP = 256;
