// A row of `flows` by what a test says of it.
import type { Flow, NextHop } from "../../src/dataplane/bpf/abi.gen.ts";
import { NO_ADDRESS } from "../../src/dataplane/bpf/tables.ts";

const NO_MAC = [0, 0, 0, 0, 0, 0];

export const NOWHERE: NextHop = {
  from: 0,
  ifindex: 0,
  dmac: NO_MAC,
  smac: NO_MAC,
  mtu: 0,
  way: 0,
  version: 0,
  generation: 0,
  window: 0,
};

const NOTHING: Flow = {
  addr: NO_ADDRESS,
  port: 0,
  kind: 0,
  flags: 0,
  service_id: 0,
  backend_id: 0,
  generation: 0,
  far_port: 0,
  client_port: 0,
  last_tick: 0,
  awaited_ack: 0,
  created_ns: 0n,
  last_seen_ns: 0n,
  far_addr: NO_ADDRESS,
  next_hop: NOWHERE,
};

/** What is not said is 0. */
export const flowOf = (said: Partial<Flow>): Flow => ({ ...NOTHING, ...said });

/** In which window of 1,024 ticks a flow from this port is: as the port stands in memory. */
export const windowOf = (tick: number, src_port: number): number =>
  Number(((BigInt(tick) + BigInt(((src_port & 255) << 8) | (src_port >> 8))) >> 10n) & 0xffffn);
