// One family's rules: from the addresses in KUBE-SERVICES and KUBE-NODEPORTS to what becomes of a client there, and the
// refusals in the filter table.
import { entranceKey } from "../../compile/frontends.ts";
import { type Address, type Family, familyOf, type Prefix } from "../../model/address.ts";
import type { FrontendKind, ServicePortName } from "../../model/desired.ts";
import type { Problem, Protocol, TrafficPolicy } from "../../model/snapshot.ts";
import { type Entry, type Listed, nameText, parseName, portOf, protocolOf, type Target } from "../entries.ts";
import { addressOf, ChainReader, chainKind, ENTRANCE_OPTIONS, isNodePorts, targetOf } from "./chains.ts";
import { JUMPS } from "./jumps.ts";
import {
  KUBE_EXTERNAL_SERVICES,
  KUBE_FIREWALL,
  KUBE_MARK_MASQ,
  KUBE_NODEPORTS,
  KUBE_POSTROUTING,
  KUBE_PROXY_FIREWALL,
  KUBE_SERVICES,
} from "./names.ts";
import { type Chain, firstValue, hasOption, type Rule } from "./parse.ts";

/** Where KUBE-SERVICES sends traffic to NodePorts from; `local`: any address of the node, with or without 127.0.0.0/8. */
export type NodePortPlace =
  | { readonly kind: "address"; readonly address: Address }
  | { readonly kind: "local"; readonly loopback: boolean };

/** A frontend while it is being read: null is what no rule has said yet. */
interface Draft {
  readonly name: ServicePortName;
  kind: FrontendKind;
  readonly address: Address | null;
  readonly port: number;
  readonly restricted: boolean;
  internal: Listed | null;
  external: Listed | null;
  readonly policy: TrafficPolicy;
  sourceRanges: readonly Prefix[];
  readonly affinity_timeout_s: number;
}

type Chains = ReadonlyMap<string, Chain>;

export class FamilyReader {
  readonly family: Family;
  readonly hasFilter: boolean;
  readonly entries: readonly Entry[];
  /** By entranceKey(). */
  readonly contested = new Set<string>();
  readonly unreached: string[] = [];
  readonly problems: Problem[] = [];
  /** By `namespace/name:port`. */
  readonly healthChecks = new Map<string, number>();
  readonly nodePortPlaces: NodePortPlace[] = [];
  readonly #object: string;
  readonly #nat: Chains;
  readonly #chains: ChainReader;
  readonly #names: ReadonlyMap<string, string>;
  readonly #drafts = new Map<string, Draft>();
  /** Frontends that lead nowhere, by entranceKey(). */
  readonly #lost = new Set<string>();
  #podsOutside = 0;
  #complaints = 0;

