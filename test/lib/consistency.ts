// The promise of the write order, checked: after every single entry written, every frontend answers from the old Desired
// or the new one and never from neither, for packets that arrive now and for programs that read a frontend a moment ago.
// And whatever way a list of Desireds is applied in, the end is the same.
import assert from "node:assert/strict";
import { formatDesired } from "../../src/compile/format.ts";
import {
  type Backend,
  backend_flag,
  backend_state,
  type FrontendAddress,
  type Frontend as FrontendValue,
} from "../../src/dataplane/bpf/abi.gen.ts";
import { decode, encode } from "../../src/dataplane/bpf/codec.ts";
import { MapError, type MapName, type MapStore } from "../../src/dataplane/bpf/mapstore.ts";
import { TableProgrammer } from "../../src/dataplane/bpf/programmer.ts";
import { tablesToDesired } from "../../src/dataplane/bpf/readback.ts";
import { type FrontendRow, frontendRows } from "../../src/dataplane/bpf/rows.ts";
import { formatTables, protoName, readTables } from "../../src/dataplane/bpf/tables.ts";
import { FakeStore, FaultyStore, seededFaults, WatchedStore } from "../../src/dataplane/fake/fakestore.ts";
import {
  type Address,
  type Family,
  familyOf,
  formatHostPort,
  type Prefix,
  prefixContains,
  splitPrefix,
} from "../../src/model/address.ts";
import { type Desired, type DesiredService, type Frontend, servicePortKey } from "../../src/model/desired.ts";
import { seededRandom, shuffled } from "./random.ts";

/** Applies a list in every way: as it is, backward, shuffled, with empties, repeated, split, with faults, with restarts. */
export const checkEveryWay = (list: readonly Desired[], seed: number): void => {
  for (const [name, way] of waysThrough(list, seed)) checkConsistency(way, { name });
  checkConsistency(list, { name: "two seconds between, so that runs have rested", pause_s: 2 });
  checkConsistency([...list, ...list], { name: "twice, two seconds between", pause_s: 2 });
  checkConsistency(list, { name: "restarted before each", restarts: true });
  checkConsistency(list, { name: "with faults", faultSeed: seed });
  checkConsistency(list, { name: "with faults and restarts", faultSeed: seed + 1, restarts: true });
};

export interface ConsistencyOptions {
  /** Says which way failed. */
  readonly name?: string;
  /** Writes fail, at once or part-way, and are tried again. */
  readonly faultSeed?: number;
  /** A new programmer, which knows only what the maps hold, for each apply. */
  readonly restarts?: boolean;
  /** Seconds from one look at the clock to the next. 0 (the default): no run is reused because it has rested. */
  readonly pause_s?: number;
  /** Maps to start with; a FakeStore of its own otherwise. */
  readonly store?: MapStore;
  /** Stands between the programmer and the checker. */
  readonly through?: (store: MapStore) => MapStore;
}

/** Applies one after the other, checking each write, and each end. Throws AssertionError. */
export const checkConsistency = (list: readonly Desired[], options: ConsistencyOptions = {}): void => {
  const store = options.store ?? new FakeStore();
  const checker = new Checker(store, options.name ?? "as it is");
  const watched = new WatchedStore(store, checker);
  const faults = options.faultSeed === undefined ? null : seededFaults(options.faultSeed, 5);
  const between = options.through?.(watched) ?? watched;
  const faulty = faults === null ? between : new FaultyStore(between, faults);
  let now_s = 0;
  const now_ns = (): bigint => {
    now_s += options.pause_s ?? 0;
    return BigInt(now_s) * 1_000_000_000n;
  };
  let programmer = new TableProgrammer(faulty, { now_ns });
  for (const [i, desired] of list.entries()) {
    checker.begin(desired, i);
    for (let attempt = 0; ; attempt++) {
      if (options.restarts === true) programmer = new TableProgrammer(faulty, { now_ns });
      try {
        programmer.apply(desired, { prune: true });
        break;
      } catch (error) {
        if (!(error instanceof MapError) || attempt > 500) throw error;
      }
    }
    checker.end();
  }
};

// ---- ways --------------------------------------------------------------------------------------------------------

const EMPTY: Desired = { services: new Map(), nodeAddresses: [] };

