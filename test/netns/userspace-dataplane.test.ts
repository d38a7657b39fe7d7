// The userspace dataplane by itself, in a network namespace of its own: what it says that it does, and what it leaves.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { after, type TestContext, test } from "node:test";
import { openUserspaceDataplane, type UserspaceDataplane } from "../../src/dataplane/userspace/userspace.ts";
import { messageOf } from "../../src/lib/errors.ts";
import type { Address } from "../../src/model/address.ts";
import type { Desired, DesiredService } from "../../src/model/desired.ts";
import { clusterIP, desiredOn, nodeAddress, nodePort, serviceOf } from "../lib/services.ts";
import { enterNetworkNamespace } from "../lib/socket.ts";

const NODE = "192.0.2.1";
const POD = "192.0.2.2";
enterNetworkNamespace([NODE, POD]);
const wire = [
  "link add wire type veth peer name far",
  "link set wire arp off up",
  "link set far up",
  `route add 10.96.0.0/16 dev wire src ${NODE}`,
];
execFileSync("ip", ["-batch", "-"], { input: wire.join("\n") });

const addresses = [nodeAddress("127.0.0.1", { loopback: true }), nodeAddress(NODE, { primary: true })];
const desired = (...services: readonly DesiredService[]): Desired => desiredOn(addresses, ...services);
const web = serviceOf("web", [POD], [clusterIP("10.96.0.1"), nodePort(30080)], { local: [POD] });
const empty = serviceOf("empty", [], [clusterIP("10.96.0.2")]);
const PRUNE = { prune: true };

const opened = (t: TestContext): UserspaceDataplane => {
  const dataplane = openUserspaceDataplane({
    families: ["IPv4", "IPv6"],
    flavour: "nft",
    udpIdleTimeout_ms: 250,
    localAddresses: () => [NODE, "127.0.0.1"] as Address[],
    clusterCIDRs: [],
    now_ms: () => performance.now(),
    log: (level, message, fields) => t.diagnostic(`${level} ${message} ${JSON.stringify(fields)}`),
  });
  t.after(() => dataplane.close());
  return dataplane;
};

/** Ports of this namespace in the state LISTEN, of both families. */
const listening = (): number =>
  ["tcp", "tcp6"].reduce((sum, file) => {
    const rows = readFileSync(`/proc/thread-self/net/${file}`, "utf8").split("\n").slice(1);
    return sum + rows.filter((row) => row.trim().split(/\s+/)[3] === "0A").length;
  }, 0);

const rules = (): string => execFileSync("iptables-nft-save", { encoding: "utf8" });

/** The code of the error, or what the server says. */
const meet = async (host: string, port: number): Promise<string> => {
  const socket = connect({ host, port });
  try {
    const [data] = await once(socket, "data");
    return String(data);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? "";
  } finally {
    socket.destroy();
  }
};

const server = createServer((socket) =>
  socket
    .on("error", () => undefined)
    .resume()
    .end("pod"),
);
server.listen({ host: POD, port: 8080 });
await once(server, "listening");
after(() => server.close());

test("What was applied is read back, answers or refuses, and is gone after close()", async (t) => {
  const dataplane = opened(t);
  const first = await dataplane.apply(desired(web, empty), PRUNE);
  assert.deepEqual(first.removed, {});
  assert.deepEqual(dataplane.readBack(), desired(web, empty));
  assert.equal(listening(), 3);
  assert.equal(await meet("10.96.0.1", 80), "pod");
  assert.equal(await meet(NODE, 30080), "pod");
  assert.equal(await meet("10.96.0.2", 80), "ECONNREFUSED");
  assert.deepEqual(dataplane.check(), []);
  const second = await dataplane.apply(desired(web), PRUNE);
  assert.deepEqual([second.written.listeners, second.removed], [0, {}]);
  await dataplane.apply(desired(), PRUNE);
  assert.equal(listening(), 1);
  assert.deepEqual(dataplane.readBack(), desired());
  await dataplane.apply(desired(web), PRUNE);
  dataplane.close();
  assert.equal(listening(), 1);
  assert.doesNotMatch(rules(), /KUBE-/);
});

