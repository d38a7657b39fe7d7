// Desired → the rules that kube-proxy's iptables mode writes for one family: the same chains, comments, order and
// words. Pure. text.ts makes the input of iptables-restore of it, iptables.ts brings it into the kernel.
import {
  type Address,
  type Family,
  familyOf,
  formatHostPort,
  type Prefix,
  prefixContains,
} from "../../model/address.ts";
import type { Backend, Choice, Desired, DesiredService, Frontend } from "../../model/desired.ts";
import {
  endpointChain,
  INVALID_DROPPED,
  KUBE_EXTERNAL_SERVICES,
  KUBE_FIREWALL,
  KUBE_FORWARD,
  KUBE_MARK_MASQ,
  KUBE_NODEPORTS,
  KUBE_POSTROUTING,
  KUBE_PROXY_FIREWALL,
  KUBE_SERVICES,
  LOCALHOST_ACCEPTED,
  protocolText,
  type ServiceChains,
  serviceChains,
  serviceText,
} from "./names.ts";

export interface RuleOptions {
  /** Masquerade everything that goes to a ClusterIP, pods included. */
  readonly masqueradeAll: boolean;
  /** The bit of the packet mark (0..31) that says "to be masqueraded". */
  readonly masqueradeBit: number;
  readonly localDetector: LocalDetector;
  /** As in CompileOptions. What is local is in Desired; this says whether to match addresses or any local one. */
  readonly nodePortAddresses: readonly Prefix[] | "primary";
  /** NodePorts answer at 127.0.0.1 as well, as far as nodePortAddresses allows it. */
  readonly localhostNodePorts: boolean;
  /** Drop packets that conntrack calls INVALID. */
  readonly dropInvalid: boolean;
  /** Masquerade with `--random-fully`. */
  readonly randomFully: boolean;
  /** Count what is dropped as INVALID, and what comes to NodePorts at 127.0.0.1. The counters have to be there. */
  readonly countPackets: boolean;
}

/** How a pod's traffic is told from other traffic. A cidr of null: cannot be told in that family. */
export type LocalDetector =
  | { readonly kind: "none" }
  | { readonly kind: "cidr"; readonly IPv4: Prefix | null; readonly IPv6: Prefix | null }
  | { readonly kind: "bridge"; readonly name: string }
  | { readonly kind: "prefix"; readonly name: string };

/** kube-proxy's defaults, without a clusterCIDR. */
export const DEFAULT_RULE_OPTIONS: RuleOptions = {
  masqueradeAll: false,
  masqueradeBit: 14,
  localDetector: { kind: "none" },
  nodePortAddresses: [],
  localhostNodePorts: true,
  dropInvalid: true,
  randomFully: true,
  countPackets: false,
};

/** One family's, table by table, in the order in which they are written. */
export interface Rules {
  readonly family: Family;
  /** So many endpoints that rules of endpoints have no comments. */
  readonly large: boolean;
  readonly filter: TableRules;
  readonly nat: TableRules;
}

export interface TableRules {
  readonly chains: readonly Chain[];
  readonly rules: readonly Rule[];
}

export interface Chain {
  readonly name: string;
  /** The Service port whose chain it is; null: one of those that all share. */
  readonly owner: DesiredService | null;
}

export interface Rule {
  readonly chain: Chain;
  /** What follows `-A CHAIN`. */
  readonly text: string;
}

/** kube-proxy's limit, in endpoints: above it the rules of endpoints have no comments, which saves 40 % of the text. */
const LARGE_CLUSTER = 1000;

/** What rulesOf() remembers from one call to the next, for one family: a Service that did not change costs nothing. */
export interface RuleMemory {
  /** What the rules of every Service depend on. */
  context: string;
  parts: WeakMap<DesiredService, PortRules>;
}

export const createRuleMemory = (): RuleMemory => ({ context: "", parts: new WeakMap() });

/**
 * Services by namespace, name, port and protocol: equal input gives equal rules, in equal order. The memory must not be
 * that of another family.
 */
