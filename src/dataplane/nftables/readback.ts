// The rules of a kube-proxy in nftables mode read back into a Desired: verdict maps from addresses to chains, and chains
// down to endpoints, in the layout up to v1.35 and in the one since. Pure; the table says itself which one it is.
import { entranceKey } from "../../compile/frontends.ts";
import { EXPRESSIBLE, type Reading } from "../../compile/reading.ts";
import { type Address, type Family, familyOf, type Prefix, parseAddress } from "../../model/address.ts";
import type { FrontendKind, NodeAddress, ServicePortName } from "../../model/desired.ts";
import type { Problem, Protocol, TrafficPolicy } from "../../model/snapshot.ts";
import {
  desiredOf,
  type Entry,
  type Listed,
  nameText,
  parseName,
  portOf,
  protocolOf,
  type Target,
} from "../entries.ts";
import {
  addressesIn,
  type Element,
  fieldsOf,
  listOf,
  type NftTable,
  numberOf,
  parseNftables,
  prefixesIn,
  type Statement,
  textOf,
  type Verdict,
  verdictOf,
} from "./ruleset.ts";

export interface NftablesOptions {
  /** For people, see Reading. */
  readonly from: string;
  /** Of the node that the rules are from; null: unknown. */
  readonly localAddresses: readonly Address[] | null;
  /** Known to have no other table than those in the texts; null: known of the families that have one. */
  readonly families: readonly Family[] | null;
}

/** `texts`: what `nft -j list ruleset` printed, or `list table` for each. Throws InputError for anything else. */
export const readNftables = (
  texts: readonly string[],
  { from, localAddresses, families }: NftablesOptions,
): Reading => {
  const readers = parseNftables(texts, from).map((table) => new TableReader(table, localAddresses));
  const problems: Problem[] = readers.flatMap((reader) => reader.problems);
  if (readers.length === 0)
    problems.push({ object: "nftables", path: "", message: "no table kube-proxy: nothing to compare" });
  const known = readers.every(({ nodeAddresses }) => nodeAddresses !== null);
  return {
    source: "nftables",
    from,
    desired: desiredOf(
      readers.flatMap((reader) => reader.entries),
      readers.flatMap((reader) => reader.nodeAddresses ?? []),
    ),
    expresses: {
      ...EXPRESSIBLE.nftables,
      families: families ?? readers.map(({ family }) => family),
      clusterIPs: readers.every(({ knowsClusterIPs }) => knowsClusterIPs),
      nodeAddresses: known ? "listed" : "none",
    },
    contested: new Set(),
    unreached: readers.flatMap((reader) => reader.unreached),
    problems,
  };
};

interface Chosen {
  readonly internal: Listed | null;
  readonly external: Listed | null;
  readonly policy: TrafficPolicy;
  readonly affinity_timeout_s: number;
}

interface EndpointList {
  readonly endpoints: readonly Target[];
  readonly affinity_timeout_s: number;
}

/** A place that the maps name. */
interface Place {
  readonly address: Address | null;
  readonly protocol: Protocol;
  readonly port: number;
}

interface Placed {
  readonly element: Element;
  readonly place: Place;
}

class TableReader {
  readonly family: Family;
  readonly entries: readonly Entry[];
  /** Where NodePorts answer; null: at local addresses that we do not know. */
  readonly nodeAddresses: readonly NodeAddress[] | null;
  readonly unreached: string[] = [];
  readonly problems: Problem[] = [];
  /** Older ones do not list ClusterIPs. */
  readonly knowsClusterIPs: boolean;
  readonly #table: NftTable;
  readonly #clusterIPs: ReadonlySet<Address>;
  readonly #lists = new Map<string, EndpointList>();
  readonly #complained = new Set<string>();
  readonly #indexes = new Map<string, ReadonlyMap<string, Placed>>();

