// The copying half of the userspace proxy, between real sockets on the loopback device of a namespace of its own.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createSocket, type Socket as UdpSocket } from "node:dgram";
import { once } from "node:events";
import { readdirSync } from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { backendKey } from "../../src/dataplane/userspace/balance.ts";
import { type Choose, type Listener, listenTcp } from "../../src/dataplane/userspace/tcp.ts";
import { listenUdp } from "../../src/dataplane/userspace/udp.ts";
import type { Address } from "../../src/model/address.ts";
import type { Backend } from "../../src/model/desired.ts";
import { eventually } from "../lib/eventually.ts";
import { enterNetworkNamespace } from "../lib/socket.ts";

const NODE = "192.0.2.1" as Address;
const NODE_V6 = "2001:db8::1" as Address;
/** An address that takes packets and never answers. */
const SILENT = "192.0.2.99" as Address;

enterNetworkNamespace([NODE, NODE_V6]);
const hole = [
  "link add hole type veth peer name bottom",
  "link set hole arp off up",
  "link set bottom up",
  `route add ${SILENT} dev hole`,
];
execFileSync("ip", ["-batch", "-"], { input: hole.join("\n") });

const backendAt = (port: number, address: Address = NODE): Backend => ({ address, port, local: true, state: "active" });

/** The first of these that has not failed; says who asked. */
const inOrder = (backends: readonly Backend[], asked: Address[] = []): Choose => {
  return (client, failed) => {
    asked.push(client);
    return backends.find((backend) => !failed.has(backendKey(backend))) ?? null;
  };
};

const tcpBackend = async (t: TestContext, serve: (socket: Socket) => void, host: string = NODE): Promise<number> => {
  const server: Server = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on("error", () => undefined);
    t.after(() => socket.destroy());
    serve(socket);
  });
  server.listen({ host, port: 0 });
  await once(server, "listening");
  t.after(() => server.close());
  return portOf(server);
};

const portOf = (server: Pick<Server, "address">): number => {
  const address = server.address();
  assert.ok(address !== null && typeof address === "object");
  return address.port;
};

/** A port at which nobody listens. */
const refusing = async (): Promise<number> => {
  const server = createServer().listen({ host: NODE, port: 0 });
  await once(server, "listening");
  const port = portOf(server);
  server.close();
  await once(server, "close");
  return port;
};

const proxied = async (t: TestContext, choose: Choose, address: Address = NODE): Promise<Listener> => {
  const listener = await listenTcp(address, choose);
  t.after(() => listener.abort());
  return listener;
};

const client = (t: TestContext, port: number, host: string = NODE): Socket => {
  const socket = connect({ host, port, allowHalfOpen: true });
  t.after(() => socket.destroy());
  return socket;
};

const textOf = async (socket: Socket): Promise<string> => {
  let text = "";
  for await (const data of socket) text += String(data);
  return text;
};

/** The code of the error that ends a socket. */
const errorOf = async (socket: Socket): Promise<string | undefined> => {
  socket.resume();
  const [error] = (await once(socket, "error")) as [NodeJS.ErrnoException];
  return error.code;
};

for (const address of [NODE, NODE_V6]) {
  test(`A client that has said all still hears the answer (${address})`, async (t) => {
    const port = await tcpBackend(
      t,
      (socket) => void textOf(socket).then((text) => socket.end(`heard ${text}`)),
      address,
    );
    const asked: Address[] = [];
    const proxy = await proxied(t, inOrder([backendAt(port, address)], asked), address);
    const socket = client(t, proxy.port, address);
    socket.end("everything");
    assert.equal(await textOf(socket), "heard everything");
    assert.deepEqual(asked, [address]);
  });
}

test("A backend that has said all still hears the client", async (t) => {
  const heard = Promise.withResolvers<string>();
  const port = await tcpBackend(t, (socket) => {
    socket.end("go on");
    void textOf(socket).then(heard.resolve);
  });
  const proxy = await proxied(t, inOrder([backendAt(port)]));
  const socket = client(t, proxy.port);
  assert.equal(await textOf(socket), "go on");
  socket.write("the first ");
  await sleep(20);
  socket.end("and the second");
  assert.equal(await heard.promise, "the first and the second");
});

test("A slow client slows the backend down, and gets every byte", async (t) => {
  const SIZE = 64 << 20;
  const chunk = Buffer.alloc(1 << 16, "x");
  let sent = 0;
  const port = await tcpBackend(t, (socket) => {
    const fill = (): void => {
      while (sent < SIZE) {
        sent += chunk.length;
        if (!socket.write(chunk)) return;
      }
      socket.end();
    };
    socket.on("drain", fill);
    fill();
  });
  const proxy = await proxied(t, inOrder([backendAt(port)]));
  const socket = client(t, proxy.port).pause();
  let before = -1;
  await eventually(() => {
    const still = sent === before && sent > 0;
    before = sent;
    assert.ok(still, "the backend still sends");
  });
  assert.ok(sent < SIZE / 2, `${sent} bytes were sent to a client that takes none`);
  let received = 0;
  for await (const data of socket) received += (data as Buffer).length;
  assert.equal(received, SIZE);
});

