// Frontends → the rules of kube-proxy's first proxy, which hand their connections to ports that the agent listens on:
// KUBE-PORTALS-* for addresses, KUBE-NODEPORT-* for NodePorts, -CONTAINER for what comes in, -HOST for the node's own.
// Pure. What nobody would answer is refused in the filter table, in chains of the same names, as the other dataplanes do.
import { type Address, type Family, familyOf, formatHostPort } from "../../model/address.ts";

/** A frontend as rules see it. */
export interface Portal {
  /** `shop/web:http`. */
  readonly name: string;
  readonly protocol: "tcp" | "udp" | "sctp";
  readonly family: Family;
  /** null: a NodePort. */
  readonly address: Address | null;
  readonly port: number;
  readonly to: { readonly kind: "listener"; readonly port: number } | { readonly kind: "REJECT" | "DROP" };
}

export interface Place {
  readonly family: Family;
  /** Where the agent listens. (Not REDIRECT: a pod's device often has no address that it could redirect to.) */
  readonly listens: Address | null;
  /** Where NodePorts answer; loopback ones for the node itself only. */
  readonly nodePorts: readonly { readonly address: Address; readonly loopback: boolean }[];
  /** entranceText() of what the agent itself connects to: not redirected on the way out, or it would go round for ever. */
  readonly backends: ReadonlySet<string>;
}

/** `10.244.1.2:8080/tcp`. */
export const entranceText = (address: Address, port: number, protocol: Portal["protocol"]): string =>
  `${formatHostPort(address, port)}/${protocol}`;

export type Table = "nat" | "filter";

export interface TableRules {
  readonly table: Table;
  /** Lines of iptables-restore, `-A CHAIN …`. */
  readonly rules: readonly string[];
}

const PORTALS_CONTAINER = "KUBE-PORTALS-CONTAINER";
const PORTALS_HOST = "KUBE-PORTALS-HOST";
const NODEPORT_CONTAINER = "KUBE-NODEPORT-CONTAINER";
const NODEPORT_HOST = "KUBE-NODEPORT-HOST";
const NODEPORT_NON_LOCAL = "KUBE-NODEPORT-NON-LOCAL";

const SHARED = [PORTALS_CONTAINER, PORTALS_HOST, NODEPORT_CONTAINER, NODEPORT_HOST] as const;

const CHAINS: Readonly<Record<Table, readonly string[]>> = {
  nat: SHARED,
  filter: [...SHARED, NODEPORT_NON_LOCAL],
};

/** From a chain of the kernel's to one of ours: first in it, or last. */
interface Jump {
  readonly from: string;
  readonly to: string;
  readonly match: string;
  readonly place: "first" | "last";
}

const NEW = "-m conntrack --ctstate NEW ";
const LOCAL = "-m addrtype --dst-type LOCAL ";
const portals = '-m comment --comment "handle ClusterIPs; NOTE: this must be before the NodePort rules"';
const nodePorts = '-m comment --comment "handle service NodePorts; NOTE: this must be the last rule in the chain"';
const refused = '-m comment --comment "refuse services without endpoints"';

const JUMPS: Readonly<Record<Table, readonly Jump[]>> = {
  nat: [
    { from: "PREROUTING", to: PORTALS_CONTAINER, match: portals, place: "first" },
    { from: "OUTPUT", to: PORTALS_HOST, match: portals, place: "first" },
    { from: "PREROUTING", to: NODEPORT_CONTAINER, match: LOCAL + nodePorts, place: "last" },
    { from: "OUTPUT", to: NODEPORT_HOST, match: LOCAL + nodePorts, place: "last" },
  ],
  filter: [
    {
      from: "INPUT",
      to: NODEPORT_NON_LOCAL,
      match: '-m comment --comment "Ensure that non-local NodePort traffic can flow"',
      place: "first",
    },
    ...["INPUT", "FORWARD"].flatMap((from): Jump[] => [
      { from, to: NODEPORT_CONTAINER, match: NEW + LOCAL + refused, place: "first" },
      { from, to: PORTALS_CONTAINER, match: NEW + refused, place: "first" },
    ]),
    { from: "OUTPUT", to: NODEPORT_HOST, match: NEW + LOCAL + refused, place: "first" },
    { from: "OUTPUT", to: PORTALS_HOST, match: NEW + refused, place: "first" },
  ],
};

/** Equal portals in equal order give equal rules. */
export const rulesOf = (portals: readonly Portal[], place: Place): readonly TableRules[] => {
  const own = portals.filter(({ family }) => family === place.family);
  return [
    { table: "filter", rules: own.flatMap((portal) => filterRules(portal, place)) },
    { table: "nat", rules: own.flatMap((portal) => natRules(portal, place)) },
  ];
};