  constructor(table: NftTable, local: readonly Address[] | null) {
    this.#table = table;
    this.family = table.family;
    const clusterIPs = table.sets.get("cluster-ips");
    this.knowsClusterIPs = clusterIPs !== undefined;
    this.#clusterIPs = new Set(clusterIPs === undefined ? [] : addressesIn(clusterIPs));
    this.entries = [...this.#readServed(), ...this.#readRefused()];
    this.nodeAddresses = this.#readNodeAddresses(local);
    this.#readHooks();
  }

  // ---- frontends ---------------------------------------------------------------------------------------------------

  #readServed(): readonly Entry[] {
    const elements = [...this.#elements("service-ips"), ...this.#elements("service-nodeports")];
    return elements.flatMap(({ element, place }): readonly Entry[] => {
      if (element.verdict.kind !== "goto") return this.#complain(`${element.key.join(" . ")} leads to no chain`);
      const named = parseChain(element.verdict.target);
      if (named === null)
        return this.#complain(`${element.key.join(" . ")} leads to ${element.verdict.target}, which is no Service's`);
      const chosen =
        named.kind === "external" ? this.#external(element.verdict.target) : this.#internal(element.verdict.target);
      const kind: FrontendKind =
        place.address === null ? "NodePort" : named.kind === "external" ? this.#externalKind(place) : "ClusterIP";
      return [this.#entry(place, named.name, kind, chosen)];
    });
  }

  /** Those that have no chain at all; the others' refusals are looked up from #entry(). */
  #readRefused(): readonly Entry[] {
    const served = new Set(
      [...this.#elements("service-ips"), ...this.#elements("service-nodeports")].map(({ place }) => this.#key(place)),
    );
    const elements = [...this.#elements("no-endpoint-services"), ...this.#elements("no-endpoint-nodeports")];
    return elements.flatMap(({ element, place }) => {
      if (served.has(this.#key(place))) return [];
      const name = parseName(element.comment ?? "", place.protocol);
      if (name === null) this.#complain(`nothing says which Service ${this.#key(place)} belongs to`);
      const kind: FrontendKind =
        place.address === null
          ? "NodePort"
          : this.#clusterIPs.has(place.address)
            ? "ClusterIP"
            : this.#externalKind(place);
      const unnamed = { namespace: "", name: this.#key(place), port: "", protocol: place.protocol };
      const chosen = { internal: null, external: null, policy: "Cluster", affinity_timeout_s: 0 } as const;
      return [this.#entry(place, name ?? unnamed, kind, chosen)];
    });
  }

  #entry(place: Place, name: ServicePortName, kind: FrontendKind, chosen: Chosen): Entry {
    const { address, port } = place;
    const refusal = this.#refusal(place);
    const ranges = this.#ranges(place);
    const settle = (listed: Listed | null): Listed => {
      if (listed !== null) return listed;
      if (refusal !== null) return refusal;
      this.#complain(`${this.#key(place)} of ${nameText(name)} leads to no endpoint, and nothing refuses it`);
      return { kind: "backends", policy: chosen.policy, endpoints: [] };
    };
    return {
      name,
      kind,
      family: this.family,
      address,
      port,
      restricted: ranges !== null,
      internal: settle(chosen.internal),
      external: settle(chosen.external),
      sourceRanges: ranges ?? [],
      affinity_timeout_s: chosen.affinity_timeout_s,
    };
  }

  /** A load balancer's where it has source ranges; which of the two it is otherwise, nothing tells. */
  #externalKind(place: Place): FrontendKind {
    return this.#ranges(place) === null ? "ExternalIP" : "LoadBalancer";
  }

  #refusal(place: Place): Listed | null {
    const map = place.address === null ? "no-endpoint-nodeports" : "no-endpoint-services";
    const found = this.#find(map, place);
    if (found === null) return null;
    return found.kind === "drop" ? { kind: "drop", policy: "Local" } : { kind: "reject", policy: "Cluster" };
  }

  /** Who may enter; null: everybody. */
  #ranges(place: Place): readonly Prefix[] | null {
    const found = place.address === null ? null : this.#find("firewall-ips", place);
    if (found?.kind !== "goto") return null;
    const rules = this.#table.chains.get(found.target)?.rules ?? [];
    const matches = rules.flatMap((rule) =>
      rule.filter(({ word }) => word === "match").map(({ value }) => fieldsOf(value)),
    );
    const allowed = matches.filter(({ op }) => op === "!=").flatMap(({ right }) => prefixesIn(right));
    if (allowed.length === 0) this.#complain(`${found.target} lets nobody in, or cannot be read`);
    return allowed;
  }

  // ---- chains ------------------------------------------------------------------------------------------------------

  #internal(chain: string): Chosen {
    const { listed, policy, affinity_timeout_s } = this.#listed(chain);
    return { internal: listed, external: listed, policy, affinity_timeout_s };
  }

  /** `external-…`: under policy Local pods and the node are short-circuited to every endpoint. */
  #external(chain: string): Chosen {
    const rules = this.#chain(chain);
    const found: { inside: string | null; outside: string | null } = { inside: null, outside: null };
    for (const rule of rules) {
      const target = rule.map(targetOf).find((text) => text !== null) ?? null;
      const kind = parseChain(target ?? "")?.kind;
      if (target === null || (kind !== "cluster" && kind !== "local")) {
        if (!rule.every(isMark)) this.#complain(`${chain} has a rule of somebody else's`);
      } else if (rule.some(({ word }) => word === "match")) found.inside ??= target;
      else found.outside ??= target;
    }
    const [inner, outer] = [found.inside ?? found.outside, found.outside].map((list) =>
      list === null ? null : this.#listed(list),
    );
    return {
      internal: inner?.listed ?? null,
      external: outer?.listed ?? null,
      policy: outer?.policy ?? (found.inside === null ? "Cluster" : "Local"),
      affinity_timeout_s: Math.max(inner?.affinity_timeout_s ?? 0, outer?.affinity_timeout_s ?? 0),
    };
  }

  #listed(chain: string): { listed: Listed | null; policy: TrafficPolicy; affinity_timeout_s: number } {
    const policy = parseChain(chain)?.kind === "local" ? "Local" : "Cluster";
    const known = this.#lists.get(chain) ?? this.#readList(chain);
    this.#lists.set(chain, known);
    const { endpoints, affinity_timeout_s } = known;
    return {
      listed: endpoints.length > 0 ? { kind: "backends", policy, endpoints } : null,
      policy,
      affinity_timeout_s,
    };
  }

