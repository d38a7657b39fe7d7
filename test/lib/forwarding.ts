// How a node lets packets go on: every test of packets is written once, and runs in each of these ways.
import { describe } from "node:test";
import type { Records } from "../../src/dataplane/bpf/abi.gen.ts";
import { enterCrossing } from "./crossing.ts";
import { Datapath, type Sizes } from "./datapath.ts";

export type Forwarding = "kernel" | "direct" | "xdp";

/** Under `bpf:` of an agent's configuration. */
export const FORWARDING_FIELDS: Readonly<Record<Forwarding, Readonly<Record<string, string>>>> = {
  kernel: { forwarding: "kernel" },
  direct: { forwarding: "direct" },
  xdp: { forwarding: "direct", xdp: "required" },
};

/** The same as arguments of `beeline run` and `beeline apply`. */
export const forwardingArguments = (forwarding: Forwarding): readonly string[] =>
  Object.entries(FORWARDING_FIELDS[forwarding]).flatMap(([name, value]) => [`--${name}`, value]);

export const FORWARDINGS: readonly Forwarding[] = ["kernel", "direct", "xdp"];

export type NewDatapath = (options?: Partial<Records["options"]>, maxEntries?: Sizes) => Datapath;

export const newDatapathOf =
  (forwarding: Forwarding): NewDatapath =>
  (options, maxEntries) =>
    new Datapath(options, maxEntries, forwarding === "kernel" ? null : enterCrossing(), forwarding === "xdp");

/** Defines what `body` defines once for each. */
export const inEveryForwarding = (body: (newDatapath: NewDatapath, forwarding: Forwarding) => void): void => {
  for (const forwarding of FORWARDINGS) {
    describe(`forwarding: ${forwarding}`, () => body(newDatapathOf(forwarding), forwarding));
  }
};