  constructor(family: Family, nat: Chains, filter: Chains | null, object: string) {
    this.family = family;
    this.hasFilter = filter !== null;
    this.#object = object;
    this.#nat = nat;
    this.#chains = new ChainReader(nat, family, (rule, message) => this.#complain(rule, message));
    this.#names = namesByHash(nat);
    this.#readEntrances();
    this.#readNodePorts();
    if (filter === null) this.#complain(null, "no filter table: refused and dropped frontends are not compared");
    else this.#readFilter(filter);
    this.#readHooks(filter);
    this.#readMasquerade();
    this.entries = [...this.#drafts.values()].map((draft) => this.#entry(draft));
    if (this.#podsOutside > 0)
      this.#complain(
        null,
        `${this.family}: pods are not told from outside clients and meet policy Local at ${this.#podsOutside} external addresses and NodePorts`,
      );
    if (this.#complaints > MOST_PROBLEMS) {
      const message = `${this.family}: ${this.#complaints - MOST_PROBLEMS} more things are not as they should be`;
      this.problems.push({ object: this.#object, path: "", message });
    }
  }

  #entry(draft: Draft): Entry {
    const { name, kind, address, port, restricted, sourceRanges, affinity_timeout_s } = draft;
    const [internal, external] = [this.#settle(draft, draft.internal), this.#settle(draft, draft.external)];
    const rest = { restricted, internal, external, sourceRanges, affinity_timeout_s };
    return { name, kind, family: this.family, address, port, ...rest };
  }

  // ---- nat ---------------------------------------------------------------------------------------------------------

  #readEntrances(): void {
    const chain = this.#nat.get(KUBE_SERVICES);
    if (chain === undefined) {
      this.#complain(null, `no chain ${KUBE_SERVICES}: kube-proxy has written no ${this.family} rules here`);
      return;
    }
    for (const rule of chain.rules) {
      if (isNodePorts(rule)) this.#readNodePortPlace(rule);
      else if (targetOf(rule) !== KUBE_MARK_MASQ) this.#readEntrance(rule);
    }
  }

  #readEntrance(rule: Rule): void {
    const target = chainKind(targetOf(rule));
    const [address, port] = [addressOf(firstValue(rule, "-d")), portOf(firstValue(rule, "--dport"))];
    const protocol = protocolOf(firstValue(rule, "-p"));
    if (target === null || target.kind === "SEP" || address === null || port === null || protocol === null)
      return this.#complain(rule, `${KUBE_SERVICES} has a rule of somebody else's: it leads to no Service port`);
    if (familyOf(address) !== this.family) return this.#complain(rule, `${address} is not ${this.family}`);
    this.#expect(rule);
    const words = firstValue(rule, "--comment") ?? "";
    const kind = KINDS.find(([ending]) => words.endsWith(ending))?.[1] ?? KIND_BY_CHAIN[target.kind];
    this.#add(rule, { kind, address, port, protocol, target: targetOf(rule) ?? "" });
  }

  #readNodePorts(): void {
    for (const rule of this.#nat.get(KUBE_NODEPORTS)?.rules ?? []) {
      const target = chainKind(targetOf(rule));
      const [port, protocol] = [portOf(firstValue(rule, "--dport")), protocolOf(firstValue(rule, "-p"))];
      if (targetOf(rule) === KUBE_MARK_MASQ) continue;
      if (target === null || target.kind === "SEP" || port === null || protocol === null) {
        this.#complain(rule, `${KUBE_NODEPORTS} has a rule of somebody else's: it leads to no Service port`);
        continue;
      }
      // The same once more for 127.0.0.0/8, to count.
      if (hasOption(rule, "--nfacct-name")) continue;
      this.#expect(rule);
      this.#add(rule, { kind: "NodePort", address: null, port, protocol, target: targetOf(rule) ?? "" });
    }
  }

