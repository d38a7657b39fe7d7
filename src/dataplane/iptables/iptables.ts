// The reference dataplane: Services as kube-proxy's iptables mode has them, brought into the kernel as it does it. Each
// family by itself: jump rules first, then one restore, of everything now and then and of what changed otherwise.
import { readFileSync, writeFileSync } from "node:fs";
import { messageOf, RefusedError } from "../../lib/errors.ts";
import type { Family, Prefix } from "../../model/address.ts";
import type { Desired, DesiredService, NodeAddress } from "../../model/desired.ts";
import type { Applied, Dataplane } from "../dataplane.ts";
import { deleteUdpFlows, type Flavour, type Iptables, listUdpFlows, openIptables } from "./command.ts";
import { ensureCounters } from "./counters.ts";
import { chooseFlavour } from "./flavour.ts";
import { answerers, staleFlows } from "./flows.ts";
import { JUMPS, TABLES } from "./jumps.ts";
import { isServiceChain, KUBE_PROXY_CANARY } from "./names.ts";
import { readIptables, type SavedText } from "./readback.ts";
import {
  answersAtLocalhost,
  type Chain,
  createRuleMemory,
  type RuleOptions,
  type Rules,
  rulesOf,
  type TableRules,
} from "./rules.ts";
import { chainsIn, strangersJumps } from "./saved.ts";
import { makeChains, NOTHING_STALE, restoreInput, type Stale } from "./text.ts";

type Level = "warn" | "info";

export interface IptablesOptions {
  /** How rules are written where this node's pods have these addresses. */
  readonly rules: (podCIDRs: readonly Prefix[]) => RuleOptions;
  readonly families: readonly Family[];
  readonly flavour: Flavour | "auto";
  /** In a large cluster, how often chains that nothing uses are looked for. */
  readonly syncPeriod_ms: number;
  readonly now_ms: () => number;
  readonly log: (level: Level, message: string, fields?: object) => void;
  readonly observer?: Observer;
}

/** Told of what metrics count. */
export interface Observer {
  synced(sync: {
    readonly family: Family;
    readonly full: boolean;
    readonly seconds: number;
    /** By table: rules that are there now, and those of this restore. */
    readonly rules: Readonly<Record<"filter" | "nat", { readonly total: number; readonly written: number }>>;
  }): void;
  failed(family: Family, full: boolean): void;
  cleaned(family: Family, seconds: number, deleted: number): void;
}

/** kube-proxy's: everything is written again so often. */
const FULL_SYNC_MS = 60 * 60 * 1000;

/** Throws RefusedError when iptables is not there. */
export const openIptablesDataplane = (options: IptablesOptions): IptablesDataplane =>
  new IptablesDataplane(options, chooseFlavour(options.flavour));

interface Done {
  readonly written: number;
  readonly removed: number;
}

/** What one family's rules were written from. */
interface Written {
  readonly services: ReadonlySet<DesiredService>;
  readonly nodeAddresses: readonly NodeAddress[];
  /** When stale chains were last looked for. */
  readonly looked_ms: number;
}

export class IptablesDataplane implements Dataplane {
  readonly name = "iptables";
  readonly flavour: Flavour;
  readonly refresh_ms = FULL_SYNC_MS;
  readonly #options: IptablesOptions;
  readonly #families: readonly Iptables[];
  readonly #written = new Map<Family, Written>();
  readonly #memories = { IPv4: createRuleMemory(), IPv6: createRuleMemory() };
  /** How often all that was written has been forgotten, which may be in the midst of a write. */
  #forgotten = 0;
  #podCIDRs: readonly Prefix[] = [];
  /** null: to be asked for. */
  #rules: RuleOptions | null = null;
  /** Why packets are not counted; null: they are. */
  #counting: string | null = null;
  /** Stale chains that strangers use, so that each is named once. */
  #kept: ReadonlySet<string> = new Set();
  /** UDP services whose remembered flows have been looked through. */
  #cleaned: ReadonlySet<DesiredService> = new Set();

  constructor(options: IptablesOptions, flavour: Flavour) {
    this.flavour = flavour;
    this.#options = options;
    this.#families = options.families.map((family) => openIptables(family, flavour));
  }