  #readList(chain: string): EndpointList {
    const endpoints: Target[] = [];
    let affinity_timeout_s = 0;
    for (const rule of this.#chain(chain)) {
      const set = affinitySet(rule);
      if (set !== null) {
        affinity_timeout_s = Math.max(affinity_timeout_s, this.#table.sets.get(set)?.timeout_s ?? 0);
        continue;
      }
      const found = rule.flatMap((statement) => this.#endpointsOf(statement));
      if (found.length === 0 && !rule.every(isMark)) this.#complain(`${chain} has a rule of somebody else's`);
      endpoints.push(...found);
    }
    return { endpoints, affinity_timeout_s };
  }

  #endpointsOf({ word, value }: Statement): readonly Target[] {
    const fields = fieldsOf(value);
    switch (word) {
      case "dnat": {
        const choices = listOf(fieldsOf(fieldsOf(fieldsOf(fields.addr).map).data).set);
        if (choices.length === 0) return targetIn(fields.addr, fields.port);
        return choices.flatMap((pair) => {
          const [address, port] = listOf(fieldsOf(listOf(pair)[1]).concat);
          return targetIn(address, port);
        });
      }
      case "vmap":
        return listOf(fieldsOf(fields.data).set).flatMap((pair) => this.#endpointsBehind(verdictOf(listOf(pair)[1])));
      case "goto":
        return this.#endpointsBehind(verdictOf({ goto: value }));
      default:
        return [];
    }
  }

  /** `endpoint-…`. */
  #endpointsBehind(verdict: Verdict): readonly Target[] {
    if (verdict.kind !== "goto" || !verdict.target.startsWith("endpoint-")) return [];
    const found = this.#chain(verdict.target).flatMap((rule) =>
      rule.filter(({ word }) => word === "dnat").flatMap((statement) => this.#endpointsOf(statement)),
    );
    if (found.length === 0) this.#complain(`${verdict.target} translates to no endpoint`);
    return found;
  }

