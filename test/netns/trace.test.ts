// `beeline trace --drops` with real traffic, the agent long gone: every refusal and drop on one line with its Service;
// filters; one listener at a time; a reader that stops reading loses events and hears of it.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { after, before, test } from "node:test";
import { inside } from "../../src/bench/lab/inside.ts";
import { BEELINE } from "../lib/agent.ts";
import { eventually } from "../lib/eventually.ts";
import { Manifests } from "../lib/objects.ts";
import { Running } from "../lib/sandbox.ts";
import { openLab } from "../lib/served-lab.ts";

const lab = await openLab({ nodes: 1, podsPerNode: 2 });
const running: Running[] = [];
after(() => {
  for (const one of running) one.signal("SIGKILL");
});

before(async () => {
  const manifests = new Manifests(lab);
  const ports = (nodePort: number) => [{ name: "http", port: 80, protocol: "TCP", nodePort }] as const;
  const addresses = (n: number) => ({ clusterIPs: [`172.30.0.${n}`, `fd00:172:30::${n}`] });
  manifests.service({ name: "empty", type: "NodePort", ...addresses(10), ports: ports(30010) }, []);
  const udp = [{ name: "udp", port: 53, protocol: "UDP", nodePort: 30012 }] as const;
  manifests.service({ name: "silent", type: "NodePort", ...addresses(12), ports: udp }, []);
  const guarded = { type: "LoadBalancer", loadBalancerIPs: ["198.51.100.11", "fd00:198::11"] } as const;
  const sourceRanges = ["10.0.0.0/32", "fd00::1/128"];
  manifests.service({ name: "guarded", ...guarded, ...addresses(11), ports: ports(30011), sourceRanges }, ["pod1a"]);
  await lab.startHosts();
  const { status, stderr } = lab.run("node1", [
    ...[BEELINE, "apply", "-f", manifests.path, "--node", "node1"],
    ...lab.placeArguments("node1"),
  ]);
  assert.equal(status, 0, stderr);
  for (const vip of ["198.51.100.11/32", "fd00:198::11/128"]) lab.routeVip(vip, "node1");
});

/** A trace that listens already. */
const trace = async (...args: readonly string[]): Promise<Running> => {
  const argv = [BEELINE, "trace", "--drops", "--bpffs", lab.bpffs("node1"), ...args];
  const [command, rest] = inside(lab.inside("node1"), argv);
  const one = new Running(spawn(command, rest, { stdio: ["ignore", "pipe", "pipe"] }));
  running.push(one);
  await eventually(() => {
    const { stdout } = lab.beeline("node1", ["maps", "listener", "--no-headers"]);
    assert.match(stdout, /until_ns=[1-9]/, one.stderr);
  }, 15_000);
  return one;
};

const end = async (one: Running, signal: NodeJS.Signals = "SIGINT") => {
  one.signal(signal);
  return one.ended();
};

/** The parts of a line of `-o json` that are asked for here. */
interface Line {
  readonly kind: string;
  readonly time: string;
  readonly hook: string;
  readonly device: string | null;
  readonly verdict: string;
  readonly direction: string;
  readonly reason: string;
  readonly service: string;
  readonly protocol: string;
  readonly from: { readonly address: string; readonly port: number };
  readonly to: { readonly address: string; readonly port: number };
  readonly caller: { readonly name: string; readonly pid: number; readonly netns_cookie: number } | null;
}
const linesOf = (text: string): readonly Line[] =>
  text
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line) as Line);

/** From outside: refused and dropped. From a pod: refused at the socket. */
const ask = async (family: "v4" | "v6"): Promise<void> => {
  const node = lab.place("node1")[family];
  const vip = family === "v4" ? "198.51.100.11" : "fd00:198::11";
  const cluster = family === "v4" ? "172.30.0.10" : "fd00:172:30::10";
  const client = await lab.host("client");
  await client.connect(node, 30010, { timeout_ms: 300 });
  await client.connect(vip, 80, { timeout_ms: 300 });
  await (await lab.host("pod1a")).connect(cluster, 80, { timeout_ms: 300 });
};