const natRules = (portal: Portal, place: Place): readonly string[] => {
  if (portal.to.kind !== "listener") return hidesNodePort(portal, place) ? entrances(portal, place, "ACCEPT") : [];
  if (place.listens === null) return [];
  return entrances(portal, place, `DNAT --to-destination ${formatHostPort(place.listens, portal.to.port)}`);
};

/** Where NodePorts answer, too, a closed portal ends the way through this table: another's NodePort is not meant. */
const hidesNodePort = ({ address }: Portal, { nodePorts }: Place): boolean =>
  nodePorts.some((one) => one.address === address);

const filterRules = (portal: Portal, place: Place): readonly string[] => {
  const { to, name, protocol } = portal;
  if (to.kind !== "listener") return entrances(portal, place, to.kind);
  if (portal.address !== null) return [];
  const match = `-m comment --comment ${name} -p ${protocol} -m ${protocol} --dport ${to.port}`;
  return [`-A ${NODEPORT_NON_LOCAL} ${match} -m conntrack --ctstate NEW -j ACCEPT`];
};

/** The rules at each address of a portal, for what comes in and for the node's own. */
const entrances = (portal: Portal, { nodePorts, backends }: Place, target: string): readonly string[] => {
  const { name, protocol, port } = portal;
  const at = (address: Address, container: string | null, host: string): readonly string[] => {
    const chains = [container, backends.has(entranceText(address, port, protocol)) ? null : host];
    const match = `-d ${address}/${familyOf(address) === "IPv4" ? 32 : 128} -p ${protocol} -m ${protocol} --dport ${port}`;
    return chains
      .filter((chain) => chain !== null)
      .map((chain) => `-A ${chain} -m comment --comment ${name} ${match} -j ${target}`);
  };
  if (portal.address !== null) return at(portal.address, PORTALS_CONTAINER, PORTALS_HOST);
  return nodePorts
    .filter(({ address }) => familyOf(address) === portal.family)
    .flatMap(({ address, loopback }) => at(address, loopback ? null : NODEPORT_CONTAINER, NODEPORT_HOST));
};

// ---- text ----------------------------------------------------------------------------------------------------------

/**
 * Input of `iptables-restore --noflush`: our chains hold exactly these rules, and the kernel's chains lead to them.
 * `saved`: the table as iptables-save prints it; jumps that are there stay where they are.
 */
export const restoreInput = ({ table, rules }: TableRules, saved: string): string => {
  const there = new Set(jumpsIn(saved).map(({ from, to }) => `${from} ${to}`));
  const missing = JUMPS[table].filter(({ from, to }) => !there.has(`${from} ${to}`));
  return input(table, [
    ...CHAINS[table].map((chain) => `:${chain} - [0:0]`),
    ...missing.map(({ from, to, match, place }) => `${place === "first" ? "-I" : "-A"} ${from} ${match} -j ${to}`),
    ...rules,
  ]);
};

/** Takes our chains and every rule that leads to them out of a table; null: there are none. */
export const removalInput = (table: Table, saved: string): string | null => {
  const chains = CHAINS[table].filter((chain) => saved.includes(`\n:${chain} `));
  if (chains.length === 0) return null;
  return input(table, [
    ...chains.map((chain) => `:${chain} - [0:0]`),
    ...jumpsIn(saved).map(({ line }) => line.replace(/^-A/, "-D")),
    ...chains.map((chain) => `-X ${chain}`),
  ]);
};

/** What a table holds of ours, in order: chains, their rules, the jumps to them. */
export const linesOf = (table: Table, saved: string): readonly string[] =>
  saved.split("\n").filter((line) => {
    const [, chain = "", target = ""] = /^(?:-A |:)(\S+)(?:.*-j (KUBE-\S+)$)?/.exec(line) ?? [];
    return CHAINS[table].includes(chain) || CHAINS[table].includes(target);
  });

const input = (table: Table, lines: readonly string[]): string => `*${table}\n${lines.join("\n")}\nCOMMIT\n`;

const jumpsIn = (saved: string): readonly { readonly line: string; readonly from: string; readonly to: string }[] =>
  saved.split("\n").flatMap((line) => {
    const [, from, to] = /^-A (\S+) .*-j (\S+)$/.exec(line) ?? [];
    return from !== undefined && to !== undefined && OURS.has(to) && !OURS.has(from) ? [{ line, from, to }] : [];
  });

const OURS: ReadonlySet<string> = new Set(CHAINS.filter);
