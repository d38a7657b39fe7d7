// The labs' own clients: a process that is held up does not take what has long arrived for silence.
import assert from "node:assert/strict";
import { createSocket } from "node:dgram";
import { createServer } from "node:net";
import { test } from "node:test";
import { connectOnce } from "../lib/host/tcp.ts";

const holdUp = (ms: number): void => {
  const end = performance.now() + ms;
  while (performance.now() < end);
};

/** A port at which nobody listens, as somebody just did. */
const closedPort = async (): Promise<number> => {
  const socket = createSocket("udp4");
  await new Promise<void>((resolve) => socket.bind(0, "127.0.0.1", resolve));
  const { port } = socket.address();
  await new Promise<void>((resolve) => socket.close(() => resolve()));
  return port;
};

test("refused while the process was held up is refused, not silence", async () => {
  const answer = connectOnce({ address: "127.0.0.1", port: await closedPort(), timeout_ms: 30 });
  holdUp(60);
  assert.partialDeepStrictEqual(await answer, { ok: false, code: "ECONNREFUSED" });
});

test("silence is silence", async () => {
  const server = createServer(() => {}).listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const address = server.address();
  assert.ok(typeof address === "object" && address !== null);
  const answer = await connectOnce({ address: "127.0.0.1", port: address.port, timeout_ms: 30 });
  assert.partialDeepStrictEqual(answer, { ok: false, code: "TIMEOUT" });
  server.close();
});
