// The socket hooks with real sockets, call by call, in a network namespace and a cgroup of this process alone. Backends
// are addresses of the loopback device; VIPs exist nowhere, so what reaches a backend was translated.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";
import {
  backend_flag,
  backend_state,
  frontend_flag,
  hook,
  node_address_flag,
  reason as reasonNumbers,
  scope,
} from "../../src/dataplane/bpf/abi.gen.ts";
import { closeFd, openDirectory } from "../../src/dataplane/bpf/system/file.ts";
import { type AttachType, attachType, linkCreate } from "../../src/dataplane/bpf/system/link.ts";
import { netnsCookie } from "../../src/dataplane/bpf/system/namespace.ts";
import type { Address } from "../../src/model/address.ts";
import {
  type BackendSpec,
  type FrontendSpec,
  ObjectUnderTest,
  publish,
  putBackend,
  type Sizes,
} from "../lib/datapath.ts";
import { protocolNumber } from "../lib/packet.ts";
import {
  CallError,
  enterCgroup,
  enterNetworkNamespace,
  type Name,
  Socket,
  type SocketProtocol,
} from "../lib/socket.ts";

const hooks: readonly (readonly [AttachType, string])[] = [
  ["cgroup_inet4_connect", "sock_connect4"],
  ["cgroup_inet6_connect", "sock_connect6"],
  ["cgroup_udp4_sendmsg", "sock_sendmsg4"],
  ["cgroup_udp6_sendmsg", "sock_sendmsg6"],
  ["cgroup_udp4_recvmsg", "sock_recvmsg4"],
  ["cgroup_udp6_recvmsg", "sock_recvmsg6"],
  ["cgroup_inet4_getpeername", "sock_getpeername4"],
  ["cgroup_inet6_getpeername", "sock_getpeername6"],
  ["cgroup_inet_sock_release", "sock_release"],
];
assert.ok(hooks.every(([type]) => type in attachType));

interface Kind {
  readonly name: string;
  /** Of the addresses. */
  readonly family: "IPv4" | "IPv6";
  /** Of the client's socket. */
  readonly socket: "IPv4" | "IPv6";
  readonly vip: string;
  readonly vip2: string;
  readonly node: string;
  readonly loopback: string;
  readonly backends: readonly [string, string, string];
}

const v4 = {
  family: "IPv4",
  vip: "10.96.0.10",
  vip2: "10.96.0.11",
  node: "192.168.7.1",
  loopback: "127.0.0.1",
  backends: ["10.1.0.1", "10.1.0.2", "10.1.0.3"],
} as const;
const v6 = {
  family: "IPv6",
  vip: "fd00:96::10",
  vip2: "fd00:96::11",
  node: "fd00:168:7::1",
  loopback: "::1",
  backends: ["fd00:1::1", "fd00:1::2", "fd00:1::3"],
} as const;
const kinds: readonly Kind[] = [
  { name: "IPv4", socket: "IPv4", ...v4 },
  { name: "IPv6", socket: "IPv6", ...v6 },
  { name: "IPv4 on an IPv6 socket", socket: "IPv6", ...v4 },
];

let cgroup: ReturnType<typeof enterCgroup>;
let sock: ObjectUnderTest;
let links: readonly number[] = [];
let sockets: Socket[] = [];

before(() => {
  enterNetworkNamespace([...v4.backends, v4.node, ...v6.backends, v6.node]);
  cgroup = enterCgroup();
});
after(() => cgroup.leave());

const load = (maxEntries: Sizes = {}): void => {
  sock = new ObjectUnderTest("sock", {}, maxEntries);
  sock.configure({ host_netns_cookie: netnsCookie() });
  const target = openDirectory(cgroup.path);
  links = hooks.map(([type, program]) => linkCreate(sock.program(program), target, type));
  closeFd(target);
};
beforeEach(() => load());
afterEach(() => {
  for (const socket of sockets) socket.close();
  sockets = [];
  for (const link of links) closeFd(link);
  sock.close();
});

const open = (protocol: SocketProtocol, family: "IPv4" | "IPv6"): Socket => {
  const socket = new Socket(protocol, family);
  sockets.push(socket);
  return socket;
};

/** Another object than that of all tests, with these sizes. */
const reload = (maxEntries: Sizes): void => {
  for (const link of links) closeFd(link);
  sock.close();
  load(maxEntries);
};

