// What a packet and a connect() cost: `npm run bench:packets [-- -o json]`, as root. tc by BPF_PROG_TEST_RUN; the socket
// hooks, which cannot be run that way, by real connect() calls in a network namespace and a cgroup of this process
// alone, with and without them in turn. Median (min–max) of several runs; only figures of one run compare.
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { release } from "node:os";
import { flow_flag, flow_kind, frontend_flag, scope, way } from "../src/dataplane/bpf/abi.gen.ts";
import { closeFd, openDirectory } from "../src/dataplane/bpf/system/file.ts";
import { type AttachType, linkCreate } from "../src/dataplane/bpf/system/link.ts";
import { netnsCookie } from "../src/dataplane/bpf/system/namespace.ts";
import { programInfo } from "../src/dataplane/bpf/system/program.ts";
import type { Address } from "../src/model/address.ts";
import { type Crossing, enterCrossing } from "../test/lib/crossing.ts";
import {
  type Addresses,
  Datapath,
  families,
  flowKey,
  ObjectUnderTest,
  publish,
  XDP_DEVICE,
} from "../test/lib/datapath.ts";
import { flowOf, windowOf } from "../test/lib/flow.ts";
import { buildFrame, type Transport } from "../test/lib/packet.ts";
import { CallError, enterCgroup, enterNetworkNamespace, Socket } from "../test/lib/socket.ts";

interface Row {
  readonly what: string;
  readonly unit: "ns/packet" | "ns/call";
  readonly median: number;
  readonly min: number;
  readonly max: number;
  /** What it is to cost at most, the bare run of a program included; null: nothing is asked of it. */
  readonly goal: number | null;
}

const RUNS = 9;
const REPEAT = 200_000;
const SERVICES = 10_000;
/** Places for connections that are half-open: more than there are, or so few that each takes another's. */
const [ROOM, CROWDED] = [65_536, 1024];
/** One after another, each a new connection; up to four flows each, far from filling the map. */
const CHAIN = 4000;

/** By what a row begins with. */
const GOALS: readonly (readonly [RegExp, number])[] = [
  [/^xdp[a-z_]*: (established|to a remote|reply)/, 60],
  [/^tc_\w+: (directly|established|reply|to a remote)/, 90],
  [/^sock_connect4 alone/, 500],
];

const rowOf = (what: string, unit: Row["unit"], samples: readonly number[]): Row => {
  const sorted = [...samples].sort((x, y) => x - y);
  const at = (share: number): number => Math.round(sorted[Math.floor((sorted.length - 1) * share)] ?? 0);
  const goal = GOALS.find(([row]) => row.test(what))?.[1] ?? null;
  return { what, unit, median: at(0.5), min: at(0), max: at(1), goal };
};

const times = (n: number, sample: (i: number) => number): readonly number[] =>
  Array.from({ length: n }, (_, i) => sample(i));

// ---- tc ------------------------------------------------------------------------------------------------------------

const sizes = { flows: 262_144, frontends: 2 * SERVICES, slots: 2 * SERVICES, backends: 2 * SERVICES };

/** Services that the packets are not for, as on a real node. */
const fillServices = (into: ObjectUnderTest, at: number): void => {
  for (let i = 0; i < SERVICES; i++) {
    const address = `172.30.${i >> 8}.${i & 255}`;
    const backend = { id: 8000 + i, address: `10.${200 + (i >> 16)}.${(i >> 8) & 255}.${i & 255}`, local: true };
    publish(into, { address, port: 80, scope: at, service_id: 8000 + i, slot_base: 8000 + i }, [backend]);
  }
};

type Program = "tc_ingress" | "tc_egress";

/**
 * A packet that a program translates is another packet for the next of its runs. So there are two flows, each of which
 * makes the packet that the other one is for.
 */