test("A backend that refuses is passed over at once, one that is silent after a quarter of a second", async (t) => {
  const port = await tcpBackend(t, (socket) => socket.end("here"));
  const dead = backendAt(await refusing());
  const started = performance.now();
  const proxy = await proxied(t, inOrder([dead, backendAt(port)]));
  assert.equal(await textOf(client(t, proxy.port)), "here");
  assert.ok(performance.now() - started < 200);
  const silent = await proxied(t, inOrder([backendAt(80, SILENT), backendAt(port)]));
  const waited = performance.now();
  assert.equal(await textOf(client(t, silent.port)), "here");
  const took_ms = performance.now() - waited;
  assert.ok(took_ms > 200 && took_ms < 1000, `${took_ms} ms`);
});

test("With nobody to go to, and with nobody who answers, the connection is reset", async (t) => {
  const nobody = await proxied(t, () => null);
  assert.equal(await errorOf(client(t, nobody.port)), "ECONNRESET");
  const dead = await proxied(t, inOrder([backendAt(await refusing())]));
  assert.equal(await errorOf(client(t, dead.port)), "ECONNRESET");
});

test("A reset of either side reaches the other", async (t) => {
  const sockets: Socket[] = [];
  const port = await tcpBackend(t, (socket) => {
    sockets.push(socket);
    socket.write("hello");
  });
  const proxy = await proxied(t, inOrder([backendAt(port)]));
  const first = client(t, proxy.port);
  await once(first, "data");
  sockets[0]?.resetAndDestroy();
  assert.equal(await errorOf(first), "ECONNRESET");
  const second = client(t, proxy.port);
  await once(second, "data");
  const backendSide = sockets[1];
  assert.ok(backendSide !== undefined);
  second.resetAndDestroy();
  assert.equal(await errorOf(backendSide), "ECONNRESET");
});

test("close() takes nobody any more and lets connections live; abort() ends them", async (t) => {
  const port = await tcpBackend(t, (socket) => void socket.pipe(socket));
  const proxy = await proxied(t, inOrder([backendAt(port)]));
  const socket = client(t, proxy.port);
  socket.write("one");
  assert.equal(String((await once(socket, "data"))[0]), "one");
  proxy.close();
  assert.equal(await errorOf(client(t, proxy.port)), "ECONNREFUSED");
  socket.write("two");
  assert.equal(String((await once(socket, "data"))[0]), "two");
  proxy.abort();
  assert.equal(await errorOf(socket), "ECONNRESET");
});

test("Whatever is going on when it ends, no socket is left", async (t) => {
  const port = await tcpBackend(t, (socket) => void socket.resume().end("hello"));
  const sockets = (): number => process.getActiveResourcesInfo().filter((name) => name === "TCPSocketWrap").length;
  const before = readdirSync("/proc/self/fd").length;
  for (let n = 0; n < 30; n++) {
    const proxy = await listenTcp(NODE, inOrder([backendAt(port)]));
    const socket = client(t, proxy.port);
    await once(socket, "data");
    if (n % 2 === 0) socket.end();
    else socket.destroy();
    for (let tick = 0; tick < n % 5; tick++) await new Promise((resolve) => setImmediate(resolve));
    proxy.abort();
    socket.destroy();
  }
  await eventually(() => assert.deepEqual([sockets(), readdirSync("/proc/self/fd").length], [0, before]));
});

test("Nobody can listen at an address that is not there", async () => {
  const elsewhere = "192.0.2.200" as Address;
  await assert.rejects(
    listenTcp(elsewhere, () => null),
    /EADDRNOTAVAIL/,
  );
  await assert.rejects(
    listenUdp(elsewhere, () => null, 250),
    /EADDRNOTAVAIL/,
  );
});

// ---- UDP -----------------------------------------------------------------------------------------------------------

interface Datagrams {
  readonly port: number;
  /** Client ports as they were seen, datagram by datagram. */
  readonly seen: number[];
}

const udpSocket = async (t: TestContext, address: Address = NODE): Promise<UdpSocket> => {
  const socket = createSocket(address.includes(":") ? "udp6" : "udp4");
  socket.bind({ address, port: 0 });
  await once(socket, "listening");
  t.after(() => socket.close());
  return socket;
};

