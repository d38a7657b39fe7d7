// Manifests compiled without touching a node: for `compile` and `explain -f`.
import type { Config } from "../agent/config.ts";
import { readHost } from "../agent/host.ts";
import { type Compiled, compile } from "../compile/compile.ts";
import { readManifests } from "../k8s/manifests.ts";
import { type Address, parseAddress } from "../model/address.ts";
import type { Problem, Snapshot } from "../model/snapshot.ts";
import type { Args } from "./command.ts";

export interface Offline {
  readonly config: Config;
  readonly snapshot: Snapshot;
  readonly compiled: Compiled;
  /** Of the manifests and of the compiler. */
  readonly problems: readonly Problem[];
}

/** Throws InputError when a file cannot be read at all. */
export const compileOffline = async (files: readonly string[], args: Args): Promise<Offline> => {
  const { loadConfig } = await import("../agent/config.ts");
  const { config } = loadConfig(args);
  const { nodeName, nodePortAddresses } = config;
  const { snapshot, problems } = readManifests(files, nodeName);
  const localAddresses = addressesOf(snapshot);
  const compiled = compile(snapshot, { nodeName, localAddresses, nodePortAddresses });
  const missing: readonly Problem[] =
    snapshot.node === null
      ? [{ object: `Node ${nodeName}`, path: "", message: "is not in the manifests (see --node)" }]
      : [];
  return { config, snapshot, compiled, problems: [...missing, ...problems, ...compiled.problems] };
};

/** The addresses that the manifests give this node; those of the machine we are on only when they name no such Node. */
const addressesOf = ({ node }: Snapshot): readonly Address[] => {
  if (node === null) return readHost().addresses.map((a) => a.address);
  const loopback = ["127.0.0.1", "::1"].map(parseAddress).filter((a) => a !== null);
  return [...node.addresses, ...loopback];
};
