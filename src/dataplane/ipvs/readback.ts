// What `ipvsadm -Sn` prints, read back into a Desired. IPVS knows addresses and where they lead, and nothing else: no
// names, no policies, no kinds of frontend (reading.ts has the list). Pure.
import { EXPRESSIBLE, type Reading } from "../../compile/reading.ts";
import { type Address, familyOf, formatHostPort, parseAddress } from "../../model/address.ts";
import type { Problem, Protocol } from "../../model/snapshot.ts";
import { desiredOf, type Entry, portOf, type Target } from "../entries.ts";

/** `from`: for people, see Reading. */
export const readIpvs = (text: string, from: string): Reading => {
  const problems: Problem[] = [];
  const virtual = new Map<string, VirtualServer>();
  for (const [i, line] of text.split("\n").entries()) {
    const problem = readLine(line.trim(), virtual);
    if (problem !== null && problems.length < MOST_PROBLEMS)
      problems.push({ object: from, path: `line ${i + 1}`, message: problem });
  }
  return {
    source: "ipvs",
    from,
    desired: desiredOf([...virtual.values()].map(entryOf), []),
    expresses: EXPRESSIBLE.ipvs,
    contested: new Set(),
    unreached: [],
    problems,
  };
};

const LONGEST_LINE = 4096;
const MOST_PROBLEMS = 100;

/** null: read; else why not. */
const readLine = (line: string, virtual: Map<string, VirtualServer>): string | null => {
  if (line === "") return null;
  if (line.length > LONGEST_LINE) return `${line.length} characters long: not read`;
  const words = line.split(/\s+/);
  if (words[0] === "-A" || words[0] === "--add-service") return readService(words, virtual);
  if (words[0] === "-a" || words[0] === "--add-server") return readServer(words, virtual);
  return "no virtual and no real server";
};

interface VirtualServer {
  readonly protocol: Protocol;
  readonly address: Address;
  readonly port: number;
  readonly affinity_timeout_s: number;
  readonly endpoints: Target[];
}

/** IPVS' own, where `-p` has no number. */
const PERSISTENT_S = 300;

const PROTOCOLS: ReadonlyMap<string, Protocol> = new Map([
  ["-t", "TCP"],
  ["--tcp-service", "TCP"],
  ["-u", "UDP"],
  ["--udp-service", "UDP"],
  ["--sctp-service", "SCTP"],
]);

/** `-A -t 10.96.0.1:443 -s rr -p 10800`. */
const readService = (words: readonly string[], virtual: Map<string, VirtualServer>): string | null => {
  const place = placeOf(words);
  if (place === null) return "a virtual server without protocol, address and port";
  const at = words.findIndex((word) => word === "-p" || word === "--persistent");
  const seconds = /^\d+$/.test(words[at + 1] ?? "") ? Number(words[at + 1]) : PERSISTENT_S;
  virtual.set(place.key, { ...place, affinity_timeout_s: at < 0 ? 0 : seconds, endpoints: [] });
  return null;
};

/** `-a -t 10.96.0.1:443 -r 192.168.0.2:6443 -m -w 1`; of weight 0 it only keeps what it has. */
const readServer = (words: readonly string[], virtual: Map<string, VirtualServer>): string | null => {
  const place = placeOf(words);
  const target = parseTarget(valueAfter(words, ["-r", "--real-server"]));
  const server = virtual.get(place?.key ?? "");
  if (target === null || place === null) return "a real server without address and port";
  if (server === undefined) return `a real server of ${place.key}, which is no virtual server`;
  if (valueAfter(words, ["-w", "--weight"]) !== "0") server.endpoints.push(target);
  return null;
};

const placeOf = (words: readonly string[]) => {
  const at = words.findIndex((word) => PROTOCOLS.has(word));
  const protocol = PROTOCOLS.get(words[at] ?? "");
  const target = at < 0 ? null : parseTarget(words[at + 1] ?? null);
  if (target === null || protocol === undefined) return null;
  return { ...target, protocol, key: `${formatHostPort(target.address, target.port)}/${protocol}` };
};

const valueAfter = (words: readonly string[], names: readonly string[]): string | null => {
  const at = words.findIndex((word) => names.includes(word));
  return at < 0 ? null : (words[at + 1] ?? null);
};

/** `10.96.0.1:443`, `[fd00::1]:443`. */
const parseTarget = (text: string | null): Target | null => {
  const match = /^(?:\[([^\]]+)\]|([^:]+)):(\d+)$/.exec(text ?? "");
  const address = parseAddress(match?.[1] ?? match?.[2] ?? "");
  const port = portOf(match?.[3] ?? null);
  return address === null || port === null ? null : { address, port };
};

/** Without real servers the kernel refuses. */
const entryOf = ({ protocol, address, port, affinity_timeout_s, endpoints }: VirtualServer): Entry => {
  const list =
    endpoints.length > 0
      ? ({ kind: "backends", policy: "Cluster", endpoints } as const)
      : ({ kind: "reject", policy: "Cluster" } as const);
  return {
    name: { namespace: "", name: formatHostPort(address, port), port: "", protocol },
    kind: "ClusterIP",
    family: familyOf(address),
    address,
    port,
    restricted: false,
    internal: list,
    external: list,
    sourceRanges: [],
    affinity_timeout_s,
  };
};
