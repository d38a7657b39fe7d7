// Connected UDP sockets whose backend is removed: destroyed at once, wherever they are; and nobody else's are. With
// `beeline apply`, which is one apply, so that scripts/test-kernels can run it; and with an agent.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { after, before, describe, test } from "node:test";
import { inside } from "../../src/bench/lab/inside.ts";
import { BEELINE } from "../lib/agent.ts";
import { eventually } from "../lib/eventually.ts";
import type { CommandResult } from "../lib/lab.ts";
import { Manifests, type ServiceWords, serviceObject, sliceObjects } from "../lib/objects.ts";
import { openLab } from "../lib/served-lab.ts";

const lab = await openLab({ nodes: 1, podsPerNode: 4 });
const manifests = new Manifests(lab);
const VIP = { v4: "172.30.0.10", v6: "fd00:172:30::10" } as const;
const FAMILIES = ["v4", "v6"] as const;
/** pod1d serves another Service, whose sockets nothing happens to. */
const OTHER = { v4: "172.30.0.11", v6: "fd00:172:30::11" } as const;
const service = (name: string, vips: typeof VIP | typeof OTHER): ServiceWords => ({
  name,
  clusterIPs: [vips.v4, vips.v6],
  ports: [
    { name: "udp", port: 53, protocol: "UDP" },
    { name: "tcp", port: 80, protocol: "TCP" },
  ],
});

const apply = (...prefix: readonly string[]): CommandResult => {
  const place = ["--node", "node1", ...lab.placeArguments("node1")];
  const result = lab.run("node1", [...prefix, BEELINE, "apply", "-f", manifests.path, ...place]);
  assert.equal(result.status, 0, result.stderr);
  return result;
};

const serve = (pods: readonly string[]): void => manifests.service(service("dns", VIP), pods);

before(async () => {
  manifests.service(service("other", OTHER), ["pod1d"]);
  await lab.startHosts();
  for (const pod of ["pod1a", "pod1b", "pod1d"]) await (await lab.host(pod)).serve(pod, 8080, "TCP", "UDP");
});

interface Held {
  readonly from: string;
  /** Who answers it. */
  readonly name: string;
  error(): Promise<string | null>;
  /** The name of whoever answers, or the error's code. */
  ask(): Promise<string>;
}

/** A connected UDP socket of `from` that has been answered once. */
const connectUdp = async (from: string, address: string, port = 53): Promise<Held> => {
  const host = await lab.host(from);
  const { id } = await host.openUdp(address.includes(":") ? 6 : 4, { to: { address, port } });
  const ask = async (): Promise<string> => {
    const answer = await host.askUdp(id, undefined, 500);
    return answer.ok ? answer.name : answer.code;
  };
  return { from, name: await ask(), error: () => host.udpError(id), ask };
};

/** From a pod without a backend, from one with, from the node; both families, and IPv4 over an IPv6 socket. */
const connectEverywhere = async (): Promise<readonly Held[]> => {
  const held: Held[] = [];
  for (const from of ["pod1c", "pod1b", "node1"]) {
    for (const address of [VIP.v4, VIP.v6, `::ffff:${VIP.v4}`]) held.push(await connectUdp(from, address));
  }
  return held;
};

const assertAborted = async (sockets: readonly Held[], timeout_ms: number): Promise<void> => {
  await eventually(async () => {
    for (const socket of sockets) assert.equal(await socket.error(), "ECONNABORTED", `${socket.from}`);
  }, timeout_ms);
};

const assertUntouched = async (sockets: readonly Held[]): Promise<void> => {
  for (const socket of sockets) {
    assert.equal(await socket.error(), null, socket.from);
    assert.equal(await socket.ask(), socket.name, socket.from);
  }
};

test("a backend is removed: sockets connected to it are destroyed in pods and on the node, and connect anew", async () => {
  serve(["pod1a"]);
  apply();
  const doomed = await connectEverywhere();
  assert.deepEqual(new Set(doomed.map(({ name }) => name)), new Set(["pod1a"]));
  serve(["pod1b"]);
  const { stderr } = apply();
  assert.match(stderr, /Destroyed UDP sockets.* destroyed=9\n/);
  await assertAborted(doomed, 500);
  const next = await connectEverywhere();
  assert.deepEqual(new Set(next.map(({ name }) => name)), new Set(["pod1b"]));
  await assertUntouched(next);
});

test("scaled to zero: destroyed as well, and connecting again is refused", async () => {
  serve(["pod1a"]);
  apply();
  const doomed = await connectEverywhere();
  serve([]);
  apply();
  await assertAborted(doomed, 500);
  for (const address of [VIP.v4, VIP.v6]) await assert.rejects(connectUdp("pod1c", address), /ECONNREFUSED/);
});

