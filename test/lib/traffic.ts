// Traffic until every backend has been met, and assertions on who answered and which address each saw.
import assert from "node:assert/strict";
import type { Host } from "./host/host.ts";
import type { Answer, Answered, ConnectRequest, Transport } from "./host/protocol.ts";

export interface Tried extends ConnectRequest {
  readonly transport?: Transport;
}

/** UDP flows have no end: a port that chance gave again would be taken for the flow of a test long done. */
let nextUdpPort = 20_000;

const tryOnce = (host: Host, { transport, address, port, ...how }: Tried): Promise<Answer> =>
  transport === "UDP"
    ? host.udp(address, port, { localPort: nextUdpPort++, ...how })
    : host.connect(address, port, how);

const LEAST = 8;
/** Two backends, 60 tries: one is missed by chance once in 10^18. */
const MOST = 60;

/** At least 8 tries, and as many more as it takes to meet all of `names`. */
export const gather = async (host: Host, tried: Tried, names: readonly string[]): Promise<readonly Answer[]> => {
  const answers: Answer[] = [];
  const missing = new Set(names);
  while (answers.length < LEAST || (missing.size > 0 && answers.length < MOST)) {
    const answer = await tryOnce(host, tried);
    answers.push(answer);
    if (answer.ok) missing.delete(answer.name);
  }
  return answers;
};

const formatTried = ({ transport, address, port }: Tried): string => `${transport ?? "TCP"} to ${address} port ${port}`;

/**
 * Exactly these backends answer, each seeing that client address, every answer from the address that was asked.
 * `expected`: name of the backend → the client as it must see it.
 */
export const assertReaches = async (
  host: Host,
  tried: Tried,
  expected: Readonly<Record<string, string>>,
): Promise<readonly Answered[]> => {
  const answers = await gather(host, tried, Object.keys(expected));
  const seen: Record<string, string> = {};
  for (const answer of answers) {
    assert.ok(answer.ok, `${formatTried(tried)}: ${JSON.stringify(answer)}`);
    assert.deepEqual([answer.peer, answer.peerPort], [tried.address, tried.port], `${formatTried(tried)}: peer`);
    seen[answer.name] = answer.client;
    assert.equal(answer.client, expected[answer.name] ?? "nobody", `${formatTried(tried)}: what ${answer.name} saw`);
  }
  assert.deepEqual(Object.keys(seen).sort(), Object.keys(expected).sort(), `${formatTried(tried)}: who answered`);
  return answers.filter((answer) => answer.ok);
};

/** Without waiting for anything: a lost SYN would be repeated after a second. Busy machines take their time. */
export const AT_ONCE_MS = 900;
/** With the first repeated SYN: the second would be sent after three seconds. */
const ONCE_REPEATED_MS = 2500;

/** One try fails with this code, and within `most_ms`. */
export const assertFails = async (host: Host, tried: Tried, code: string, most_ms?: number): Promise<void> => {
  const answer = await tryOnce(host, tried);
  assert.ok(!answer.ok, `${formatTried(tried)}: ${JSON.stringify(answer)}`);
  assert.equal(answer.code, code, formatTried(tried));
  if (most_ms !== undefined) assert.ok(answer.ms < most_ms, `${formatTried(tried)}: ${code} after ${answer.ms} ms`);
};

/**
 * Refused by ICMP, as from outside. At once, except TCP over IPv6: the kernel drops an ICMPv6 error for a socket that is
 * still inside connect() (LockDroppedIcmps), and in a lab no time passes on the wire; the answer to the SYN that is
 * repeated a second later is heard.
 */
export const assertRefusedByIcmp = async (host: Host, address: string, port: number): Promise<void> => {
  const slow = address.includes(":") && !address.startsWith("::ffff:");
  await assertFails(host, { address, port, timeout_ms: 3000 }, "ECONNREFUSED", slow ? ONCE_REPEATED_MS : AT_ONCE_MS);
};