const waysThrough = (list: readonly Desired[], seed: number): (readonly [string, readonly Desired[]])[] => {
  const end = list.slice(-1);
  return [
    ["as it is", list],
    ["backward", [...list].reverse()],
    ["shuffled", [...shuffled(list, seededRandom(seed)), ...end]],
    ["with empties", list.flatMap((desired) => [EMPTY, desired])],
    ["repeated", list.flatMap((desired) => [desired, desired])],
    ["split", split(list)],
    ["at once", end],
  ];
};

/** One service after the other, where no two claim the same address on the way. */
const split = (list: readonly Desired[]): Desired[] => {
  const steps: Desired[] = [];
  let services = new Map<keyof never, never>() as unknown as Desired["services"];
  for (const next of list) {
    for (const [key, service] of next.services) {
      const some = new Map([...services, [key, service] as const]);
      if (services.get(key) === service || claimsTwice(some.values())) continue;
      services = some;
      steps.push({ services, nodeAddresses: next.nodeAddresses });
    }
    steps.push(next);
    services = next.services;
  }
  return steps;
};

const claimsTwice = (services: Iterable<DesiredService>): boolean => {
  const rows = [...services].flatMap((service) => frontendRows(service).map((row) => row.text));
  return new Set(rows).size < rows.length;
};

// ---- the checker -------------------------------------------------------------------------------------------------

/** What a client gets at a frontend, as text; equal texts are equal answers. */
type Answer = string;

class Checker {
  readonly #store: MapStore;
  readonly #name: string;
  /** What may be answered from: the last one that was applied as a whole, and the one being applied. */
  #old: Desired = EMPTY;
  #new: Desired = EMPTY;
  #step = 0;
  #writes = 0;
  #lastWrite = "";
  #rows: readonly FrontendRow[] = [];
  #addresses: readonly Address[] = [];
  #clients: readonly Address[] = [];
  /** By row and client. */
  #allowed: ReadonlyMap<string, ReadonlySet<Answer>> = new Map();
  /** Whose a (backend_id, generation) is, for ever. */
  readonly #holders = new Map<string, string>();
  /** Backends that are in old and new: their ids and generations must not move. */
  #staying = new Map<number, { readonly holder: string; readonly generation: number }>();
  /** Frontend values that a running program may have read, and where they led. */
  #followed = new Map<string, Followed>();
  #inFlight = new Map<string, { readonly value: FrontendValue; readonly to: string }>();

  constructor(store: MapStore, name: string) {
    this.#store = store;
    this.#name = name;
  }

