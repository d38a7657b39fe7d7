// A node with one frontend of every kind in both families, asked from outside and from pods. Few addresses and ports, so
// that random packets meet each other.
import {
  backend_state,
  device_flag,
  frontend_address_flag,
  frontend_flag,
  maps,
  scope,
} from "../../src/dataplane/bpf/abi.gen.ts";
import type { MapName } from "../../src/dataplane/bpf/mapstore.ts";
import type { Address } from "../../src/model/address.ts";
import { NODE_V4, NODE_V6 } from "../lib/crossing.ts";
import { type Datapath, type Outcome, publish, putBackend } from "../lib/datapath.ts";
import { type Forwarding, newDatapath } from "../lib/forwarding.ts";
import type { Transport } from "../lib/packet.ts";

export type Program = "tc_ingress" | "tc_pod_ingress" | "tc_pod_reply" | "tc_egress";
export const PROGRAMS: readonly Program[] = ["tc_ingress", "tc_pod_ingress", "tc_pod_reply", "tc_egress"];

export interface End {
  readonly address: Address;
  readonly port: number;
}

export interface Backend extends End {
  readonly id: number;
  readonly local: boolean;
  /** Another number is another holder of the id. */
  readonly generation: number;
}

export interface Frontend extends End {
  readonly proto: number;
  readonly service_id: number;
  /** What an empty run means. */
  readonly without: "refuse" | "drop";
  /** Those of its run now. */
  readonly backends: readonly Backend[];
  /** Who may enter; null: everybody. */
  readonly clients: readonly Address[] | null;
  readonly affinity: boolean;
}

export interface Places {
  readonly clients: readonly Address[];
  readonly vips: readonly Address[];
  readonly pods: readonly Address[];
  readonly remotes: readonly Address[];
  readonly node: Address;
  readonly loopback: Address;
  readonly router: Address;
}

const addresses = (...texts: readonly string[]): readonly Address[] => texts as readonly Address[];

