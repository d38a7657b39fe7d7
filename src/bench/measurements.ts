// What is measured and how: each measurement makes its traffic on one stack, and answers values of one or more metrics
// with what was sent, what was lost, and what the mode must have carried for it.
import { readFileSync } from "node:fs";
import { maps } from "../dataplane/bpf/abi.gen.ts";
import type { Asked } from "./cluster.ts";
import type { Limit } from "./generator.ts";
import type { MetricOfResult } from "./result.ts";
import { GREET_FLOWS, type Stack } from "./stack.ts";
import { median } from "./statistics.ts";

export interface Durations {
  readonly seconds: number;
  readonly warm_up_s: number;
}

export interface Measured {
  /** By metric; of a metric that is not there nothing can be said this time. */
  readonly values: Readonly<Record<string, number>>;
  readonly sent: number;
  readonly lost: number;
  /** Answers of somebody else, or packets that arrived elsewhere. */
  readonly wrong: number;
  /** What the mode must have carried at least. */
  readonly flows: number;
  readonly packets: number;
  /** Losing some is part of it: a sender that is faster than the path, or a table that fills. */
  readonly lossy: boolean;
}

/** Of traffic. */
export const NOTHING = { lost: 0, wrong: 0, flows: 0, packets: 0, lossy: false } as const;

export interface Measurement {
  readonly metrics: readonly MetricOfResult[];
  /** Needs packets from a wire. */
  readonly packets: boolean;
  /** What clients ask for: the mode must show that it carried it. null: services change, and the kernel must hold them. */
  readonly asks: Asked | null;
  /** `limit`: of the generator alone, with established flows, in this round; null: nobody asked it. */
  readonly run: (stack: Stack, durations: Durations, limit: Limit | null) => Promise<Measured>;
  /** About how long one takes beyond its seconds and warm-up; for the time left. */
  readonly extra_s: number;
}

const metric = (
  name: string,
  title: string,
  unit: string,
  better: MetricOfResult["better"],
  axis: MetricOfResult["axis"],
  summary: string,
): MetricOfResult => ({ name, title, summary, unit, better, axis, skipped: null });

const TCP: Asked = { service: "target", protocol: "TCP" };
const UDP: Asked = { service: "target", protocol: "UDP" };
const AWAY: Asked = { service: "remote", protocol: "UDP" };

/** Plenty: the time ends it. */
const ENDLESS = 1e12;

/** Every mode's table takes them all: how it behaves when it is full is another question. */
const mostNewFlows = (): number => {
  const MOST = maps.expendables.max_entries; // then beeline lets the oldest give way
  try {
    return Math.min(MOST, Math.floor(0.7 * Number(readFileSync("/proc/sys/net/netfilter/nf_conntrack_max", "utf8"))));
  } catch {
    return MOST; // there is no connection tracking
  }
};

const packets: Measurement = {
  metrics: [
    metric(
      "packets",
      "Established packets",
      "packets/s",
      "higher",
      "mode",
      "64 UDP flows that have been answered before; frames of 64 bytes, sent as a NIC would bring them, counted by tc in the pods, before their sockets.",
    ),
    metric(
      "packet-cpu",
      "CPU per packet",
      "ns",
      "lower",
      "mode",
      "The same run: CPU time of the sender and of its CPU's softirq thread, which forwards, for each packet that arrived. What others take of the CPU is not in it.",
    ),
    metric(
      "packet-net",
      "CPU per packet, net",
      "ns",
      "lower",
      "mode",
      "The same, less what the generator alone took in that round (to make a packet, to send it through the first device, to count it): what the node and the way to the pod add.",
    ),
  ],
  packets: true,
  asks: UDP,
  extra_s: 0.15,
  run: async (stack, durations, limit) => {
    const { rate, cpu_ns, ...measured } = await runPackets(stack, durations, UDP);
    const values = { packets: rate, "packet-cpu": cpu_ns, ...net("packet-net", cpu_ns, limit) };
    return { ...measured, values };
  },
};

const packetsAway: Measurement = {
  metrics: [
    metric(
      "packets-away",
      "Established packets to another node",
      "packets/s",
      "higher",
      "mode",
      "The same to an external IP whose pod is on another node: both addresses are translated, so that the reply comes back through this node. For all modes, devices at the client and the other node are as behind a wire: packets come with their checksums written.",
    ),
    metric(
      "packet-away-net",
      "CPU per packet to another node, net",
      "ns",
      "lower",
      "mode",
      "CPU time of the same run for each packet, less the generator's.",
    ),
  ],
  packets: true,
  asks: AWAY,
  extra_s: 0.2,
  run: async (stack, durations, limit) => {
    const { rate, cpu_ns, ...measured } = await stack.withOffloads("wire", () => runPackets(stack, durations, AWAY));
    return { ...measured, values: { "packets-away": rate, ...net("packet-away-net", cpu_ns, limit) } };
  },
};