const putLoop = (tc: Datapath, a: Addresses, program: Program, kind: number, proto: Transport): Uint8Array => {
  const [here, there] = [
    [a.vip, 80],
    [a.vip2, 8080],
  ] as const;
  const peer = [a.client, 40000] as const;
  publish(tc, { address: null, port: 1, proto }, [{ id: 1, address: a.local, local: true }]);
  for (const [from, to] of [[here, there] as const, [there, here] as const]) {
    const key = program === "tc_ingress" ? flowKey(peer, from, proto) : flowKey(from, peer, proto, "out");
    const base = {
      service_id: 1,
      backend_id: 1,
      generation: 1,
      flags: flow_flag.FLOW_SETTLED,
      created_ns: 1n,
      last_seen_ns: 1n,
    };
    tc.put("flows", key, flowOf({ ...base, addr: to[0] as Address, port: to[1], kind }));
  }
  const ends = program === "tc_ingress" ? { from: peer, to: here } : { from: here, to: peer };
  return buildFrame({
    from: ends.from[0],
    sport: ends.from[1],
    to: ends.to[0],
    dport: ends.to[1],
    proto,
    payload: "12345678",
  });
};

const measureLoop = (a: Addresses, what: string, program: Program, kind: number, proto: Transport): Row => {
  const tc = new Datapath({}, sizes);
  fillServices(tc, scope.SCOPE_EXTERNAL);
  const frame = putLoop(tc, a, program, kind, proto);
  const row = rowOf(
    `${program}: ${what}, ${a.family} ${proto}`,
    "ns/packet",
    times(RUNS, () => tc.time(program, frame, REPEAT)),
  );
  tc.close();
  return row;
};

/** A packet lives 255 hops, so a run over one is short, and there are many. */
const [HOPS, LIVES] = [250, 300];

type End = readonly [address: string, port: number];

/** The same of packets that are sent on directly: by turns from and to these ends, each of which is one flow. */
const measureDirect = (
  a: Addresses,
  what: string,
  program: "tc_ingress" | "tc_pod_reply",
  kind: number,
  proto: Transport,
  peers: readonly [End, End],
  ends: readonly [End, End],
): Row => {
  const tc = new Datapath({}, sizes, enterCrossing);
  fillServices(tc, scope.SCOPE_EXTERNAL);
  publish(tc, { address: null, port: 1, proto }, [{ id: 1, address: a.local, local: true }]);
  const isReply = program === "tc_pod_reply";
  const isFar = peers[0] !== peers[1];
  for (const [here, there] of [[0, 1] as const, [1, 0] as const]) {
    const key = isReply ? flowKey(ends[here], peers[here], proto, "out") : flowKey(peers[here], ends[here], proto);
    const known = { service_id: 1, backend_id: 1, generation: 1, flags: flow_flag.FLOW_SETTLED };
    const to = { kind, addr: ends[there][0] as Address, port: ends[there][1] };
    const far = isFar ? { far_addr: peers[there][0] as Address, far_port: peers[there][1] } : {};
    tc.put("flows", key, flowOf({ ...known, ...to, ...far, created_ns: 1n, last_seen_ns: 1n }));
  }
  const [from, to] = isReply ? [ends[0], peers[0]] : [peers[0], ends[0]];
  const frame = buildFrame({
    from: from[0],
    sport: from[1],
    to: to[0],
    dport: to[1],
    proto,
    ttl: 255,
    payload: "12345678",
  });
  const burst = (): number => tc.time(program, frame, HOPS);
  const row = rowOf(
    `${program}: directly, ${what}, ${a.family} ${proto}`,
    "ns/packet",
    times(RUNS, () => times(LIVES, burst).toSorted((x, y) => x - y)[LIVES / 2] ?? 0),
  );
  const { forwards } = tc;
  if (forwards.direct < forwards.all) throw new Error(`${row.what}: ${JSON.stringify(forwards)}`);
  tc.close();
  return row;
};

