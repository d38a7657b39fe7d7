// What a connection's flags say of its state, and how long it may be silent in it. As bpf/lifetime.h has it.
import { flow_flag, flow_state, maps } from "./abi.gen.ts";

export type ConnectionState = keyof typeof DEFAULT_TIMEOUTS_S;

/** nf_conntrack's defaults, but for half-closed TCP, where it is kube-proxy's. */
export const DEFAULT_TIMEOUTS_S = {
  tcpHalfOpen: 60,
  tcpEstablished: 24 * 60 * 60,
  tcpHalfClosed: 60 * 60,
  tcpClosed: 120,
  tcpReset: 10,
  udp: 30,
  udpStream: 120,
} as const;

export type ByState = Readonly<Record<ConnectionState, number>>;

const NUMBERS: Readonly<Record<ConnectionState, number>> = {
  tcpHalfOpen: flow_state.STATE_TCP_HALF_OPEN,
  tcpEstablished: flow_state.STATE_TCP_ESTABLISHED,
  tcpHalfClosed: flow_state.STATE_TCP_HALF_CLOSED,
  tcpClosed: flow_state.STATE_TCP_CLOSED,
  tcpReset: flow_state.STATE_TCP_RESET,
  udp: flow_state.STATE_UDP,
  udpStream: flow_state.STATE_UDP_STREAM,
};

export const CONNECTION_STATES = Object.keys(NUMBERS) as readonly ConnectionState[];

/** As `config` and `expiry` have them: by number, one more for padding. */
export const encodeByState = (values: ByState): number[] => {
  const numbers = new Array<number>(flow_state.FLOW_STATES + 1).fill(0);
  for (const state of CONNECTION_STATES) numbers[NUMBERS[state]] = values[state];
  return numbers;
};

export const decodeByState = (numbers: readonly number[]): ByState =>
  Object.fromEntries(CONNECTION_STATES.map((state) => [state, numbers[NUMBERS[state]] ?? 0])) as ByState;

export const NONE_BY_STATE: ByState = decodeByState([]);

const IPPROTO_TCP = 6;

/** state_of() of bpf/lifetime.h, for the flags of a FLOW_DNAT. */
export const stateOf = (proto: number, flags: number): ConnectionState => {
  const has = (flag: keyof typeof flow_flag): boolean => (flags & flow_flag[flag]) !== 0;
  if (proto !== IPPROTO_TCP) return has("FLOW_SETTLED") ? "udpStream" : "udp";
  if (has("FLOW_RESET")) return "tcpReset";
  if (has("FLOW_CLIENT_FIN") && has("FLOW_BACKEND_FIN")) return "tcpClosed";
  if (has("FLOW_CLIENT_FIN") || has("FLOW_BACKEND_FIN")) return "tcpHalfClosed";
  return has("FLOW_SETTLED") ? "tcpEstablished" : "tcpHalfOpen";
};

/** A table without settings of its own is a sixteenth as large as flows: a flood fills a quarter of those at most. */
export const expendablesFor = (flows: number = maps.flows.max_entries): number =>
  Math.max(1, Math.min(maps.expendables.max_entries, Math.floor(flows / 16)));
