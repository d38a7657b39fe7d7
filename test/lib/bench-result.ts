// Results as a run would write them, for tests of what reads them: modelled after real figures, drawn with a seed.
import type { MetricOfResult, ModeOfResult, Result, Sample } from "../../src/bench/result.ts";
import { seededRandom } from "./random.ts";

export interface Draw {
  readonly seed: number;
  readonly rounds?: number;
  readonly services?: readonly number[];
  /** How far samples lie apart, as a share of the value. */
  readonly noise?: number;
  /** Every value of a mode in a metric times so much. */
  readonly factor?: (mode: string, metric: string) => number;
}

const mode = (
  name: string,
  title: string,
  beeline: boolean,
  summary: string,
  skipped: string | null = null,
): ModeOfResult => ({
  name,
  title,
  summary,
  beeline,
  counts_services: name !== "route",
  skipped,
});

export const MODES: readonly ModeOfResult[] = [
  mode(
    "route",
    "plain routing",
    false,
    "The kernel forwards to the pod that the client names itself: no service, the limit.",
  ),
  mode("iptables-legacy", "iptables (legacy)", false, "kube-proxy's iptables rules in x_tables."),
  mode("iptables-nft", "iptables (nft)", false, "The same rules in nf_tables, by iptables-nft."),
  mode("nftables", "nftables", false, "Verdict maps and chains in the layout of kube-proxy's nftables mode."),
  mode("ipvs", "IPVS", false, "Virtual servers in the kernel.", "the kernel has no ip_vs module"),
  mode("bpf-socket", "beeline sockets", true, "Translated once, in the system call."),
  mode("bpf-tc", "beeline tc", true, "tc programs translate every packet, and the kernel forwards it."),
  mode("bpf-tc-direct", "beeline tc direct", true, "tc programs translate and redirect."),
  mode("bpf-xdp", "beeline XDP", true, "The driver's hook translates and sends."),
];

interface Model extends MetricOfResult {
  /** At 10 services, in the order of MODES; null: the mode does not have it. */
  readonly at: readonly (number | null)[];
  /** At so many services, as a multiple: modes whose cost grows. */
  readonly grows?: (mode: string, services: number) => number;
  /** Measured once, not every round. */
  readonly once?: boolean;
  readonly generator?: number;
}

const metric = (
  name: string,
  title: string,
  unit: string,
  better: "higher" | "lower",
  axis: "mode" | "services",
  model: Pick<Model, "at" | "grows" | "once" | "generator">,
): Model => ({
  name,
  title,
  summary: `How ${title.toLowerCase()} is measured, in a sentence.`,
  unit,
  better,
  axis,
  skipped: null,
  ...model,
});

const rules = (slope: { readonly legacy: number; readonly nft: number }) => (name: string, services: number) => {
  const more = services / 10_000;
  if (name === "iptables-legacy") return 1 + slope.legacy * more;
  return name === "iptables-nft" ? 1 + slope.nft * more : 1;
};
const inverse = (grows: (mode: string, services: number) => number) => (name: string, services: number) =>
  1 / grows(name, services);
const linear = (name: string, services: number) => (name === "route" ? 1 : services / 10);