const measureDirectly = (a: Addresses): readonly Row[] => {
  const [client, node]: readonly [End, End] = [
    [a.client, 40000],
    [a.node, 61000],
  ];
  const vips: readonly [End, End] = [
    [a.vip, 80],
    [a.vip2, 8080],
  ];
  const pods: readonly [End, End] = [
    [a.local, 80],
    [`${a.local}0`, 8080],
  ];
  const { FLOW_DNAT, FLOW_UNDO_SNAT, FLOW_UNDO_DNAT } = flow_kind;
  return [
    measureDirect(a, "into a pod", "tc_ingress", FLOW_DNAT, "TCP", [client, client], pods),
    measureDirect(a, "into a pod", "tc_ingress", FLOW_DNAT, "UDP", [client, client], pods),
    measureDirect(a, "to a remote backend", "tc_ingress", FLOW_DNAT, "TCP", [client, node], vips),
    measureDirect(a, "reply of a remote backend", "tc_ingress", FLOW_UNDO_SNAT, "TCP", [client, node], vips),
    measureDirect(a, "reply of a pod", "tc_pod_reply", FLOW_UNDO_DNAT, "TCP", [client, client], vips),
  ];
};

const measureNotOurs = (a: Addresses, program: Program): Row => {
  const tc = new Datapath({}, sizes);
  fillServices(tc, scope.SCOPE_EXTERNAL);
  const frame = buildFrame({ from: a.client, to: a.other, dport: 443 });
  const row = rowOf(
    `${program}: not ours, ${a.family} TCP`,
    "ns/packet",
    times(RUNS, () => tc.time(program, frame, REPEAT)),
  );
  tc.close();
  return row;
};

/** The floor: a program whose families are both off looks at the Ethernet type and counts. */
const measureFloor = (): Row => {
  const tc = new Datapath({ ipv4: 0, ipv6: 0 });
  const frame = buildFrame({ from: "198.51.100.7", to: "198.51.100.8" });
  const row = rowOf(
    "tc_ingress: both families off (floor)",
    "ns/packet",
    times(RUNS, () => tc.time("tc_ingress", frame, REPEAT)),
  );
  tc.close();
  return row;
};

/** Every run is a new connection: each VIP's only backend is the next VIP. */
const measureNewFlow = (
  what: string,
  local: boolean,
  expendables: number,
  crossing: (() => Crossing) | null = null,
): Row => {
  const tc = new Datapath({}, { ...sizes, expendables }, crossing);
  const chain = crossing === null ? CHAIN : HOPS;
  fillServices(tc, scope.SCOPE_EXTERNAL);
  tc.configure({ snat_port_min: 20000, snat_port_max: 60000 });
  const vip = (i: number): string => `${local ? "10.1" : "10.2"}.${i >> 8}.${i & 255}`;
  for (let i = 0; i < chain; i++) {
    publish(tc, { address: vip(i), port: 80, service_id: i, slot_base: i }, [
      { id: i + 1, address: vip(i + 1), port: 80, local },
    ]);
  }
  const samples = times(crossing === null ? RUNS : RUNS * 10, (i) => {
    const frame = buildFrame({ from: "198.51.100.7", to: vip(0), sport: 30000 + i, flags: "S", ttl: 255 });
    return tc.time("tc_ingress", frame, chain - 1);
  });
  if (crossing !== null && tc.forwards.direct < tc.forwards.all)
    throw new Error(`${what}: ${JSON.stringify(tc.forwards)}`);
  tc.close();
  return rowOf(`tc_ingress: new flow, ${what}, IPv4 TCP`, "ns/packet", samples);
};

/** A client outside the source ranges; what is dropped stays as it is, so every run drops it again. */
const measureDrop = (what: string, eventsPerSecond: number): Row => {
  const tc = new Datapath({}, sizes);
  fillServices(tc, scope.SCOPE_EXTERNAL);
  const flags = frontend_flag.FRONTEND_SOURCE_RANGES;
  publish(tc, { address: "100.64.0.1", port: 80, flags }, [{ id: 1, address: "10.1.0.1", local: true }]);
  if (eventsPerSecond > 0) tc.listen(eventsPerSecond);
  const frame = buildFrame({ from: "198.51.100.7", to: "100.64.0.1", flags: "S" });
  const samples = times(RUNS, () => tc.time("tc_ingress", frame, REPEAT));
  tc.close();
  return rowOf(`tc_ingress: dropped, ${what}, IPv4 TCP`, "ns/packet", samples);
};

