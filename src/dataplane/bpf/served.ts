// Which devices are served for what, and the order in which that changes: nothing is allowed on a device before the
// programs that it takes are on it, and nothing is left allowed that a program is needed for when it leaves.
import { messageOf } from "../../lib/errors.ts";
import type { Obstacle } from "../obstacle.ts";
import { device_flag } from "./abi.gen.ts";
import { type Fitness, foreignObstacles, readFitness } from "./fitness.ts";
import type { Forwarding, ForwardingMode } from "./forwarding.ts";
import type { HookOptions, Hooks } from "./hooks.ts";
import type { Xdp } from "./xdp.ts";

export interface Served {
  /** Attaches the programs, once; later calls do nothing. */
  attach(): void;
  set(devices: readonly string[], podDevices: readonly string[]): void;
  setMode(mode: ForwardingMode): void;
  /** Devices may have become fit for direct forwarding, or unfit. Never throws: what cannot be done is named in the log. */
  look(): void;
  fitness(): readonly Fitness[];
  /** What of others' on node devices would be passed by. Throws SystemError. */
  obstacles(): readonly Obstacle[];
}

export interface ServedParts {
  readonly options: HookOptions;
  readonly hooks: Hooks;
  readonly xdp: Xdp;
  readonly forwarding: Forwarding;
  /** The programs can forward directly at all. */
  readonly canForward: boolean;
  /** Before us packets were sent on directly, of connections that may still be unknown to conntrack. */
  readonly hasForwarded: boolean;
  /** Packets of open connections go by the kernel that did not before. */
  readonly tellConntrack: () => void;
  /** Before programs are on node devices. */
  readonly prepare: (devices: readonly string[]) => void;
}

export const createServed = (parts: ServedParts): Served => {
  const { options, hooks, xdp, forwarding, canForward, prepare } = parts;
  let { devices, podDevices } = options;
  let { mode } = forwarding.facts();
  /** Then the programs for pods' replies stay, whatever the mode: connections from before may still be unknown to conntrack. */
  let hasForwarded = parts.hasForwarded || (canForward && mode === "direct");
  let fitness: readonly Fitness[] = [];
  let isAttached = false;

  const read = (): readonly Fitness[] => (hasForwarded ? readFitness(devices, hooks.programIds()) : []);

  const targetsOf = (programs: readonly string[]): ReadonlySet<string> =>
    new Set(hooks.attachments().flatMap((one) => (programs.includes(one.program) ? [one.target] : [])));

  /** One that is not fit any more keeps its program: what was sent on is the kernel's from now on, which is to know of it. */
  const setHooks = (): void => {
    const kept = targetsOf(["tc_pod_reply"]);
    const peers = fitness.filter((one) => isPeer(one) || kept.has(one.name)).map(({ name }) => name);
    hooks.setDevices(devices, podDevices, peers);
  };

  const apply = (): void => {
    forwarding.restrictDevices(flagsOf(fitness, mode === "direct" ? xdp.native() : []));
    setHooks();
    const replying = targetsOf(REPLY_PROGRAMS);
    if (isAttached) xdp.set(devices, mode === "direct" ? null : "packets go on by the kernel (bpf.forwarding)");
    const ready = fitness.filter((one) => !isPeer(one) || replying.has(one.name));
    forwarding.setDevices(flagsOf(ready, xdp.native()));
  };

  const tellConntrack = (): void => {
    if (isAttached && hasForwarded && mode === "kernel") parts.tellConntrack();
  };

  return {
    attach() {
      if (isAttached) return;
      fitness = read();
      setHooks(); // so that no program leaves a device for a moment
      hooks.attach();
      isAttached = true;
      apply();
      tellConntrack();
    },
    set(nextDevices, nextPodDevices) {
      devices = nextDevices;
      podDevices = nextPodDevices;
      prepare(devices);
      fitness = read();
      apply();
    },
    setMode(next) {
      mode = next;
      if (mode === "kernel") forwarding.set(mode);
      tellConntrack();
      hasForwarded ||= canForward && mode === "direct";
      fitness = read();
      apply();
      if (canForward) forwarding.set(mode);
    },
    look() {
      try {
        const next = read();
        if (JSON.stringify(next) === JSON.stringify(fitness)) return;
        fitness = next;
        apply();
      } catch (error) {
        options.log("error", "Cannot look at devices for direct forwarding", { error: messageOf(error) });
      }
    },
    fitness: () => fitness,
    obstacles: () => foreignObstacles(devices, hooks.programIds()),
  };
};

/** Programs that undo what a pod replies. */
const REPLY_PROGRAMS: readonly string[] = ["tc_pod_reply", "tc_pod_ingress"];

const isPeer = ({ flags }: Fitness): boolean => (flags & device_flag.DEVICE_PEER) !== 0;

/** `native`: names of devices that XDP is on. */
const flagsOf = (fitness: readonly Fitness[], native: readonly string[]): ReadonlyMap<number, number> =>
  new Map(
    fitness.map(({ index, name, flags }) => {
      const isXdp = (flags & device_flag.DEVICE_WIRE) !== 0 && native.includes(name);
      return [index, isXdp ? flags | device_flag.DEVICE_XDP : flags];
    }),
  );