  #readNodePortPlace(rule: Rule): void {
    const address = addressOf(firstValue(rule, "-d"));
    if (address !== null) this.nodePortPlaces.push({ kind: "address", address });
    else if (firstValue(rule, "--dst-type") === "LOCAL")
      this.nodePortPlaces.push({
        kind: "local",
        loopback: !rule.options.some(
          ({ name, negated, values }) => name === "-d" && negated && values[0]?.startsWith("127."),
        ),
      });
    else this.#complain(rule, `${KUBE_NODEPORTS} is entered by a condition that is not kube-proxy's`);
  }

  #add(rule: Rule, at: Pick<Draft, "kind" | "address" | "port"> & { protocol: Protocol; target: string }): void {
    const { kind, address, port, protocol, target } = at;
    const key = entranceKey({ family: this.family, address, port }, protocol);
    const name = this.#nameOf(rule, target, key, protocol);
    const known = this.#drafts.get(key);
    if (known !== undefined) return this.#shadowed(rule, key, known, name, at);
    const draft = { name, kind, address, port, ...this.#follow(target) };
    this.#drafts.set(key, draft);
  }

  /** A second rule for an address: the first one decides. */
  #shadowed(
    rule: Rule,
    key: string,
    known: Draft,
    name: ServicePortName,
    at: { kind: FrontendKind; target: string },
  ): void {
    if (nameText(known.name) !== nameText(name)) {
      this.contested.add(key);
      return this.#complain(rule, `${key} of ${nameText(name)} is never reached: ${nameText(known.name)} comes first`);
    }
    if (at.kind === "LoadBalancer" && known.kind === "ExternalIP") {
      const behind = this.#follow(at.target);
      known.kind = "LoadBalancer";
      known.sourceRanges = behind.sourceRanges;
      if (behind.restricted)
        this.#complain(rule, `${key} is an external IP as well, whose rule comes first: its source ranges do not hold`);
    }
  }

  /** From KUBE-SVC, -SVL, -EXT or -FW to what becomes of a client. */
  #follow(
    target: string,
  ): Pick<Draft, "restricted" | "internal" | "external" | "policy" | "sourceRanges" | "affinity_timeout_s"> {
    const open = { restricted: false, sourceRanges: [] };
    switch (chainKind(target)?.kind) {
      case "SVC":
      case "SVL": {
        const { listed, affinity_timeout_s, policy } = this.#list(target);
        return { ...open, internal: listed, external: listed, policy, affinity_timeout_s };
      }
      case "FW": {
        const firewall = this.#chains.firewall(target);
        const behind = firewall?.next == null ? NOTHING : this.#external(firewall.next);
        return { ...behind, restricted: true, sourceRanges: firewall?.ranges ?? [] };
      }
      case "EXT":
        return { ...open, ...this.#external(target) };
      default:
        return { ...open, ...NOTHING };
    }
  }

  #external(name: string): Pick<Draft, "internal" | "external" | "policy" | "affinity_timeout_s"> {
    const chain = this.#chains.external(name);
    if (chain === null) return NOTHING;
    const { node, pods, outside } = chain;
    const [inner, outer] = [node ?? pods ?? outside, outside].map((list) => (list === null ? null : this.#list(list)));
    if (node !== null && pods === null) this.#podsOutside++;
    // Only policy Local makes a difference between clients inside and outside.
    const policy = outer?.policy ?? (node !== null || pods !== null ? "Local" : "Cluster");
    const affinity_timeout_s = Math.max(inner?.affinity_timeout_s ?? 0, outer?.affinity_timeout_s ?? 0);
    return { internal: inner?.listed ?? null, external: outer?.listed ?? null, policy, affinity_timeout_s };
  }

  #list(name: string): { listed: Listed | null; policy: TrafficPolicy; affinity_timeout_s: number } {
    const policy = chainKind(name)?.kind === "SVL" ? "Local" : "Cluster";
    const list = this.#chains.list(name);
    const endpoints: readonly Target[] = list?.endpoints ?? [];
    const listed: Listed | null = endpoints.length > 0 ? { kind: "backends", policy, endpoints } : null;
    return { listed, policy, affinity_timeout_s: list?.affinity_timeout_s ?? 0 };
  }

  // ---- filter ------------------------------------------------------------------------------------------------------

  #readFilter(filter: Chains): void {
    for (const name of [KUBE_SERVICES, KUBE_EXTERNAL_SERVICES]) {
      for (const rule of filter.get(name)?.rules ?? []) this.#readRefusal(rule, name);
    }
    for (const rule of filter.get(KUBE_NODEPORTS)?.rules ?? []) this.#readHealthCheck(rule);
    this.#readFirewall(filter.get(KUBE_PROXY_FIREWALL)?.rules ?? []);
  }

  #readRefusal(rule: Rule, chain: string): void {
    const target = targetOf(rule);
    const [address, port] = [addressOf(firstValue(rule, "-d")), portOf(firstValue(rule, "--dport"))];
    const protocol = protocolOf(firstValue(rule, "-p"));
    const nodePort = address === null && firstValue(rule, "--dst-type") === "LOCAL";
    if (
      (target !== "REJECT" && target !== "DROP") ||
      port === null ||
      protocol === null ||
      (address === null && !nodePort)
    )
      return this.#complain(rule, `${chain} has a rule of somebody else's: it refuses no frontend`);
    this.#expect(rule);
    const listed: Listed =
      target === "DROP" ? { kind: "drop", policy: "Local" } : { kind: "reject", policy: "Cluster" };
    const key = entranceKey({ family: this.family, address, port }, protocol);
    const name = this.#nameOf(rule, null, key, protocol);
    const known = this.#drafts.get(key);
    if (known !== undefined && nameText(known.name) !== nameText(name)) {
      this.contested.add(key);
      return this.#complain(rule, `${key} of ${nameText(name)} is served as ${nameText(known.name)}'s`);
    }
    if (known !== undefined) {
      known.internal ??= listed;
      known.external ??= listed;
      return;
    }
    // Whether an address that refuses is an external IP or a load balancer's, no rule tells.
    const kind = nodePort ? "NodePort" : chain === KUBE_SERVICES ? "ClusterIP" : "ExternalIP";
    const { policy } = listed;
    const rest = { restricted: false, sourceRanges: [], affinity_timeout_s: 0, policy };
    this.#drafts.set(key, { name, kind, address, port, internal: listed, external: listed, ...rest });
  }

  #readHealthCheck(rule: Rule): void {
    const name = nameIn(firstValue(rule, "--comment"));
    const port = portOf(firstValue(rule, "--dport"));
    if (targetOf(rule) !== "ACCEPT" || name === null || port === null)
      return this.#complain(rule, `${KUBE_NODEPORTS} has a rule of somebody else's: it opens no health check port`);
    this.healthChecks.set(name, port);
  }

  /** Who is in no range must be dropped here: nat only does not translate it. */
  #readFirewall(rules: readonly Rule[]): void {
    const closed = new Set<string>();
    for (const rule of rules) {
      const [address, port] = [addressOf(firstValue(rule, "-d")), portOf(firstValue(rule, "--dport"))];
      const protocol = protocolOf(firstValue(rule, "-p"));
      if (address === null || port === null || protocol === null || targetOf(rule) !== "DROP")
        this.#complain(rule, `${KUBE_PROXY_FIREWALL} has a rule of somebody else's`);
      else closed.add(entranceKey({ family: this.family, address, port }, protocol));
    }
    for (const [key, { restricted }] of this.#drafts) {
      if (restricted && !closed.has(key))
        this.#complain(null, `${KUBE_PROXY_FIREWALL} does not drop who may not enter ${key}`);
    }
  }

  // ---- hooks -------------------------------------------------------------------------------------------------------

  /** A restore input has no built-in chains: then nothing is known of what jumps to ours. */
  #readHooks(filter: Chains | null): void {
    if (this.#drafts.size === 0) return;
    for (const { table, from, to } of JUMPS) {
      const chains = table === "nat" ? this.#nat : filter;
      const [entered, ours] = [chains?.get(from), chains?.get(to)];
      if (to === KUBE_FIREWALL || entered === undefined || ours === undefined || ours.rules.length === 0) continue;
      if (!entered.rules.some((rule) => targetOf(rule) === to))
        this.unreached.push(`${this.family}: ${from} of ${table} does not jump to ${to}`);
    }
    for (const name of ["PREROUTING", "OUTPUT"]) {
      const rules = this.#nat.get(name)?.rules ?? [];
      const at = rules.findIndex((rule) => targetOf(rule) === KUBE_SERVICES);
      for (const rule of rules.slice(0, Math.max(0, at))) {
        if (chainKind(targetOf(rule)) === null && targetOf(rule) !== KUBE_FIREWALL)
          this.#complain(rule, `${name} has a rule before ${KUBE_SERVICES}, to ${targetOf(rule) ?? "nothing"}`);
      }
    }
    const hasNodePorts = [...this.#drafts.values()].some(
      ({ kind, internal }) => kind === "NodePort" && internal?.kind === "backends",
    );
    if (hasNodePorts && this.nodePortPlaces.length === 0)
      this.unreached.push(`${this.family}: ${KUBE_SERVICES} of nat does not jump to ${KUBE_NODEPORTS}`);
  }

  /** Without it replies to clients that should see the node go astray. Nothing of it is in a Desired. */
  #readMasquerade(): void {
    const chains = [...this.#nat.values()];
    if (!chains.some(({ rules }) => rules.some((rule) => targetOf(rule) === KUBE_MARK_MASQ))) return;
    for (const [name, target, what] of [
      [KUBE_MARK_MASQ, "MARK", "marks"],
      [KUBE_POSTROUTING, "MASQUERADE", "masquerades"],
    ] as const) {
      if (!this.#nat.get(name)?.rules.some((rule) => targetOf(rule) === target))
        this.#complain(null, `${name} ${what} nothing: clients that should be seen as the node are not`);
    }
  }

  // ---- words -------------------------------------------------------------------------------------------------------

  /** By its comment, or by another comment on the same chains. */
  #nameOf(rule: Rule, target: string | null, key: string, protocol: Protocol): ServicePortName {
    const text = nameIn(firstValue(rule, "--comment")) ?? this.#names.get(chainKind(target)?.hash ?? "") ?? null;
    const name = text === null ? null : parseName(text, protocol);
    if (name !== null) return name;
    this.#complain(rule, `nothing says which Service ${key} belongs to`);
    return { namespace: "", name: key, port: "", protocol };
  }

  #settle({ policy, name, address, port }: Draft, listed: Listed | null): Listed {
    if (listed !== null) return listed;
    if (policy === "Local" && !this.hasFilter) return { kind: "drop", policy };
    const key = entranceKey({ family: this.family, address, port }, name.protocol);
    const message = `${key} of ${nameText(name)} leads to no endpoint, and nothing refuses it`;
    if (!this.#lost.has(key)) this.#complain(null, message);
    this.#lost.add(key);
    return { kind: "backends", policy, endpoints: [] };
  }

  #expect(rule: Rule): void {
    const strange = rule.options.filter(({ name }) => !ENTRANCE_OPTIONS.has(name)).map(({ name }) => name);
    if (strange.length > 0) this.#complain(rule, `read as if it said nothing of ${strange.join(", ")}`);
  }

  #complain(rule: Rule | null, message: string): void {
    if (++this.#complaints > MOST_PROBLEMS) return;
    this.problems.push({ object: this.#object, path: rule === null ? "" : `line ${rule.line}`, message });
  }
}

const MOST_PROBLEMS = 100;

const NOTHING = { internal: null, external: null, policy: "Cluster", affinity_timeout_s: 0 } as const;

const KINDS: readonly (readonly [ending: string, kind: FrontendKind])[] = [
  [" cluster IP", "ClusterIP"],
  [" external IP", "ExternalIP"],
  [" loadbalancer IP", "LoadBalancer"],
];

/** Without a comment. */
const KIND_BY_CHAIN: Readonly<Record<"SVC" | "SVL" | "EXT" | "FW", FrontendKind>> = {
  SVC: "ClusterIP",
  SVL: "ClusterIP",
  EXT: "ExternalIP",
  FW: "LoadBalancer",
};

/** The Service port that a comment speaks of: its word with one slash. */
const nameIn = (comment: string | null): string | null =>
  comment?.split(" ").find((word) => /^[^\s/:]+\/[^\s/:]+(:[^\s/:]+)?$/.test(word)) ?? null;

/** `namespace/name:port` by the hash in the names of its chains, from whatever comment says it. */
const namesByHash = (nat: Chains): ReadonlyMap<string, string> => {
  const names = new Map<string, string>();
  for (const chain of nat.values()) {
    for (const rule of chain.rules) {
      const name = nameIn(firstValue(rule, "--comment"));
      if (name === null) continue;
      for (const one of [chainKind(chain.name), chainKind(targetOf(rule))])
        if (one !== null && one.kind !== "SEP" && !names.has(one.hash)) names.set(one.hash, name);
    }
  }
  return names;
};