/** Before each call the kernel waits for all CPUs: few of them. */
const XDP_CALLS = 45;
const GENERATION = 1;

/** A request to a remote backend, by turns two flows as above; others' packets; and a frame for another machine. */
const measureXdp = (a: Addresses, proto: Transport): readonly Row[] => {
  const xdp = new Datapath({}, sizes);
  xdp.configure({ next_hop_generation: GENERATION });
  fillServices(xdp, scope.SCOPE_EXTERNAL);
  publish(xdp, { address: null, port: 1, proto }, [{ id: 1, address: a.local, local: true }]);
  const sides = [
    { from: [a.client, 40000], to: [a.vip, 80] },
    { from: [a.other, 40001], to: [a.vip2, 8080] },
  ] as const;
  /** Next hops as tc has found them in this very tick. */
  const put = (): void => {
    for (const [here, there] of [[sides[0], sides[1]] as const, [sides[1], sides[0]] as const]) {
      const key = flowKey(here.from, here.to, proto);
      const before = xdp.get("flows", key);
      const window = before === null ? 0 : windowOf(before.last_tick, here.from[1]);
      const known = { service_id: 1, backend_id: 1, generation: 1, flags: flow_flag.FLOW_SETTLED };
      const hop = { from: XDP_DEVICE, ifindex: XDP_DEVICE, mtu: 1500, way: way.WAY_WIRE, generation: GENERATION };
      const to = { kind: flow_kind.FLOW_DNAT, addr: there.to[0] as Address, port: there.to[1] };
      const far = { far_addr: there.from[0] as Address, far_port: there.from[1] };
      const next_hop = { ...flowOf({}).next_hop, ...hop, window };
      xdp.put("flows", key, flowOf({ ...known, ...to, ...far, next_hop, created_ns: 1n, last_seen_ns: 1n }));
    }
  };
  const [{ from, to }] = sides;
  const base = { proto, payload: "12345678", ttl: 255 };
  const ours = buildFrame({ ...base, from: from[0], sport: from[1], to: to[0], dport: to[1] });
  const others = { ...base, from: a.client, to: a.other, dport: 443 };
  const row = (what: string, frame: Uint8Array, prepare: () => void = () => {}): Row =>
    rowOf(
      `xdp: ${what}, ${a.family} ${proto}`,
      "ns/packet",
      times(XDP_CALLS, () => {
        prepare();
        return xdp.timeXdp(frame, HOPS);
      }),
    );
  put();
  const rows = [
    row("for another machine (floor)", buildFrame({ ...others, destination_mac: Uint8Array.of(2, 0, 0, 0, 9, 9) })),
    row("not ours", buildFrame(others)),
    row("established, to a remote backend", ours, () => {
      for (const side of sides) {
        xdp.ingress(
          buildFrame({ ...base, from: side.from[0], sport: side.from[1], to: side.to[0], dport: side.to[1] }),
        );
      }
      put();
    }),
  ];
  const { verdict } = xdp.xdp(ours);
  xdp.close();
  if (verdict !== "transmit") throw new Error(`XDP does not send on what it is measured by: ${verdict}`);
  return rows;
};

