// `beeline diff`: two sources of what a node does with Services, compared frontend by frontend: what should be, what the
// maps hold, the rules on the node, or files of them. compile/difference.ts compares; this finds both sides.
import { readFiles } from "../agent/file-reading.ts";
import { readHost } from "../agent/host.ts";
import { readNodeRules, type Wanted } from "../agent/node-rules.ts";
import { readOnce, watchOf } from "../agent/watch.ts";
import { contestedEntrances } from "../compile/claims.ts";
import { compile } from "../compile/compile.ts";
import { compare } from "../compile/difference.ts";
import { type Reading, wholeReading } from "../compile/reading.ts";
import { InputError, isRefusedError, RefusedError } from "../lib/errors.ts";
import type { Address } from "../model/address.ts";
import type { Snapshot } from "../model/snapshot.ts";
import type { Args, Io, Run } from "./command.ts";
import { differenceReport } from "./difference-report.ts";
import { show } from "./report.ts";

export const diff: Run = (args, io) => {
  const sides = { left: sideOf(args.left ?? [], "bpf"), right: sideOf(args.against ?? [], "desired") };
  const live = sides.left.live || sides.right.live;
  return show(args, io, async () => {
    const [left, right] = [await sides.left.read({ args, io, live }), await sides.right.read({ args, io, live })];
    return differenceReport(left, right, compare(left, right));
  });
};

interface Context {
  readonly args: Args;
  readonly io: Io;
  /** One of the sides is this node as it is: then desired is by its addresses, as the agent's is. */
  readonly live: boolean;
}

interface Side {
  readonly live: boolean;
  read(context: Context): Reading | Promise<Reading>;
}

/** A word, or the paths of one source's files; `otherwise` where nothing is said. */
const sideOf = (said: readonly string[], otherwise: string): Side => {
  const words = said.length === 0 ? [otherwise] : said;
  const known = words.find((word) => SIDES.has(word));
  const side = SIDES.get(known ?? "");
  if (side === undefined) return { live: false, read: () => readFiles(words) };
  if (words.length === 1) return side;
  throw new InputError(`${words.join(" ")}: expected ${known} or files, not both (a file of that name is ./${known})`);
};

const rules = (wanted: Wanted): Side => ({ live: true, read: () => readNodeRules(wanted, localAddresses()) });

const SIDES: ReadonlyMap<string, Side> = new Map(
  Object.entries({
    desired: { live: false, read: (context) => readDesired(context) },
    bpf: { live: true, read: ({ args }) => readMaps(args) },
    iptables: rules("iptables"),
    nftables: rules("nftables"),
    ipvs: rules("ipvs"),
    "kube-proxy": rules("kube-proxy"),
  }),
);

const readMaps = async (args: Args): Promise<Reading> => {
  const { withPinnedMaps } = await import("./pinned.ts");
  const { readHeld } = await import("./held.ts");
  try {
    return await withPinnedMaps(args, (store, bpffs) =>
      wholeReading("bpf", `maps under ${bpffs}`, readHeld(store).desired),
    );
  } catch (error) {
    if (!isRefusedError(error)) throw error;
    throw new RefusedError(`${error.message}. Without maps, compare what should be: beeline diff desired --against …`, {
      cause: error,
    });
  }
};

const CLUSTER_WAIT_MS = 30_000;

/** From -f or --manifests, else from the cluster. */
const readDesired = async ({ args, io, live }: Context): Promise<Reading> => {
  const files = [...(args.filename ?? []), ...(args.manifests ?? [])];
  if (files.length > 0) {
    const { compileOffline } = await import("./offline.ts");
    const { snapshot, compiled, config, problems } = await compileOffline(files, args);
    const { nodeName, nodePortAddresses } = config;
    const { desired } = live
      ? compile(snapshot, { nodeName, localAddresses: localAddresses(), nodePortAddresses })
      : compiled;
    return { ...wholeReading("desired", files.join(", "), desired, contestedIn(snapshot)), problems };
  }
  const { loadConfig } = await import("../agent/config.ts");
  const { config } = loadConfig(args);
  const once = await readOnce(await watchOf(config, { events: false }), CLUSTER_WAIT_MS, io.signal);
  const { nodeName, nodePortAddresses } = config;
  const { desired, problems } = compile(once.snapshot, {
    nodeName,
    localAddresses: live ? localAddresses() : (once.snapshot.node?.addresses ?? []),
    nodePortAddresses,
  });
  const reading = wholeReading("desired", once.description, desired, contestedIn(once.snapshot));
  return { ...reading, problems: [...once.problems, ...problems] };
};

const contestedIn = (snapshot: Snapshot): ReadonlySet<string> => contestedEntrances(snapshot.services.values());

const localAddresses = (): readonly Address[] => readHost().addresses.map(({ address }) => address);
