// What the userspace proxy has to answer to a probe: evaluate()'s answer, changed by what docs/userspace.md says is
// different. As with differences.ts both are asserted: a difference that is gone is found like a new one.
import type { DesiredService, Frontend } from "../../src/model/desired.ts";
import { TARGET_PORTS } from "./cluster.ts";
import {
  type Asked,
  type Expected,
  failed,
  nodeSource,
  ownSource,
  refusedByIcmp,
  SILENT,
  serverOf,
} from "./expected.ts";
import { desiredOf, type Meaning, type Probe, type World } from "./world.ts";

interface Difference {
  /** As in docs/userspace.md, "What is different". */
  readonly name: string;
  /** The answer where it applies; null, or the same again, where it does not. */
  apply(asked: Asked, plain: Expected): Expected | null;
}

/** evaluate()'s answer, as it is or with the one difference that applies. */
export const userspaceAnswer = (
  asked: Asked,
  plain: Expected,
): { readonly userspace: Expected; readonly userspaceDifference: string | null } => {
  for (const { name, apply } of USERSPACE_DIFFERENCES) {
    const userspace = apply(asked, plain);
    if (userspace !== null && !isSame(userspace, plain)) return { userspace, userspaceDifference: name };
  }
  return { userspace: plain, userspaceDifference: null };
};

/** The first that applies to a probe is the one. */
export const USERSPACE_DIFFERENCES: readonly Difference[] = [
  {
    name: "what is a backend as well is not redirected on its way out of the node",
    apply: ({ world, probe, meaning }) => {
      if (!isSentByAgentNode(meaning) || !isBackend(world, probe, meaning)) return null;
      const servers = new Map([[serverOf(world.places, probe), ownSource(world, probe)]]);
      return { kind: "reached", sticky: false, servers };
    },
  },
  {
    name: "connected is not answered",
    apply: ({ probe, meaning: { verdict } }) =>
      verdict.kind === "forward" && !verdict.backends.some(({ backend }) => isServed(backend)) ? lateEnd(probe) : null,
  },
  {
    name: "pods see the node",
    apply: ({ world, probe, meaning }, plain) => {
      if (plain.kind !== "reached") return null;
      const node = nodeSource(world, meaning.handler, probe);
      return { ...plain, servers: new Map([...plain.servers.keys()].map((server) => [server, node])) };
    },
  },
  {
    name: "without endpoints everybody is refused, source ranges or not",
    apply: ({ probe, meaning }) => {
      const { verdict } = meaning;
      return verdict.kind === "drop" && verdict.frontend.internal.kind === "reject" ? refused(probe, meaning) : null;
    },
  },
  {
    name: "what the node itself sends is refused and dropped in its system call",
    apply: ({ probe, meaning }) => {
      const { verdict } = meaning;
      if (verdict.kind === "reject") return refused(probe, meaning);
      if (verdict.kind !== "drop" || !isClosedToAll(verdict.frontend)) return null;
      return isSentByAgentNode(meaning) && probe.transport === "UDP" ? failed("EPERM") : SILENT;
    },
  },
  {
    name: "whom a policy or source range keeps out is found out on accept",
    apply: ({ probe, meaning: { verdict } }) =>
      verdict.kind === "drop" && !isClosedToAll(verdict.frontend) ? lateEnd(probe) : null,
  },
];

/** Where the agent has to end what the kernel has let in: a connection is reset, a datagram is gone. */
const lateEnd = ({ transport }: Probe): Expected => (transport === "TCP" ? failed("ECONNRESET") : SILENT);

/** By ICMP; in OUTPUT it is an error of the system call as well, which TCP takes for a refusal. */
const refused = (probe: Probe, meaning: Meaning): Expected => {
  if (!isSentByAgentNode(meaning) || probe.transport === "TCP") return refusedByIcmp(probe);
  return probe.connected ? failed("EPERM", "ECONNREFUSED") : failed("EPERM");
};

const isClosedToAll = ({ internal, external }: Frontend): boolean =>
  internal.kind !== "backends" && external.kind !== "backends";

/** By the node that decides: what another node sends comes in by a wire. */
const isSentByAgentNode = ({ handler, packet }: Meaning): boolean => handler !== null && packet.from.place === "node";

const isBackend = (world: World, { address, port, transport }: Probe, { handler }: Meaning): boolean =>
  [...desiredOf(world, handler ?? "").services.values()].some(
    ({ name, backends }: DesiredService) =>
      name.protocol === transport && backends.some((backend) => backend.address === address && backend.port === port),
  );

const isServed = ({ port }: { readonly port: number }): boolean => TARGET_PORTS.some((served) => served === port);

const isSame = (one: Expected, other: Expected): boolean => {
  if (one.kind === "failed") return other.kind === "failed" && one.codes.join() === other.codes.join();
  if (other.kind === "failed" || one.servers.size !== other.servers.size) return false;
  return [...one.servers].every(([server, source]) => other.servers.get(server) === source);
};