  #chain(name: string): readonly (readonly Statement[])[] {
    const chain = this.#table.chains.get(name);
    if (chain === undefined) this.#complain(`${name} is not there, though something leads to it`);
    return chain?.rules ?? [];
  }

  // ---- the node ----------------------------------------------------------------------------------------------------

  /** By the rule of chain `services` that asks the map of NodePorts. */
  #readNodeAddresses(local: readonly Address[] | null): readonly NodeAddress[] | null {
    const rules = this.#table.chains.get("services")?.rules ?? [];
    const rule = rules.find((one) =>
      one.some(({ word, value }) => word === "vmap" && fieldsOf(value).data === "@service-nodeports"),
    );
    if (rule === undefined) return [];
    const lists = rule.flatMap(({ value }) => textOf(fieldsOf(value).right)?.match(/^@(.+)/)?.[1] ?? []);
    const set = this.#table.sets.get(lists[0] ?? "");
    if (set === undefined && local === null) return null;
    const addresses =
      set !== undefined ? addressesIn(set) : (local ?? []).filter((a) => !isLoopback(a) && !/^fe[89ab]/.test(a));
    return addresses
      .filter((address) => familyOf(address) === this.family)
      .map((address) => ({ address, loopback: isLoopback(address), primary: false, nodePorts: true }));
  }

  #readHooks(): void {
    if (this.entries.length === 0) return;
    for (const hook of ["prerouting", "output"]) {
      const jumps = [...this.#table.chains.values()]
        .filter((chain) => chain.hook === hook)
        .flatMap(({ rules }) => rules.flatMap((rule) => rule.map(targetOf)));
      if (!jumps.includes("services")) this.unreached.push(`${this.family}: hook ${hook} does not jump to services`);
    }
    const asked = new Set(
      (this.#table.chains.get("services")?.rules ?? []).flatMap((rule) =>
        rule.map(({ value }) => fieldsOf(value).data),
      ),
    );
    for (const map of ["service-ips", "service-nodeports"]) {
      const needed = this.#index(map).size > 0;
      if (needed && !asked.has(`@${map}`)) this.unreached.push(`${this.family}: chain services does not ask ${map}`);
    }
  }

  // ---- maps --------------------------------------------------------------------------------------------------------

  #elements(map: string): Iterable<Placed> {
    return this.#index(map).values();
  }

  #find(map: string, place: Place): Verdict | null {
    return this.#index(map).get(this.#key(place))?.element.verdict ?? null;
  }

  /** Made once for a map. */
  #index(map: string): ReadonlyMap<string, Placed> {
    const known = this.#indexes.get(map);
    if (known !== undefined) return known;
    const made = new Map<string, Placed>();
    for (const element of this.#table.maps.get(map) ?? []) {
      const place = placeOf(element.key);
      if (place === null) this.#complain(`${map}: ${element.key.join(" . ")} is no frontend`);
      else made.set(this.#key(place), { element, place });
    }
    this.#indexes.set(map, made);
    return made;
  }

  #key({ address, port, protocol }: Place): string {
    return entranceKey({ family: this.family, address, port }, protocol);
  }

  #complain(message: string): readonly never[] {
    const object = `table ${this.family === "IPv4" ? "ip" : "ip6"} kube-proxy`;
    if (!this.#complained.has(message)) this.problems.push({ object, path: "", message });
    this.#complained.add(message);
    return [];
  }
}

interface ChainName {
  readonly kind: "cluster" | "local" | "external";
  readonly name: ServicePortName;
}

const KINDS: Readonly<Record<string, ChainName["kind"]>> = {
  service: "cluster",
  local: "local",
  "service-local": "local",
  external: "external",
};

/** `service-ULMVA6XW-ns1/svc1/tcp/p80`; null: no such chain of a Service port. */
const parseChain = (chain: string): ChainName | null => {
  const match = /^(service-local|service|local|external)-[A-Z2-7]{8}-([^/]+)\/([^/]+)\/([^/]+)(?:\/([^/]*))?$/.exec(
    chain,
  );
  const [, prefix = "", namespace, name, proto, port = ""] = match ?? [];
  const [kind, protocol] = [KINDS[prefix], protocolOf(proto ?? null)];
  if (kind === undefined || protocol === null || namespace === undefined || name === undefined) return null;
  return { kind, name: { namespace, name, port, protocol } };
};

/** `address . protocol . port`, or `protocol . port`. */
const placeOf = (key: readonly (string | number)[]): Place | null => {
  const [port, proto, address] = [...key].reverse();
  const protocol = protocolOf(String(proto));
  const number = portOf(String(port));
  if (protocol === null || number === null) return null;
  if (address === undefined) return { address: null, protocol, port: number };
  const parsed = parseAddress(String(address));
  return parsed === null ? null : { address: parsed, protocol, port: number };
};

const targetIn = (address: unknown, port: unknown): readonly Target[] => {
  const [parsed, number] = [parseAddress(textOf(address) ?? ""), numberOf(port)];
  return parsed === null || number === null ? [] : [{ address: parsed, port: number }];
};

const targetOf = ({ word, value }: Statement): string | null =>
  word === "goto" || word === "jump" ? textOf(fieldsOf(value).target) : null;

/** The set of clients that a rule sends where they were, or null. */
const affinitySet = (rule: readonly Statement[]): string | null => {
  const names = rule.map(({ value }) => textOf(fieldsOf(value).right)).filter((text) => text?.startsWith("@affinity-"));
  return names[0]?.slice(1) ?? null;
};

/** Part of a rule that only marks for masquerading, or matches what is to be marked. */
const isMark = (statement: Statement): boolean =>
  ["match", "mangle", "counter"].includes(statement.word) || targetOf(statement) === "mark-for-masquerade";

const isLoopback = (address: Address): boolean => address === "::1" || address.startsWith("127.");