/** Nothing where the generator alone took more: that is noise, and no figure. */
const net = (metric: string, cpu_ns: number, limit: Limit | null): Readonly<Record<string, number>> => {
  const ns = cpu_ns - (limit?.cpu_ns ?? Number.NaN);
  return ns > 0 ? { [metric]: ns } : {};
};

/** NaN: there was nobody to send to. */
interface PacketRun extends Omit<Measured, "values"> {
  /** Packets a second. */
  readonly rate: number;
  /** For each packet that arrived. */
  readonly cpu_ns: number;
}

/** What is sent straight into a pod passes the XDP of its device by. At the other node nothing should cost any more. */
const SINKS = { target: "tc", remote: "xdp" } as const;

const runPackets = async (stack: Stack, { seconds, warm_up_s }: Durations, asked: Asked): Promise<PacketRun> => {
  const { sent, lost, wrong } = await stack.client(asked, "greet", 0, 0);
  if (lost + wrong > 0) return { ...NOTHING, sent, lost, wrong, rate: Number.NaN, cpu_ns: Number.NaN };
  return stack.withSink(SINKS[asked.service], async () => {
    await stack.frames(asked, GREET_FLOWS, warm_up_s, ENDLESS);
    const before = await stack.arrived();
    const run = await stack.frames(asked, GREET_FLOWS, seconds, ENDLESS);
    const after = await stack.arrived();
    const right = after.right - before.right;
    return {
      rate: (run.rate * right) / run.sent,
      cpu_ns: (run.cpu_s * 1e9) / right,
      sent: run.sent,
      lost: Math.max(0, run.sent - right),
      wrong: after.wrong,
      flows: GREET_FLOWS,
      packets: right,
      lossy: true,
    };
  });
};

const newFlows: Measurement = {
  metrics: [
    metric(
      "new-flows",
      "New flows",
      "flows/s",
      "higher",
      "services",
      "Frames of 64 bytes, each of a UDP flow that was never seen before, counted by tc in the pods. Tables of flows are emptied before: connection tracking wholly, beeline's of what is not established; and no more are sent than every mode's table takes.",
    ),
    metric(
      "new-flow-cpu",
      "CPU per new flow",
      "ns",
      "lower",
      "services",
      "CPU time of the same run, as of CPU per packet.",
    ),
  ],
  packets: true,
  asks: UDP,
  extra_s: 0.3,
  run: (stack, { seconds }) =>
    stack.withSink(SINKS.target, async () => {
      const run = await stack.frames(UDP, 0, seconds, mostNewFlows());
      const { right, wrong } = await stack.arrived();
      return {
        values: { "new-flows": (run.rate * right) / run.sent, "new-flow-cpu": (run.cpu_s * 1e9) / right },
        sent: run.sent,
        lost: Math.max(0, run.sent - right),
        wrong,
        flows: right,
        packets: right,
        lossy: true,
      };
    }),
};

/** SYN, ACK, the request, and the end of the connection. */
const PACKETS_PER_CONNECTION = 3;

const connect: Measurement = {
  metrics: [
    metric(
      "connect-p50",
      "TCP connect, median",
      "µs",
      "lower",
      "services",
      "connect() of one new connection at a time; each asks who answers, and checks it.",
    ),
    metric("connect-p99", "TCP connect, 99th percentile", "µs", "lower", "services", "The same connections."),
  ],
  packets: false,
  asks: TCP,
  extra_s: 0.1,
  async run(stack, { seconds, warm_up_s }) {
    const { sent, lost, wrong, p50 = 0, p99 = 0 } = await stack.client(TCP, "connect", seconds, warm_up_s);
    const done = sent - lost - wrong;
    return {
      values: { "connect-p50": p50, "connect-p99": p99 },
      sent,
      lost,
      wrong,
      flows: done,
      packets: PACKETS_PER_CONNECTION * done,
      lossy: false,
    };
  },
};

const requests: Measurement = {
  metrics: [
    metric(
      "requests",
      "Connect, request, close",
      "requests/s",
      "higher",
      "services",
      "64 clients at a time: connect, ask who answers, read, close. Mostly the cost of sockets and of waking up.",
    ),
  ],
  packets: false,
  asks: TCP,
  extra_s: 0.1,
  async run(stack, { seconds, warm_up_s }) {
    const answer = await stack.client(TCP, "requests", seconds, warm_up_s);
    const { sent, lost, wrong, done = 0, seconds: took = seconds } = answer;
    return {
      values: { requests: done / took },
      sent,
      lost,
      wrong,
      flows: done,
      packets: PACKETS_PER_CONNECTION * done,
      lossy: false,
    };
  },
};

const UDP_SOCKETS = 16;