  begin(desired: Desired, step: number): void {
    this.#new = desired;
    this.#step = step;
    this.#writes = 0;
    this.#lastWrite = "nothing";
    const services = [...this.#old.services.values(), ...desired.services.values()];
    this.#clients = clientsOf(services);
    const rows = new Map(services.flatMap((service) => frontendRows(service).map((row) => [row.text, row])));
    this.#rows = [...rows.values()];
    this.#addresses = [...new Set(this.#rows.flatMap(({ address }) => address ?? []))];
    this.#allowed = this.#allowedAnswers();
    this.#staying = this.#stayingBackends();
    this.waited();
  }

  written(map: MapName, key: Uint8Array, value: Uint8Array | null): void {
    this.#writes++;
    this.#followed.clear();
    this.#lastWrite = `${value === null ? "removal from" : "write to"} ${map}`;
    if (map === "backends" && value !== null) this.#checkBackend(decode("u32", key), decode("backend", value));
    for (const row of this.#rows) this.#checkRow(row);
    for (const address of this.#addresses) this.#checkUnlisted(address);
    for (const { value: old, to } of this.#inFlight.values()) {
      const now = this.#follow(old).to;
      this.#assert(now === to, `a program that read a frontend before comes to ${now}, not ${to}`);
    }
    if (map === "frontends" || map === "nodeports") this.#noteInFlight();
  }

  waited(): void {
    this.#followed.clear();
    this.#inFlight = new Map();
    this.#noteInFlight();
  }

  /** Everything has been written: only the new Desired is left. */
  end(): void {
    this.#old = this.#new;
    const tables = readTables(this.#store);
    const held = tablesToDesired(tables);
    this.#lastWrite = `everything:\n${formatTables(tables)}`;
    this.#assert(formatDesired(held) === formatDesired(this.#new), `reads back as\n${formatDesired(held)}`);
    for (const address of this.#addresses) this.#checkUnlisted(address);
    this.#assert(
      [...tables.frontend_addresses.keys()].every((address) => isFrontends(this.#new, address)),
      "an address is left that no frontend has",
    );
    for (const row of this.#rows) {
      const ask = this.#asker(row);
      for (const client of this.#clientsOf(row)) {
        const [answer, expected] = [ask(client), answerOf(this.#new, row, client)];
        this.#assert(answer === expected, `${row.text} answers ${answer} to ${client}, not ${expected}`);
      }
    }
    this.#checkRunFlags(tables.backends);
  }

  #clientsOf(row: FrontendRow): readonly Address[] {
    const family: Family = row.text.startsWith("[") || row.text.startsWith("IPv6") ? "IPv6" : "IPv4";
    return this.#clients.filter((client) => familyOf(client) === family);
  }

  #checkRow(row: FrontendRow): void {
    const ask = this.#asker(row);
    for (const client of this.#clientsOf(row)) {
      const answer = ask(client);
      const allowed = this.#allowed.get(`${row.text} ${client}`);
      this.#assert(
        allowed?.has(answer) === true,
        `${row.text} answers ${answer} to ${client}, neither of ${[...(allowed ?? [])].join(" | ")}`,
      );
    }
  }

  /** A port that no service has, neither of the old nor of the new. */
  #checkUnlisted(address: Address): void {
    const found = this.#store.lookup("frontend_addresses", encode("addr", address));
    const answer = found === null ? "pass" : unlistedText(decode("frontend_address", found));
    const allowed = [this.#old, this.#new].map((desired) => unlistedOf(desired, address));
    this.#assert(allowed.includes(answer), `${address} answers ${answer}, neither of ${allowed.join(" | ")}`);
  }

  /** As the programs do it: the address, frontend, source ranges, run, slot, backend. */
  #asker(row: FrontendRow): (client: Address) => Answer {
    const address = row.address === null ? null : this.#store.lookup("frontend_addresses", encode("addr", row.address));
    if (row.address !== null && address === null) return () => "pass";
    const found = this.#store.lookup(row.map, row.key);
    if (found === null) return () => (address === null ? "pass" : unlistedText(decode("frontend_address", address)));
    const value = decode("frontend", found);
    const { text, problem } = this.#follow(value);
    this.#assert(problem === null, `${row.text} leads to ${problem}`);
    if ((value.flags & FRONTEND_SOURCE_RANGES) === 0) return () => text;
    return (client) => (this.#isInRange(value.service_id, client) ? text : "not in range");
  }

  /** The same for the same value, until the next write. */
  #follow(value: FrontendValue): Followed {
    const name = Object.values(value).join();
    const known = this.#followed.get(name) ?? follow(this.#store, value);
    this.#followed.set(name, known);
    return known;
  }

  #isInRange(service_id: number, client: Address): boolean {
    const key = encode("source_range_key", { prefixlen: 160, service_id, addr: client });
    const found = this.#store.lookup("source_ranges", key);
    return found !== null && decode("source_range", found).allow !== 0;
  }

  /**
   * Frontends and source ranges are two writes: a client that only the old or only the new ranges let in may for that
   * moment meet the other's frontend. One that neither lets in never does.
   */
  #allowedAnswers(): Map<string, Set<Answer>> {
    const allowed = new Map<string, Set<Answer>>();
    for (const row of this.#rows) {
      const found = [this.#old, this.#new].map((desired) => find(desired, row));
      for (const client of this.#clientsOf(row)) {
        const answers = new Set([this.#old, this.#new].map((desired) => answerOf(desired, row, client)));
        for (const one of found) {
          const ranges = [this.#old, this.#new].flatMap((desired) => rangesOf(desired, one?.service));
          if (one !== null && isIn(ranges, client)) answers.add(one.answer);
        }
        allowed.set(`${row.text} ${client}`, answers);
      }
    }
    return allowed;
  }

  #stayingBackends(): Map<number, { holder: string; generation: number }> {
    const texts = (desired: Desired): Set<string> =>
      new Set(
        [...desired.services].flatMap(([key, service]) =>
          service.backends.map((backend) => `${key} ${formatHostPort(backend.address, backend.port)}`),
        ),
      );
    const [before, after] = [texts(this.#old), texts(this.#new)];
    const staying = new Map<number, { holder: string; generation: number }>();
    for (const [id, row] of readTables(this.#store).backends) {
      if (row.state === backend_state.BACKEND_NONE) continue;
      const holder = this.#holderText(row);
      if (before.has(holder) && after.has(holder)) staying.set(id, { holder, generation: row.generation });
    }
    return staying;
  }

  /** A flow remembers (backend_id, generation): it never comes to mean somebody else. */
  #checkBackend(id: number, row: Backend): void {
    const staying = this.#staying.get(id);
    if (staying !== undefined) {
      const stays = row.state !== backend_state.BACKEND_NONE && row.generation === staying.generation;
      this.#assert(stays, `backend ${id} was taken from ${staying.holder}, which is in the old and the new`);
    }
    if (row.state === backend_state.BACKEND_NONE) return;
    const holder = this.#holderText(row);
    const name = `${id} generation ${row.generation}`;
    const known = this.#holders.get(name) ?? holder;
    this.#assert(known === holder, `backend ${name} was ${known}, and is ${holder} now`);
    this.#holders.set(name, holder);
  }

  #holderText(row: Backend): string {
    return `${serviceText(this.#store, row.service_id)} ${formatHostPort(row.addr, row.port)}`;
  }

  #noteInFlight(): void {
    for (const row of this.#rows) {
      const found = this.#store.lookup(row.map, row.key);
      if (found === null) continue;
      const value = decode("frontend", found);
      this.#inFlight.set(Object.values(value).join(), { value, to: this.#follow(value).to });
    }
  }

  /** At the end a backend has the flag of a policy just when a run of that policy names it. */
  #checkRunFlags(backends: ReadonlyMap<number, Backend>): void {
    const expected = new Map<number, number>();
    const { frontends, nodeports, slots } = readTables(this.#store);
    for (const { value } of [...frontends, ...nodeports]) {
      const flag =
        (value.flags & FRONTEND_LOCAL) !== 0 ? backend_flag.BACKEND_IN_LOCAL : backend_flag.BACKEND_IN_CLUSTER;
      for (const id of slots.slice(value.slot_base, value.slot_base + value.slot_count)) {
        expected.set(id, (expected.get(id) ?? 0) | flag);
      }
    }
    for (const [id, row] of backends) {
      const flags = row.flags & (backend_flag.BACKEND_IN_CLUSTER | backend_flag.BACKEND_IN_LOCAL);
      this.#assert(flags === (expected.get(id) ?? 0), `backend ${id} has run flags ${flags}`);
    }
  }

  #assert(holds: boolean, what: string): void {
    if (holds) return;
    assert.fail(
      `${this.#name}, Desired ${this.#step}, after ${this.#writes} entries (last: ${this.#lastWrite}): ${what}`,
    );
  }
}

const VIP = 1;
const CLUSTER_IP = 2;
const FRONTEND_LOCAL = 16;
const FRONTEND_DROP = 32;
const FRONTEND_SOURCE_RANGES = 64;

interface Followed {
  readonly text: Answer;
  readonly to: string;
  readonly problem: string | null;
}

/** Where a frontend's value leads, with everything that a program takes from it. */
const follow = (store: MapStore, value: FrontendValue): Followed => {
  const service = serviceText(store, value.service_id);
  const policy = (value.flags & FRONTEND_LOCAL) !== 0 ? "Local" : "Cluster";
  if (value.slot_count === 0) {
    const empty = (value.flags & FRONTEND_DROP) !== 0 ? "drop" : "reject";
    return { text: answerText(service, empty, policy, value.affinity_timeout_s), to: empty, problem: null };
  }
  const inRun = policy === "Local" ? backend_flag.BACKEND_IN_LOCAL : backend_flag.BACKEND_IN_CLUSTER;
  const backends: string[] = [];
  let problem: string | null = null;
  for (let i = 0; i < value.slot_count; i++) {
    const slot = store.lookup("slots", encode("u32", value.slot_base + i));
    const backend_id = slot === null ? 0 : decode("u32", slot);
    const found = store.lookup("backends", encode("u32", backend_id));
    const backend = found === null ? null : decode("backend", found);
    if (backend === null || backend.state !== backend_state.BACKEND_ACTIVE)
      problem = `backend ${backend_id}, not active`;
    else if (backend.service_id !== value.service_id)
      problem = `backend ${backend_id} of service ${backend.service_id}`;
    else if ((backend.flags & inRun) === 0) problem = `backend ${backend_id} without the flag of policy ${policy}`;
    backends.push(backend === null ? "nothing" : formatHostPort(backend.addr, backend.port));
  }
  const to = backends.join();
  return { text: answerText(service, to, policy, value.affinity_timeout_s), to, problem };
};

const serviceText = (store: MapStore, service_id: number): string => {
  const found = store.lookup("services", encode("u32", service_id));
  if (found === null) return `service ${service_id} without a name`;
  const { namespace, name, port_name, proto } = decode("service", found);
  return `${namespace}/${name}${port_name === "" ? "" : `:${port_name}`}/${protoName(proto)}`;
};

const answerText = (service: string, to: string, policy: string, affinity_timeout_s: number): Answer =>
  `${service} → ${to} (${policy}, affinity ${affinity_timeout_s} s)`;

const unlistedText = ({ flags }: FrontendAddress): Answer =>
  (flags & VIP) === 0 ? "pass" : (flags & CLUSTER_IP) === 0 ? "refused outside" : "refused";

// ---- what a Desired answers --------------------------------------------------------------------------------------

const answerOf = (desired: Desired, asked: FrontendRow, client: Address): Answer => {
  const found = find(desired, asked);
  if (found === null) return asked.address === null ? "pass" : unlistedOf(desired, asked.address);
  return found.restricted && !isIn(found.service.sourceRanges, client) ? "not in range" : found.answer;
};

const isFrontends = (desired: Desired, address: Address): boolean =>
  [...desired.services.values()].some((service) => service.frontends.some((one) => one.address === address));

/** What a port gets at this address that no service has. */
const unlistedOf = (desired: Desired, address: Address): Answer => {
  const frontends = [...desired.services.values()].flatMap((service) => service.frontends);
  const kinds = frontends.filter((one) => one.address === address).map(({ kind }) => kind);
  if (kinds.length === 0 || desired.nodeAddresses.some((node) => node.address === address)) return "pass";
  return kinds.includes("ClusterIP") ? "refused" : "refused outside";
};

interface Found {
  readonly service: DesiredService;
  readonly restricted: boolean;
  /** To a client that may enter. */
  readonly answer: Answer;
}

const find = (desired: Desired, asked: FrontendRow): Found | null => {
  for (const service of desired.services.values()) {
    for (const frontend of service.frontends) {
      const { internal, external, restricted } = frontend;
      for (const [scope, choice] of [["internal", internal] as const, ["external", external] as const]) {
        if (asked.text !== `${textOf(frontend)}/${service.name.protocol} ${scope}`) continue;
        const to =
          choice.kind === "backends"
            ? choice.backends.map((backend) => formatHostPort(backend.address, backend.port)).join()
            : choice.kind;
        const answer = answerText(servicePortKey(service.name), to, choice.policy, service.affinity_timeout_s);
        return { service, restricted, answer };
      }
    }
  }
  return null;
};

const textOf = ({ address, family, port }: Frontend): string =>
  address === null ? `${family}:${port}` : formatHostPort(address, port);

const isIn = (ranges: readonly Prefix[], client: Address): boolean =>
  ranges.some((prefix) => prefixContains(prefix, client));

const rangesOf = (desired: Desired, service: DesiredService | undefined): readonly Prefix[] =>
  service === undefined ? [] : (desired.services.get(servicePortKey(service.name))?.sourceRanges ?? []);

/** One client inside each source range, and one of each family in none of the usual ones. */
const clientsOf = (services: readonly DesiredService[]): Address[] => {
  const inside = services.flatMap((service) => service.sourceRanges.map((prefix) => splitPrefix(prefix).address));
  return [...new Set([...inside, "203.0.113.77" as Address, "2001:db8:77::77" as Address])];
};
