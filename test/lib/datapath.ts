// An object with maps of its own, which tests fill row by row. The tc programs run under BPF_PROG_TEST_RUN: a frame in;
// the frame, the verdict and the one reason that was counted out.

import {
  type Backend,
  backend_flag,
  backend_state,
  type Config,
  device_flag,
  type Frontend,
  forward as forwards,
  hook,
  maps,
  type Records,
  reason as reasons,
  scope,
} from "../../src/dataplane/bpf/abi.gen.ts";
import { decode, encode, type StructName, sizeOf } from "../../src/dataplane/bpf/codec.ts";
import { type EventCounts, sumEventCounts } from "../../src/dataplane/bpf/events.ts";
import { type Expired, type ExpiryOptions, expireFlows } from "../../src/dataplane/bpf/expiry.ts";
import type { MapName } from "../../src/dataplane/bpf/mapstore.ts";
import { hasKernelContext } from "../../src/dataplane/bpf/probe.ts";
import { readRing } from "../../src/dataplane/bpf/ring.ts";
import { bootTime_ns } from "../../src/dataplane/bpf/system/clock.ts";
import {
  mapDelete,
  mapLookup,
  mapLookupBatch,
  mapNextKey,
  mapUpdate,
  possibleCpus,
} from "../../src/dataplane/bpf/system/map.ts";
import { type MappedRing, mapRing } from "../../src/dataplane/bpf/system/mapped-ring.ts";
import { type LoadedObject, loadObject } from "../../src/dataplane/bpf/system/object.ts";
import { type TestRun, testRun } from "../../src/dataplane/bpf/system/program.ts";
import type { Address } from "../../src/model/address.ts";
import { meaningOf } from "../../src/model/reason.ts";
import { type Crossing, type DeviceName, MACS, NODE_V4, NODE_V6 } from "./crossing.ts";
import { giveBack, takeObject, takeSharer } from "./emptied.ts";
import { protocolNumber, type Transport } from "./packet.ts";

export type KeyOf<M extends MapName> = Records[(typeof maps)[M]["key"]];
export type ValueOf<M extends MapName> = Records[(typeof maps)[M]["value"]];
export type ForwardName = Exclude<keyof typeof forwards, "FORWARDS">;
export type ReasonName = Exclude<keyof typeof reasons, "REASONS">;

export interface Outcome {
  /** `pass`: it goes on. */
  readonly verdict: "pass" | "drop" | "send back";
  readonly reason: ReasonName;
  /** Does it go on without being routed by the kernel? */
  readonly direct: boolean;
  /** Has XDP sent it on? */
  readonly byXdp: boolean;
  /** How it was sent on, or why that was left to the kernel; null: nobody asked. */
  readonly forward: ForwardName | null;
  readonly frame: Uint8Array;
  readonly duration_ns: number;
}

const REASONS_PER_HOOK = 64;
const reasonNames = Object.keys(reasons);
const FORWARDS_PER_HOOK = 16;
const forwardNames = Object.keys(forwards);
const [TC_ACT_UNSPEC, TC_ACT_SHOT, TC_ACT_REDIRECT] = [0xffffffff, 2, 7];

/** Sent back are refusals and answers; what is translated and redirected goes on. */
const verdictOf = (retval: number, at: "tc_ingress" | "tc_egress", reason: string): Outcome["verdict"] => {
  if (retval === TC_ACT_UNSPEC) return "pass";
  if (retval === TC_ACT_SHOT) return "drop";
  if (retval !== TC_ACT_REDIRECT) throw new Error(`Unexpected verdict ${retval}`);
  const meaning = meaningOf(at, reason.slice("REASON_".length).toLowerCase());
  return meaning?.verdict === "translated" ? "pass" : "send back";
};

export const PORTS = { min: 61000, max: 61999 } as const;

const smallMaps = {
  services: 64,
  slots: 4096,
  backends: 4096,
  backend_stats: 4096,
  flows: 16384,
  expendables: 1024,
  tcp_peers: 1024,
  affinity: 4096,
  frontends: 4096,
  nodeports: 256,
  source_ranges: 256,
};

