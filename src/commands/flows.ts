// `beeline flows`: what the tc hook remembers, one row for each direction that it rewrites.
import { type FlowRecord, readFlows } from "../dataplane/bpf/inspect.ts";
import type { MapStore } from "../dataplane/bpf/mapstore.ts";
import type { ConnectionState } from "../dataplane/bpf/states.ts";
import { bootTime_ns } from "../dataplane/bpf/system/clock.ts";
import { interfaceName } from "../dataplane/bpf/system/interface.ts";
import { age, columns } from "../lib/text.ts";
import { formatHostPort } from "../model/address.ts";
import type { Run } from "./command.ts";
import { readServiceNames } from "./held.ts";
import { withPinnedMaps } from "./pinned.ts";
import { type Report, show } from "./report.ts";

export const flows: Run = (args, io) =>
  show(args, io, () => withPinnedMaps(args, (store) => flowReport(store, bootTime_ns())));

export const flowReport = (store: MapStore, now_ns: bigint): Report => {
  const names = readServiceNames(store);
  const all = [...readFlows(store)].sort((a, b) => (textOf(a) < textOf(b) ? -1 : 1));
  const sinceNow = (then_ns: bigint): string => age(Number((now_ns - then_ns) / 1_000_000n));
  return {
    kind: "FlowList",
    fields: { items: all.map((flow) => ({ ...flow, service: names.get(flow.service_id) ?? null })) },
    text: ({ wide, headers }) =>
      columns(
        headers
          ? [
              ...["PROTO", "FROM", "TO", "DOES", "WITH", "IDLE", "STATE", "SERVICE"],
              ...(wide ? ["AGE", "SERVICE-ID", "BACKEND-ID", "GENERATION", "FAR-SIDE", "CLIENT-PORT", "NEXT-HOP"] : []),
            ]
          : null,
        all.map((flow) => [
          flow.protocol,
          end(flow.from),
          end(flow.to),
          flow.kind,
          end(flow.rewrite),
          sinceNow(flow.last_seen_ns),
          flow.state === null ? "orphan" : STATE_TEXTS[flow.state],
          names.get(flow.service_id) ?? "-",
          ...(wide
            ? [
                sinceNow(flow.created_ns),
                ...[flow.service_id, flow.backend_id, flow.generation].map(String),
                flow.far === null ? "-" : end(flow.far),
                String(flow.client_port),
                nextHopText(flow),
              ]
            : []),
        ]),
      ),
  };
};

const STATE_TEXTS: Readonly<Record<ConnectionState, string>> = {
  tcpHalfOpen: "half-open",
  tcpEstablished: "established",
  tcpHalfClosed: "half-closed",
  tcpClosed: "closed",
  tcpReset: "reset",
  udp: "unanswered",
  udpStream: "stream",
};

/** `wire eth0 02:00:00:00:00:01`, `peer veth1a2b`; `(old)`: it is found anew for the next packet. */
const nextHopText = ({ next_hop }: FlowRecord): string => {
  if (next_hop === null) return "kernel";
  const { way, device, mac, isCurrent } = next_hop;
  const where = [way, interfaceName(device) ?? `#${device}`, ...(way === "wire" ? [mac] : [])];
  return [...where, ...(isCurrent ? [] : ["(old)"])].join(" ");
};

const end = ({ address, port }: FlowRecord["from"]): string => formatHostPort(address, port);

const textOf = (flow: FlowRecord): string => `${flow.protocol} ${end(flow.from)} ${end(flow.to)} ${flow.kind}`;
