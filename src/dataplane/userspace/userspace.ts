// kube-proxy's first proxy: rules lead every frontend to a port of this process, which picks a backend and copies. A
// listener is open before a rule points at it and closes after the rule is gone; without the process nobody would answer,
// so close() takes the rules away, and what a killed process left is replaced by the next one.
import { messageOf } from "../../lib/errors.ts";
import { type Address, type Family, formatHostPort, type Prefix } from "../../model/address.ts";
import type { Desired, DesiredService, Frontend, ServicePortKey } from "../../model/desired.ts";
import type { Applied, Dataplane } from "../dataplane.ts";
import { deleteUdpFlows, type Flavour, type Iptables, listUdpFlows, openIptables } from "../iptables/command.ts";
import { chooseFlavour } from "../iptables/flavour.ts";
import { staleFlows } from "../iptables/flows.ts";
import { type Affinity, backendKey, chooseBackend, type Turn } from "./balance.ts";
import { listFor, type Surroundings } from "./client.ts";
import { linesOf, type Portal, removalInput, restoreInput, rulesOf } from "./rules.ts";
import { type Choose, type Listener, listenTcp } from "./tcp.ts";
import { listenUdp } from "./udp.ts";
import { placeOf, portalOf, type Wanted, wantedOf } from "./wanted.ts";

export interface UserspaceOptions {
  readonly families: readonly Family[];
  readonly flavour: Flavour | "auto";
  /** How long a UDP client and its backend may both be silent before it is a new client. kube-proxy's: 250. */
  readonly udpIdleTimeout_ms: number;
  /** Addresses of this node's interfaces, loopback included. */
  readonly localAddresses: () => readonly Address[];
  /** Clients in here are inside, besides this node's own pods. */
  readonly clusterCIDRs: readonly Prefix[];
  /** Milliseconds of a clock that only goes forward. */
  readonly now_ms: () => number;
  readonly log: (level: "warn" | "info", message: string, fields?: object) => void;
}

/** Throws RefusedError when iptables is not there. */
export const openUserspaceDataplane = (options: UserspaceOptions): UserspaceDataplane =>
  new UserspaceDataplane(options, chooseFlavour(options.flavour));

/** A frontend that this process answers. What it says changes under its clients; where it listens does not. */
interface Running {
  readonly listener: Listener;
  readonly said: Said;
}

interface Said {
  key: ServicePortKey;
  service: DesiredService;
  frontend: Frontend;
  readonly turns: Readonly<Record<"internal" | "external", Turn>>;
}

const NOTHING: Desired = { services: new Map(), nodeAddresses: [] };
const TABLES = ["filter", "nat"] as const;

export class UserspaceDataplane implements Dataplane {
  readonly name = "userspace";
  readonly flavour: Flavour;
  readonly #options: UserspaceOptions;
  readonly #families: readonly Iptables[];
  readonly #running = new Map<string, Running>();
  readonly #affinities = new Map<ServicePortKey, Affinity>();
  /** By family and table: the rules as they were given, and as iptables-save prints them. */
  readonly #written = new Map<string, { readonly rules: string; readonly saved: string }>();
  #applied = NOTHING;
  #podCIDRs: readonly Prefix[] = [];
  #surroundings: Surroundings = { own: new Set(), podCIDRs: [], pods: new Set() };
  #closed = false;

  constructor(options: UserspaceOptions, flavour: Flavour) {
    this.flavour = flavour;
    this.#options = options;
    this.#families = options.families.map((family) => openIptables(family, flavour));
  }

  setPodCIDRs(podCIDRs: readonly Prefix[]): void {
    this.#podCIDRs = podCIDRs;
    this.#look(this.#applied);
  }

