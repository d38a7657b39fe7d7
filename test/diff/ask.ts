// Asks a lab every case, many at a time, as often as it takes to meet every server that should answer. Who is sent back
// to one server is asked one probe after another: a second frontend of the Service must not choose in between. So are
// those that share a local port.
import type { Answer, TryRequest } from "../lib/host/protocol.ts";
import type { Lab } from "../lib/lab.ts";
import type { Case } from "./differences.ts";
import { complaint, type DataplaneName, type Expected, isComplete } from "./expected.ts";
import { type Probe, placeOf, sourceAddress } from "./world.ts";

/** Twice as many tries as servers each; one of n servers is missed in all of them once in 10^10. */
const ROUNDS = 12;
const STICKY_TRIES = 4;

/** For what should fail: an error that is later than this is as bad as none. */
const TIMEOUT_MS = 400;
/**
 * The kernel drops an ICMPv6 error for a socket that is still inside connect(), and in a lab no time passes on the
 * wire: the answer to the SYN that is repeated a second later is heard.
 */
const TIMEOUT_TCP6_MS = 1700;
/** For what a process has to do, answer or hang up, on a machine that is busy. */
const TIMEOUT_PROCESS_MS = 3000;

/**
 * Local ports where one has to be said: above the agent's own, below NodePorts. UDP flows have no end: the same port
 * again within a minute or two would be taken for an old flow.
 */
const PORTS = { first: 11_000, count: 18_000 } as const;
let ports = 0;
export const nextPort = (): number => PORTS.first + (ports++ % PORTS.count);

interface Asked {
  readonly one: Case;
  readonly expected: Expected;
  readonly answers: Answer[];
}

/** Asks every case, and tells what is wrong with each that is not as expected. `patience` multiplies every wait. */
export const complaintsOf = async (
  lab: Lab,
  name: DataplaneName,
  cases: readonly Case[],
  patience = 1,
): Promise<ReadonlyMap<Case, string>> => {
  const asked = cases.map((one): Asked => ({ one, expected: one.answers[name], answers: [] }));
  for (let round = 0; round < ROUNDS; round++) {
    const open = asked.filter(isOpen);
    if (open.length === 0) break;
    const hosts = Map.groupBy(open, ({ one }) => one.probe.from);
    await Promise.all([...hosts].map(([from, list]) => askHost(lab, from, list, patience)));
  }
  return new Map(
    asked.flatMap(({ one, expected, answers }) => {
      const wrong = complaint(one.probe, expected, answers);
      return wrong === null ? [] : [[one, wrong] as const];
    }),
  );
};

const isOpen = ({ one, expected, answers }: Asked): boolean =>
  answers.length === 0 || (!isComplete(one.probe, expected, answers) && answers.every((answer) => answer.ok));

const askHost = async (lab: Lab, from: string, list: readonly Asked[], patience: number): Promise<void> => {
  const sharing = list.filter(isSharing);
  const sticky = list.filter((asked) => isSticky(asked) && !isSharing(asked));
  const apart = list.filter((asked) => !isSticky(asked) && !isSharing(asked));
  const localPort = nextPort();
  const untranslatedUdpPort = nextPort();
  const turns = [
    [
      ...sharing.map((asked) => {
        // Over UDP bpf does not part what one port asks by way of another node from what it asks for itself.
        const apart = asked.one.probe.transport === "UDP" && asked.one.meaning.packet.from.place !== "outside";
        const port = apart ? untranslatedUdpPort : localPort;
        return { asked, request: { ...tryOf(lab, asked.one.probe, asked.expected, patience), localPort: port } };
      }),
      ...sticky.flatMap((asked) => triesOf(lab, asked, patience)),
    ],
    ...apart.flatMap((asked) => triesOf(lab, asked, patience).map((one) => [one])),
  ];
  const host = await lab.host(from);
  const answers = await host.tryAll(turns.map((turn) => turn.map(({ request }) => request)));
  for (const [i, turn] of turns.entries()) {
    for (const [k, { asked }] of turn.entries()) asked.answers.push(...(answers[i]?.slice(k, k + 1) ?? []));
  }
};

const isSharing = ({ one }: Asked): boolean => one.probe.sharedPort;
const isSticky = ({ expected }: Asked): boolean => expected.kind === "reached" && expected.sticky;

interface Try {
  readonly asked: Asked;
  readonly request: TryRequest;
}

const triesOf = (lab: Lab, asked: Asked, patience: number): readonly Try[] => {
  const { expected } = asked;
  const count = expected.kind === "failed" ? 1 : expected.sticky ? STICKY_TRIES : 2 * expected.servers.size;
  return Array.from({ length: count }, () => ({
    asked,
    request: tryOf(lab, asked.one.probe, asked.expected, patience),
  }));
};

const timeoutOf = ({ transport, address }: Probe, expected: Expected): number => {
  if (expected.kind === "reached" || expected.codes.includes("ECONNRESET")) return TIMEOUT_PROCESS_MS;
  return transport === "TCP" && address.includes(":") ? TIMEOUT_TCP6_MS : TIMEOUT_MS;
};

export const tryOf = (lab: Lab, probe: Probe, expected: Expected, patience: number): TryRequest => ({
  transport: probe.transport,
  address: probe.mapped ? `::ffff:${probe.address}` : probe.address,
  port: probe.port,
  timeout_ms: patience * timeoutOf(probe, expected),
  ...(probe.bound === "no" ? {} : { localAddress: sourceAddress(placeOf(lab.places, probe.from), probe) }),
  ...(probe.transport === "UDP" ? { connected: probe.connected, localPort: nextPort() } : {}),
});