/** Answers `NAME got DATA`. */
const udpBackend = async (t: TestContext, name: string, address: Address = NODE): Promise<Datagrams> => {
  const socket = await udpSocket(t, address);
  const seen: number[] = [];
  socket.on("message", (data, from) => {
    seen.push(from.port);
    socket.send(`${name} got ${data}`, from.port, from.address);
  });
  return { port: socket.address().port, seen };
};

const ask = async (socket: UdpSocket, port: number, text: string, address: Address = NODE): Promise<string> => {
  socket.send(text, port, address);
  const signal = AbortSignal.timeout(1000);
  const [data, from] = (await once(socket, "message", { signal })) as [Buffer, { address: string; port: number }];
  assert.deepEqual([from.address, from.port], [address, port]);
  return String(data);
};

const proxiedUdp = async (
  t: TestContext,
  choose: Choose,
  idle_ms = 250,
  address: Address = NODE,
): Promise<Listener> => {
  const listener = await listenUdp(address, choose, idle_ms);
  t.after(() => listener.abort());
  return listener;
};

/** One after the other. */
const turns = (backends: readonly Backend[]): Choose => {
  let next = 0;
  return () => backends[next++ % backends.length] ?? null;
};

for (const address of [NODE, NODE_V6]) {
  test(`Every UDP client has a socket of its own, and answers come from where it asked (${address})`, async (t) => {
    const backend = await udpBackend(t, "a", address);
    const proxy = await proxiedUdp(t, inOrder([backendAt(backend.port, address)]), 250, address);
    const [one, two] = [await udpSocket(t, address), await udpSocket(t, address)];
    assert.equal(await ask(one, proxy.port, "1", address), "a got 1");
    assert.equal(await ask(two, proxy.port, "2", address), "a got 2");
    assert.equal(await ask(one, proxy.port, "3", address), "a got 3");
    const [first, second, third] = backend.seen;
    assert.ok(first !== second && first === third, `${backend.seen}`);
  });
}

test("A UDP client that was silent for the idle time is a new one; every datagram counts as life", async (t) => {
  const [a, b] = [await udpBackend(t, "a"), await udpBackend(t, "b")];
  const proxy = await proxiedUdp(t, turns([backendAt(a.port), backendAt(b.port)]), 100);
  const socket = await udpSocket(t);
  assert.equal(await ask(socket, proxy.port, "1"), "a got 1");
  await sleep(60);
  assert.equal(await ask(socket, proxy.port, "2"), "a got 2");
  await sleep(60);
  assert.equal(await ask(socket, proxy.port, "3"), "a got 3");
  await sleep(200);
  assert.equal(await ask(socket, proxy.port, "4"), "b got 4");
});

test("An answer that came while the process was held up longer than the idle time arrives", async (t) => {
  const slow = await udpSocket(t);
  slow.on("message", (data, from) => {
    slow.send(`slow got ${data}`, from.port, from.address);
    // When it has been sent, and before anybody has looked.
    process.nextTick(() =>
      process.nextTick(() => {
        const end = performance.now() + 100;
        while (performance.now() < end);
      }),
    );
  });
  const proxy = await proxiedUdp(t, inOrder([backendAt(slow.address().port)]), 30);
  assert.equal(await ask(await udpSocket(t), proxy.port, "1"), "slow got 1");
});

test("Datagrams sent at once reach one backend, all of them", async (t) => {
  const [a, b] = [await udpBackend(t, "a"), await udpBackend(t, "b")];
  const proxy = await proxiedUdp(t, turns([backendAt(a.port), backendAt(b.port)]));
  const socket = await udpSocket(t);
  for (let n = 0; n < 20; n++) socket.send(String(n), proxy.port, NODE);
  await eventually(() => assert.equal(a.seen.length, 20));
  assert.equal(b.seen.length, 0);
});

test("After a UDP backend has refused, the client's next datagram goes to another", async (t) => {
  const alive = await udpBackend(t, "alive");
  const proxy = await proxiedUdp(t, inOrder([backendAt(await refusing()), backendAt(alive.port)]));
  const socket = await udpSocket(t);
  socket.send("lost", proxy.port, NODE);
  await sleep(50);
  assert.equal(await ask(socket, proxy.port, "2"), "alive got 2");
});

test("UDP clients of a backend that is gone choose again", async (t) => {
  const [a, b] = [await udpBackend(t, "a"), await udpBackend(t, "b")];
  const proxy = await proxiedUdp(t, turns([backendAt(a.port), backendAt(b.port)]), 10_000);
  const socket = await udpSocket(t);
  assert.equal(await ask(socket, proxy.port, "1"), "a got 1");
  proxy.keepOnly(new Set([backendKey(backendAt(a.port)), backendKey(backendAt(b.port))]));
  assert.equal(await ask(socket, proxy.port, "2"), "a got 2");
  proxy.keepOnly(new Set([backendKey(backendAt(b.port))]));
  assert.equal(await ask(socket, proxy.port, "3"), "b got 3");
});