  /** Rejects when a port or a table cannot be had: everything else is as wanted, and what answered goes on answering. */
  async apply(desired: Desired, { prune }: { readonly prune: boolean }): Promise<Applied> {
    const all = prune ? desired : withServices(this.#applied, desired);
    const wanted = wantedOf(all, this.#options.families);
    const { opened, errors } = await this.#open(wanted);
    this.#look(all);
    for (const { name, key, service, frontend } of wanted) {
      const running = this.#running.get(name);
      if (running !== undefined) Object.assign(running.said, { key, service, frontend });
    }
    const rules = this.#writeAll(wanted, all);
    const closed = this.#closeOthers(wanted);
    this.#applied = all;
    this.#forgetClients(all);
    if (opened + rules + closed > 0) for (const { family } of this.#families) this.#cleanFlows(family, wanted, all);
    if (errors.length > 0) throw new Error("Cannot listen for a frontend", { cause: errors[0] });
    return { written: { listeners: opened, rules }, removed: closed > 0 ? { listeners: closed } : {} };
  }

  /** What it answers and refuses, as far as there are listeners for it. */
  readBack(): Desired {
    const answered = new Set(
      wantedOf(this.#applied, this.#options.families)
        .filter(({ name, refusal }) => refusal !== null || this.#running.has(name))
        .map(({ frontend }) => frontend),
    );
    const services = [...this.#applied.services].map(([key, service]) => {
      const frontends = service.frontends.filter((frontend) => answered.has(frontend));
      return [key, frontends.length === service.frontends.length ? service : { ...service, frontends }] as const;
    });
    return { ...this.#applied, services: new Map(services) };
  }

  /** Tables whose rules somebody else changed. */
  check(): readonly string[] {
    return this.#families.flatMap((iptables) =>
      TABLES.filter((table) => {
        const written = this.#written.get(`${iptables.family} ${table}`);
        return written !== undefined && written.saved !== linesOf(table, iptables.save(table)).join("\n");
      }).map((table) => `${iptables.family} ${table}`),
    );
  }

  /** The next apply writes every rule again. */
  forget(): void {
    this.#written.clear();
  }

  /**
   * Ends connections and listeners, then takes the rules away: with the last rule the kernel may stop to translate, and
   * no client would hear of the end.
   */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const { listener } of this.#running.values()) listener.abort();
    this.#running.clear();
    try {
      removeRules(this.#families);
    } catch (error) {
      this.#options.log("warn", "Cannot remove the rules: they lead to nobody now (see beeline reset)", {
        error: messageOf(error),
      });
    }
  }

  // ---- listeners ---------------------------------------------------------------------------------------------------

  /** Those that are open stay so, whatever becomes of the others. */
  async #open(wanted: readonly Wanted[]): Promise<{ readonly opened: number; readonly errors: readonly unknown[] }> {
    const missing = wanted.filter(({ name, refusal }) => refusal === null && !this.#running.has(name));
    const results = await Promise.allSettled(missing.map((one) => this.#listen(one)));
    const errors = results.flatMap((result) => (result.status === "rejected" ? [result.reason] : []));
    return { opened: missing.length - errors.length, errors };
  }

  async #listen({ key, service, frontend, listens, name }: Wanted): Promise<void> {
    const said: Said = { key, service, frontend, turns: { internal: { next: 0 }, external: { next: 0 } } };
    const choose: Choose = (client, failed) => this.#choose(said, client, failed);
    const udp = service.name.protocol === "UDP";
    const listener = await (udp
      ? listenUdp(listens, choose, this.#options.udpIdleTimeout_ms)
      : listenTcp(listens, choose));
    if (this.#closed) return listener.abort();
    this.#running.set(name, { listener, said });
  }

  #choose({ key, service, frontend, turns }: Said, client: Address, failed: ReadonlySet<string>) {
    const { scope, backends } = listFor(client, frontend, service, this.#surroundings);
    const { affinity_timeout_s } = service;
    const affinity = this.#affinities.get(key) ?? new Map();
    this.#affinities.set(key, affinity);
    const now_ms = this.#options.now_ms();
    return chooseBackend({ client, backends, turn: turns[scope], affinity, affinity_timeout_s, failed, now_ms });
  }

  /** Answers how many were closed. */
  #closeOthers(wanted: readonly Wanted[]): number {
    const names = new Set(wanted.filter(({ refusal }) => refusal === null).map(({ name }) => name));
    let closed = 0;
    for (const [name, { listener }] of this.#running) {
      if (names.has(name)) continue;
      listener.close();
      this.#running.delete(name);
      closed++;
    }
    return closed;
  }

  /** UDP clients of backends that are gone, and the affinity of services that are, or have none any more. */
  #forgetClients({ services }: Desired): void {
    for (const { listener, said } of this.#running.values()) {
      listener.keepOnly(new Set(said.service.backends.map(backendKey)));
    }
    for (const key of this.#affinities.keys()) {
      if ((services.get(key)?.affinity_timeout_s ?? 0) === 0) this.#affinities.delete(key);
    }
  }

  #look({ services }: Desired): void {
    const backends = [...services.values()].flatMap((service) => service.backends);
    this.#surroundings = {
      own: new Set(this.#options.localAddresses()),
      podCIDRs: [...this.#podCIDRs, ...this.#options.clusterCIDRs],
      pods: new Set(backends.filter(({ local }) => local).map(({ address }) => address)),
    };
  }

  // ---- rules -------------------------------------------------------------------------------------------------------

  /** Both families are tried. Throws when one fails: its old rules lead to listeners that are still there. */
  #writeAll(wanted: readonly Wanted[], desired: Desired): number {
    const portals = wanted.map((one) => portalOf(one, this.#running.get(one.name)?.listener.port ?? null));
    const errors: unknown[] = [];
    let count = 0;
    for (const iptables of this.#families) {
      try {
        count += this.#write(iptables, portals, desired);
      } catch (error) {
        errors.push(error);
      }
    }
    if (errors.length > 0) throw errors[0];
    return count;
  }

  /** Answers how many rules were written: none, where they are as they were. */
  #write(iptables: Iptables, portals: readonly Portal[], desired: Desired): number {
    const { family } = iptables;
    let count = 0;
    for (const { table, rules } of rulesOf(portals, placeOf(desired, family))) {
      const key = `${family} ${table}`;
      const text = rules.join("\n");
      if (this.#written.get(key)?.rules === text) continue;
      this.#written.delete(key);
      iptables.restore(restoreInput({ table, rules }, iptables.save(table)));
      this.#written.set(key, { rules: text, saved: linesOf(table, iptables.save(table)).join("\n") });
      count += rules.length;
    }
    return count;
  }

  /** The kernel remembers UDP flows, past every rule: to a listener that is gone, or as they were before the rules. */
  #cleanFlows(family: Family, wanted: readonly Wanted[], desired: Desired): void {
    const ours = wanted.filter(
      ({ service, frontend }) => service.name.protocol === "UDP" && frontend.family === family,
    );
    if (ours.length === 0) return;
    const { nodePorts } = placeOf(desired, family);
    const answerers = new Map<string, ReadonlySet<string>>();
    for (const { frontend, name, listens } of ours) {
      const port = this.#running.get(name)?.listener.port;
      const valid = new Set(port === undefined ? [] : [formatHostPort(listens, port)]);
      const addresses = frontend.address === null ? nodePorts.map(({ address }) => address) : [frontend.address];
      for (const address of addresses) answerers.set(formatHostPort(address, frontend.port), valid);
    }
    try {
      for (const flow of staleFlows(listUdpFlows(family), answerers)) deleteUdpFlows(family, flow);
    } catch (error) {
      this.#options.log("warn", "Cannot clean up UDP flows", { family, error: messageOf(error) });
    }
  }
}

/** `desired`, with what is there of services that it does not name. */
const withServices = (held: Desired, desired: Desired): Desired => ({
  ...desired,
  services: new Map([...held.services, ...desired.services]),
});

/** Answers the tables that had some: `IPv4 nat`. */
export const removeRules = (families: readonly Iptables[]): readonly string[] =>
  families.flatMap((iptables) =>
    TABLES.filter((table) => {
      const input = removalInput(table, iptables.save(table));
      if (input !== null) iptables.restore(input);
      return input !== null;
    }).map((table) => `${iptables.family} ${table}`),
  );
