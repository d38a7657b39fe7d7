// A process inside a namespace: serves and connects as it is told over IPC (protocol.ts) and ends with its parent.
import { get } from "node:http";
import { createServer, connect as netConnect } from "node:net";
import { type Loop, startLoop } from "./loop.ts";
import type { Answer, CommandName, Commands, RequestMessage, ResponseMessage, TryRequest } from "./protocol.ts";
import { type Serving, serveTcp, serveUdp } from "./servers.ts";
import { connectOnce, type HeldConnection, hold, transfer } from "./tcp.ts";
import { askOnce, openUdp, type UdpClient } from "./udp.ts";
import { DEFAULT_TIMEOUT_MS } from "./words.ts";

type Handlers = { readonly [C in CommandName]: (r: Commands[C]["request"]) => Promise<Commands[C]["response"]> };

const servers = new Map<string, Serving>();

// Connections, sockets and loops that stay, by id.

type Held = { drop(): void } & Partial<
  Pick<HeldConnection, "beats" | "say"> & Pick<UdpClient, "ask" | "error"> & Pick<Loop, "counts">
>;

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

const tryAll = async ({ lists, parallel }: Commands["tryAll"]["request"]): Promise<readonly (readonly Answer[])[]> => {
  const answers: Answer[][] = lists.map(() => []);
  const waiting = lists.entries();
  const work = async (): Promise<void> => {
    for (const [i, list] of waiting) {
      for (const one of list) answers[i]?.push(await tryOnce(one));
    }
  };
  await Promise.all(Array.from({ length: parallel }, work));
  return answers;
};

const tryOnce = (one: TryRequest): Promise<Answer> => (one.transport === "TCP" ? connectOnce(one) : askOnce(one));

const handlers: Handlers = {
  async serve({ name, port, transport }) {
    servers.set(`${transport}:${port}`, transport === "TCP" ? await serveTcp(name, port) : await serveUdp(name, port));
    return null;
  },
  speak: async (speech) => servers.get(`TCP:${speech.port}`)?.speak(speech) ?? false,
  async stopServing({ port, transport }) {
    await servers.get(`${transport}:${port}`)?.close();
    servers.delete(`${transport}:${port}`);
    return null;
  },
  connect: connectOnce,
  tryAll,
  async hold(request) {
    const connection = await hold(request);
    return "answer" in connection ? { ...connection.answer, id: keep(connection) } : { ...connection, id: 0 };
  },
  beats: async ({ id }) => holder(id).beats?.() ?? { echoed: 0, ended: "no held connection" },
  async say({ id }) {
    holder(id).say?.();
    return null;
  },
  transfer,
  openUdp: async (request) => ({ id: keep(await openUdp(request)) }),
  async askUdp({ id, to, timeout_ms }) {
    const { ask } = holder(id);
    if (ask === undefined) throw new Error(`${id} is no UDP socket`);
    return ask(to, timeout_ms ?? DEFAULT_TIMEOUT_MS);
  },
  udpError: async ({ id }) => holder(id).error?.() ?? null,
  async drop({ id }) {
    holder(id).drop();
    held.delete(id);
    return null;
  },
  startLoop: async (request) => ({ id: keep(startLoop(request)) }),
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