export const rulesOf = (
  desired: Desired,
  family: Family,
  options: RuleOptions,
  memory: RuleMemory = createRuleMemory(),
): Rules => {
  const services = [...desired.services.values()].sort(byName);
  const endpoints = services.reduce((sum, service) => sum + backendsIn(service, family).length, 0);
  const large = endpoints > LARGE_CLUSTER;
  const context: Context = {
    options,
    nodeAddress: desired.nodeAddresses.find((a) => a.primary && familyOf(a.address) === family)?.address ?? null,
    local: matchLocal(options.localDetector, family),
    endpointComments: !large,
  };
  const text = JSON.stringify(context);
  if (memory.context !== text) Object.assign(memory, { context: text, parts: new WeakMap() });
  const parts = services.map((service) => {
    const known = memory.parts.get(service) ?? rulesOfService(service, family, context);
    memory.parts.set(service, known);
    return known;
  });
  const localhost = family === "IPv4" && answersAtLocalhost(options);
  const firewall = localhost ? [rule(shared.firewall, ANTI_MARTIAN)] : [];
  return {
    family,
    large,
    filter: {
      chains: [...FILTER_CHAINS, ...(localhost ? [shared.firewall] : [])],
      rules: [...firewall, ...parts.flatMap((part) => part.filter), ...forwardRules(options)],
    },
    nat: {
      chains: [...NAT_CHAINS, ...parts.flatMap((part) => part.chains)],
      rules: [
        ...masqueradeRules(options),
        ...parts.flatMap((part) => part.nat),
        ...nodePortEntrances(desired, family, options),
      ],
    },
  };
};

/**
 * Whether NodePorts answer at 127.0.0.1: not when nodePortAddresses leaves it out. It takes the sysctl route_localnet,
 * and a rule that keeps others off 127.0.0.0/8 (CVE-2020-8558).
 */
export const answersAtLocalhost = ({ localhostNodePorts, nodePortAddresses }: RuleOptions): boolean => {
  if (!localhostNodePorts || nodePortAddresses === "primary") return false;
  const ofFamily = nodePortAddresses.filter((prefix) => familyOf(prefix) === "IPv4");
  const reaches = (prefix: Prefix): boolean =>
    prefix.startsWith("127.") || prefixContains(prefix, "127.0.0.0" as Address);
  return ofFamily.length === 0 || ofFamily.some(reaches);
};

// ---- what all Services share ---------------------------------------------------------------------------------------

const sharedChain = (name: string): Chain => ({ name, owner: null });

const shared = {
  services: sharedChain(KUBE_SERVICES),
  externalServices: sharedChain(KUBE_EXTERNAL_SERVICES),
  forward: sharedChain(KUBE_FORWARD),
  nodePorts: sharedChain(KUBE_NODEPORTS),
  proxyFirewall: sharedChain(KUBE_PROXY_FIREWALL),
  firewall: sharedChain(KUBE_FIREWALL),
  postrouting: sharedChain(KUBE_POSTROUTING),
  markMasq: sharedChain(KUBE_MARK_MASQ),
} as const;

const FILTER_CHAINS = [
  shared.services,
  shared.externalServices,
  shared.forward,
  shared.nodePorts,
  shared.proxyFirewall,
] as const;

const NAT_CHAINS = [shared.services, shared.nodePorts, shared.postrouting, shared.markMasq] as const;

const rule = (chain: Chain, ...parts: readonly string[]): Rule => ({
  chain,
  text: parts.filter((part) => part !== "").join(" "),
});

/** iptables wants quotes around a space, and kube-proxy leaves them out elsewhere. */
const comment = (text: string): string => `-m comment --comment ${text.includes(" ") ? `"${text}"` : text}`;

const countedBy = (counter: string): string => `-m nfacct --nfacct-name ${counter}`;

const ANTI_MARTIAN = `${comment("block incoming localnet connections")} -d 127.0.0.0/8 ! -s 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP`;

/** Eight digits, as kube-proxy's own format string makes them. */
const markOf = ({ masqueradeBit }: RuleOptions): string => `0x${(2 ** masqueradeBit).toString(16).padStart(8, "0")}`;

