// What kube-proxy's own chains in nat say, one kind of chain after the other: endpoints, lists of them, external
// traffic, source ranges. A rule that nobody expects there is named and passed over.

import { everything, hostPrefix } from "../../compile/ranges.ts";
import { type Address, type Family, type Prefix, parseAddress, parsePrefix } from "../../model/address.ts";
import { portOf, type Target } from "../entries.ts";
import { KUBE_MARK_MASQ, KUBE_NODEPORTS } from "./names.ts";
import { type Chain, firstValue, hasOption, type Rule } from "./parse.ts";

/** Names a rule, or a chain as a whole (rule null), and what is wrong with it. */
export type Complain = (rule: Rule | null, message: string) => void;

export type ChainKind = "SVC" | "SVL" | "EXT" | "FW" | "SEP";

/** `KUBE-SVC-XPGD46QRK7WJZT7O` is an SVC with that hash; null: no chain of a Service port. */
export const chainKind = (name: string | null): { readonly kind: ChainKind; readonly hash: string } | null => {
  const match = /^KUBE-(SVC|SVL|EXT|FW|SEP)-(.+)$/.exec(name ?? "");
  return match?.[2] === undefined ? null : { kind: match[1] as ChainKind, hash: match[2] };
};

/** The target of a rule, however it is reached; null: none. */
export const targetOf = (rule: Rule): string | null => firstValue(rule, "-j") ?? firstValue(rule, "-g");

/** An address that a rule asks for alone. */
export const addressOf = (text: string | null): Address | null => {
  const [address = "", bits] = (text ?? "").split("/");
  const parsed = parseAddress(address);
  return parsed !== null && (bits === undefined || Number(bits) === (parsed.includes(":") ? 128 : 32)) ? parsed : null;
};

/** Endpoints in the order of their rules. */
export interface EndpointList {
  readonly endpoints: readonly Target[];
  /** 0: none. */
  readonly affinity_timeout_s: number;
}

export interface External {
  /** A list's chain each, or null: the chain does not say. */
  readonly node: string | null;
  readonly pods: string | null;
  readonly outside: string | null;
}

export interface Firewall {
  readonly ranges: readonly Prefix[];
  /** KUBE-EXT-…, or null: nobody may enter. */
  readonly next: string | null;
}

/** Reads the chains of one family's nat table, each once. */
export class ChainReader {
  readonly #chains: ReadonlyMap<string, Chain>;
  readonly #family: Family;
  readonly #complain: Complain;
  readonly #lists = new Map<string, EndpointList | null>();
  readonly #endpoints = new Map<string, Target | null>();
  readonly #externals = new Map<string, External | null>();

  constructor(chains: ReadonlyMap<string, Chain>, family: Family, complain: Complain) {
    this.#chains = chains;
    this.#family = family;
    this.#complain = complain;
  }

  /** KUBE-SVC or KUBE-SVL; null: there is no such chain. */
  list(name: string): EndpointList | null {
    return once(this.#lists, name, () => this.#readList(name));
  }

  #readList(name: string): EndpointList | null {
    const chain = this.#chains.get(name);
    if (chain === undefined) return this.#missing(name);
    const endpoints: Target[] = [];
    const remembered = new Set<string>();
    const spread = new Set<string>();
    let affinity_timeout_s = 0;
    let chance = 1;
    for (const rule of chain.rules) {
      const target = targetOf(rule);
      if (target === KUBE_MARK_MASQ) continue;
      if (chainKind(target)?.kind !== "SEP" || target === null) {
        this.#complain(rule, `${name} has a rule of somebody else's${target === null ? "" : `, to ${target}`}`);
        continue;
      }
      this.#expect(rule, LIST_OPTIONS);
      if (hasOption(rule, "--rcheck")) {
        affinity_timeout_s = Math.max(affinity_timeout_s, Number(firstValue(rule, "--seconds")) || 0);
        remembered.add(target);
        continue;
      }
      spread.add(target);
      chance = Number(firstValue(rule, "--probability") ?? 1);
      const endpoint = this.#endpoint(target);
      if (endpoint !== null) endpoints.push(endpoint);
    }
    const forgotten = remembered.size === 0 ? [] : [...spread].filter((chain) => !remembered.has(chain));
    if (forgotten.length > 0) this.#complain(null, `${name} does not ask who was at ${forgotten.join(", ")} before`);
    if (endpoints.length > 0 && chance < 1)
      this.#complain(null, `${name} ends with a rule of probability ${chance}: some flows find no endpoint`);
    return { endpoints, affinity_timeout_s };
  }

  /** KUBE-SEP. */
  #endpoint(name: string): Target | null {
    return once(this.#endpoints, name, () => this.#readEndpoint(name));
  }

