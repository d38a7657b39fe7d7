// kube-proxy's settings of the kernel's connection tracking, for the dataplane whose connections it remembers. A setting
// that may not be made is named and left: a node serves with others, too.
import { readFileSync, writeFileSync } from "node:fs";
import { messageOf } from "../lib/errors.ts";
import type { Log } from "./log.ts";

/** 0 everywhere: left as it is. */
export interface ConntrackConfig {
  /** Of the largest number of connections: so many for each processor, and at least… */
  readonly maxPerCore: number;
  readonly min: number;
  readonly tcpEstablishedTimeout_ms: number;
  readonly tcpCloseWaitTimeout_ms: number;
  /** Packets outside their window are no reason to call them INVALID. */
  readonly tcpBeLiberal: boolean;
  readonly udpTimeout_ms: number;
  readonly udpStreamTimeout_ms: number;
}

/** Names below net.netfilter with their values, in kube-proxy's order. */
export const conntrackSettings = (
  config: ConntrackConfig,
  processors: number,
): readonly (readonly [string, number])[] => {
  const seconds = (ms: number): number => Math.floor(ms / 1000);
  const max = config.maxPerCore === 0 ? 0 : Math.max(config.maxPerCore * processors, config.min);
  const settings = [
    ["nf_conntrack_max", max],
    ["nf_conntrack_tcp_timeout_established", seconds(config.tcpEstablishedTimeout_ms)],
    ["nf_conntrack_tcp_timeout_close_wait", seconds(config.tcpCloseWaitTimeout_ms)],
    ["nf_conntrack_tcp_be_liberal", config.tcpBeLiberal ? 1 : 0],
    ["nf_conntrack_udp_timeout", seconds(config.udpTimeout_ms)],
    ["nf_conntrack_udp_timeout_stream", seconds(config.udpStreamTimeout_ms)],
  ] as const;
  return settings.filter(([, value]) => value > 0);
};

export const setConntrack = (settings: readonly (readonly [string, number])[], log: Log): void => {
  for (const [name, value] of settings) {
    const path = `/proc/sys/net/netfilter/${name}`;
    try {
      if (readFileSync(path, "utf8").trim() !== String(value)) writeFileSync(path, String(value));
    } catch (error) {
      log("warn", `Cannot set net.netfilter.${name}, it stays as it is`, { value, error: messageOf(error) });
    }
  }
};