const masqueradeRules = (options: RuleOptions): readonly Rule[] => {
  const mark = markOf(options);
  return [
    rule(shared.postrouting, `-m mark ! --mark ${mark}/${mark} -j RETURN`),
    rule(shared.postrouting, `-j MARK --xor-mark ${mark}`), // so that it is not masqueraded a second time
    rule(
      shared.postrouting,
      comment("kubernetes service traffic requiring SNAT"),
      "-j MASQUERADE",
      options.randomFully ? "--random-fully" : "",
    ),
    rule(shared.markMasq, `-j MARK --or-mark ${mark}`),
  ];
};

const forwardRules = (options: RuleOptions): readonly Rule[] => {
  const mark = markOf(options);
  const counted = options.countPackets ? countedBy(INVALID_DROPPED) : "";
  return [
    ...(options.dropInvalid ? [rule(shared.forward, "-m conntrack --ctstate INVALID", counted, "-j DROP")] : []),
    rule(shared.forward, comment("kubernetes forwarding rules"), `-m mark --mark ${mark}/${mark} -j ACCEPT`),
    rule(
      shared.forward,
      comment("kubernetes forwarding conntrack rule"),
      "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    ),
  ];
};

/** From KUBE-SERVICES to KUBE-NODEPORTS: at any local address, or at each of those that are wanted. */
const nodePortEntrances = (desired: Desired, family: Family, options: RuleOptions): readonly Rule[] => {
  const entrance = (match: string): Rule =>
    rule(
      shared.services,
      comment("kubernetes service nodeports; NOTE: this must be the last rule in this chain"),
      match,
      `-j ${KUBE_NODEPORTS}`,
    );
  const localhost = answersAtLocalhost(options);
  if (atAnyAddress(family, options)) {
    const except = family === "IPv6" ? " ! -d ::1/128" : localhost ? "" : " ! -d 127.0.0.0/8";
    return [entrance(`-m addrtype --dst-type LOCAL${except}`)];
  }
  return desired.nodeAddresses
    .filter(({ address, loopback, nodePorts }) => familyOf(address) === family && nodePorts && (!loopback || localhost))
    .map(({ address }) => entrance(`-d ${address}`));
};

/** A family without a prefix of its own is not narrowed. */
const atAnyAddress = (family: Family, { nodePortAddresses }: RuleOptions): boolean => {
  if (nodePortAddresses === "primary") return false;
  const ofFamily = nodePortAddresses.filter((prefix) => familyOf(prefix) === family);
  return ofFamily.length === 0 || ofFamily.some((prefix) => prefix.endsWith("/0"));
};

// ---- one Service port ----------------------------------------------------------------------------------------------

interface Context {
  readonly options: RuleOptions;
  /** This node's primary address of the family. */
  readonly nodeAddress: Address | null;
  /** How to match what pods send, and what they do not; null: cannot be told. */
  readonly local: { readonly is: string; readonly isNot: string } | null;
  readonly endpointComments: boolean;
}

const matchLocal = (detector: LocalDetector, family: Family): Context["local"] => {
  const match = localMatch(detector, family);
  return match === null ? null : { is: match, isNot: `! ${match}` };
};

const localMatch = (detector: LocalDetector, family: Family): string | null => {
  switch (detector.kind) {
    case "none":
      return null;
    case "cidr":
      return detector[family] === null ? null : `-s ${detector[family]}`;
    case "bridge":
      return `-i ${detector.name}`;
    case "prefix":
      return `-i ${detector.name}+`;
  }
};

/** A Service port in one family, in kube-proxy's terms. */
interface Port {
  readonly service: DesiredService;
  readonly clusterIP: Frontend | null;
  readonly externalIPs: readonly Address[];
  readonly loadBalancerIPs: readonly Address[];
  readonly nodePort: number | null;
  /** Of the Service: the port of its addresses. */
  readonly port: number;
  readonly internalLocal: boolean;
  readonly externalLocal: boolean;
  /** Some endpoint somewhere can be used. */
  readonly hasEndpoints: boolean;
  readonly cluster: readonly Backend[];
  readonly local: readonly Backend[];
  /** Source ranges hold at its load balancer addresses. */
  readonly restricted: boolean;
  readonly sourceRanges: readonly Prefix[];
  readonly chains: ServiceChains;
  readonly text: string;
  /** `-m tcp -p tcp` */
  readonly protocol: string;
}

/** null: the Service has nothing in this family. */
const portOf = (service: DesiredService, family: Family): Port | null => {
  const frontends = service.frontends.filter((frontend) => frontend.family === family);
  if (frontends.length === 0) return null;
  const at = (kind: Frontend["kind"]): readonly Frontend[] => frontends.filter((frontend) => frontend.kind === kind);
  const addresses = (kind: Frontend["kind"]): readonly Address[] => at(kind).flatMap(({ address }) => address ?? []);
  const choices = frontends.flatMap(({ internal, external }) => [internal, external]);
  const under = (policy: Choice["policy"]): readonly Backend[] => {
    const choice = choices.find((one) => one.kind === "backends" && one.policy === policy);
    return choice?.kind === "backends" ? choice.backends : [];
  };
  const loadBalancers = at("LoadBalancer");
  const protocol = protocolText(service.name);
  return {
    service,
    clusterIP: at("ClusterIP")[0] ?? null,
    externalIPs: addresses("ExternalIP"),
    loadBalancerIPs: addresses("LoadBalancer"),
    nodePort: at("NodePort")[0]?.port ?? null,
    port: frontends.find(({ kind }) => kind !== "NodePort")?.port ?? 0,
    internalLocal: service.internalTrafficPolicy === "Local",
    externalLocal: service.externalTrafficPolicy === "Local",
    hasEndpoints: choices.some(({ kind }) => kind !== "reject"),
    cluster: under("Cluster"),
    local: under("Local"),
    restricted: loadBalancers.some(({ restricted }) => restricted),
    sourceRanges: service.sourceRanges.filter((range) => familyOf(range) === family),
    chains: serviceChains(service.name),
    text: serviceText(service.name),
    protocol: `-m ${protocol} -p ${protocol}`,
  };
};

interface PortRules {
  readonly filter: readonly Rule[];
  readonly chains: readonly Chain[];
  readonly nat: readonly Rule[];
}

const rulesOfService = (service: DesiredService, family: Family, context: Context): PortRules => {
  const port = portOf(service, family);
  if (port === null) return { filter: [], chains: [], nat: [] };
  const own = ownChains(port, context);
  return {
    filter: filterRules(port),
    chains: own.map(({ chain }) => chain),
    nat: [
      ...entranceRules(port, family, context),
      ...clusterIPMasquerade(port, context),
      ...own.flatMap(({ rules }) => rules),
    ],
  };
};

/** In KUBE-SERVICES and KUBE-NODEPORTS of nat: from an address to a chain of the Service port. */
const entranceRules = (port: Port, family: Family, { options }: Context): readonly Rule[] => {
  const { chains, text, protocol } = port;
  const at = (kind: string, address: Address, chain: string): Rule =>
    rule(shared.services, comment(`${text} ${kind}`), protocol, `-d ${address} --dport ${port.port} -j ${chain}`);
  const rules: Rule[] = [];
  const internal = internalChain(port);
  if (internal !== null) rules.push(at("cluster IP", internal.address, internal.chain));
  if (!port.hasEndpoints) return rules;
  for (const address of port.externalIPs) rules.push(at("external IP", address, chains.external));
  for (const address of port.loadBalancerIPs)
    rules.push(at("loadbalancer IP", address, port.restricted ? chains.firewall : chains.external));
  if (port.nodePort === null) return rules;
  const nodePort = (match: string, counted = ""): Rule =>
    rule(shared.nodePorts, comment(text), protocol, match, counted, `-j ${chains.external}`);
  // The same once more for 127.0.0.0/8, to count.
  if (options.countPackets && family === "IPv4" && answersAtLocalhost(options))
    rules.push(nodePort(`-d 127.0.0.0/8 --dport ${port.nodePort}`, countedBy(LOCALHOST_ACCEPTED)));
  rules.push(nodePort(`--dport ${port.nodePort}`));
  return rules;
};

/** Where traffic to the ClusterIP goes; null: there is no ClusterIP, or nobody behind it. */
const internalChain = (port: Port): { readonly address: Address; readonly chain: string } | null => {
  const { clusterIP, chains, internalLocal } = port;
  if (clusterIP?.address == null || clusterIP.internal.kind !== "backends") return null;
  return { address: clusterIP.address, chain: internalLocal ? chains.local : chains.cluster };
};

/** Refusals, drops, and the firewalls of load balancer addresses. */
const filterRules = (port: Port): readonly Rule[] => {
  const { clusterIP, text, protocol, chains } = port;
  const [why, target] = port.hasEndpoints ? ["has no local endpoints", "DROP"] : ["has no endpoints", "REJECT"];
  const refuse = (chain: Chain, match: string): Rule => rule(chain, comment(`${text} ${why}`), match, `-j ${target}`);
  const at = (address: Address): string => `${protocol} -d ${address} --dport ${port.port}`;
  const rules: Rule[] = [];
  if (clusterIP?.address != null && clusterIP.internal.kind !== "backends")
    rules.push(refuse(shared.services, at(clusterIP.address)));
  const closed = !hasExternalEndpoints(port);
  if (closed) for (const address of port.externalIPs) rules.push(refuse(shared.externalServices, at(address)));
  if (port.hasEndpoints && port.restricted) {
    for (const address of port.loadBalancerIPs) {
      const words = comment(`${text} traffic not accepted by ${chains.firewall}`);
      rules.push(rule(shared.proxyFirewall, words, at(address), "-j DROP"));
    }
  }
  if (closed) {
    for (const address of port.loadBalancerIPs) rules.push(refuse(shared.externalServices, at(address)));
    if (port.nodePort !== null) {
      const match = `-m addrtype --dst-type LOCAL ${protocol} --dport ${port.nodePort}`;
      rules.push(refuse(shared.externalServices, match));
    }
  }
  const { healthCheckNodePort } = port.service;
  if (healthCheckNodePort !== null) {
    const words = comment(`${text} health check node port`);
    rules.push(rule(shared.nodePorts, words, `-m tcp -p tcp --dport ${healthCheckNodePort} -j ACCEPT`));
  }
  return rules;
};

const hasExternalEndpoints = ({ hasEndpoints, externalLocal, local }: Port): boolean =>
  hasEndpoints && (!externalLocal || local.length > 0);

/** What does not come from a pod, to the ClusterIP: its reply must pass this node. */
const clusterIPMasquerade = (port: Port, { options, local }: Context): readonly Rule[] => {
  const internal = internalChain(port);
  if (internal === null || (!options.masqueradeAll && local === null)) return [];
  const chain = { name: internal.chain, owner: port.service };
  const match = `${port.protocol} -d ${internal.address} --dport ${port.port}`;
  const isNot = options.masqueradeAll || local === null ? "" : local.isNot;
  return [rule(chain, comment(`${port.text} cluster IP`), match, isNot, `-j ${KUBE_MARK_MASQ}`)];
};

interface OwnChain {
  readonly chain: Chain;
  readonly rules: readonly Rule[];
}

/** The chains that belong to the Service port alone, in the order of their lines. */
const ownChains = (port: Port, context: Context): readonly OwnChain[] => {
  if (!port.hasEndpoints) return [];
  const { chains, service, cluster, local } = port;
  const made: OwnChain[] = [];
  const add = (name: string, texts: readonly string[]): void => {
    const chain = { name, owner: service };
    made.push({ chain, rules: texts.map((text) => rule(chain, text)) });
  };
  if (isExternallyAccessible(port)) add(chains.external, externalRules(port, context));
  if (port.restricted) add(chains.firewall, firewallRules(port, context));
  if (cluster.length > 0) add(chains.cluster, balancingRules(port, cluster, context));
  if (local.length > 0) add(chains.local, balancingRules(port, local, context));
  const reachable = new Set([...cluster, ...local].map(backendText));
  for (const backend of service.backends) {
    if (reachable.has(backendText(backend)))
      add(endpointChain(service.name, backend), endpointRules(port, backend, context));
  }
  return made;
};

const isExternallyAccessible = ({ nodePort, externalIPs, loadBalancerIPs }: Port): boolean =>
  nodePort !== null || externalIPs.length > 0 || loadBalancerIPs.length > 0;

/**
 * KUBE-EXT. Under policy Local pods and the node itself are short-circuited: they reach every endpoint, as if they had
 * gone out to the load balancer and come back.
 */
const externalRules = (port: Port, { local }: Context): readonly string[] => {
  const { text, chains, externalLocal } = port;
  const about = (what: string): string => comment(`${what} for ${text} external destinations`);
  const policy = hasExternalEndpoints(port) ? [`-j ${externalLocal ? chains.local : chains.cluster}`] : [];
  if (!externalLocal) return [`${about("masquerade traffic")} -j ${KUBE_MARK_MASQ}`, ...policy];
  const node = "-m addrtype --src-type LOCAL";
  return [
    ...(local === null ? [] : [`${about("pod traffic")} ${local.is} -j ${chains.cluster}`]),
    `${about("masquerade LOCAL traffic")} ${node} -j ${KUBE_MARK_MASQ}`,
    `${about("route LOCAL traffic")} ${node} -j ${chains.cluster}`,
    ...policy,
  ];
};

/** KUBE-FW. Where a load balancer address is bound to the node, what the node sends there has it as its source. */
const firewallRules = (port: Port, { nodeAddress }: Context): readonly string[] => {
  const { text, chains, sourceRanges, loadBalancerIPs } = port;
  const allowNode = nodeAddress !== null && sourceRanges.some((range) => prefixContains(range, nodeAddress));
  const sources = [...sourceRanges, ...(allowNode ? loadBalancerIPs : [])];
  return [
    ...sources.map((source) => `${comment(`${text} loadbalancer IP`)} -s ${source} -j ${chains.external}`),
    comment(`other traffic to ${text} will be dropped by ${KUBE_PROXY_FIREWALL}`),
  ];
};

/** KUBE-SVC and KUBE-SVL: who is remembered goes where he was, everybody else is spread evenly. */
const balancingRules = (port: Port, backends: readonly Backend[], context: Context): readonly string[] => {
  const { service, text } = port;
  const words = (backend: Backend): string =>
    context.endpointComments ? `${comment(`${text} -> ${backendText(backend)}`)} ` : "";
  const jumps = backends.map((backend) => ({ backend, chain: endpointChain(service.name, backend) }));
  const seconds = service.affinity_timeout_s;
  const remembered = jumps.map(
    ({ backend, chain }) =>
      `${words(backend)}-m recent --name ${chain} --rcheck --seconds ${seconds} --reap -j ${chain}`,
  );
  const spread = jumps.map(({ backend, chain }, i) => {
    const left = jumps.length - i;
    const chance = left === 1 ? "" : `-m statistic --mode random --probability ${(1 / left).toFixed(10)} `;
    return `${words(backend)}${chance}-j ${chain}`;
  });
  return seconds > 0 ? [...remembered, ...spread] : spread;
};

/** KUBE-SEP. A pod that reaches itself is masqueraded: the reply must not go to it directly. */
const endpointRules = (port: Port, backend: Backend, context: Context): readonly string[] => {
  const { service, text, protocol } = port;
  const words = context.endpointComments ? `${comment(text)} ` : "";
  const remember =
    service.affinity_timeout_s > 0 ? `-m recent --name ${endpointChain(service.name, backend)} --set ` : "";
  return [
    `${words}-s ${backend.address} -j ${KUBE_MARK_MASQ}`,
    `${words}${remember}${protocol} -j DNAT --to-destination ${backendText(backend)}`,
  ];
};

const backendText = ({ address, port }: Backend): string => formatHostPort(address, port);

const backendsIn = ({ backends }: DesiredService, family: Family): readonly Backend[] =>
  backends.filter(({ address }) => familyOf(address) === family);

const byName = ({ name: a }: DesiredService, { name: b }: DesiredService): number =>
  compareText(a.namespace, b.namespace) ||
  compareText(a.name, b.name) ||
  compareText(a.port, b.port) ||
  compareText(a.protocol, b.protocol);

const compareText = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);
