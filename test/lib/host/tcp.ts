// TCP clients: one connection, a held one, a transfer.
import { createHash, randomBytes } from "node:crypto";
import { connect as netConnect, type Socket } from "node:net";
import type { Answer, Answered, Beats, Commands, ConnectRequest, Failed, Greeting, TryRequest } from "./protocol.ts";
import { codeOf, DEFAULT_TIMEOUT_MS, HANG_UP, since, whenSilent } from "./words.ts";

export interface HeldConnection {
  readonly answer: Answered;
  beats(): Beats;
  say(): void;
  drop(): void;
}

interface Connected {
  readonly socket: Socket;
  readonly answer: Answered;
  /** Bytes that came behind the greeting. */
  readonly rest: Buffer;
}

/** Connects and reads the greeting. The socket of an Answered is the caller's. */
const connectTcp = (to: ConnectRequest): Promise<Connected | Failed> => {
  const started = performance.now();
  return new Promise((resolve) => {
    const socket = netConnect({
      host: to.address,
      port: to.port,
      ...(to.localAddress === undefined ? {} : { localAddress: to.localAddress }),
      ...(to.localPort === undefined ? {} : { localPort: to.localPort }),
    });
    // connect() has been called by then; a socket that it failed on has no port any more.
    let localPort: number | null = null;
    process.nextTick(() => {
      localPort = socket.localPort ?? null;
    });
    let received = Buffer.alloc(0);
    const fail = (code: string): void => {
      inTime();
      socket.destroy();
      resolve({ ok: false, code, localPort, ms: since(started) });
    };
    const inTime = whenSilent(to.timeout_ms ?? DEFAULT_TIMEOUT_MS, () => fail("TIMEOUT"));
    socket.on("error", (error) => fail(codeOf(error)));
    socket.on("end", () => fail("CLOSED"));
    socket.on("data", (data) => {
      received = Buffer.concat([received, data]);
      const end = received.indexOf("\n");
      if (end < 0) return;
      inTime();
      socket.removeAllListeners("data").removeAllListeners("end").pause();
      const greeting = JSON.parse(received.subarray(0, end).toString()) as Greeting;
      const answer: Answered = {
        ok: true,
        ...greeting,
        peer: socket.remoteAddress ?? "",
        peerPort: socket.remotePort ?? 0,
        local: socket.localAddress ?? "",
        localPort: socket.localPort ?? 0,
        ms: since(started),
      };
      resolve({ socket, answer, rest: received.subarray(end + 1) });
    });
  });
};

/** Connects, reads the greeting, and closes. */
export const connectOnce = async (to: ConnectRequest & Pick<TryRequest, "serverCloses">): Promise<Answer> => {
  const connected = await connectTcp(to);
  if (!("socket" in connected)) return connected;
  if (to.serverCloses === true) return (await isClosedByServer(connected)) ?? connected.answer;
  // A fixed local port is wanted again at once: a reset leaves no TIME_WAIT behind.
  if (to.localPort === undefined) connected.socket.destroy();
  else connected.socket.on("error", () => {}).resetAndDestroy();
  return connected.answer;
};

/** Until both sides have closed; null: as it should be. */
const isClosedByServer = ({ socket, answer: { localPort } }: Connected): Promise<Failed | null> => {
  const started = performance.now();
  return new Promise((resolve) => {
    const finish = (code: string | null): void => {
      inTime();
      socket.destroy();
      resolve(code === null ? null : { ok: false, code, localPort, ms: since(started) });
    };
    const inTime = whenSilent(DEFAULT_TIMEOUT_MS, () => finish("NOT CLOSED"));
    socket.removeAllListeners("error").on("error", (error) => finish(codeOf(error)));
    socket.on("close", () => finish(null)).resume();
    socket.write(HANG_UP);
  });
};

const NEWLINE = 10;

/** Connects, and has a message echoed every `beat_ms` until dropped. */
export const hold = async (to: Commands["hold"]["request"]): Promise<HeldConnection | Failed> => {
  const connected = await connectTcp(to);
  if (!("socket" in connected)) return connected;
  const { socket, answer } = connected;
  let [sent, echoed, ended] = [0, 0, null as string | null];
  const say = (): void => {
    if (ended === null) socket.write(`beat ${++sent}\n`);
  };
  const timer = to.beat_ms === null ? undefined : setInterval(say, to.beat_ms);
  socket.on("data", (data) => {
    for (const byte of data) if (byte === NEWLINE) echoed++;
  });
  socket.removeAllListeners("error").on("error", (error) => {
    ended ??= codeOf(error);
  });
  socket.on("close", () => {
    ended ??= "CLOSED";
  });
  socket.resume();
  return {
    answer,
    beats: () => ({ echoed, ended }),
    say,
    drop: () => {
      clearInterval(timer);
      socket.destroy();
    },
  };
};

/** Sends bytes and compares what comes back. */
export const transfer = async (to: Commands["transfer"]["request"]): Promise<Answer> => {
  const started = performance.now();
  const connected = await connectTcp(to);
  if (!("socket" in connected)) return connected;
  const { socket, answer, rest } = connected;
  const sent = randomBytes(to.size_bytes);
  const hash = createHash("sha256").update(rest);
  let length = rest.length;
  return new Promise((resolve) => {
    const finish = (code: string | null): void => {
      inTime();
      socket.destroy();
      const ms = since(started);
      resolve(code === null ? { ...answer, ms } : { ok: false, code, localPort: answer.localPort, ms });
    };
    const inTime = whenSilent(to.timeout_ms ?? 10_000, () => finish("TIMEOUT"));
    socket.removeAllListeners("error").on("error", (error) => finish(codeOf(error)));
    socket.on("end", () => finish("CLOSED"));
    socket.on("data", (data) => {
      hash.update(data);
      length += data.length;
      if (length < to.size_bytes) return;
      const same = length === to.size_bytes && hash.digest("hex") === createHash("sha256").update(sent).digest("hex");
      finish(same ? null : "DIFFERENT");
    });
    socket.write(sent);
    socket.resume();
  });
};