const fails = (code: string, action: () => unknown): void =>
  assert.throws(action, (error) => error instanceof CallError && error.code === code);

for (const k of kinds) {
  const [one, two] = k.backends;
  const backend = (n: 1 | 2 | 3, change: Partial<BackendSpec> = {}): BackendSpec => ({
    id: n,
    address: k.backends[n - 1] ?? "",
    port: 8080,
    local: true,
    ...change,
  });
  const serve = (spec: Partial<FrontendSpec>, backends: readonly BackendSpec[] = [backend(1)]): void =>
    publish(sock, { address: k.vip, port: 80, scope: scope.SCOPE_INTERNAL, ...spec }, backends);
  const client = (protocol: SocketProtocol): Socket => open(protocol, k.socket);
  const listener = (address: string): Socket => open("TCP", k.family).bind([address, 8080]).listen();
  const responder = (address: string): Socket => open("UDP", k.family).bind([address, 8080]);
  /** Takes one datagram and answers it with `text`. */
  const answer = (server: Socket, text: string): string => {
    const got = server.receive();
    server.send(text, got.from);
    return got.text;
  };
  const VIP: Name = [k.vip, 80];
  const VIP2: Name = [k.vip2, 80];
  const reasons = (action: () => void) => sock.reasonsOf(hook.HOOK_SOCK, action);
  /** Of TCP sockets, kept outside of them. */
  const heldPeers = () => sock.entries("tcp_peers").flatMap(([, held]) => (held.cookie === 0n ? [] : [held.peer]));
  const open_sockets = (id: number): bigint => sock.get("backend_stats", id)?.open_sockets ?? 0n;

  describe(`${k.name}, TCP`, () => {
    test("connect to a ClusterIP reaches the backend; the peer is the VIP; the server sees the client itself", () => {
      serve({});
      const server = listener(one);
      const socket = client("TCP");
      assert.deepEqual(
        reasons(() => socket.connect(VIP)),
        ["REASON_NEW_FLOW"],
      );
      assert.deepEqual(socket.peer(), VIP);
      const accepted = server.accept();
      assert.deepEqual(accepted.peer(), socket.name());
      socket.send("hello");
      assert.equal(accepted.receive().text, "hello");
      accepted.close();
    });

    test("what is no frontend is left alone", () => {
      serve({});
      listener(one);
      const socket = client("TCP");
      assert.deepEqual(
        reasons(() => socket.connect([one, 8080])),
        ["REASON_NOT_OURS"],
      );
      assert.deepEqual(socket.peer(), [one, 8080]);
    });

    test("no endpoint: ECONNREFUSED at once; policy Local without a local one: EHOSTUNREACH at once", () => {
      serve({}, []);
      assert.deepEqual(
        reasons(() => fails("ECONNREFUSED", () => client("TCP").connect(VIP))),
        ["REASON_NO_ENDPOINTS"],
      );
      serve({ flags: frontend_flag.FRONTEND_LOCAL | frontend_flag.FRONTEND_DROP }, []);
      const dropped = reasons(() => fails("EHOSTUNREACH", () => client("TCP").connect(VIP)));
      assert.deepEqual(dropped, ["REASON_NO_LOCAL_ENDPOINTS"]);
    });

    test("a socket that failed may try again, elsewhere, and shows what it got in the end", () => {
      serve({}, [backend(1)]);
      serve({ address: k.vip2, slot_base: 10, service_id: 2 }, [backend(2, { id: 12 })]);
      const socket = client("TCP");
      fails("ECONNREFUSED", () => socket.connect(VIP));
      assert.equal(open_sockets(1), 1n, "counted until it is used again or closed");
      listener(two);
      socket.connect(VIP2);
      assert.deepEqual(socket.peer(), VIP2);
      assert.deepEqual([open_sockets(1), open_sockets(12)], [0n, 1n]);
    });

    test("a socket that failed and then goes to the backend itself sees the backend", () => {
      serve({}, [backend(1)]);
      const socket = client("TCP");
      fails("ECONNREFUSED", () => socket.connect(VIP));
      listener(one);
      socket.connect([one, 8080]);
      assert.deepEqual(socket.peer(), [one, 8080]);
      assert.equal(open_sockets(1), 0n);
    });

    test("connections spread over the backends; each is counted, and counted off when it closes", () => {
      serve({}, [backend(1), backend(2), backend(3)]);
      for (const address of k.backends) listener(address);
      const opened = Array.from({ length: 60 }, () => new Socket("TCP", k.socket).connect(VIP));
      const stats = [1, 2, 3].map((id) => sock.get("backend_stats", id));
      for (const s of stats) assert.ok((s?.new_flows ?? 0n) >= 5n, `${s?.new_flows} of 60`);
      assert.equal(
        stats.reduce((sum, s) => sum + (s?.open_sockets ?? 0n), 0n),
        60n,
      );
      for (const socket of opened) socket.close();
      assert.deepEqual([1, 2, 3].map(open_sockets), [0n, 0n, 0n]);
    });

    test("what a socket asked for is kept until it is closed, by whomever", async () => {
      serve({});
      listener(one);
      const socket = new Socket("TCP", k.socket).connect(VIP);
      const { vip, vip_port, backend, backend_port } = heldPeers()[0] ?? {};
      assert.deepEqual([vip, backend], [k.vip, one]);
      assert.deepEqual([vip_port, backend_port], [80, 8080]);
      const child = spawn("bash", ["-c", `exec 3<>/dev/tcp/${k.vip}/80; echo; read <&3`]);
      await once(child.stdout, "data");
      assert.equal(heldPeers().length, 2);
      socket.close();
      assert.equal(heldPeers().length, 1);
      child.kill("SIGKILL");
      await once(child, "exit");
      assert.deepEqual([heldPeers(), open_sockets(1)], [[], 0n]);
    });

    test("a socket whose connect() failed, or that was disconnected, keeps what it asked for until it asks again", () => {
      serve({});
      serve({ address: k.vip2, slot_base: 10, service_id: 2 }, [backend(2, { id: 12 })]);
      const socket = client("TCP");
      const vips = () => heldPeers().map(({ vip }) => vip);
      fails("ECONNREFUSED", () => socket.connect(VIP));
      fails("ECONNREFUSED", () => socket.connect(VIP2));
      assert.deepEqual(vips(), [k.vip2]);
      listener(one);
      socket.connect(VIP);
      assert.deepEqual(vips(), [k.vip]);
      socket.disconnect();
      fails("ENOTCONN", () => socket.peer());
      socket.connect([one, 8080]);
      assert.deepEqual(socket.peer(), [one, 8080]);
      assert.deepEqual([vips(), open_sockets(1)], [[], 0n]);
      const failed = new Socket("TCP", k.socket);
      fails("ECONNREFUSED", () => failed.connect(VIP2));
      assert.deepEqual(vips(), [k.vip2]);
      failed.close();
      assert.deepEqual([vips(), open_sockets(12)], [[], 0n]);
    });

    test("more sockets than there are places: each shows the VIP, is counted, and leaves nothing", () => {
      reload({ tcp_peers: 3 });
      serve({});
      serve({ address: k.vip2, slot_base: 10, service_id: 2 }, [backend(2, { id: 12 })]);
      listener(one);
      const opened = Array.from({ length: 9 }, () => new Socket("TCP", k.socket).connect(VIP));
      for (const socket of opened) assert.deepEqual(socket.peer(), VIP);
      assert.deepEqual([heldPeers().length, open_sockets(1)], [3, 9n]);
      const last = opened[8];
      last?.disconnect();
      last?.connect([one, 8080]);
      assert.deepEqual([last?.peer(), open_sockets(1)], [[one, 8080], 8n]);
      opened[0]?.close();
      last?.disconnect();
      last?.connect(VIP);
      assert.deepEqual([last?.peer(), heldPeers().length, open_sockets(1)], [VIP, 3, 8n]);
      for (const socket of opened.slice(1)) socket.close();
      assert.deepEqual([heldPeers(), open_sockets(1)], [[], 0n]);
    });

    test("a socket of the kernel's own, whose closing no program sees, takes no place and is not counted as open", (t) => {
      serve({});
      listener(one);
      let socket: Socket;
      try {
        socket = client("MPTCP"); // its subflow is one
      } catch (error) {
        return t.skip(`this kernel has no MPTCP: ${error}`);
      }
      assert.deepEqual(
        reasons(() => socket.connect(VIP)),
        ["REASON_NEW_FLOW"],
      );
      assert.equal(sock.get("backend_stats", 1)?.new_flows, 1n);
      assert.deepEqual([heldPeers(), open_sockets(1)], [[], 0n]);
    });

    test("NodePort: at a node address from everywhere, at a loopback address from the host's namespace alone", () => {
      serve({ address: null, family: k.family, port: 30080 });
      sock.put("node_addresses", k.node as Address, { flags: 0 });
      sock.put("node_addresses", k.loopback as Address, { flags: node_address_flag.NODE_ADDRESS_LOOPBACK });
      listener(one);
      for (const address of [k.node, k.loopback]) {
        const socket = client("TCP").connect([address, 30080]);
        assert.deepEqual(socket.peer(), [address, 30080]);
      }
      fails("ECONNREFUSED", () => client("TCP").connect([two, 30080]));
      sock.configure({ host_netns_cookie: 1n });
      client("TCP").connect([k.node, 30080]);
      assert.deepEqual(
        reasons(() => fails("ECONNREFUSED", () => client("TCP").connect([k.loopback, 30080]))),
        ["REASON_NOT_OURS"],
      );
    });

    test("before config is written nothing is translated", () => {
      serve({ address: one, port: 81 });
      sock.clearConfig();
      assert.deepEqual(
        reasons(() => fails("ECONNREFUSED", () => client("TCP").connect([one, 81]))),
        ["REASON_NO_CONFIG"],
      );
    });

    test("affinity: one backend for the namespace until it is gone, then one other", () => {
      serve({ affinity_timeout_s: 100 }, [backend(1), backend(2)]);
      for (const address of k.backends) listener(address);
      const flows = () => [1, 2].map((id) => sock.get("backend_stats", id)?.new_flows);
      for (let i = 0; i < 20; i++) client("TCP").connect(VIP);
      const first = flows().indexOf(20n) + 1;
      assert.ok(first > 0, `all on one: ${flows()}`);
      const other = first === 1 ? 2 : 1;
      serve({ affinity_timeout_s: 100, slot_base: 20 }, [backend(other as 1 | 2)]);
      putBackend(sock, backend(first as 1 | 2, { state: backend_state.BACKEND_DRAINING }));
      for (let i = 0; i < 5; i++) client("TCP").connect(VIP);
      assert.equal(flows()[other - 1], 5n);
    });

    test("affinity: the memory of the cluster's run does not override policy Local", () => {
      const far = backend(2, { flags: backend_flag.BACKEND_IN_CLUSTER });
      serve({ affinity_timeout_s: 100 }, [far]);
      serve({ address: k.vip2, affinity_timeout_s: 100, flags: frontend_flag.FRONTEND_LOCAL, slot_base: 30 }, [
        backend(1),
      ]);
      for (const address of k.backends) listener(address);
      client("TCP").connect(VIP);
      client("TCP").connect(VIP2);
      assert.deepEqual(
        [1, 2].map((id) => sock.get("backend_stats", id)?.new_flows),
        [1n, 1n],
      );
    });
  });

  describe(`${k.name}, UDP`, () => {
    const udp = (spec: Partial<FrontendSpec> = {}, backends?: readonly BackendSpec[]) =>
      serve({ proto: "UDP", ...spec }, backends);

    test("connected: sent to the backend, received as from the VIP", () => {
      udp();
      const server = responder(one);
      const socket = client("UDP").connect(VIP);
      socket.send("question");
      assert.equal(answer(server, "answer"), "question");
      assert.deepEqual(socket.receive(), { text: "answer", from: VIP });
      assert.deepEqual(socket.peer(), VIP);
    });

    test("unconnected: sent to the backend, received as from the VIP", () => {
      udp();
      const server = responder(one);
      const socket = client("UDP");
      for (const expected of ["REASON_NEW_FLOW", "REASON_ESTABLISHED"]) {
        assert.deepEqual(
          reasons(() => socket.send("question", VIP)),
          [expected],
        );
        assert.equal(answer(server, "answer"), "question");
        assert.deepEqual(
          reasons(() => assert.deepEqual(socket.receive(), { text: "answer", from: VIP })),
          ["REASON_REPLY"],
        );
      }
      assert.equal(sock.get("backend_stats", 1)?.new_flows, 1n);
    });

    test("no endpoint: ECONNREFUSED at once, connected or not", () => {
      udp({}, []);
      fails("ECONNREFUSED", () => client("UDP").connect(VIP));
      fails("ECONNREFUSED", () => client("UDP").send("question", VIP));
    });

    test("a socket stays with its backend while that drains, and leaves it when it is gone or another holds its number", () => {
      udp();
      const first = responder(one);
      const second = responder(two);
      const socket = client("UDP");
      socket.send("1", VIP);
      assert.equal(first.receive().text, "1");
      udp({ slot_base: 10 }, [backend(2)]);
      putBackend(sock, backend(1, { state: backend_state.BACKEND_DRAINING }));
      socket.send("2", VIP);
      assert.equal(first.receive().text, "2");
      putBackend(sock, backend(1, { state: backend_state.BACKEND_NONE }));
      socket.send("3", VIP);
      assert.equal(answer(second, "answer"), "3");
      assert.deepEqual(socket.receive().from, VIP);
      udp({ slot_base: 20 }, [backend(1, { generation: 5 })]);
      putBackend(sock, backend(2, { generation: 9 }));
      socket.send("4", VIP);
      assert.equal(first.receive().text, "4");
    });

    test("one socket, several VIPs, more than are remembered: each answer comes from the VIP that was asked last", () => {
      const server = responder(one);
      const vips = Array.from({ length: 6 }, (_, i): Name => [k.vip, 100 + i]);
      for (const [i, [, port]] of vips.entries())
        udp({ port, service_id: i + 1, slot_base: i }, [backend(1, { id: 10 + i })]);
      const socket = client("UDP");
      for (const vip of [...vips, ...vips]) {
        socket.send("question", vip);
        answer(server, "answer");
        assert.deepEqual(socket.receive().from, vip);
      }
    });

    test("a socket that turns to the backend itself sees the backend", () => {
      udp();
      const server = responder(one);
      const socket = client("UDP");
      socket.send("1", VIP);
      answer(server, "a");
      assert.deepEqual(socket.receive().from, VIP);
      socket.send("2", [one, 8080]);
      answer(server, "b");
      assert.deepEqual(socket.receive().from, [one, 8080]);
    });

    test("connected anew to elsewhere, or disconnected: nothing of the first VIP is left", () => {
      udp();
      udp({ address: k.vip2, slot_base: 10, service_id: 2 }, [backend(2)]);
      const first = responder(one);
      const second = responder(two);
      const socket = client("UDP").connect(VIP);
      assert.equal(open_sockets(1), 1n);
      socket.connect(VIP2);
      assert.deepEqual([open_sockets(1), open_sockets(2)], [0n, 1n]);
      socket.send("1");
      answer(second, "a");
      assert.deepEqual(socket.receive().from, VIP2);
      socket.connect([one, 8080]);
      assert.deepEqual(socket.peer(), [one, 8080]);
      assert.equal(open_sockets(2), 0n);
      socket.disconnect();
      fails("ENOTCONN", () => socket.peer());
      socket.send("2", [one, 8080]);
      answer(first, "b");
      assert.deepEqual(socket.receive().from, [one, 8080]);
    });

    test("disconnected from a VIP and then sending to its backend, it sees the backend", () => {
      udp();
      const server = responder(one);
      const socket = client("UDP").connect(VIP);
      socket.disconnect();
      socket.send("1", [one, 8080]);
      answer(server, "a");
      assert.deepEqual(socket.receive().from, [one, 8080]);
    });

    test("a connected socket that sends elsewhere for once keeps its connection", () => {
      udp();
      udp({ address: k.vip2, slot_base: 10, service_id: 2 }, [backend(2)]);
      const server = responder(one);
      const other = responder(two);
      const socket = client("UDP").connect(VIP);
      socket.send("aside", VIP2);
      assert.equal(other.receive().text, "aside");
      socket.send("main");
      assert.equal(answer(server, "answer"), "main");
      assert.deepEqual(socket.receive().from, VIP);
      assert.deepEqual(socket.peer(), VIP);
      assert.equal(open_sockets(1), 1n);
    });

    test("many sockets spread over the backends, one socket stays", () => {
      udp({}, [backend(1), backend(2), backend(3)]);
      for (let i = 0; i < 60; i++) {
        const socket = new Socket("UDP", k.socket).connect(VIP);
        socket.close();
      }
      const flows = [1, 2, 3].map((id) => sock.get("backend_stats", id)?.new_flows ?? 0n);
      for (const n of flows) assert.ok(n >= 5n, `${flows}`);
      const socket = client("UDP");
      for (let i = 0; i < 10; i++) socket.connect(VIP);
      const grown = [1, 2, 3].map((id, i) => (sock.get("backend_stats", id)?.new_flows ?? 0n) - (flows[i] ?? 0n));
      assert.deepEqual(
        grown.filter((n) => n > 0n),
        [10n],
      );
    });
  });

  describe(`${k.name}, events of calls that are refused`, () => {
    test("say who asked what of which service, from where if that is settled; calls that go on are none", () => {
      serve({ service_id: 7 }, []);
      sock.listen(100);
      fails("ECONNREFUSED", () => client("TCP").bind([one, 40000]).connect(VIP));
      const [udp, tcp] = [protocolNumber.UDP, protocolNumber.TCP];
      publish(sock, { address: k.vip, port: 80, proto: "UDP", scope: scope.SCOPE_INTERNAL, service_id: 8 }, []);
      fails("ECONNREFUSED", () => client("UDP").bind([two, 40001]).send("question", VIP));
      serve({ address: k.vip2 });
      listener(one);
      client("TCP").connect(VIP2);
      const process_name = readFileSync("/proc/self/comm", "utf8").trim();
      const events = sock.events();
      assert.deepEqual(
        events.map(({ key, service_id, reason }) => [
          key.proto,
          key.src_port,
          key.dst_addr,
          key.dst_port,
          service_id,
          reason,
        ]),
        [
          [tcp, 40000, k.vip, 80, 7, reasonNumbers.REASON_NO_ENDPOINTS],
          [udp, 40001, k.vip, 80, 8, reasonNumbers.REASON_NO_ENDPOINTS],
        ],
      );
      assert.equal(events[0]?.key.src_addr, one);
      for (const event of events) {
        assert.deepEqual(
          [event.hook, event.ifindex, event.pid, event.process, event.netns_cookie],
          [hook.HOOK_SOCK, 0, process.pid, process_name, netnsCookie()],
        );
      }
    });
  });

  describe(`${k.name}, source ranges`, () => {
    const restricted = (): void => serve({ flags: frontend_flag.FRONTEND_SOURCE_RANGES });
    const allow = (address: string): void =>
      sock.put("source_ranges", { prefixlen: 32 + 128, service_id: 1, addr: address as Address }, { allow: 1 });

    test("a bound socket is judged by its address", () => {
      restricted();
      listener(one);
      allow(two);
      client("TCP").bind([two, 0]).connect(VIP);
      assert.deepEqual(
        reasons(() => fails("EPERM", () => client("TCP").bind([k.node, 0]).connect(VIP))),
        ["REASON_SOURCE_RANGE"],
      );
    });

    test("an unbound one of the host by the node's addresses", () => {
      restricted();
      listener(one);
      sock.put("node_addresses", k.node as Address, { flags: 0 });
      fails("EPERM", () => client("TCP").connect(VIP));
      allow(k.node);
      client("TCP").connect(VIP);
    });

    test("an unbound one of the host by the address that remote backends see, where no NodePort answers", () => {
      restricted();
      listener(one);
      const field = k.family === "IPv4" ? "snat_addr_v4" : "snat_addr_v6";
      sock.configure({ host_netns_cookie: netnsCookie(), [field]: k.node });
      fails("EPERM", () => client("TCP").connect(VIP));
      allow(k.node);
      client("TCP").connect(VIP);
    });

    test("a loopback address of the node opens nothing", () => {
      restricted();
      sock.put("node_addresses", k.loopback as Address, { flags: node_address_flag.NODE_ADDRESS_LOOPBACK });
      allow(k.loopback);
      fails("EPERM", () => client("TCP").connect(VIP));
    });
  });
}

test("affinity of a dual-stack service: each family remembers a backend of its own", () => {
  const families = [
    { vip: v4.vip, backend: { id: 1, address: v4.backends[0], port: 8080, local: true }, socket: "IPv4" },
    { vip: v6.vip, backend: { id: 2, address: v6.backends[0], port: 8080, local: true }, socket: "IPv6" },
  ] as const;
  for (const [i, { vip, backend }] of families.entries()) {
    const spec = { address: vip, port: 80, scope: scope.SCOPE_INTERNAL, affinity_timeout_s: 100, slot_base: 10 * i };
    publish(sock, spec, [backend]);
  }
  for (const { backend, socket } of families) open("TCP", socket).bind([backend.address, 8080]).listen();
  for (const { vip, socket } of [...families, ...families]) open("TCP", socket).connect([vip, 80]);
  assert.deepEqual(
    [1, 2].map((id) => sock.get("backend_stats", id)?.new_flows),
    [2n, 2n],
  );
});