for (const family of ["v4", "v6"] as const) {
  test(`IP${family}: each refusal and drop is an event with its Service, at the device and at the socket`, async () => {
    const listening = await trace("-o", "json");
    const asked_ms = Date.now();
    await ask(family);
    await eventually(() => assert.ok(linesOf(listening.stdout).some((line) => line.hook === "sock")));
    const { code, stdout, stderr } = await end(listening);
    assert.equal(code, 0, stderr);
    const lines = linesOf(stdout);
    const found = (reason: string, hook: string): Line => {
      const line = lines.find((one) => one.reason === reason && one.hook === hook);
      assert.ok(line !== undefined, `${reason} at ${hook} in\n${stdout}`);
      assert.equal(line.kind, "Drop");
      assert.ok(Math.abs(Date.parse(line.time) - asked_ms) < 30_000, line.time);
      assert.deepEqual([line.protocol, line.direction], ["TCP", "to_backend"]);
      return line;
    };
    const refused = found("no_endpoints", "tc_ingress");
    assert.deepEqual(
      [refused.device, refused.verdict, refused.service, refused.from.address, refused.to, refused.caller],
      [
        ...["eth0", "refused", "default/empty:http/TCP", lab.place("client")[family]],
        { address: lab.place("node1")[family], port: 30010 },
        null,
      ],
    );
    const dropped = found("source_range", "tc_ingress");
    assert.deepEqual([dropped.verdict, dropped.service, dropped.to.port], ["dropped", "default/guarded:http/TCP", 80]);
    const call = found("no_endpoints", "sock");
    assert.deepEqual([call.device, call.verdict, call.service], [null, "refused", "default/empty:http/TCP"]);
    assert.ok(call.caller !== null && call.caller.pid > 0 && call.caller.netns_cookie > 0, JSON.stringify(call));
    assert.match(call.caller.name, /node|MainThread/);
    assert.match(stderr, new RegExp(`^${lines.length} shown of ${lines.length} events; 0 more not written .*, 0 lost`));
  });
}

test("lines for people have the same; filters leave others out; --count ends it", async () => {
  const listening = await trace(
    "--service",
    "default/guarded",
    "--source",
    `${lab.place("client").v4}`,
    "--count",
    "1",
  );
  await ask("v4");
  const { code, stdout, stderr } = await listening.ended();
  assert.equal(code, 0, stderr);
  const [headers, line, ...others] = stdout.trimEnd().split("\n");
  assert.match(headers ?? "", /^TIME +HOOK +AT +PROTO +FROM +TO +SERVICE +REASON +MEANING$/);
  const client = lab.place("client").v4.replaceAll(".", "\\.");
  const expected = `^\\d\\d:\\d\\d:\\d\\d\\.\\d{3} +tc_ingress +eth0 +TCP +${client}:\\d+ +198\\.51\\.100\\.11:80 +default/guarded:http +source_range +Dropped: the client`;
  assert.match(line ?? "", new RegExp(expected));
  assert.deepEqual(others, []);
  assert.match(stderr, /^1 shown of [12] events; /);
});

test("a second listener is told who has it; when that one was killed, the next one listens, and sees nothing of before", async () => {
  const first = await trace("-o", "json");
  const { status, stderr } = lab.beeline("node1", ["trace", "--drops"]);
  assert.equal(status, 3);
  assert.match(stderr, new RegExp(`Cannot listen for events.*Another .beeline trace. holds .*process ${first.pid}\\)`));
  await ask("v4");
  await end(first, "SIGKILL");
  const second = await trace("-o", "json", "--reason", "no_endpoints");
  assert.equal((await end(second, "SIGTERM")).stdout, "");
});

test("Fault 61: a reader that stopped for a while loses what the buffer could not hold, and says so", async () => {
  const stopped = await trace("-o", "json", "--rate", "1000000");
  stopped.signal("SIGSTOP");
  const flood = lab.run("client", ["node", "-e", FLOOD, lab.place("node1").v4]);
  assert.equal(flood.status, 0, flood.stderr);
  stopped.signal("SIGCONT");
  await eventually(
    () => assert.match(stopped.stderr, /beeline: \d+ events lost: they came faster than they were read/),
    10_000,
  );
  const { stdout, stderr } = await end(stopped);
  const shown = linesOf(stdout).length;
  assert.ok(shown >= 2000, `${shown}`);
  const [, lost = "0"] = /, (\d+) lost/.exec(stderr) ?? [];
  assert.ok(Number(lost) > 0, stderr);
});

test("when what it listens to is taken away, it says so and ends", async () => {
  const listening = await trace();
  assert.equal(lab.beeline("node1", ["reset"]).status, 0);
  const { code, stderr } = await listening.ended();
  assert.equal(code, 3);
  assert.match(stderr, /beeline: .* is gone: reset, or taken over by another version/);
});

/** 4,000 datagrams to a NodePort without endpoints. */
const FLOOD = `
  const socket = require("node:dgram").createSocket("udp4");
  let left = 4000;
  const next = () => left-- > 0 ? socket.send("x", 30012, process.argv[1], next) : socket.close();
  socket.on("error", () => {});
  next();`;
