// Two readings of a node compared: what differs, frontend by frontend. What one side cannot say is never a difference
// (reading.ts); what docs/semantics.md means to be different is listed apart, with its number. Pure, in a stable order.
import { type Family, familyOf } from "../model/address.ts";
import { type DesiredService, type Frontend, servicePortKey } from "../model/desired.ts";
import { compareChoices } from "./choice-difference.ts";
import {
  bothServed,
  type Comparison,
  choiceWords,
  DIFFERENCE_KINDS,
  type Difference,
  exclusive,
  type Finding,
  type Found,
  hasBackends,
  hostPort,
  type Sides,
} from "./finding.ts";
import { entranceKey } from "./frontends.ts";
import type { IntendedNumber } from "./intended.ts";
import { compareRanges } from "./range-difference.ts";
import { bothExpress, type Reading } from "./reading.ts";

export {
  type Comparison,
  DIFFERENCE_KINDS,
  type Difference,
  type DifferenceKind,
  type IntendedDifference,
} from "./finding.ts";

export const compare = (left: Reading, right: Reading): Comparison => {
  const sides = { left, right, knows: bothExpress(left.expresses, right.expresses), foreign: foreignSide(left, right) };
  const [here, there] = [indexOf(left, sides), indexOf(right, sides)];
  const all: (Difference & Finding)[] = [...compareHooks(sides), ...compareNodeAddresses(sides, here, there)];
  const pairs = new Map<string, Pair>();
  for (const key of new Set([...here.keys(), ...there.keys()])) {
    const [a, b] = [here.get(key), there.get(key)];
    const findings = compareFrontend(key, a, b, sides);
    const service = (a !== undefined && nameOf(a.service)) || (b !== undefined && nameOf(b.service)) || null;
    all.push(...findings.map((finding) => ({ clients: null, ...finding, service, frontend: key })));
    if (a === undefined || b === undefined || findings.some(({ kind }) => kind === "service")) continue;
    const pair = `${servicePortKey(a.service.name)} ${servicePortKey(b.service.name)}`;
    const { reported } = pairs.get(pair) ?? { reported: [] };
    pairs.set(pair, { a: a.service, b: b.service, reported: [...reported, ...findings] });
  }
  for (const { a, b, reported } of [...pairs.values(), ...emptyPairs(sides)]) {
    const service = nameOf(a) ?? nameOf(b);
    const findings = compareServices(a, b, sides, reported);
    all.push(...findings.map((finding) => ({ clients: null, ...finding, service, frontend: null })));
  }
  all.push(...onlyEmpty(sides));
  all.sort(byPlace);
  return {
    differences: all.flatMap(({ intended, ...difference }) => (intended === undefined ? [difference] : [])),
    intended: all.flatMap(({ intended, ...difference }) =>
      intended === undefined ? [] : [{ ...difference, intended }],
    ),
  };
};

/** One service as both sides have it, and what is known of its frontends. */
interface Pair {
  readonly a: DesiredService;
  readonly b: DesiredService;
  readonly reported: readonly Finding[];
}

/** `shop/web:http`; null: the source knows no names. */
export const nameOf = ({ name }: DesiredService): string | null =>
  name.namespace === "" ? null : `${name.namespace}/${name.name}${name.port === "" ? "" : `:${name.port}`}`;

/** The side that kube-proxy (or a dataplane like it) wrote, where the other one is beeline's own; else null. */
export const foreignSide = (left: Reading, right: Reading): Sides["foreign"] => {
  const [here, there] = [left, right].map(({ source }) => source === "desired" || source === "bpf");
  if (here === there) return null;
  return here === true ? "right" : "left";
};

// ---- frontends -----------------------------------------------------------------------------------------------------

/** Frontends by entranceKey(); NodePorts one for each address where one of the sides knows them only so. */
const indexOf = (reading: Reading, { knows }: Pick<Sides, "knows">): ReadonlyMap<string, Found> => {
  const index = new Map<string, Found>();
  const later: [string, Found][] = [];
  for (const service of reading.desired.services.values()) {
    for (const frontend of service.frontends) {
      if (!knows.families.includes(frontend.family)) continue;
      const { protocol } = service.name;
      if (frontend.address !== null || knows.nodePorts === "port") {
        index.set(entranceKey(frontend, protocol), { service, frontend });
        continue;
      }
      for (const { address, loopback, nodePorts } of reading.desired.nodeAddresses) {
        if (!nodePorts || loopback || familyOf(address) !== frontend.family) continue;
        const one = { ...frontend, address };
        later.push([entranceKey(one, protocol), { service, frontend: one }]);
      }
    }
  }
  // An address of its own comes before a NodePort at the same address.
  for (const [key, found] of later) if (!index.has(key)) index.set(key, found);
  return index;
};