/** As enum flow_state has them. */
const TIMEOUTS_S = {
  tcpHalfOpen: 60,
  tcpEstablished: 86400,
  tcpHalfClosed: 3600,
  tcpClosed: 120,
  tcpReset: 10,
  udp: 30,
  udpStream: 120,
  none: 0,
} as const;

/** As the agent would: what this kernel can do. */
const kernelContext = hasKernelContext();

export const loadOptions = (options: Partial<Records["options"]> = {}): Uint8Array =>
  encode("options", {
    ipv4: 1,
    ipv6: 1,
    backend_stats: 1,
    socket_lb: 0,
    l3_device: 0,
    conntrack: 0,
    direct: 0,
    kernel_context: Number(kernelContext),
    device: XDP_DEVICE,
    device_mac: [0, 0, 0, 0, 0, 0], // frames are for this one unless they say otherwise
    ...options,
  });

/** Interface index of the device that the XDP program is loaded for. */
export const XDP_DEVICE = 77;

export type ObjectName = "sock" | "stale" | "tc" | "xdp" | "expiry";

export const objectPath = (name: ObjectName): string => `${import.meta.dirname}/../../build/bpf/${name}.bpf.o`;

export type Sizes = Readonly<Partial<Record<MapName, number>>>;

/** One object with maps of its own: loaded at its first use, and anew after it was closed, with empty maps each time. */
export class ObjectUnderTest {
  #object: LoadedObject | null = null;
  readonly #load: () => LoadedObject;
  readonly #recipe: string;
  readonly #generation: number;
  readonly #cpus = possibleCpus();
  readonly #places: { readonly expendables: number; readonly tcp_peers: number };
  #ring: MappedRing | null = null;

  constructor(name: "sock" | "tc", options: Partial<Records["options"]> = {}, maxEntries: Sizes = {}) {
    const sizes = { ...smallMaps, ...maxEntries };
    const load = { options: loadOptions(options), maxEntries: sizes };
    this.#places = { expendables: sizes.expendables, tcp_peers: sizes.tcp_peers };
    this.#generation = options.direct ?? 0;
    this.#recipe = JSON.stringify([name, options, sizes]);
    this.#load = () => loadObject(objectPath(name), load);
  }

  protected get object(): LoadedObject {
    if (this.#object === null) {
      this.#object = takeObject(this.#recipe, this.#load);
      this.prepare();
    }
    return this.#object;
  }

  /** What it needs in its maps before anything else. */
  protected prepare(): void {
    this.configure();
  }

  /** Writes config; tests that want none call clearConfig(). */
  configure(change: Partial<Config> = {}): void {
    const config = {
      snat_addr_v4: NODE_V4,
      snat_addr_v6: NODE_V6,
      host_netns_cookie: 1n,
      forwarding_since_ns: 0n,
      hash_seed: 12345,
    };
    this.put("config", 0, {
      ...config,
      snat_port_min: PORTS.min,
      snat_port_max: PORTS.max,
      backend_ids_end: 0,
      ...this.#places,
      timeout_s: Object.values(TIMEOUTS_S),
      next_hop_generation: this.#generation,
      has_tunnels: 0,
      shares_ways: 1,
      forwarding: 0,
      route_mtu: 0,
      xdp: 0,
      ...change,
    });
  }

  clearConfig(): void {
    const none = "::" as Address;
    this.configure({ snat_addr_v4: none, snat_addr_v6: none, hash_seed: 0, snat_port_min: 0, snat_port_max: 0 });
  }

  put<M extends MapName>(map: M, key: KeyOf<M>, value: ValueOf<M>): void {
    const { key: key_type, value: value_type } = maps[map];
    const bytes = encode(value_type as StructName, value as never);
    const errno = mapUpdate(this.object.map(map), encode(key_type as StructName, key as never), bytes);
    if (errno !== 0) throw new Error(`Cannot write ${map}: errno ${errno}`);
  }

  get<M extends MapName>(map: M, key: KeyOf<M>): ValueOf<M> | null {
    const { key: key_type, value: value_type } = maps[map];
    const bytes = new Uint8Array(sizeOf(value_type as StructName));
    if (!mapLookup(this.object.map(map), encode(key_type as StructName, key as never), bytes)) return null;
    return decode(value_type as StructName, bytes) as ValueOf<M>;
  }

