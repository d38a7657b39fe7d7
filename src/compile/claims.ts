// Who gets an address that several Services ask for. A ClusterIP beats every other kind of frontend (or any Service
// could take over another's, CVE-2020-8554); then the older Service wins, then the smaller name. The answer depends on
// who claims, never on who came first; an update costs what it touches.
import { type ObjectKey, objectKey, type Service } from "../model/snapshot.ts";
import { type Entrance, entranceKey, entrances } from "./frontends.ts";

export interface Claim {
  readonly service: Service;
  /** Index in service.ports. */
  readonly port: number;
  readonly entrance: Entrance;
}

/** Claims by entranceKey(), the winner first. */
export type Claims = Map<string, readonly Claim[]>;

/** Every entrance that a Service asks for, by entranceKey(). */
export const claimsOf = (service: Service): readonly (readonly [key: string, claim: Claim])[] =>
  service.ports.flatMap((port, i) =>
    entrances(service, port).map(
      (entrance) => [entranceKey(entrance, port.protocol), { service, port: i, entrance }] as const,
    ),
  );

/**
 * Replaces the claims of one Service (`before` null: it is new; `after` null: it is gone). Answers the other Services
 * that have a say in one of its addresses: what they get may have changed.
 */
export const replaceClaims = (claims: Claims, before: Service | null, after: Service | null): readonly ObjectKey[] => {
  const rivals = new Set<ObjectKey>();
  const meet = (others: readonly Claim[]): void => {
    for (const { service } of others) rivals.add(objectKey(service.namespace, service.name));
  };
  for (const [key] of before === null ? [] : claimsOf(before)) {
    const others = (claims.get(key) ?? []).filter((claim) => claim.service !== before);
    meet(others);
    if (others.length > 0) claims.set(key, others);
    else claims.delete(key);
  }
  for (const [key, claim] of after === null ? [] : claimsOf(after)) {
    const others = claims.get(key) ?? [];
    meet(others.filter((other) => other.service !== after));
    claims.set(key, [...others, claim].sort(byRight));
  }
  return [...rivals];
};

/** The claim that got the address instead of this one, or null when this one did. */
export const lostTo = (claims: Claims, key: string, claim: Claim): Claim | null => {
  const winner = claims.get(key)?.[0];
  if (winner === undefined || (winner.service === claim.service && winner.port === claim.port)) return null;
  return winner;
};

/** Entrances, by entranceKey(), that more than one Service port asks for. */
export const contestedEntrances = (services: Iterable<Service>): ReadonlySet<string> => {
  const [seen, contested] = [new Set<string>(), new Set<string>()];
  for (const service of services) {
    if (service.skip !== null) continue;
    for (const [key] of claimsOf(service)) (seen.has(key) ? contested : seen).add(key);
  }
  return contested;
};

const byRight = (a: Claim, b: Claim): number =>
  Number(b.entrance.kind === "ClusterIP") - Number(a.entrance.kind === "ClusterIP") ||
  age(a.service) - age(b.service) ||
  byText(a.service.namespace, b.service.namespace) ||
  byText(a.service.name, b.service.name) ||
  a.port - b.port;

// A Service that does not say when it was made cannot claim to be the older one.
const age = ({ created_ms }: Service): number => (created_ms === 0 ? Number.MAX_SAFE_INTEGER : created_ms);

const byText = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);