const compareFrontend = (key: string, a: Found | undefined, b: Found | undefined, sides: Sides): readonly Finding[] => {
  if (a === undefined || b === undefined) return onlyOne(a, b, sides);
  const owners = compareOwners(key, a, b, sides);
  if (owners.some(({ intended }) => intended !== undefined)) return owners;
  return [
    ...owners,
    ...compareKinds(a, b, sides),
    ...compareChoices(a, b, sides),
    ...compareRanges(a, b, sides),
    ...passes(a, sides),
  ];
};

const onlyOne = (a: Found | undefined, b: Found | undefined, { knows }: Sides): readonly Finding[] => {
  const found = a ?? b;
  if (found === undefined || (!knows.refusals && !hasBackends(found.frontend))) return [];
  const words = [describe(found.frontend)];
  return [
    a === undefined ? { kind: "only_right", left: [], right: words } : { kind: "only_left", left: words, right: [] },
  ];
};

const compareOwners = (key: string, a: Found, b: Found, { left, right, knows, foreign }: Sides): readonly Finding[] => {
  const [here, there] = [nameOf(a.service), nameOf(b.service)];
  if (!knows.names || here === null || there === null || here === there) return [];
  const contested = foreign !== null && (left.contested.has(key) || right.contested.has(key));
  return [{ kind: "service", left: [here], right: [there], intended: contested ? 10 : undefined }];
};

const compareKinds = (a: Found, b: Found, { knows }: Sides): readonly Finding[] => {
  const [x, y] = [a.frontend.kind, b.frontend.kind];
  if (x === y || !knows.clusterIPs) return [];
  const told =
    x === "ClusterIP" || y === "ClusterIP" || knows.externalKinds === "always" || bothServed(a, b, knows.externalKinds);
  return told ? [{ kind: "kind", left: [x], right: [y] }] : [];
};

/** kube-proxy translates SCTP, the bpf programs do not yet. */
const passes = ({ service }: Found, { foreign }: Sides): readonly Finding[] => {
  if (foreign === null || service.name.protocol !== "SCTP") return [];
  const [served, passed] = [["translated"], ["not translated"]];
  return foreign === "left"
    ? [{ kind: "verdict", left: served, right: passed, intended: 4 }]
    : [{ kind: "verdict", left: passed, right: served, intended: 4 }];
};

const describe = (frontend: Frontend): string => {
  const { internal, external } = frontend;
  const [inside, outside] = [internal, external].map(choiceWords);
  return `${frontend.kind}: ${inside === outside ? inside : `inside ${inside}, outside ${outside}`}`;
};

// ---- services ------------------------------------------------------------------------------------------------------

const compareServices = (
  a: DesiredService,
  b: DesiredService,
  { knows }: Sides,
  reported: readonly Finding[],
): readonly Finding[] => {
  const findings: Finding[] = [];
  const differ = (kind: Difference["kind"], left: string, right: string): void => {
    if (left !== right) findings.push({ kind, left: [left], right: [right] });
  };
  if (
    knows.affinity === "always" ||
    (knows.affinity === "served" && [a, b].every((s) => s.frontends.some(hasBackends)))
  )
    differ("affinity", affinityWords(a), affinityWords(b));
  if (knows.policies === "always" && !reported.some(({ kind }) => kind === "policy")) {
    differ("policy", `internal ${a.internalTrafficPolicy}`, `internal ${b.internalTrafficPolicy}`);
    differ("policy", `external ${a.externalTrafficPolicy}`, `external ${b.externalTrafficPolicy}`);
  }
  if (knows.healthChecks) differ("health_check", healthWords(a), healthWords(b));
  if (knows.locality) findings.push(...compareLocality(a, b, knows.families));
  if (knows.draining) findings.push(...compareDraining(a, b, reported, knows.families));
  return findings;
};

const affinityWords = ({ affinity_timeout_s }: DesiredService): string =>
  affinity_timeout_s === 0 ? "none" : `${affinity_timeout_s}s`;

const healthWords = ({ healthCheckNodePort }: DesiredService): string =>
  healthCheckNodePort === null ? "none" : `port ${healthCheckNodePort}`;

const compareLocality = (a: DesiredService, b: DesiredService, families: readonly Family[]): readonly Finding[] => {
  const there = new Map(b.backends.map((backend) => [hostPort(backend), backend]));
  const moved = a.backends.filter((backend) => {
    const other = there.get(hostPort(backend));
    return families.includes(familyOf(backend.address)) && other !== undefined && other.local !== backend.local;
  });
  const local = moved.filter((backend) => backend.local).map(hostPort);
  const remote = moved.filter((backend) => !backend.local).map(hostPort);
  return moved.length === 0 ? [] : [{ kind: "local", left: local, right: remote }];
};

