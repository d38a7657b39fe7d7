// Pods that the socket hooks leave alone, because their packets are translated at their devices: by the cookies of their
// network namespaces, which the hooks ask for. A pod whose namespace is not found keeps its socket hooks, and is served too.
import { messageOf } from "../../lib/errors.ts";
import { decode, encode } from "./codec.ts";
import type { Log } from "./hooks.ts";
import type { MapStore } from "./mapstore.ts";
import { inNetnsOf, type NetnsId, netnsFiles, netnsIdOf, OWN_NETNS, peerNetns } from "./netns.ts";
import { interfaceIndex } from "./system/interface.ts";
import { netnsCookie } from "./system/namespace.ts";

export interface Unhooked {
  /** Gives back to the hooks the pods that are behind none of these devices. Before programs are taken off devices. */
  keep(podDevices: readonly string[]): void;
  /** The pods behind these devices, and no others, are left alone. After programs are on the devices. */
  set(podDevices: readonly string[]): void;
}

/** Without `isWanted` no pod is left alone. Never throws: what cannot be done is named in the log, while it lasts once. */
export const createUnhooked = (store: MapStore, isWanted: boolean, log: Log): Unhooked => {
  let named: ReadonlySet<string> = new Set();
  const warn = (failures: ReadonlyMap<string, string>): void => {
    const texts = [...failures].map(([device, error]) => ({ device, error, text: `${device}: ${error}` }));
    for (const { device, error, text } of texts) {
      if (!named.has(text))
        log("warn", `Sockets of the pod behind ${device} stay translated in their calls`, { error });
    }
    named = new Set(texts.map(({ text }) => text));
  };
  const guard = (write: () => void): void => {
    try {
      write();
    } catch (error) {
      log("warn", "Cannot tell the socket hooks which pods to leave alone", { error: messageOf(error) });
    }
  };
  const remove = (isGone: (netns: bigint, ifindex: number) => boolean): void => {
    const rows = [...store.entries("unhooked_netns")];
    const gone = rows.filter(([netns, ifindex]) => isGone(decode("u64", netns), decode("u32", ifindex)));
    store.delete(
      "unhooked_netns",
      gone.map(([netns]) => netns),
    );
  };
  return {
    keep(podDevices) {
      const kept = new Set(isWanted ? podDevices.map(interfaceIndex) : []);
      guard(() => remove((_netns, ifindex) => !kept.has(ifindex)));
    },
    set(podDevices) {
      guard(() => {
        const { pods, failures } = podsBehind(isWanted ? podDevices : []);
        warn(failures);
        remove((netns) => !pods.has(netns));
        store.update(
          "unhooked_netns",
          [...pods].map(([netns, ifindex]) => [encode("u64", netns), encode("u32", ifindex)]),
        );
      });
    },
  };
};

interface Pods {
  /** Interface index of the device by the cookie of the namespace at its other end. */
  readonly pods: ReadonlyMap<bigint, number>;
  /** Why a namespace is not known, by device. */
  readonly failures: ReadonlyMap<string, string>;
}

const podsBehind = (devices: readonly string[]): Pods => {
  const pods = new Map<bigint, number>();
  const failures = new Map<string, string>();
  const sought = new Map<NetnsId, { readonly device: string; readonly ifindex: number }>();
  for (const device of devices) {
    const ifindex = interfaceIndex(device);
    const netns = ifindex === null ? null : peerNetns(ifindex);
    if (ifindex !== null && netns !== null) sought.set(netns, { device, ifindex }); // a tap's other end has no sockets
  }
  for (const { path } of sought.size === 0 ? [] : netnsFiles()) {
    const netns = path === OWN_NETNS ? null : netnsIdOf(path);
    const found = netns === null ? undefined : sought.get(netns);
    if (netns === null || found === undefined) continue;
    const cookie = cookieOf(path);
    if (typeof cookie === "bigint") pods.set(cookie, found.ifindex);
    else failures.set(found.device, cookie.error);
    sought.delete(netns);
    if (sought.size === 0) break;
  }
  for (const { device } of sought.values()) {
    failures.set(device, "no file below /run/netns or /proc leads to its network namespace");
  }
  return { pods, failures };
};

const cookieOf = (path: string): bigint | { readonly error: string } => {
  try {
    return inNetnsOf(path, netnsCookie);
  } catch (error) {
    return { error: messageOf(error) };
  }
};
