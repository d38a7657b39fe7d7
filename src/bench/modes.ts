// Every mode: its words, what the kernel and the machine must have for it, and what opens it on a node. A new mode is one
// more row here, one in node/process.ts, and where it is another dataplane one more file of node/.

import { probeKernel } from "../dataplane/bpf/probe.ts";
import { versionOf } from "../dataplane/iptables/command.ts";
import { firstLineOf } from "./lab/process.ts";
import type { ModeOfResult } from "./result.ts";

export interface Mode extends Omit<ModeOfResult, "skipped"> {
  /** Packets that come by a wire go through it. False: sockets of this node only. */
  readonly packets: boolean;
  /** What its own counter counts: every packet, first packets of flows, or sockets. */
  readonly counts: "packets" | "flows";
  /** Clients ask the pods themselves, not the service. */
  readonly direct: boolean;
  /** Why it cannot be measured here; null: it can. */
  readonly missing: () => string | null;
}

const iptables = (flavour: "legacy" | "nft") => (): string | null => {
  for (const program of [`iptables-${flavour}`, `iptables-${flavour}-restore`])
    if (versionOf(program) === null) return `${program} not found (Debian package iptables)`;
  return conntrack();
};

/** What empties and lists the kernel's table of tracked flows. */
const conntrack = (): string | null =>
  versionOf("conntrack") === null ? "conntrack not found (Debian package conntrack)" : null;

const nftables = (): string | null => {
  if (firstLineOf("nft", ["--version"]) === null) return "nft not found (Debian package nftables)";
  return conntrack();
};

const bpf = (): string | null => {
  const lacking = probeKernel({}).filter(({ ok, needed }) => needed && !ok);
  return lacking.length === 0 ? null : lacking.map(({ feature, detail }) => `${feature}: ${detail}`).join("; ");
};

/** The rules of one of its modes. */
const KUBE_PROXY = {
  beeline: false,
  counts_services: true,
  packets: true,
  counts: "flows",
  direct: false,
} as const;

const BEELINE = {
  beeline: true,
  counts_services: true,
  packets: true,
  counts: "packets",
  direct: false,
  missing: bpf,
} as const;

export const MODES: readonly Mode[] = [
  {
    name: "route",
    title: "plain routing",
    summary: "The kernel forwards to the pod that the client names itself: no service, no translation, the limit.",
    beeline: false,
    counts_services: false,
    packets: true,
    counts: "packets",
    direct: true,
    missing: () => null,
  },
  {
    ...KUBE_PROXY,
    name: "iptables-legacy",
    title: "iptables (legacy)",
    summary: "kube-proxy's iptables rules in x_tables, as beeline's reference dataplane writes them.",
    missing: iptables("legacy"),
  },
  {
    ...KUBE_PROXY,
    name: "iptables-nft",
    title: "iptables (nft)",
    summary: "The same rules in nf_tables, by iptables-nft.",
    missing: iptables("nft"),
  },
  {
    ...KUBE_PROXY,
    name: "nftables",
    title: "nftables",
    summary: "Verdict maps and chains as kube-proxy's nftables mode lays them out since v1.36.",
    missing: nftables,
  },
  {
    ...BEELINE,
    name: "bpf-socket",
    title: "beeline sockets",
    summary:
      "beeline's socket hooks: the address is translated once, in the system call; packets are then only routed.",
    packets: false,
    counts: "flows",
  },
  {
    ...BEELINE,
    name: "bpf-tc",
    title: "beeline tc",
    summary: "beeline's tc programs on the node's device translate every packet, and the kernel forwards it.",
  },
  {
    ...BEELINE,
    name: "bpf-tc-direct",
    title: "beeline tc direct",
    summary:
      "The same programs with bpf.forwarding: direct: they write both sides and send packets on, into the pod or out by a device.",
  },
  {
    ...BEELINE,
    name: "bpf-xdp",
    title: "beeline XDP",
    summary:
      "beeline's XDP on the node's devices sends on what goes to another node, and its replies, before there is an skb; all else goes on to tc direct.",
  },
];