export const PLACES: readonly Places[] = [
  {
    clients: addresses("198.51.100.7", "198.51.100.8", "192.0.2.200"),
    vips: addresses("203.0.113.10", "203.0.113.11", "203.0.113.12"),
    pods: addresses("10.1.0.5", "10.1.0.6"),
    remotes: addresses("10.2.0.5", "10.2.0.6"),
    node: NODE_V4,
    loopback: "127.0.0.1" as Address,
    router: "192.0.2.1" as Address,
  },
  {
    clients: addresses("2001:db8:1::7", "2001:db8:1::8", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"),
    vips: addresses("2001:db8:2::10", "2001:db8:2::11", "2001:db8:2::12"),
    pods: addresses("fd00:1::5", "fd00:1::6"),
    remotes: addresses("fd00:2::5", "fd00:2::6"),
    node: NODE_V6,
    loopback: "::1" as Address,
    router: "2001:db8:9::1" as Address,
  },
];

export const CLIENT_PORTS = [40000, 40001, 1023, 8080] as const;
export const NODE_PORT = 30080;
const SNAT_PORTS = { min: 61000, max: 61007 } as const;
const PROTOCOLS: readonly (readonly [Transport, number])[] = [
  ["TCP", 6],
  ["UDP", 17],
];

/** A struct __sk_buff whose gso_size is 100. */
const GSO = new Uint8Array(192);
new DataView(GSO.buffer).setUint32(176, 100, true);

export interface WorldOptions {
  readonly socketLB: boolean;
  /** Of each VIP: nobody else's; a VIP that may be served out there as well; an address of the node's own. */
  readonly vips: readonly ("cluster" | "balancer" | "node")[];
  readonly hash_seed: number;
  readonly forwarding: Forwarding;
}

export class World {
  readonly datapath: Datapath;
  readonly options: WorldOptions;
  readonly snatPorts = SNAT_PORTS;
  #generation = 0;
  readonly #published: readonly Published[];

  constructor(options: WorldOptions) {
    this.options = options;
    this.datapath = newDatapath(options.forwarding, { socket_lb: options.socketLB ? 0 : 2 }, { slots: 16_384 });
    this.reroute(1);
    this.datapath.listen(1e9, 3_600_000_000_000n);
    this.#published = PLACES.flatMap((places) => publishAll(this.datapath, places, options.vips));
  }

  get frontends(): readonly Frontend[] {
    return this.#published.map(({ frontend }) => frontend);
  }

  frontendAt(address: Address, port: number, proto: number): Frontend | null {
    return this.frontends.find((f) => f.address === address && f.port === port && f.proto === proto) ?? null;
  }

  /** What is sent there and for no frontend ends here. */
  refuses(address: Address, program: Program): boolean {
    const kind = PLACES.map(({ vips }) => this.options.vips[vips.indexOf(address)]).find((k) => k !== undefined);
    if (program === "tc_egress") return false;
    return kind === "cluster" || (kind === "balancer" && program === "tc_ingress");
  }

  /** A VIP or an address of the node. */
  isOurs(address: Address): boolean {
    return PLACES.some(({ vips, node, loopback }) => [...vips, node, loopback].includes(address));
  }

  run(program: Program, frame: Uint8Array, gso: boolean): Outcome {
    const { datapath } = this;
    const context = gso ? GSO : undefined;
    switch (program) {
      case "tc_ingress":
        return datapath.ingress(frame, context);
      case "tc_pod_ingress":
        return datapath.podIngress(frame, context);
      case "tc_pod_reply":
        return datapath.podReply(frame, context);
      case "tc_egress":
        return datapath.egress(frame, context);
    }
  }

  /**
   * As the agent does when routes or devices change: what is known of next hops is good no more. 0: all packets by the kernel;
   * 3: those into pods, whose device may not be used.
   */
  reroute(generation: number): void {
    this.#generation = this.options.forwarding === "kernel" ? 0 : generation;
    if (this.options.forwarding !== "kernel") {
      const flags = generation === 3 ? 0 : device_flag.DEVICE_PEER;
      this.datapath.put("devices", this.datapath.deviceIndex("pod"), { flags });
    }
    this.datapath.configure({
      hash_seed: this.options.hash_seed,
      snat_port_min: SNAT_PORTS.min,
      snat_port_max: SNAT_PORTS.max,
      next_hop_generation: this.#generation,
    });
  }

  /** May a program send packets on now? */
  get sends(): boolean {
    return this.#generation !== 0;
  }

  /** Takes a frontend's first backend away, as the agent does: first out of the run, then as such. */
  retire(index: number): void {
    const published = this.#at(index);
    const [gone, ...rest] = published.frontend.backends;
    if (gone === undefined) return;
    published.write(rest);
    putBackend(this.datapath, { ...gone, state: backend_state.BACKEND_NONE }, published.frontend.service_id);
    published.frontend = { ...published.frontend, backends: rest };
  }

  /** Gives it back all that it had; what was gone comes as somebody new. */
  restore(index: number): void {
    const published = this.#at(index);
    const { all, frontend } = published;
    const backends = all.map((b) => frontend.backends.find((kept) => kept.id === b.id) ?? { ...b, generation: ++ids });
    if (backends.length === frontend.backends.length) return;
    published.write(backends);
    published.frontend = { ...frontend, backends };
  }

  #at(index: number): Published {
    const published = this.#published[index];
    if (published === undefined) throw new Error(`There is no frontend ${index}`);
    return published;
  }

  /** Forgets every packet so far, and what was taken away. */
  forget(): void {
    for (const index of this.#published.keys()) this.restore(index);
    this.reroute(1);
    for (const map of LEARNED) for (const [key] of this.datapath.entries(map)) this.datapath.remove(map, key);
    this.datapath.events();
  }

  close(): void {
    this.datapath.close();
  }
}

/** Maps that packets fill. */
const LEARNED = (Object.keys(maps) as MapName[]).filter(
  (map) => maps[map].type === 9 /* LRU hash */ || /flow|fragment|affinity/.test(map),
);

const { FRONTEND_ADDRESS_VIP: VIP, FRONTEND_ADDRESS_CLUSTER_IP: CLUSTER_IP } = frontend_address_flag;
const FLAGS = { cluster: VIP | CLUSTER_IP, balancer: VIP, node: 0 } as const;

interface Published {
  frontend: Frontend;
  readonly all: readonly Backend[];
  /** Writes a run of these backends, and flips the frontend to it. */
  readonly write: (backends: readonly Backend[]) => void;
}

let ids = 0;
/** Slots of one frontend: two runs, in turn. */
const SLOTS = 8;

const publishAll = (datapath: Datapath, places: Places, kinds: WorldOptions["vips"]): readonly Published[] => {
  const { vips, pods, remotes, clients, node, loopback } = places;
  const family = node.includes(":") ? "IPv6" : "IPv4";
  datapath.put("node_addresses", node, { flags: 0 });
  datapath.put("node_addresses", loopback, { flags: 1 });
  const [vip, vip2, vip3] = vips as readonly [Address, Address, Address];
  const [pod, pod2] = pods as readonly [Address, Address];
  const [remote, remote2] = remotes as readonly [Address, Address];
  return PROTOCOLS.flatMap(([name, proto]) => {
    const serve = (
      address: Address | null,
      port: number,
      to: readonly Address[],
      words: { readonly drop?: boolean; readonly clients?: readonly Address[]; readonly affinity?: boolean } = {},
    ): Published => {
      const service_id = ++ids;
      const all = to.map(
        (to): Backend => ({ id: ++ids, address: to, port: 8080, local: pods.includes(to), generation: ++ids }),
      );
      const flags =
        (words.drop ? frontend_flag.FRONTEND_DROP : 0) | (words.clients ? frontend_flag.FRONTEND_SOURCE_RANGES : 0);
      for (const client of words.clients ?? []) {
        datapath.put("source_ranges", { prefixlen: 32 + 128, service_id, addr: client }, { allow: 1 });
      }
      const address_flags = address === null ? 0 : FLAGS[kinds[vips.indexOf(address)] ?? "node"];
      let runs = 0;
      const write = (backends: readonly Backend[]): void => {
        const slot_base = service_id * SLOTS + (runs++ % 2) * (SLOTS / 2);
        for (const asked of [scope.SCOPE_EXTERNAL, scope.SCOPE_INTERNAL]) {
          const spec = {
            address,
            family,
            port,
            proto: name,
            service_id,
            flags,
            slot_base,
            scope: asked,
            address_flags,
          } as const;
          publish(datapath, { ...spec, affinity_timeout_s: words.affinity ? 3600 : 0 }, backends);
        }
      };
      write(all);
      const without = words.drop ? "drop" : "refuse";
      const { clients = null, affinity = false } = words;
      const frontend = {
        address: address ?? node,
        port,
        proto,
        service_id,
        without,
        backends: all,
        clients,
        affinity,
      } as const;
      return { frontend, all, write };
    };
    return [
      serve(vip, 80, [pod, pod2]),
      serve(vip2, 80, [pod]),
      serve(vip3, 53, [remote, remote2]),
      serve(vip3, 54, []),
      serve(vip3, 55, [], { drop: true }),
      serve(vip3, 56, [pod], { clients: clients.slice(0, 1) }),
      serve(vip3, 57, [pod, pod2, remote], { affinity: true }),
      serve(null, NODE_PORT, [pod, remote]),
    ];
  });
};
