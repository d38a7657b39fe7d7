// How a node lets packets go on: every test of packets is written once, and runs in each of these ways.
import { afterEach, describe } from "node:test";
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

export const newDatapath = (
  forwarding: Forwarding,
  options: Partial<Records["options"]> = {},
  maxEntries: Sizes = {},
): Datapath => new Datapath(options, maxEntries, forwarding === "kernel" ? null : enterCrossing, forwarding === "xdp");

/** Defines what `body` defines once for each, over a datapath that is empty at the beginning of each test. */
export const inEveryForwarding = (body: (datapath: Datapath, forwarding: Forwarding) => void): void => {
  for (const forwarding of FORWARDINGS) {
    describe(`forwarding: ${forwarding}`, () => {
      const datapath = newDatapath(forwarding);
      afterEach(() => datapath.close());
      body(datapath, forwarding);
    });
  }
};
