// The addresses of frontends: which of them are VIPs, where a port that no service has is refused. There is always
// room: the map is as large as `frontends`.
import type { Address } from "../../model/address.ts";
import type { NodeAddress } from "../../model/desired.ts";
import { frontend_address_flag } from "./abi.gen.ts";
import type { HeldAddress } from "./actual.ts";
import { encode } from "./codec.ts";
import { type Draft, NOTHING } from "./draft.ts";

/** Called once, after every service and the node: only then is it known what an address is. */
export const planFrontendAddresses = (draft: Draft, nodeAddresses: readonly NodeAddress[]): void => {
  const { actual, changes, prune } = draft;
  const owned = new Set(nodeAddresses.map(({ address }) => address));
  const write = (address: Address, flags: number) => ({
    key: encode("addr", address),
    value: encode("frontend_address", { flags }),
  });
  for (const address of actual.unsettled) {
    const held = actual.addresses.get(address);
    if (held === undefined) continue;
    if (held.flags === null && held.rows > 0) {
      changes.add_frontend_addresses.push(write(address, 0));
      held.flags = 0;
    }
    // Before everything is known nothing is refused, for what may be another service's.
    if (held.flags === null || !prune) continue;
    const flags = flagsOf(held, owned.has(address));
    if (held.flags !== flags) changes.settle_frontend_addresses.push(write(address, flags));
    held.flags = flags;
    if (held.rows > 0) continue;
    changes.drop_frontend_addresses.push({ key: encode("addr", address), value: NOTHING });
    held.flags = null;
  }
  for (const address of actual.unsettled) {
    if (actual.addresses.get(address)?.rows === 0 && actual.addresses.get(address)?.flags === null)
      actual.addresses.delete(address);
  }
  if (prune) actual.unsettled.clear();
};

const flagsOf = ({ rows, clusterIPs }: HeldAddress, isNodes: boolean): number => {
  if (rows === 0 || isNodes) return 0;
  const { FRONTEND_ADDRESS_VIP, FRONTEND_ADDRESS_CLUSTER_IP } = frontend_address_flag;
  return FRONTEND_ADDRESS_VIP | (clusterIPs > 0 ? FRONTEND_ADDRESS_CLUSTER_IP : 0);
};