test("the Service is deleted: destroyed", async () => {
  serve(["pod1a"]);
  apply();
  const doomed = await connectEverywhere();
  manifests.remove("dns");
  apply();
  await assertAborted(doomed, 500);
});

test("left alone: sockets connected to the pod itself, to other backends, to other Services, unconnected ones, and TCP", async () => {
  serve(["pod1a"]);
  apply();
  const host = await lab.host("pod1c");
  const others = await Promise.all(
    FAMILIES.flatMap((family) => [
      connectUdp("pod1c", lab.place("pod1a")[family], 8080),
      connectUdp("node1", lab.place("pod1a")[family], 8080),
      connectUdp("pod1c", OTHER[family]),
      connectUdp("node1", OTHER[family]),
    ]),
  );
  const { id: unconnected } = await host.openUdp(4);
  assert.partialDeepStrictEqual(await host.askUdp(unconnected, { address: VIP.v4, port: 53 }), { name: "pod1a" });
  const tcp = await host.hold(VIP.v4, 80, 20);
  assert.ok(tcp.ok);
  const doomed = await connectUdp("pod1c", VIP.v4);
  serve(["pod1b"]);
  apply();
  await assertAborted([doomed], 500);
  await assertUntouched(others);
  assert.partialDeepStrictEqual(await host.askUdp(unconnected, { address: VIP.v4, port: 53 }), { name: "pod1b" });
  await eventually(async () => {
    const beats = await host.beats(tcp.id);
    assert.ok(beats.ended === null && beats.echoed > 5, JSON.stringify(beats));
  });
});

test("a backend that drains, terminating and serving, keeps its sockets; when it is gone they are destroyed", async () => {
  serve(["pod1a"]);
  apply();
  const sockets = await connectEverywhere();
  const words = service("dns", VIP);
  const draining = { ready: false, serving: true, terminating: true };
  const slices = sliceObjects(words, [lab.place("pod1a"), lab.place("pod1b")]) as { endpoints: object[] }[];
  for (const slice of slices) Object.assign(slice.endpoints[0] ?? {}, { conditions: draining });
  manifests.write("dns", [serviceObject(words), ...slices]);
  const { stderr } = apply();
  assert.doesNotMatch(stderr, /Destroyed/);
  await assertUntouched(sockets);
  assert.equal((await connectUdp("pod1c", VIP.v4)).name, "pod1b");
  serve(["pod1b"]);
  apply();
  await assertAborted(sockets, 500);
});

describe("who cannot enter other network namespaces", () => {
  test("destroys the host's sockets, names the others; who can takes it up, though nothing changed since", async () => {
    serve(["pod1a"]);
    apply();
    const pod = await connectUdp("pod1c", VIP.v4);
    const node = await connectUdp("node1", VIP.v6);
    serve(["pod1b"]);
    const { stderr } = apply("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "--");
    await assertAborted([node], 500);
    assert.equal(await pod.error(), null);
    assert.match(stderr, /Cannot destroy UDP sockets.* sockets=1 .*Cannot enter a network namespace/);
    assert.match(stderr, /Goes without.*CAP_SYS_ADMIN/);
    apply();
    await assertAborted([pod], 500);
  });
});

test("a namespace without a name is found by its processes", async () => {
  serve(["pod1a"]);
  apply();
  const [command, args] = inside(lab.inside("pod1c"), [
    ...["unshare", "--net", "sh", "-c"],
    'ip link set lo up && ip route add default dev lo && exec "$0" -e "$1"',
    process.execPath,
    `const socket = require("node:dgram").createSocket("udp4");
     socket.on("error", (error) => { console.log(error.code); process.exit(0); });
     socket.connect(53, "${VIP.v4}", () => console.log("connected"));`,
  ]);
  const child = spawn(command, args, { stdio: ["ignore", "pipe", "inherit"] });
  after(() => child.kill());
  const said = async (): Promise<string> => String((await once(child.stdout, "data"))[0]).trim();
  assert.equal(await said(), "connected");
  serve(["pod1b"]);
  const aborted = said();
  apply();
  assert.equal(await aborted, "ECONNABORTED");
});

test("with an agent: within a second of the change", async () => {
  serve(["pod1a"]);
  apply();
  const agent = await lab.startAgent("node1", { manifests: manifests.path, bpf: { minSyncPeriod: "0.1s" } });
  const doomed = await connectEverywhere();
  serve(["pod1b"]);
  await assertAborted(doomed, 1000);
  const { body } = await agent.httpGet(10249, "/metrics");
  assert.match(body, /^beeline_stale_sockets_total\{result="destroyed"\} 9$/m);
  await agent.stop();
});
