// How a node lets packets go on: every test of packets is written once, and runs in each of these ways.
import { describe } from "node:test";
import { Datapath } from "./datapath.ts";

export type Forwarding = "kernel";

export const FORWARDINGS: readonly Forwarding[] = ["kernel"];

export type NewDatapath = (...args: ConstructorParameters<typeof Datapath>) => Datapath;

/** Defines what `body` defines once for each. */
export const inEveryForwarding = (body: (newDatapath: NewDatapath, forwarding: Forwarding) => void): void => {
  for (const forwarding of FORWARDINGS) {
    describe(`forwarding: ${forwarding}`, () => body((...args) => new Datapath(...args), forwarding));
  }
};