test("Rules are written when they change, not when backends do", async (t) => {
  const dataplane = opened(t);
  await dataplane.apply(desired(web), PRUNE);
  const before = rules();
  const scaled = serviceOf("web", [POD, "192.0.2.3"], [clusterIP("10.96.0.1"), nodePort(30080)], { local: [POD] });
  assert.deepEqual(await dataplane.apply(desired(scaled), PRUNE), { written: { listeners: 0, rules: 0 }, removed: {} });
  assert.equal(rules(), before);
  assert.deepEqual(dataplane.readBack(), desired(scaled));
});

test("Before the first pruning nothing is taken away", async (t) => {
  const dataplane = opened(t);
  await dataplane.apply(desired(web), PRUNE);
  await dataplane.apply(desired(empty), { prune: false });
  assert.equal(await meet("10.96.0.1", 80), "pod");
  assert.deepEqual(dataplane.readBack(), desired(web, empty));
});

test("SCTP, and a family in which the node has no address, are not answered, and not said to be", async (t) => {
  const dataplane = opened(t);
  const sctp = serviceOf("sctp", [POD], [clusterIP("10.96.0.3")], { protocol: "SCTP" });
  const v6 = serviceOf("six", ["fd00::2"], [clusterIP("fd00:96::1")]);
  await dataplane.apply(desired(sctp, v6), PRUNE);
  assert.equal(listening(), 1);
  const held = [...dataplane.readBack().services.values()].map(({ frontends }) => frontends);
  assert.deepEqual(held, [[], []]);
});

test("Where it cannot listen it refuses; the others answer, and the apply fails", async (t) => {
  const dataplane = opened(t);
  await dataplane.apply(desired(web), PRUNE);
  const gone = desiredOn([nodeAddress("192.0.2.77", { primary: true })], web);
  await assert.rejects(
    async () => dataplane.apply(gone, PRUNE),
    (error) => {
      assert.match(messageOf(error), /^Cannot listen for a frontend: listen EADDRNOTAVAIL/);
      return true;
    },
  );
  assert.equal(await meet("10.96.0.1", 80), "ECONNREFUSED");
  await dataplane.apply(desired(web), PRUNE);
  assert.equal(await meet("10.96.0.1", 80), "pod");
});

test("Rules that cannot be written leave the old ones, and those answer", async (t) => {
  const dataplane = opened(t);
  await dataplane.apply(desired(web), PRUNE);
  const path = process.env.PATH;
  t.after(() => {
    process.env.PATH = path;
  });
  process.env.PATH = "/nowhere";
  await assert.rejects(dataplane.apply(desired(empty), PRUNE), /Cannot run iptables-nft-save: not found/);
  process.env.PATH = path;
  assert.equal(await meet("10.96.0.1", 80), "pod");
  await dataplane.apply(desired(empty), PRUNE);
  assert.equal(await meet("10.96.0.2", 80), "ECONNREFUSED");
  assert.equal(listening(), 1);
});

test("Tables that somebody changed are named, and mended after forget()", async (t) => {
  const dataplane = opened(t);
  await dataplane.apply(desired(web), PRUNE);
  const before = rules();
  execFileSync("iptables-nft", ["-t", "filter", "-D", "INPUT", "1"]);
  execFileSync("iptables-nft", ["-t", "nat", "-F", "KUBE-NODEPORT-CONTAINER"]);
  assert.deepEqual(dataplane.check(), ["IPv4 filter", "IPv4 nat"]);
  dataplane.forget();
  await dataplane.apply(desired(web), PRUNE);
  assert.deepEqual(dataplane.check(), []);
  assert.equal(rules().split("\n").length, before.split("\n").length);
});

test("A backend that is a frontend as well is reached, and not for ever", async (t) => {
  const dataplane = opened(t);
  const looped = serviceOf("web", [POD], [{ kind: "ExternalIP", address: POD, port: 8080 }], { local: [POD] });
  await dataplane.apply(desired(looped), PRUNE);
  assert.equal(await meet(POD, 8080), "pod");
});