  remove<M extends MapName>(map: M, key: KeyOf<M>): boolean {
    return mapDelete(this.object.map(map), encode(maps[map].key as StructName, key as never));
  }

  entries<M extends MapName>(map: M): readonly (readonly [KeyOf<M>, ValueOf<M>])[] {
    const { key: key_type } = maps[map];
    const size = sizeOf(key_type as StructName);
    const found: [KeyOf<M>, ValueOf<M>][] = [];
    for (let key = mapNextKey(this.object.map(map), null, size); key !== null; ) {
      const record = decode(key_type as StructName, key) as KeyOf<M>;
      const value = this.get(map, record);
      if (value !== null) found.push([record, value]);
      key = mapNextKey(this.object.map(map), key, size);
    }
    return found;
  }

  get programs(): readonly string[] {
    return this.object.programs;
  }

  program(name: string): number {
    return this.object.program(name);
  }

  /** Runs `action`; the reasons it counted, one word for each. Throws when another hook counted any. */
  reasonsOf(at: number, action: () => void): readonly ReasonName[] {
    return this.counted(action).map(({ hook, reason }) => {
      if (hook !== at) throw new Error(`Hook ${at} ran, and hook ${hook} counted ${reason}`);
      return reason;
    });
  }

  /** Runs `action`; what any hook counted meanwhile. */
  counted(action: () => void): readonly { readonly hook: number; readonly reason: ReasonName }[] {
    return this.#increments("counters", action).map((index) => ({
      hook: Math.floor(index / REASONS_PER_HOOK),
      reason: reasonNames[index % REASONS_PER_HOOK] as ReasonName,
    }));
  }

  /** Runs `action`; how any hook says meanwhile that packets went on. */
  forwarded(action: () => void): readonly { readonly hook: number; readonly forward: ForwardName }[] {
    return this.#increments("forwards", action).map((index) => ({
      hook: Math.floor(index / FORWARDS_PER_HOOK),
      forward: forwardNames[index % FORWARDS_PER_HOOK] as ForwardName,
    }));
  }

  /** Packets so far that asked for their way, and those of them that were sent on directly. */
  get forwards(): { readonly all: number; readonly direct: number } {
    const directly: readonly number[] = [forwards.FORWARD_PEER, forwards.FORWARD_WIRE, forwards.FORWARD_NEIGHBOUR];
    let [all, direct] = [0, 0];
    for (const [i, count] of this.#counts("forwards").entries()) {
      all += Number(count);
      if (directly.includes(Math.floor(i / this.#cpus) % FORWARDS_PER_HOOK)) direct += Number(count);
    }
    return { all, direct };
  }

  /** The index of each count of one that `action` makes. */
  #increments(map: "counters" | "forwards", action: () => void): readonly number[] {
    const before = this.#counts(map);
    action();
    return [...this.#counts(map)].flatMap((count, i) =>
      new Array<number>(Number(count - (before[i] ?? 0n))).fill(Math.floor(i / this.#cpus)),
    );
  }

  /** Of every index, and within those of every CPU. */
  #counts(map: "counters" | "forwards"): BigUint64Array {
    const sizes = { key_size: 4, value_size: 8 * this.#cpus };
    const { values } = mapLookupBatch(this.object.map(map), null, sizes, maps[map].max_entries);
    return new BigUint64Array(values.buffer);
  }

  /** From now on what is refused or dropped is written down, at most so often a second of one reason and CPU. */
  listen(rate: number, for_ns = 60_000_000_000n): void {
    this.put("listener", 0, { until_ns: bootTime_ns() + for_ns, interval_ns: BigInt(Math.ceil(1e9 / rate)) });
  }

  /** What was written down since the last call. */
  events(): readonly Records["event"][] {
    this.#ring ??= mapRing(this.object.map("events"));
    const events: Records["event"][] = [];
    readRing(this.#ring, (record) => events.push(decode("event", record)));
    return events;
  }

  /** Of one hook and reason, on all CPUs. */
  eventCounts(at: number, reason: ReasonName): EventCounts {
    const bytes = new Uint8Array(sizeOf("event_budget") * this.#cpus);
    mapLookup(this.object.map("event_budgets"), encode("u32", at * REASONS_PER_HOOK + reasons[reason]), bytes);
    return sumEventCounts(bytes);
  }

  close(): void {
    if (this.#object === null) return;
    this.events();
    this.#ring?.close();
    this.#ring = null;
    giveBack(this.#recipe, this.#object);
    this.#object = null;
  }
}

/** What XDP did to a frame. It counts what it sends on, and nothing else. */
export interface XdpOutcome {
  readonly verdict: "pass" | "transmit" | "redirect";
  readonly reason: ReasonName | null;
  readonly frame: Uint8Array;
  readonly duration_ns: number;
}

const xdpVerdicts: Readonly<Record<number, XdpOutcome["verdict"]>> = { 2: "pass", 3: "transmit", 4: "redirect" };

/** Where the ifindex is in a struct __sk_buff, and its size. */
const [IFINDEX, SK_BUFF] = [40, 192];
const NO_MAC = new Uint8Array(6);

/**
 * `crossing`: enters the one whose devices it may forward packets between itself; null: the kernel routes all of them.
 * `hasXdp`: what comes by the wire meets XDP first.
 */
export class Datapath extends ObjectUnderTest {
  readonly #enterCrossing: (() => Crossing) | null;
  readonly #hasXdp: boolean;
  readonly #options: Partial<Records["options"]>;

  constructor(
    options: Partial<Records["options"]> = {},
    maxEntries: Sizes = {},
    crossing: (() => Crossing) | null = null,
    hasXdp = false,
  ) {
    super("tc", { ...options, direct: Number(crossing !== null) }, maxEntries);
    this.#options = options;
    this.#enterCrossing = crossing;
    this.#hasXdp = hasXdp;
  }

  get #crossing(): Crossing | null {
    return this.#enterCrossing?.() ?? null;
  }

  protected override prepare(): void {
    super.prepare();
    const crossing = this.#crossing;
    if (crossing === null) return;
    this.put("devices", crossing.wire, {
      flags: device_flag.DEVICE_WIRE | (this.#hasXdp ? device_flag.DEVICE_XDP : 0),
    });
    this.put("devices", crossing.pod, { flags: device_flag.DEVICE_PEER });
  }

  expire(options: ExpiryOptions): Expired {
    return expireFlows(this.#share("expiry", {}), options);
  }

  get #xdpProgram(): number {
    const on = this.#hasXdp ? { device: this.#crossing?.wire ?? 0, device_mac: [...MACS.wire] } : {};
    return this.#share("xdp", { ...this.#options, ...on }).program("xdp_forward");
  }

  xdp(data: Uint8Array): XdpOutcome {
    const program = this.#xdpProgram;
    let run: TestRun | undefined;
    const [reason = null, ...more] = this.reasonsOf(hook.HOOK_XDP, () => {
      run = testRun(program, { data });
    });
    const verdict = xdpVerdicts[run?.retval ?? -1];
    if (run === undefined || verdict === undefined) throw new Error(`Unexpected verdict ${run?.retval}`);
    if (more.length > 0) throw new Error(`One reason at most should be counted: ${reason} ${more.join(" ")}`);
    return { verdict, reason, frame: run.data, duration_ns: run.duration_ns };
  }

  /** Mean of `repeat` runs of XDP over one frame, which each run changes further. */
  timeXdp(frame: Uint8Array, repeat: number): number {
    return testRun(this.#xdpProgram, { data: frame, repeat }).duration_ns;
  }

  /** An object with the same maps. */
  #share(name: ObjectName, options: Partial<Records["options"]>): LoadedObject {
    const load = { options: loadOptions(options), mapsOf: this.object };
    return takeSharer(this.object, JSON.stringify([name, options]), () => loadObject(objectPath(name), load));
  }

  ingress(frame: Uint8Array, context?: Uint8Array): Outcome {
    return (context === undefined ? this.#byXdp(frame) : null) ?? this.#run("tc_ingress", "wire", frame, context);
  }

  /** By the node's end of a pod's device. */
  podIngress(frame: Uint8Array, context?: Uint8Array): Outcome {
    return this.#run("tc_pod_ingress", "pod", frame, context);
  }

  /** The same, of a pod whose sockets are translated: for its replies. */
  podReply(frame: Uint8Array, context?: Uint8Array): Outcome {
    return this.#run("tc_pod_reply", "pod", frame, context);
  }

  egress(frame: Uint8Array, context?: Uint8Array): Outcome {
    return this.#run("tc_egress", "wire", frame, context);
  }

  /** Mean of `repeat` runs over one frame, which each run changes further. */
  time(program: "tc_ingress" | "tc_egress" | "tc_pod_reply", frame: Uint8Array, repeat: number): number {
    const device = program === "tc_pod_reply" ? "pod" : "wire";
    return testRun(this.program(program), { ...this.#onDevice(device, frame, undefined), repeat }).duration_ns;
  }

  #run(program: string, name: DeviceName, data: Uint8Array, context: Uint8Array | undefined): Outcome {
    const at = program === "tc_egress" ? hook.HOOK_TC_EGRESS : hook.HOOK_TC_INGRESS;
    let run: TestRun | undefined;
    let reason: ReasonName | undefined;
    const [forwarded, ...more] = this.forwarded(() => {
      const reasons = this.reasonsOf(at, () => {
        run = testRun(this.program(program), this.#onDevice(name, data, context));
      });
      // A reply that tc_pod_reply leaves to the kernel is counted where it is undone.
      const least = program === "tc_pod_reply" ? 0 : 1;
      if (reasons.length > 1 || reasons.length < least)
        throw new Error(`One reason should be counted: ${reasons.join(" ")}`);
      reason = reasons[0] ?? "REASON_NOT_OURS";
    });
    if (run === undefined || reason === undefined) throw new Error("It did not run");
    if (more.length > 0 || (forwarded !== undefined && forwarded.hook !== at))
      throw new Error(`It should go on in one way at most: ${JSON.stringify([forwarded, ...more])}`);
    const verdict = verdictOf(run.retval, at === hook.HOOK_TC_EGRESS ? "tc_egress" : "tc_ingress", reason);
    const direct = verdict === "pass" && run.retval === TC_ACT_REDIRECT;
    const forward = forwarded?.forward ?? null;
    const isSent = forward === "FORWARD_PEER" || forward === "FORWARD_WIRE";
    const hasMacs = isSent || this.#crossing === null || hasMac(data, MACS[name]);
    const frame = hasMacs ? run.data : replaceMac(run.data, MACS[name], NO_MAC);
    return { verdict, reason, direct, byXdp: false, forward, frame, duration_ns: run.duration_ns };
  }

  /** Is tc_pod_reply on the devices of pods? */
  get forwardsReplies(): boolean {
    return this.#crossing !== null;
  }

  /** As programs and events have it; the loopback device stands in where there is no crossing. */
  deviceIndex(name: DeviceName): number {
    return this.#crossing?.[name] ?? 1;
  }

  /** null: it passes, as it came. */
  #byXdp(data: Uint8Array): Outcome | null {
    if (!this.#hasXdp) return null;
    const came = replaceMac(data, NO_MAC, MACS.wire);
    const { verdict, reason, frame, duration_ns } = this.xdp(came);
    if (verdict !== "pass" && reason !== null)
      return { verdict: "pass", reason, direct: true, byXdp: true, forward: "FORWARD_WIRE", frame, duration_ns };
    if (reason !== null || Buffer.compare(came, frame) !== 0)
      throw new Error(`XDP passes what it counts as ${reason}, or has changed`);
    return null;
  }

  /** The devices of a crossing have MAC addresses, while tests say 0 for the node's own. */
  #onDevice(name: DeviceName, data: Uint8Array, context: Uint8Array | undefined): Parameters<typeof testRun>[1] {
    if (this.#crossing === null) return { data, ...(context === undefined ? {} : { context }) };
    const on = new Uint8Array(SK_BUFF);
    on.set(context ?? []);
    new DataView(on.buffer).setUint32(IFINDEX, this.#crossing[name], true);
    return { data: replaceMac(data, NO_MAC, MACS[name]), context: on };
  }
}

const hasMac = (frame: Uint8Array, mac: Uint8Array): boolean =>
  [0, 6].some((at) => mac.every((byte, i) => byte === frame[at + i]));

/** In either place of a frame. */
const replaceMac = (frame: Uint8Array, from: Uint8Array, to: Uint8Array): Uint8Array => {
  const replaced = frame.slice();
  for (const at of [0, 6]) if (from.every((byte, i) => byte === frame[at + i])) replaced.set(to, at);
  return replaced;
};

export interface BackendSpec {
  readonly id: number;
  readonly address: string;
  readonly port?: number;
  readonly local?: boolean;
  readonly state?: number;
  readonly generation?: number;
  /** Default: in both runs when local, in the cluster's alone when not. */
  readonly flags?: number;
}

export interface FrontendSpec {
  /** null: a NodePort of this family. */
  readonly address: string | null;
  readonly family?: "IPv4" | "IPv6";
  readonly port: number;
  readonly proto?: Transport;
  readonly flags?: number;
  readonly affinity_timeout_s?: number;
  readonly service_id?: number;
  readonly slot_base?: number;
  /** Default: the number of backends. */
  readonly slot_count?: number;
  readonly scope?: number;
  /** Of its address: default 0, one that the node has as well. */
  readonly address_flags?: number;
}

export const putBackend = (datapath: ObjectUnderTest, spec: BackendSpec, service_id = 1): void => {
  const flags = spec.local
    ? backend_flag.BACKEND_LOCAL | backend_flag.BACKEND_IN_LOCAL | backend_flag.BACKEND_IN_CLUSTER
    : backend_flag.BACKEND_IN_CLUSTER;
  const backend: Backend = {
    addr: spec.address as Address,
    port: spec.port ?? 8080,
    proto: protocolNumber.TCP,
    state: spec.state ?? backend_state.BACKEND_ACTIVE,
    generation: spec.generation ?? 1,
    service_id,
    flags: spec.flags ?? flags,
  };
  datapath.put("backends", spec.id, backend);
};

/** Writes a frontend, its run and its backends, in the agent's order. */
export const publish = (datapath: ObjectUnderTest, spec: FrontendSpec, backends: readonly BackendSpec[]): void => {
  const service_id = spec.service_id ?? 1;
  const slot_base = spec.slot_base ?? 0;
  for (const backend of backends) putBackend(datapath, backend, service_id);
  for (const [i, backend] of backends.entries()) datapath.put("slots", slot_base + i, backend.id);
  const frontend: Frontend = {
    service_id,
    slot_base,
    slot_count: spec.slot_count ?? backends.length,
    affinity_timeout_s: spec.affinity_timeout_s ?? 0,
    flags: spec.flags ?? 0,
  };
  const key = {
    port: spec.port,
    proto: protocolNumber[spec.proto ?? "TCP"],
    scope: spec.scope ?? scope.SCOPE_EXTERNAL,
  };
  if (spec.address !== null) {
    datapath.put("frontend_addresses", spec.address as Address, { flags: spec.address_flags ?? 0 });
    datapath.put("frontends", { addr: spec.address as Address, ...key }, frontend);
    return;
  }
  datapath.put("nodeports", { ...key, family: spec.family === "IPv6" ? 6 : 4 }, frontend);
};

/** The key of a flow from one address and port to another, as the packet is at ingress or at egress. */
export const flowKey = (
  from: readonly [string, number],
  to: readonly [string, number],
  proto: Transport = "TCP",
  at: "in" | "out" = "in",
): KeyOf<"flows"> => ({
  src_addr: from[0] as Address,
  src_port: from[1],
  dst_addr: to[0] as Address,
  dst_port: to[1],
  proto: protocolNumber[proto],
  outward: Number(at === "out"),
});

/** The same test for both families: addresses of a client, a VIP, a node, and a local and a remote backend. */
export interface Addresses {
  readonly family: "IPv4" | "IPv6";
  readonly client: string;
  readonly other: string;
  readonly vip: string;
  readonly vip2: string;
  readonly node: string;
  readonly local: string;
  readonly remote: string;
}

export const families: readonly Addresses[] = [
  {
    family: "IPv4",
    client: "198.51.100.7",
    other: "198.51.100.8",
    vip: "203.0.113.10",
    vip2: "203.0.113.11",
    node: NODE_V4,
    local: "10.1.0.5",
    remote: "10.2.0.6",
  },
  {
    family: "IPv6",
    client: "2001:db8:1::7",
    other: "2001:db8:1::8",
    vip: "2001:db8:2::10",
    vip2: "2001:db8:2::11",
    node: NODE_V6,
    local: "fd00:1::5",
    remote: "fd00:2::6",
  },
];