const measureTc = (): readonly Row[] => {
  const rows = [measureFloor()];
  for (const a of families) {
    rows.push(
      measureNotOurs(a, "tc_ingress"),
      measureNotOurs(a, "tc_egress"),
      measureLoop(a, "established", "tc_ingress", flow_kind.FLOW_DNAT, "TCP"),
      measureLoop(a, "established", "tc_ingress", flow_kind.FLOW_DNAT, "UDP"),
      measureLoop(a, "reply of a remote backend", "tc_ingress", flow_kind.FLOW_UNDO_SNAT, "TCP"),
      measureLoop(a, "to a remote backend", "tc_egress", flow_kind.FLOW_SNAT, "TCP"),
      measureLoop(a, "reply to the client", "tc_egress", flow_kind.FLOW_UNDO_DNAT, "TCP"),
      ...measureDirectly(a),
    );
  }
  rows.push(
    measureNewFlow("local backend", true, ROOM),
    measureNewFlow("local backend, directly", true, ROOM, enterCrossing),
    measureNewFlow("remote backend", false, ROOM),
    measureNewFlow("local backend, an older one gives way", true, CROWDED),
    measureNewFlow("local backend, directly, an older one gives way", true, CROWDED, enterCrossing),
    measureNewFlow("remote backend, an older one gives way", false, CROWDED),
  );
  for (const a of families) rows.push(...measureXdp(a, "TCP"));
  rows.push(measureDrop("nobody listens", 0), measureDrop("100 events a second", 100));
  return rows;
};

// ---- sockets -------------------------------------------------------------------------------------------------------

/** Short bursts in turn, many of them: what else the machine does hits all three alike. */
const BURSTS = 300;
const CALLS = 100;
const HOOKS: readonly (readonly [AttachType, string])[] = [
  ["cgroup_inet4_connect", "sock_connect4"],
  ["cgroup_inet_sock_release", "sock_release"],
];

/** connect() on a UDP socket sends nothing: a cheap probe. Includes the foreign call. */
const timeConnect = (socket: Socket, address: string): number => {
  const start = process.hrtime.bigint();
  for (let i = 0; i < CALLS; i++) socket.connect([address, 8080]);
  return Number(process.hrtime.bigint() - start) / CALLS;
};

/** TCP sockets from socket() to close(), which are told at once that there is no route. */
const askTcp = (address: string): void => {
  for (let i = 0; i < CALLS; i++) askOnce(address);
};

const askOnce = (address: string): void => {
  const socket = new Socket("TCP", "IPv4");
  try {
    socket.connect([address, 8080]);
  } catch (error) {
    if (!(error instanceof CallError && error.code === "EHOSTUNREACH")) throw error;
  } finally {
    socket.close();
  }
};

/** Of the middle half: a burst that was interrupted says nothing. */
const burstRow = (what: string, samples: readonly number[]): Row => {
  const sorted = [...samples].sort((x, y) => x - y);
  return rowOf(what, "ns/call", sorted.slice(Math.floor(sorted.length / 4), Math.ceil((sorted.length * 3) / 4)));
};

const withHooks = <T>(sock: ObjectUnderTest, cgroup: string, action: () => T): T => {
  const target = openDirectory(cgroup);
  const links = HOOKS.map(([type, program]) => linkCreate(sock.program(program), target, type));
  closeFd(target);
  try {
    return action();
  } finally {
    for (const link of links) closeFd(link);
  }
};

const STATS = "/proc/sys/kernel/bpf_stats_enabled";

/** The kernel's own account of a program's mean run, its clock reads (some 40 ns) included; null: not kept. */
const runTime = (id: number): { readonly ns: number; readonly runs: number } => {
  const info: unknown = JSON.parse(
    execFileSync("bpftool", ["-j", "prog", "show", "id", String(id)], { encoding: "utf8" }),
  );
  const { run_time_ns = 0, run_cnt = 0 } = info as { run_time_ns?: number; run_cnt?: number };
  return { ns: run_time_ns, runs: run_cnt };
};

