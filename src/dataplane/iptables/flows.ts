// Which remembered UDP flows are stale: conntrack goes on sending a client to a backend that is gone, or past the rules
// to nobody, for as long as it sends. Pure.
import { type Address, type Family, familyOf, formatHostPort } from "../../model/address.ts";
import type { DesiredService, NodeAddress } from "../../model/desired.ts";
import type { UdpFlow } from "./command.ts";

/** To an entrance of the key's text, only these may answer: `address:port`. */
export type Answerers = Map<string, ReadonlySet<string>>;

/**
 * Who may answer at every UDP frontend of a family: everything that serves, whatever the policy. `gone`: services that
 * were there before; nobody may answer for them.
 */
export const answerers = (
  services: Iterable<DesiredService>,
  gone: Iterable<DesiredService>,
  nodeAddresses: readonly NodeAddress[],
  family: Family,
): Answerers => {
  const found: Answerers = new Map();
  const nodes = nodeAddresses.filter((n) => familyOf(n.address) === family && n.nodePorts).map((n) => n.address);
  const add = (service: DesiredService, backends: ReadonlySet<string>): void => {
    if (service.name.protocol !== "UDP") return;
    for (const frontend of service.frontends) {
      if (frontend.family !== family) continue;
      const addresses: readonly Address[] = frontend.address === null ? nodes : [frontend.address];
      for (const address of addresses) found.set(formatHostPort(address, frontend.port), backends);
    }
  };
  for (const service of gone) add(service, new Set());
  for (const service of services) add(service, new Set(service.backends.map((b) => formatHostPort(b.address, b.port))));
  return found;
};

/** Of the lines that `conntrack -L -p udp` prints, those to a frontend that somebody else answers; each once. */
export const staleFlows = (listing: string, valid: Answerers): readonly UdpFlow[] => {
  const found = new Map<string, UdpFlow>();
  for (const line of listing.split("\n")) {
    const flow = parseFlow(line);
    if (flow === null) continue;
    const backends = valid.get(formatHostPort(flow.to as Address, flow.toPort));
    const from = formatHostPort(flow.from as Address, flow.fromPort);
    if (backends === undefined || backends.has(from)) continue;
    found.set(`${flow.to} ${flow.toPort} ${from}`, flow);
  }
  return [...found.values()];
};

/** `udp 17 29 src=C dst=VIP sport=P dport=53 [UNREPLIED] src=B dst=C sport=5353 dport=P …`: there, and back. */
const parseFlow = (line: string): UdpFlow | null => {
  const match = /src=\S+ dst=(\S+) sport=\d+ dport=(\d+) .*?src=(\S+) dst=\S+ sport=(\d+) dport=\d+/.exec(line);
  const [, to, toPort, from, fromPort] = match ?? [];
  if (to === undefined || from === undefined) return null;
  return { to, toPort: Number(toPort), from, fromPort: Number(fromPort) };
};