const udp: Measurement = {
  metrics: [
    metric(
      "udp",
      "UDP from sockets",
      "packets/s",
      "higher",
      "mode",
      "Datagrams of 22 bytes from 16 connected sockets, 64 in a system call, counted in the pods before their sockets.",
    ),
    metric(
      "udp-cpu",
      "CPU per UDP datagram",
      "ns",
      "lower",
      "mode",
      "CPU time of the same run, system calls included.",
    ),
  ],
  packets: false,
  asks: UDP,
  extra_s: 0.1,
  run: (stack, { seconds, warm_up_s }) =>
    stack.withSink(SINKS.target, async () => {
      // Sockets of a program that has ended do not warm up those of the next: the first packets are part of it.
      const answer = await stack.client(UDP, "udp", seconds + warm_up_s, 0);
      const { sent, wrong: failed, seconds: took = seconds, cpu_s = 0 } = answer;
      const { right, wrong } = await stack.arrived();
      return {
        values: { udp: right / took, "udp-cpu": (cpu_s * 1e9) / right },
        sent,
        lost: Math.max(0, sent - right),
        wrong: wrong + failed,
        flows: UDP_SOCKETS,
        packets: right,
        lossy: true,
      };
    }),
};

/** The largest packet that a device is given to cut up. */
const LARGEST_PACKET = 65_536;

const runBulk = async (stack: Stack, name: string, { seconds, warm_up_s }: Durations, largest: number) => {
  const answer = await stack.client(TCP, "bulk", seconds, warm_up_s);
  const { sent, lost, wrong, bytes = 0, seconds: took = seconds } = answer;
  return {
    values: { [name]: (bytes * 8) / took / 1e9 },
    sent,
    lost,
    wrong,
    flows: 1,
    packets: Math.max(1, Math.floor(bytes / largest)),
    lossy: false,
  };
};

const bulk: Measurement = {
  metrics: [
    metric(
      "bulk",
      "Bulk TCP, default offloads",
      "Gbit/s",
      "higher",
      "mode",
      "One stream; what the receiver acknowledged. Devices cut up large packets, as NICs do.",
    ),
  ],
  packets: false,
  asks: TCP,
  extra_s: 0.1,
  run: (stack, durations) => runBulk(stack, "bulk", durations, LARGEST_PACKET),
};

const bulkSmall: Measurement = {
  metrics: [
    metric(
      "bulk-1500",
      "Bulk TCP, packets of 1500 bytes",
      "Gbit/s",
      "higher",
      "mode",
      "The same with TSO, GSO and GRO off on all devices: every packet is forwarded by itself.",
    ),
  ],
  packets: false,
  asks: TCP,
  extra_s: 0.3,
  run: (stack, durations) => stack.withOffloads("small", () => runBulk(stack, "bulk-1500", durations, 1500)),
};

const firstPacket: Measurement = {
  metrics: [
    metric(
      "first-packet",
      "First packet and its answer, median",
      "µs",
      "lower",
      "services",
      "A new UDP socket each time: from opening it to the answer of the pod.",
    ),
  ],
  packets: false,
  asks: UDP,
  extra_s: 0.1,
  async run(stack, { seconds, warm_up_s }) {
    const { sent, lost, wrong, p50 = 0 } = await stack.client(UDP, "first", seconds, warm_up_s);
    const done = sent - lost - wrong;
    return { values: { "first-packet": p50 }, sent, lost, wrong, flows: done, packets: done, lossy: false };
  },
};

/** One after another in each round; fewer where one takes long. */
const MOST_CHANGES = 20;
const CHANGES_TIME_S = 0.3;

const update: Measurement = {
  metrics: [
    metric(
      "update",
      "One endpoint changes",
      "ms",
      "lower",
      "services",
      "From knowing it to having it in the kernel: the rules of one service, or the map entries. Median of up to 20 changes.",
    ),
  ],
  packets: false,
  asks: null,
  extra_s: 0.5,
  async run(stack) {
    const took: number[] = [];
    for (let sum = 0; took.length < MOST_CHANGES && sum < CHANGES_TIME_S; sum += took.at(-1) ?? 0)
      took.push(await stack.ask("change"));
    return { ...NOTHING, values: { update: median(took) * 1000 }, sent: took.length };
  },
};

/** In this order in every round. */
export const MEASUREMENTS: readonly Measurement[] = [
  packets,
  packetsAway,
  newFlows,
  connect,
  requests,
  udp,
  bulk,
  bulkSmall,
  firstPacket,
  update,
];

/** Of making a stack. */
export const INSTALL_METRICS: readonly MetricOfResult[] = [
  metric(
    "install",
    "Full install",
    "ms",
    "lower",
    "services",
    "From an empty node to all services in the kernel, what is computed for it included; processes that it starts included; what has to be there before (Node; beeline's programs and maps) is not. On three empty nodes, but once where it takes longer than three seconds.",
  ),
  metric(
    "kernel-memory",
    "Kernel memory",
    "MB",
    "lower",
    "services",
    "What unreclaimable slab, vmalloc and per-CPU memory grew by while all services were installed, with all that the mode needs before (beeline: its maps at their full size, for flows too). Measured with the full install.",
  ),
  metric(
    "process-memory",
    "Process memory",
    "MB",
    "lower",
    "services",
    "The most that the programming process (Node, in every mode) and the programs it started held during the install. Measured with the full install.",
  ),
];

export const METRICS: readonly MetricOfResult[] = [
  ...MEASUREMENTS.flatMap(({ metrics }) => metrics),
  ...INSTALL_METRICS,
];