const measureRunTime = (sock: ObjectUnderTest, program: string, what: string, probe: () => unknown): Row => {
  const { id } = programInfo(sock.program(program));
  const before = readFileSync(STATS, "utf8");
  writeFileSync(STATS, "1");
  try {
    const samples = times(RUNS, () => {
      const start = runTime(id);
      probe();
      const end = runTime(id);
      return (end.ns - start.ns) / Math.max(1, end.runs - start.runs);
    });
    return rowOf(`${program} alone, ${what} (bpf_stats)`, "ns/call", samples);
  } finally {
    writeFileSync(STATS, before);
  }
};

const measureSock = (): readonly Row[] => {
  const [vip, backend] = ["10.96.0.10", "10.1.0.1"];
  enterNetworkNamespace([backend]);
  const nowhere = "10.99.0.1";
  execFileSync("ip", ["route", "add", "unreachable", nowhere]);
  const cgroup = enterCgroup();
  const sock = new ObjectUnderTest("sock", {}, sizes);
  const socket = new Socket("UDP", "IPv4");
  try {
    sock.configure({ host_netns_cookie: netnsCookie() });
    fillServices(sock, scope.SCOPE_INTERNAL);
    publish(sock, { address: vip, port: 8080, proto: "UDP", scope: scope.SCOPE_INTERNAL }, [
      { id: 1, address: backend, local: true },
    ]);
    publish(
      sock,
      { address: vip, port: 8080, proto: "TCP", scope: scope.SCOPE_INTERNAL, slot_base: 10, service_id: 2 },
      [{ id: 2, address: nowhere, local: true }],
    );
    const asking = (address: string) => () => withHooks(sock, cgroup.path, () => askTcp(address));
    const without = (): number => timeConnect(socket, backend);
    const notOurs = (): number => withHooks(sock, cgroup.path, () => timeConnect(socket, backend));
    const ours = (): number => withHooks(sock, cgroup.path, () => timeConnect(socket, vip));
    without();
    const rounds = Array.from({ length: BURSTS }, () => [without(), notOurs(), ours()] as const);
    const column = (pick: (r: (typeof rounds)[number]) => number): readonly number[] => rounds.map(pick);
    return [
      burstRow(
        "connect() of a UDP socket, no hook",
        column(([none]) => none),
      ),
      burstRow(
        "  the hook adds, not ours",
        column(([none, other]) => other - none),
      ),
      burstRow(
        "  the hook adds, to a ClusterIP",
        column(([none, , own]) => own - none),
      ),
      measureRunTime(sock, "sock_connect4", "UDP, not ours", notOurs),
      measureRunTime(sock, "sock_connect4", "UDP, to a ClusterIP", ours),
      measureRunTime(sock, "sock_connect4", "TCP, not ours", asking(nowhere)),
      measureRunTime(sock, "sock_connect4", "TCP, to a ClusterIP", asking(vip)),
      measureRunTime(sock, "sock_release", "TCP, not ours", asking(nowhere)),
      measureRunTime(sock, "sock_release", "TCP, to a ClusterIP", asking(vip)),
    ];
  } finally {
    socket.close();
    sock.close();
    cgroup.leave();
  }
};

// ---- output --------------------------------------------------------------------------------------------------------

const print = (rows: readonly Row[]): void => {
  const width = Math.max(...rows.map((row) => row.what.length));
  console.log(`kernel ${release()}, ${SERVICES} services, median (min–max) of ${RUNS} runs`);
  for (const { what, unit, median, min, max, goal } of rows) {
    const wanted = goal === null ? "" : `, goal ${goal}${median > goal ? ": missed" : ""}`;
    console.log(`${what.padEnd(width)}  ${String(median).padStart(6)} (${min}–${max}) ${unit}${wanted}`);
  }
};

const main = (): void => {
  const args = process.argv.slice(2);
  const json = args.join(" ") === "-o json";
  if (args.length > 0 && !json) {
    console.error("usage: bench-packets [-o json]");
    process.exit(2);
  }
  const rows = [...measureTc(), ...measureSock()];
  if (json) console.log(JSON.stringify({ kernel: release(), services: SERVICES, runs: RUNS, rows }, null, 2));
  else print(rows);
};

main();