/** A backend that is in a choice on one side only has been reported there. */
const compareDraining = (
  a: DesiredService,
  b: DesiredService,
  reported: readonly Finding[],
  families: readonly Family[],
): readonly Finding[] => {
  const told = new Set(reported.flatMap(({ kind, left, right }) => (kind === "backends" ? [...left, ...right] : [])));
  const draining = (service: DesiredService): readonly string[] =>
    service.backends
      .filter(({ state, address }) => state === "draining" && families.includes(familyOf(address)))
      .map(hostPort)
      .filter((text) => !told.has(text));
  const [left, right] = exclusive(draining(a), draining(b));
  return left.length + right.length === 0 ? [] : [{ kind: "draining", left, right }];
};

/** Services without frontends that both sides have. */
const emptyPairs = ({ left, right, knows }: Sides): readonly Pair[] =>
  !knows.emptyServices
    ? []
    : [...left.desired.services].flatMap(([key, a]) => {
        const b = right.desired.services.get(key);
        return b !== undefined && a.frontends.length === 0 && b.frontends.length === 0 ? [{ a, b, reported: [] }] : [];
      });

/** Services without frontends that one side does not have. */
const onlyEmpty = ({ left, right, knows }: Sides): readonly Difference[] => {
  if (!knows.emptyServices) return [];
  const alone = (one: Reading, other: Reading): readonly (string | null)[] =>
    [...one.desired.services].flatMap(([key, service]) =>
      service.frontends.length > 0 || other.desired.services.has(key) ? [] : [nameOf(service)],
    );
  const words = ["nobody can connect to it"];
  const rest = { frontend: null, clients: null };
  return [
    ...alone(left, right).map((service) => ({ kind: "only_left", service, ...rest, left: words, right: [] }) as const),
    ...alone(right, left).map((service) => ({ kind: "only_right", service, ...rest, left: [], right: words }) as const),
  ];
};

// ---- the node ------------------------------------------------------------------------------------------------------

const NODE = { service: null, frontend: null, clients: null } as const;

const compareHooks = ({ left, right }: Sides): readonly Difference[] => {
  const [here, there] = exclusive(left.unreached, right.unreached);
  return [
    ...here.map((text) => ({ ...NODE, kind: "unreached", left: [text], right: [] }) as const),
    ...there.map((text) => ({ ...NODE, kind: "unreached", left: [], right: [text] }) as const),
  ];
};

const compareNodeAddresses = (
  { left, right, knows, foreign }: Sides,
  here: ReadonlyMap<string, Found>,
  there: ReadonlyMap<string, Found>,
): readonly (Difference & Finding)[] => {
  if (knows.nodeAddresses === "none") return [];
  const whole = knows.nodeAddresses === "all";
  const hasNodePorts = [...here.values(), ...there.values()].some(({ frontend }) => frontend.address === null);
  if (!whole && !hasNodePorts) return [];
  const texts = ({ desired }: Reading): readonly string[] =>
    desired.nodeAddresses
      .filter(({ address, nodePorts }) => knows.families.includes(familyOf(address)) && (whole || nodePorts))
      .map((a) => `${a.address}${whole ? notes(a) : ""}`);
  const [a, b] = exclusive(texts(left), texts(right));
  const linkLocal = (foreign === "left" ? a : b).filter((text) => foreign !== null && /^fe[89ab]/.test(text));
  const found = (
    x: readonly string[],
    y: readonly string[],
    intended?: IntendedNumber,
  ): readonly (Difference & Finding)[] =>
    x.length + y.length === 0 ? [] : [{ ...NODE, kind: "node_addresses", left: x, right: y, intended }];
  const others = (list: readonly string[]): readonly string[] => list.filter((text) => !linkLocal.includes(text));
  return [
    ...found(others(a), others(b)),
    ...(foreign === "left" ? found(linkLocal, [], 13) : found([], linkLocal, 13)),
  ];
};

const notes = ({ primary, loopback, nodePorts }: { primary: boolean; loopback: boolean; nodePorts: boolean }): string =>
  `${primary ? " primary" : ""}${loopback ? " loopback" : ""}${nodePorts ? "" : " without NodePorts"}`;

/** The node first, then by service, each service's own before its frontends', by kind at last. */
const byPlace = (a: Difference, b: Difference): number => {
  const texts = (d: Difference): readonly string[] => [
    d.service ?? "",
    d.frontend ?? "",
    String(DIFFERENCE_KINDS.indexOf(d.kind)).padStart(2, "0"),
    d.clients ?? "",
    `${d.left} ${d.right}`,
  ];
  const [x, y] = [texts(a), texts(b)];
  const i = x.findIndex((text, at) => text !== y[at]);
  return i < 0 ? 0 : (x[i] ?? "") < (y[i] ?? "") ? -1 : 1;
};
