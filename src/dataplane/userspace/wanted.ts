// Desired → the frontends that this proxy answers or refuses, each with the name of its listener. Pure.
import { entranceKey } from "../../compile/frontends.ts";
import { type Address, type Family, familyOf } from "../../model/address.ts";
import type { Desired, DesiredService, Frontend, ServicePortKey } from "../../model/desired.ts";
import { serviceText } from "../iptables/names.ts";
import { entranceText, type Place, type Portal } from "./rules.ts";

/** A frontend of a Desired, and what becomes of it. */
export interface Wanted {
  readonly key: ServicePortKey;
  readonly service: DesiredService;
  readonly frontend: Frontend;
  readonly listens: Address;
  /** Of its listener: the frontend, and where it listens. */
  readonly name: string;
  /** Nobody may have it: the kernel says so at once. */
  readonly refusal: "REJECT" | "DROP" | null;
}

/** SCTP is not copied, and a family in which this node has no address has nowhere to listen. */
export const wantedOf = (desired: Desired, families: readonly Family[]): readonly Wanted[] => {
  const places = new Map(families.map((family) => [family, listeningAddress(desired, family)]));
  return [...desired.services].flatMap(([key, service]) =>
    service.frontends.flatMap((frontend): readonly Wanted[] => {
      const listens = places.get(frontend.family) ?? null;
      const { protocol } = service.name;
      if (listens === null || protocol === "SCTP") return [];
      const name = `${entranceKey(frontend, protocol)} at ${listens}`;
      return [{ key, service, frontend, listens, name, refusal: refusalOf(frontend) }];
    }),
  );
};

/** Nobody anywhere, or nobody here for anyone. What only some may have is found out on accept. */
const refusalOf = ({ internal, external }: Frontend): Wanted["refusal"] => {
  if (internal.kind === "reject" && external.kind === "reject") return "REJECT";
  return internal.kind === "drop" && external.kind === "drop" ? "DROP" : null;
};

/** `port`: where it is listened for; null: nowhere, so it is refused. */
export const portalOf = ({ service, frontend, refusal }: Wanted, port: number | null): Portal => ({
  name: serviceText(service.name),
  protocol: protocolOf(service),
  family: frontend.family,
  address: frontend.address,
  port: frontend.port,
  to: refusal === null && port !== null ? { kind: "listener", port } : { kind: refusal ?? "REJECT" },
});

export const placeOf = (desired: Desired, family: Family): Place => ({
  family,
  listens: listeningAddress(desired, family),
  nodePorts: desired.nodeAddresses.filter(({ address, nodePorts }) => nodePorts && familyOf(address) === family),
  backends: new Set(
    [...desired.services.values()].flatMap((service) =>
      service.backends.map(({ address, port }) => entranceText(address, port, protocolOf(service))),
    ),
  ),
});

const listeningAddress = ({ nodeAddresses }: Desired, family: Family): Address | null =>
  nodeAddresses.find(({ address, primary }) => primary && familyOf(address) === family)?.address ?? null;

const PROTOCOLS = { TCP: "tcp", UDP: "udp", SCTP: "sctp" } as const;

const protocolOf = ({ name }: DesiredService): Portal["protocol"] => PROTOCOLS[name.protocol];