  setPodCIDRs(podCIDRs: readonly Prefix[]): void {
    if (podCIDRs.join() === this.#podCIDRs.join()) return;
    this.#podCIDRs = podCIDRs;
    this.#rules = null;
    this.forget();
  }

  /** Both families are tried, whatever becomes of one. Tables are written whole or not at all, filter before nat. */
  async apply(desired: Desired, { prune }: { readonly prune: boolean }): Promise<Applied> {
    const wanted = prune ? desired : withServices(this.readBack(), desired);
    const whole = this.#families.some(({ family }) => this.#partialFrom(family, wanted) === null);
    const options = { ...this.#ruleOptions(), countPackets: this.#countsPackets(whole) };
    if (answersAtLocalhost(options)) routeLocalnet();
    const written: Record<string, number> = {};
    const removed: Record<string, number> = {};
    const errors: unknown[] = [];
    for (const iptables of this.#families) {
      try {
        const done = await this.#sync(iptables, wanted, options);
        written[`${iptables.family} rules`] = done.written;
        if (done.removed > 0) removed[`${iptables.family} chains`] = done.removed;
      } catch (error) {
        errors.push(error);
      }
    }
    if (errors.length > 0) throw errors[0];
    this.#cleanFlows(wanted);
    return { written, removed };
  }

  /** What rules can say, so without draining backends; node addresses are not among it. */
  readBack(): Desired {
    return readIptables(saveRules(this.#families), { from: "this node", localAddresses: null }).desired;
  }

  /** What somebody took away of the rules: names of canary chains. Writing everything again mends it. */
  check(): readonly string[] {
    return this.#families.flatMap((iptables) =>
      TABLES.filter((table) => !iptables.hasChain(table, KUBE_PROXY_CANARY)).map(
        (table) => `${iptables.family} ${table} ${KUBE_PROXY_CANARY}`,
      ),
    );
  }

  /** The next apply writes everything. */
  forget(): void {
    this.#forgotten++;
    this.#written.clear();
  }

  /** The rules stay. */
  close(): void {}

  #ruleOptions(): RuleOptions {
    if (this.#rules === null) {
      const rules = this.#options.rules(this.#podCIDRs);
      this.#rules = { ...rules, dropInvalid: rules.dropInvalid && !isLiberal() };
    }
    return this.#rules;
  }

  /** Before everything is written the counters are made sure of: a rule that names one that is gone is refused. */
  #countsPackets(whole: boolean): boolean {
    if (!whole) return this.#counting === null;
    const before = this.#counting;
    this.#counting = ensureCounters();
    if (this.#counting !== null && this.#counting !== before)
      this.#options.log("info", "Packets are not counted", { error: this.#counting });
    return this.#counting === null;
  }

  async #sync(iptables: Iptables, desired: Desired, options: RuleOptions): Promise<Done> {
    const { family } = iptables;
    const { observer, now_ms } = this.#options;
    const started_ms = now_ms();
    const before = this.#partialFrom(family, desired);
    const times = this.#forgotten;
    try {
      if (before === null) ensureEntrances(iptables);
      const rules = rulesOf(desired, family, options, this.#memories[family]);
      const looks = before === null || !rules.large || started_ms - before.looked_ms >= this.#options.syncPeriod_ms;
      const stale = looks ? this.#staleChains(iptables, rules) : NOTHING_STALE;
      const writes = ({ owner }: Chain): boolean => owner === null || before?.services.has(owner) !== true;
      await iptables.restoreAside(restoreInput(rules, { stale, writes }));
      const written = {
        services: new Set(desired.services.values()),
        nodeAddresses: desired.nodeAddresses,
        looked_ms: looks ? started_ms : before.looked_ms,
      };
      if (times === this.#forgotten) this.#written.set(family, written);
      const counts = { filter: countRules(rules.filter, writes), nat: countRules(rules.nat, writes) };
      observer?.synced({ family, full: before === null, seconds: (now_ms() - started_ms) / 1000, rules: counts });
      return { written: counts.filter.written + counts.nat.written, removed: stale.removed.length };
    } catch (error) {
      this.#written.delete(family);
      observer?.failed(family, before === null);
      throw error;
    }
  }

  /** What is there already and can stay; null: everything is to be written. */
  #partialFrom(family: Family, { nodeAddresses }: Desired): Written | null {
    const before = this.#written.get(family);
    return before?.nodeAddresses === nodeAddresses ? before : null;
  }

  /** Service chains that nothing of ours uses any more. One that a stranger's rule jumps to cannot go. */
  #staleChains(iptables: Iptables, { nat }: Rules): Stale {
    const used = new Set(nat.chains.map(({ name }) => name));
    const saved = iptables.save("nat");
    const stale = chainsIn(saved).filter((chain) => isServiceChain(chain) && !used.has(chain));
    const users = strangersJumps(saved);
    const emptied = stale.filter((chain) => users.has(chain));
    for (const chain of emptied) {
      if (this.#kept.has(chain)) continue;
      const { family } = iptables;
      this.#options.log("warn", `${chain} stays, empty: a rule of ${users.get(chain)} uses it`, { family });
    }
    this.#kept = new Set(emptied);
    return { removed: stale.filter((chain) => !users.has(chain)), emptied };
  }

  /** When a UDP service is not what it was. Failing does not fail the apply: the rules are right. */
  #cleanFlows({ services, nodeAddresses }: Desired): void {
    const udp = new Set([...services.values()].filter(({ name }) => name.protocol === "UDP"));
    if (udp.size === this.#cleaned.size && [...udp].every((service) => this.#cleaned.has(service))) return;
    const gone = this.#cleaned;
    for (const { family } of this.#families) {
      const started_ms = this.#options.now_ms();
      try {
        const stale = staleFlows(listUdpFlows(family), answerers(udp, gone, nodeAddresses, family));
        const deleted = stale.reduce((sum, flow) => sum + deleteUdpFlows(family, flow), 0);
        this.#options.observer?.cleaned(family, (this.#options.now_ms() - started_ms) / 1000, deleted);
      } catch (error) {
        this.#options.log("warn", "Cannot clean up UDP flows", { family, error: messageOf(error) });
      }
    }
    this.#cleaned = udp;
  }
}

const saveRules = (families: readonly Iptables[]): readonly SavedText[] =>
  families.flatMap((iptables) =>
    (["filter", "nat"] as const).map((table) => ({
      name: `${iptables.family} ${table} (${iptables.flavour})`,
      text: iptables.save(table),
      family: iptables.family,
    })),
  );

/** The chains and jumps that lead to ours, and the canaries. */
const ensureEntrances = (iptables: Iptables): void => {
  for (const table of TABLES) {
    const there = new Set(chainsIn(iptables.save(table)));
    const wanted = [KUBE_PROXY_CANARY, ...JUMPS.filter((jump) => jump.table === table).map(({ to }) => to)];
    const missing = [...new Set(wanted)].filter((chain) => !there.has(chain));
    if (missing.length > 0) iptables.restore(makeChains(table, missing));
  }
  for (const jump of JUMPS) iptables.ensure(jump);
};

const countRules = ({ rules }: TableRules, writes: (chain: Chain) => boolean) => ({
  total: rules.length,
  written: rules.filter(({ chain }) => writes(chain)).length,
});

/** `desired`, with what is there of services that it does not name. */
const withServices = (held: Desired, desired: Desired): Desired => ({
  ...desired,
  services: new Map([...held.services, ...desired.services]),
});

/** Without it the kernel drops what comes from 127.0.0.1 and was sent elsewhere: NodePorts at 127.0.0.1. */
const routeLocalnet = (): void => {
  const path = "/proc/sys/net/ipv4/conf/all/route_localnet";
  try {
    if (readFileSync(path, "utf8").trim() !== "1") writeFileSync(path, "1");
  } catch (cause) {
    throw new RefusedError("Cannot set net.ipv4.conf.all.route_localnet for NodePorts at 127.0.0.1", { cause });
  }
};

/** conntrack takes packets outside a TCP window for valid, so that nothing of theirs is to be dropped. */
const isLiberal = (): boolean => {
  try {
    return readFileSync("/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal", "utf8").trim() !== "0";
  } catch {
    return false;
  }
};
