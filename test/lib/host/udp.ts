// UDP clients: questions with a number each, so that a late answer is not taken for the next one's.
import { createSocket, type Socket as UdpSocket } from "node:dgram";
import type { Answer, Commands, ConnectRequest, Greeting, Target } from "./protocol.ts";
import { codeOf, DEFAULT_TIMEOUT_MS, since, whenSilent } from "./words.ts";

export interface UdpClient {
  /** `to`: for a socket that is not connected. */
  ask(to: Target | undefined, timeout_ms: number): Promise<Answer>;
  /** The code of the last error that nobody asked for. */
  error(): string | null;
  drop(): void;
}

export const openUdp = async (how: Commands["openUdp"]["request"]): Promise<UdpClient> => {
  const socket: UdpSocket = createSocket({ type: how.family === 6 ? "udp6" : "udp4" });
  const { to } = how;
  try {
    await settle(socket, (done) => socket.bind(how.localPort ?? 0, how.localAddress, done));
    if (to !== undefined) await settle(socket, (done) => socket.connect(to.port, to.address, done));
  } catch (error) {
    socket.close();
    throw error;
  }
  let questions = 0;
  const ask = (target: Target | undefined, timeout_ms: number): Promise<Answer> => {
    const started = performance.now();
    const question = `question ${++questions}`;
    return new Promise((resolve) => {
      const finish = (answer: Answer): void => {
        inTime();
        socket.off("message", onMessage).off("error", onError);
        resolve(answer);
      };
      const fail = (code: string): void =>
        finish({ ok: false, code, localPort: socket.address().port, ms: since(started) });
      const inTime = whenSilent(timeout_ms, () => fail("TIMEOUT"));
      const onError = (error: Error): void => fail(codeOf(error));
      const onMessage = (data: Buffer, from: { address: string; port: number }): void => {
        const { question: answered, ...greeting } = JSON.parse(data.toString()) as Greeting & { question: string };
        if (answered !== question) return; // the late answer to an earlier question
        const peer = to === undefined ? from : socket.remoteAddress();
        const local = socket.address();
        finish({
          ok: true,
          ...greeting,
          peer: peer.address,
          peerPort: peer.port,
          local: local.address,
          localPort: local.port,
          ms: since(started),
        });
      };
      socket.on("message", onMessage).on("error", onError);
      const sent = (error: Error | null): void => (error === null ? undefined : fail(codeOf(error)));
      if (target === undefined) socket.send(question, sent);
      else socket.send(question, target.port, target.address, sent);
    });
  };
  let reported: string | null = null;
  socket.on("error", (error) => {
    reported = codeOf(error);
  });
  return { ask, error: () => reported, drop: () => socket.close() };
};

const settle = (socket: UdpSocket, start: (done: (error?: Error) => void) => void): Promise<void> =>
  new Promise((resolve, reject) => {
    socket.once("error", reject);
    start((error) => {
      socket.off("error", reject);
      if (error instanceof Error) reject(error);
      else resolve();
    });
  });

/** One question over a socket of its own. */
export const askOnce = async (to: ConnectRequest & { readonly connected?: boolean }): Promise<Answer> => {
  const started = performance.now();
  const { localAddress, localPort } = to;
  try {
    const socket = await openUdp({
      family: to.address.includes(":") ? 6 : 4,
      ...(to.connected === true ? { to } : {}),
      ...(localAddress === undefined ? {} : { localAddress }),
      ...(localPort === undefined ? {} : { localPort }),
    });
    try {
      return await socket.ask(to.connected === true ? undefined : to, to.timeout_ms ?? DEFAULT_TIMEOUT_MS);
    } finally {
      socket.drop();
    }
  } catch (error) {
    return { ok: false, code: codeOf(error), localPort: null, ms: since(started) };
  }
};