  #readEndpoint(name: string): Target | null {
    const chain = this.#chains.get(name);
    if (chain === undefined) return this.#missing(name);
    let found: Target | null = null;
    let hairpin = false;
    for (const rule of chain.rules) {
      const target = targetOf(rule);
      if (target === KUBE_MARK_MASQ) {
        hairpin = true;
        continue;
      }
      const to = target === "DNAT" ? parseTarget(firstValue(rule, "--to-destination")) : null;
      if (to === null) this.#complain(rule, `${name} has a rule that is no DNAT to address and port`);
      else found ??= to;
      if (to !== null) this.#expect(rule, ENDPOINT_OPTIONS);
    }
    if (found === null) this.#complain(null, `${name} translates to no endpoint`);
    else if (!hairpin) this.#complain(null, `${name} does not masquerade a pod that reaches itself`);
    return found;
  }

  /** KUBE-EXT; null: there is no such chain. */
  external(name: string): External | null {
    return once(this.#externals, name, () => this.#readExternal(name));
  }

  #readExternal(name: string): External | null {
    const chain = this.#chains.get(name);
    if (chain === undefined) return this.#missing(name);
    const found: { node: string | null; pods: string | null; outside: string | null } = {
      node: null,
      pods: null,
      outside: null,
    };
    const masquerades = { everybody: false, node: false };
    for (const rule of chain.rules) {
      const target = targetOf(rule);
      if (target === KUBE_MARK_MASQ) {
        masquerades[firstValue(rule, "--src-type") === "LOCAL" ? "node" : "everybody"] = true;
        continue;
      }
      const kind = chainKind(target)?.kind;
      if (target === null || (kind !== "SVC" && kind !== "SVL")) {
        this.#complain(rule, `${name} has a rule of somebody else's${target === null ? "" : `, to ${target}`}`);
        continue;
      }
      if (firstValue(rule, "--src-type") === "LOCAL") found.node ??= target;
      else if (hasOption(rule, "-s") || hasOption(rule, "-i")) found.pods ??= target;
      else found.outside ??= target;
      this.#expect(rule, EXTERNAL_OPTIONS);
    }
    const isLocal = found.node !== null || chainKind(found.outside)?.kind === "SVL";
    if (isLocal && !masquerades.node) this.#complain(null, `${name} does not masquerade what the node itself sends`);
    if (!isLocal && !masquerades.everybody)
      this.#complain(null, `${name} does not masquerade: replies of pods elsewhere do not come back this way`);
    return found;
  }

  /** KUBE-FW; null: there is no such chain. */
  firewall(name: string): Firewall | null {
    const chain = this.#chains.get(name);
    if (chain === undefined) return this.#missing(name);
    const ranges: Prefix[] = [];
    let next: string | null = null;
    for (const rule of chain.rules) {
      const target = targetOf(rule);
      if (target === null) continue; // the comment at the end
      if (chainKind(target)?.kind !== "EXT") {
        this.#complain(rule, `${name} has a rule of somebody else's, to ${target}`);
        continue;
      }
      next = target;
      this.#expect(rule, FIREWALL_OPTIONS);
      const source = firstValue(rule, "-s");
      const range = source === null ? everything(this.#family) : prefixOf(source);
      if (range === null) this.#complain(rule, `${source} is no range of addresses`);
      else ranges.push(range);
    }
    return { ranges, next };
  }

  #missing(name: string): null {
    this.#complain(null, `${name} is not there, though a rule jumps to it`);
    return null;
  }

  /** Other conditions narrow a rule in ways nobody else has: said, and not followed. */
  #expect(rule: Rule, known: ReadonlySet<string>): void {
    const strange = rule.options.filter(({ name }) => !known.has(name)).map(({ name }) => name);
    if (strange.length > 0) this.#complain(rule, `read as if it said nothing of ${strange.join(", ")}`);
  }
}

/** What `read` answered the first time. */
const once = <T>(known: Map<string, T>, name: string, read: () => T): T => {
  const before = known.get(name);
  if (before !== undefined) return before;
  const made = read();
  known.set(name, made);
  return made;
};

const EVERY = ["--comment", "-j", "-g", "-p"];
const RECENT = ["--name", "--rcheck", "--set", "--seconds", "--reap", "--rsource", "--mask"];
const LIST_OPTIONS = new Set([...EVERY, ...RECENT, "--mode", "--probability"]);
const ENDPOINT_OPTIONS = new Set([...EVERY, ...RECENT, "--to-destination"]);
const EXTERNAL_OPTIONS = new Set([...EVERY, "-s", "-i", "--src-type"]);
const FIREWALL_OPTIONS = new Set([...EVERY, "-s"]);

/** What a rule of KUBE-SERVICES and KUBE-NODEPORTS may say. */
export const ENTRANCE_OPTIONS: ReadonlySet<string> = new Set([
  ...EVERY,
  "-d",
  "--dport",
  "--dst-type",
  "--reject-with",
]);

export const isNodePorts = (rule: Rule): boolean => targetOf(rule) === KUBE_NODEPORTS;

/** `10.180.0.1:80`, `[fd00::1]:80`. */
const parseTarget = (text: string | null): Target | null => {
  const match = /^(?:\[([^\]]+)\]|([^:]+)):(\d+)$/.exec(text ?? "");
  const address = parseAddress(match?.[1] ?? match?.[2] ?? "");
  const port = portOf(match?.[3] ?? null);
  return address === null || port === null ? null : { address, port };
};

const prefixOf = (text: string): Prefix | null => {
  const address = parseAddress(text);
  return address === null ? parsePrefix(text) : hostPrefix(address);
};