const MODELS: readonly Model[] = [
  metric("packets", "Established packets", "packets/s", "higher", "mode", {
    at: [781e3, 499e3, 432e3, 487e3, null, null, 652e3, 1133e3, 1679e3],
    generator: 2008e3,
  }),
  metric("packet-cpu", "CPU per packet", "ns", "lower", "mode", {
    at: [1280, 2003, 2317, 2052, null, null, 1534, 883, 596],
  }),
  metric("new-flows", "New flows", "flows/s", "higher", "services", {
    at: [627e3, 204e3, 178e3, 194e3, null, null, 343e3, 337e3, 385e3],
    grows: inverse(rules({ legacy: 13, nft: 22 })),
  }),
  metric("connect-p50", "TCP connect, median", "µs", "lower", "services", {
    at: [31.2, 39.1, 40.8, 39.5, null, 32.0, 32.1, 29.8, 31.8],
    grows: rules({ legacy: 1.5, nft: 3.8 }),
  }),
  metric("connect-p99", "TCP connect, 99th percentile", "µs", "lower", "services", {
    at: [63, 67, 78, 70, null, 64, 66, 56, 64],
    grows: rules({ legacy: 1.3, nft: 2.5 }),
  }),
  metric("bulk", "Bulk TCP, default offloads", "Gbit/s", "higher", "mode", {
    at: [18.3, 17.0, 17.2, 17.6, null, 18.2, 18.8, 19.3, 5.2],
  }),
  metric("update", "One endpoint changes", "ms", "lower", "services", {
    at: [null, 24, 14, 8, null, 0.29, 0.3, 0.3, 0.31],
    grows: (name, services) => (name.startsWith("bpf") ? 1 : 1 + services / 120),
  }),
  metric("install", "Full install", "ms", "lower", "services", {
    at: [null, 12, 15, 9, null, 1.1, 1.2, 1.2, 1.2],
    grows: (name, services) => linear(name, services) ** (name === "nftables" ? 1.15 : 0.95),
    once: true,
  }),
  metric("kernel-memory", "Kernel memory", "MB", "lower", "services", {
    at: [null, 0.4, 0.6, 0.3, null, 5, 5, 5, 5],
    grows: (name, services) => (name.startsWith("bpf") ? 1 : (services / 10) ** 0.9),
    once: true,
  }),
];

export const drawResult = ({
  seed,
  rounds = 5,
  services = [10, 1000, 10_000],
  noise = 0.03,
  factor = () => 1,
}: Draw): Result => {
  const next = seededRandom(seed);
  const samples: Sample[] = [];
  for (const model of MODELS) {
    for (const [i, { name, skipped, counts_services }] of MODES.entries()) {
      const at = model.at[i];
      if (skipped !== null || at === null || at === undefined) continue;
      for (const count of counts_services ? services : [0]) {
        for (let round = 0; round < (model.once === true ? 1 : rounds); round++) {
          // Skewed, as times are: seldom much better, sometimes much worse.
          const off = noise * (next() + next() + next() - 1.5 + (next() < 0.1 ? next() : 0));
          const grown = (model.grows?.(name, Math.max(count, 10)) ?? 1) * factor(name, model.name);
          const value = at * grown * (model.better === "higher" ? 1 - off : 1 + off);
          const sent = 20_000 + Math.floor(next() * 1000);
          const proof = {
            counter: name === "route" ? "packets the node's device forwarded" : "new flows of the mode",
            expected: 64,
            counted: 64 + round,
          };
          samples.push({
            mode: name,
            metric: model.name,
            services: count,
            round,
            value,
            sent,
            lost: round === 0 ? 3 : 0,
            proof,
          });
        }
      }
    }
  }
  return {
    kind: "beeline-bench",
    version: 1,
    started: "2026-01-31T12:05:09.000Z",
    duration_s: 754,
    complete: true,
    machine: {
      cpu: "Example EPYC 7000 64-Core Processor",
      cpus: 2,
      memory_bytes: 25_281_000_000,
      kernel: "6.18.5",
      virtual: "kvm",
    },
    versions: {
      beeline: "0.1.0",
      commit: "5a7e11e",
      node: "24.21.0",
      libbpf: "1.1.2",
      iptables: "1.8.9",
      nft: "1.0.6",
    },
    method: {
      rounds,
      seconds: 1,
      warm_up_s: 0.2,
      order: "every mode one after the other, in reverse every other round",
      pinning: [
        { cpu: 0, what: "sender, forwarding" },
        { cpu: 1, what: "servers" },
      ],
      baseline: "iptables-legacy",
      services: [...services],
      command: "beeline bench --services 10,1000,10000 --rounds 5",
    },
    modes: [...MODES],
    metrics: MODELS.map(({ name, title, summary, unit, better, axis, skipped }) => ({
      name,
      title,
      summary,
      unit,
      better,
      axis,
      skipped,
    })),
    gaps: [
      { mode: "bpf-socket", metric: "packets", services: null, why: "socket hooks see no packets from a wire" },
      { mode: "route", metric: "install", services: null, why: "it has no services" },
    ],
    samples,
    generator: MODELS.flatMap(({ name, generator }) =>
      generator === undefined
        ? []
        : Array.from({ length: rounds }, (_, round) => ({
            metric: name,
            round,
            value: generator * (1 + noise * (next() - 0.5)),
          })),
    ),
    problems: [],
  };
};
