// A process inside a namespace: serves and connects as it is told over IPC (host-protocol.ts) and ends with its parent.
import { createHash, randomBytes } from "node:crypto";
import { createSocket, type Socket as UdpSocket } from "node:dgram";
import { get } from "node:http";
import { createServer, connect as netConnect, type Server, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import type {
  Answer,
  Answered,
  Beats,
  CommandName,
  Commands,
  ConnectRequest,
  Counts,
  Greeting,
  RequestMessage,
  ResponseMessage,
  Target,
  Transport,
} from "./host-protocol.ts";

type Handlers = { readonly [C in CommandName]: (r: Commands[C]["request"]) => Promise<Commands[C]["response"]> };

const DEFAULT_TIMEOUT_MS = 1000;

const codeOf = (error: unknown): string =>
  error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : String(error);

const withoutMapping = (address: string): string => address.replace(/^::ffff:(?=\d+\.)/, "");

const since = (started: number): number => Math.round((performance.now() - started) * 10) / 10;

// ---- things with an id ---------------------------------------------------------------------------------------------

interface Held {
  drop(): void;
  beats?(): Beats;
  ask?(to: Target | undefined, timeout_ms: number): Promise<Answer>;
  counts?(): Counts;
}

const held = new Map<number, Held>();
let lastId = 0;

const keep = (thing: Held): number => {
  held.set(++lastId, thing);
  return lastId;
};

const holder = (id: number): Held => {
  const thing = held.get(id);
  if (thing === undefined) throw new Error(`Nothing has the id ${id}`);
  return thing;
};

// ---- servers -------------------------------------------------------------------------------------------------------

const servers = new Map<string, { close(): Promise<void> }>();

const serveTcp = async (name: string, port: number): Promise<{ close(): Promise<void> }> => {
  const open = new Set<Socket>();
  const server: Server = createServer((socket) => {
    open.add(socket);
    socket.on("close", () => open.delete(socket));
    socket.on("error", () => socket.destroy());
    const greeting: Greeting = {
      name,
      client: withoutMapping(socket.remoteAddress ?? ""),
      clientPort: socket.remotePort ?? 0,
    };
    socket.write(`${JSON.stringify(greeting)}\n`);
    socket.pipe(socket);
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen({ host: "::", port, backlog: 1024 }, resolve);
  });
  return {
    close: () => {
      for (const socket of open) socket.destroy();
      return new Promise((resolve) => server.close(() => resolve()));
    },
  };
};

const serveUdp = async (name: string, port: number): Promise<{ close(): Promise<void> }> => {
  const socket = createSocket({ type: "udp6" });
  socket.on("message", (data, from) => {
    const greeting: Greeting = { name, client: withoutMapping(from.address), clientPort: from.port };
    socket.send(JSON.stringify({ question: data.toString(), ...greeting }), from.port, from.address, () => {});
  });
  await new Promise<void>((resolve, reject) => {
    socket.once("error", reject);
    socket.bind(port, "::", resolve);
  });
  socket.on("error", () => {});
  return { close: () => new Promise((resolve) => socket.close(() => resolve())) };
};

// ---- TCP clients ---------------------------------------------------------------------------------------------------

interface Connected {
  readonly socket: Socket;
  readonly answer: Answered;
  /** Bytes that came behind the greeting. */
  readonly rest: Buffer;
}

/** Connects and reads the greeting. The socket of an Answered is the caller's. */
const connectTcp = (to: ConnectRequest): Promise<Connected | Answer> => {
  const started = performance.now();
  return new Promise((resolve) => {
    const socket = netConnect({
      host: to.address,
      port: to.port,
      ...(to.localAddress === undefined ? {} : { localAddress: to.localAddress }),
      ...(to.localPort === undefined ? {} : { localPort: to.localPort }),
    });
    let received = Buffer.alloc(0);
    const fail = (code: string): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve({ ok: false, code, ms: since(started) });
    };
    const timer = setTimeout(() => fail("TIMEOUT"), to.timeout_ms ?? DEFAULT_TIMEOUT_MS);
    socket.on("error", (error) => fail(codeOf(error)));
    socket.on("end", () => fail("CLOSED"));
    socket.on("data", (data) => {
      received = Buffer.concat([received, data]);
      const end = received.indexOf("\n");
      if (end < 0) return;
      clearTimeout(timer);
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

const connectOnce = async (to: ConnectRequest): Promise<Answer> => {
  const connected = await connectTcp(to);
  if (!("socket" in connected)) return connected;
  // A fixed local port is wanted again at once: a reset leaves no TIME_WAIT behind.
  if (to.localPort === undefined) connected.socket.destroy();
  else connected.socket.on("error", () => {}).resetAndDestroy();
  return connected.answer;
};

const hold = async (to: ConnectRequest & { readonly beat_ms: number }): Promise<Answer & { readonly id: number }> => {
  const connected = await connectTcp(to);
  if (!("socket" in connected)) return { ...connected, id: 0 };
  const { socket, answer } = connected;
  let [sent, echoed, longest, ended] = [0, 0, 0, null as string | null];
  let lastEcho = performance.now();
  const timer = setInterval(() => {
    longest = Math.max(longest, performance.now() - lastEcho);
    if (ended === null) socket.write(`beat ${++sent}\n`);
  }, to.beat_ms);
  socket.on("data", (data) => {
    echoed += data.toString().split("\n").length - 1;
    longest = Math.max(longest, performance.now() - lastEcho);
    lastEcho = performance.now();
  });
  socket.removeAllListeners("error").on("error", (error) => {
    ended ??= codeOf(error);
  });
  socket.on("close", () => {
    ended ??= "CLOSED";
  });
  socket.resume();
  const id = keep({
    beats: () => ({ echoed, longest_gap_ms: Math.round(longest), ended }),
    drop: () => {
      clearInterval(timer);
      socket.destroy();
    },
  });
  return { ...answer, id };
};

const transfer = async (to: ConnectRequest & { readonly size_bytes: number }): Promise<Answer> => {
  const started = performance.now();
  const connected = await connectTcp(to);
  if (!("socket" in connected)) return connected;
  const { socket, answer, rest } = connected;
  const sent = randomBytes(to.size_bytes);
  const hash = createHash("sha256").update(rest);
  let length = rest.length;
  return new Promise((resolve) => {
    const finish = (code: string | null): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(code === null ? { ...answer, ms: since(started) } : { ok: false, code, ms: since(started) });
    };
    const timer = setTimeout(() => finish("TIMEOUT"), to.timeout_ms ?? 10_000);
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

// ---- UDP clients ---------------------------------------------------------------------------------------------------

const openUdp = async (how: Commands["openUdp"]["request"]): Promise<Held & Required<Pick<Held, "ask">>> => {
  const socket: UdpSocket = createSocket({ type: how.family === 6 ? "udp6" : "udp4" });
  await settle(socket, (done) => socket.bind(how.localPort ?? 0, how.localAddress, done));
  const { to } = how;
  if (to !== undefined) await settle(socket, (done) => socket.connect(to.port, to.address, done));
  let questions = 0;
  const ask = (target: Target | undefined, timeout_ms: number): Promise<Answer> => {
    const started = performance.now();
    const question = `question ${++questions}`;
    return new Promise((resolve) => {
      const finish = (answer: Answer): void => {
        clearTimeout(timer);
        socket.off("message", onMessage).off("error", onError);
        resolve(answer);
      };
      const fail = (code: string): void => finish({ ok: false, code, ms: since(started) });
      const timer = setTimeout(() => fail("TIMEOUT"), timeout_ms);
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
  socket.on("error", () => {});
  return { ask, drop: () => socket.close() };
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

const askOnce = async (to: ConnectRequest): Promise<Answer> => {
  const started = performance.now();
  const family = to.address.includes(":") ? 6 : 4;
  try {
    const socket = await openUdp({ ...to, family });
    try {
      return await socket.ask(to, to.timeout_ms ?? DEFAULT_TIMEOUT_MS);
    } finally {
      socket.drop();
    }
  } catch (error) {
    return { ok: false, code: codeOf(error), ms: since(started) };
  }
};

// ---- loops ---------------------------------------------------------------------------------------------------------

const startLoop = (how: ConnectRequest & { transport: Transport; pause_ms: number }): number => {
  let running = true;
  let [ok, failed] = [0, 0];
  const codes: Record<string, number> = {};
  const names: Record<string, number> = {};
  const turn = async (): Promise<void> => {
    const answer = how.transport === "TCP" ? await connectOnce(how) : await askOnce(how);
    if (answer.ok) {
      ok++;
      names[answer.name] = (names[answer.name] ?? 0) + 1;
    } else {
      failed++;
      codes[answer.code] = (codes[answer.code] ?? 0) + 1;
    }
  };
  const run = async (): Promise<void> => {
    while (running) {
      await turn();
      await sleep(how.pause_ms);
    }
  };
  const done = run();
  done.catch((error: unknown) => {
    codes[codeOf(error)] = 1;
    failed++;
  });
  return keep({
    counts: () => ({ ok, failed, codes: { ...codes }, names: { ...names } }),
    drop: () => {
      running = false;
    },
  });
};

// ---- commands ------------------------------------------------------------------------------------------------------

const handlers: Handlers = {
  async serve({ name, port, transport }) {
    servers.set(`${transport}:${port}`, transport === "TCP" ? await serveTcp(name, port) : await serveUdp(name, port));
    return null;
  },
  async stopServing({ port, transport }) {
    await servers.get(`${transport}:${port}`)?.close();
    servers.delete(`${transport}:${port}`);
    return null;
  },
  connect: connectOnce,
  hold,
  beats: async ({ id }) => holder(id).beats?.() ?? { echoed: 0, longest_gap_ms: 0, ended: "no held connection" },
  transfer,
  openUdp: async (request) => ({ id: keep(await openUdp(request)) }),
  async askUdp({ id, to, timeout_ms }) {
    const { ask } = holder(id);
    if (ask === undefined) throw new Error(`${id} is no UDP socket`);
    return ask(to, timeout_ms ?? DEFAULT_TIMEOUT_MS);
  },
  async drop({ id }) {
    holder(id).drop();
    held.delete(id);
    return null;
  },
  startLoop: async (request) => ({ id: startLoop(request) }),
  async loopCounts({ id, stop }) {
    const { counts } = holder(id);
    if (counts === undefined) throw new Error(`${id} is no loop`);
    if (stop === true) holder(id).drop();
    return counts();
  },
  async relay({ port, path }) {
    const server = createServer((inner) => {
      const outer = netConnect({ path });
      inner.pipe(outer).pipe(inner);
      inner.on("error", () => outer.destroy()).on("close", () => outer.destroy());
      outer.on("error", () => inner.destroy()).on("close", () => inner.destroy());
    });
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen({ host: "127.0.0.1", port }, resolve);
    });
    return null;
  },
  httpGet: ({ port, path }) =>
    new Promise((resolve, reject) => {
      const request = get({ host: "127.0.0.1", port, path, timeout: 2000, agent: false }, (response) => {
        let body = "";
        response.setEncoding("utf8").on("data", (text: string) => {
          body += text;
        });
        response.on("end", () => resolve({ status: response.statusCode ?? 0, body }));
      });
      request.on("timeout", () => request.destroy(new Error("timed out")));
      request.on("error", reject);
    }),
};

const handle = async <C extends CommandName>(message: RequestMessage<C>): Promise<unknown> =>
  handlers[message.command](message.request);

process.on("message", (message: RequestMessage) => {
  const reply = (response: ResponseMessage): void => void process.send?.(response);
  handle(message).then(
    (response) => reply({ id: message.id, response }),
    (error: unknown) => reply({ id: message.id, error: error instanceof Error ? error.message : String(error) }),
  );
});
process.on("disconnect", () => process.exit(0));
process.send?.({ id: 0, response: "ready" } satisfies ResponseMessage);
