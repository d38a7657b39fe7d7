// The agent as a process: ports that are taken, signals, readers that stop reading. What is attached outlives it.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { eventually } from "../lib/eventually.ts";
import { Sandbox } from "../lib/sandbox.ts";

const BEELINE = fileURLToPath(new URL("../../scripts/beeline", import.meta.url));

const SERVICE = `apiVersion: v1
kind: Service
metadata: {namespace: shop, name: web}
spec:
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1]
  ports: [{name: http, port: 80}]
`;

const sandboxWithManifests = async (t: { after(call: () => Promise<void>): void }): Promise<[Sandbox, string]> => {
  const sandbox = await Sandbox.create();
  t.after(() => sandbox.close());
  const manifests = `${sandbox.folder}/manifests`;
  mkdirSync(manifests);
  writeFileSync(`${manifests}/web.yaml`, SERVICE);
  return [sandbox, manifests];
};

const TAKE_PORT = `require("net").createServer().listen(10256, "0.0.0.0", () => console.log("taken")); process.stdin.resume()`;

test("a health port that is taken is said and tried again, while services are programmed; freed, it is served", async (t) => {
  const [sandbox, manifests] = await sandboxWithManifests(t);
  const blocker = sandbox.spawn(process.execPath, "-e", TAKE_PORT);
  await eventually(() => assert.equal(blocker.stdout, "taken\n"));
  const agent = sandbox.start("run", "--manifests", manifests);
  await eventually(() => assert.match(agent.stderr, /"Applied"/), 20_000);
  assert.match(
    agent.stderr,
    /"error":".*EADDRINUSE.*","in_ms":5000,"msg":"Cannot serve healthz at 0.0.0.0:10256; trying again"/,
  );
  blocker.signal("SIGKILL");
  await eventually(() => assert.match(agent.stderr, /"address":"0.0.0.0:10256","msg":"Serving healthz"/), 20_000);
  assert.match(sandbox.get("http://127.0.0.1:10256/healthz"), /^200 \{"lastUpdated":/);
});

test("with bindAddressHardFail a port that is taken ends the agent with 3", async (t) => {
  const [sandbox, manifests] = await sandboxWithManifests(t);
  const blocker = sandbox.spawn(process.execPath, "-e", TAKE_PORT);
  await eventually(() => assert.equal(blocker.stdout, "taken\n"));
  const config = `${sandbox.folder}/config.yaml`;
  writeFileSync(config, "apiVersion: beeline.dev/v1alpha1\nkind: BeelineConfiguration\nbindAddressHardFail: true\n");
  const { code, stderr } = sandbox.beeline("run", "--manifests", manifests, "--config", config);
  assert.match(stderr, /beeline: Cannot serve healthz at 0.0.0.0:10256: .*EADDRINUSE/);
  assert.equal(code, 3);
});

test("every page of the agent answers as documented", async (t) => {
  const [sandbox, manifests] = await sandboxWithManifests(t);
  const agent = sandbox.start("run", "--manifests", manifests, "--log-format", "text");
  await eventually(() => assert.match(agent.stderr, /INFO {2}Applied ms=/), 20_000);
  assert.match(sandbox.get("http://127.0.0.1:10256/livez"), /^200 \{"lastUpdated":.*"healthy":true/);
  assert.equal(sandbox.get("http://127.0.0.1:10256/readyz"), "200 ok\n");
  assert.equal(sandbox.get("http://127.0.0.1:10256/metrics"), "404 not found\n\n");
  assert.equal(sandbox.get("http://127.0.0.1:10249/healthz"), "200 ok\n");
  assert.equal(sandbox.get("http://127.0.0.1:10249/proxyMode"), "200 bpf\n");
  assert.match(
    sandbox.get("http://127.0.0.1:10249/configz"),
    /^200 \{\n {2}"beeline.dev": \{\n {4}"nodeName": "node-a",/,
  );
  const slis = sandbox.get("http://127.0.0.1:10249/metrics/slis");
  assert.match(slis, /^kubernetes_healthcheck\{name="proxy",type="healthz"\} 1$/m);
  assert.match(slis, /^kubernetes_healthchecks_total\{name="proxy",status="success",type="readyz"\} 1$/m);
  const metrics = sandbox.get("http://127.0.0.1:10249/metrics");
  for (const line of [
    'kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv4"} 1',
    'beeline_map_entries{map="frontends"} 2',
    'beeline_map_entries{map="flows"} 0',
    'beeline_map_capacity{map="flows"} 524288',
    'kubeproxy_proxy_livez_total{code="200"} 1',
  ]) {
    assert.ok(metrics.includes(`\n${line}\n`), `${line} is missing`);
  }
});

test("SIGTERM ends the agent with 0 and leaves everything attached; readers and the next agent find it", async (t) => {
  const [sandbox, manifests] = await sandboxWithManifests(t);
  const first = sandbox.start("run", "--manifests", manifests, "--device", "eth0");
  await eventually(() => assert.match(first.stderr, /"Applied"/), 20_000);
  const running = sandbox.beeline("status", "--no-headers").stdout;
  assert.match(running, /^Agent: +running, process \d+$/m);
  first.signal("SIGTERM");
  assert.equal((await first.ended()).code, 0);
  const screen = sandbox.beeline("status", "--no-headers").stdout;
  assert.match(screen, /^Agent: +not running/m);
  assert.match(screen, /^Sockets: +9 hooks$/m);
  assert.match(screen, /^Devices: +eth0 \(\w+ egress, \w+ ingress\)$/m);
  const services = (): string => sandbox.beeline("services", "--no-headers").stdout;
  assert.equal(services(), "shop/web:http   TCP   ClusterIP   10.96.0.1:80   0   0   -   -\n");
  const second = sandbox.start("run", "--manifests", manifests, "--device", "eth0");
  await eventually(() => assert.match(second.stderr, /"Applied"/), 20_000);
  assert.match(second.stderr, /"written":\{\},"removed":\{\}/, "nothing had to be written again");
  assert.equal(services(), "shop/web:http   TCP   ClusterIP   10.96.0.1:80   0   0   -   -\n");
});

const NODE = `---
apiVersion: v1
kind: Node
metadata: {name: node-a}
status: {addresses: [{type: InternalIP, address: 192.0.2.11}]}
`;

test("a restart takes nothing off a device that only the Node's address chose", async (t) => {
  const [sandbox, manifests] = await sandboxWithManifests(t);
  writeFileSync(`${manifests}/node.yaml`, NODE);
  const links = (): string => {
    const find = `for link in ${sandbox.folder}/bpf/beeline/*/links/*; do bpftool link show pinned $link | head -1; done`;
    const { stdout } = sandbox.exec("sh", "-c", find);
    return stdout.replaceAll(/prog \d+/g, "prog N"); // the program is swapped, the link stays
  };
  const first = sandbox.start("run", "--manifests", manifests);
  await eventually(() => assert.match(first.stderr, /"Applied"/), 20_000);
  const before = links();
  assert.match(sandbox.beeline("status").stdout, /^Devices: +eth0 /m);
  first.signal("SIGKILL");
  await first.ended();
  const second = sandbox.start("run", "--manifests", manifests);
  await eventually(() => assert.match(second.stderr, /"Applied"/), 20_000);
  assert.equal(links(), before);
  assert.notEqual(before, "");
});

test("a file that turns bad while the agent runs is named, and what it held stays", async (t) => {
  const [sandbox, manifests] = await sandboxWithManifests(t);
  const agent = sandbox.start("run", "--manifests", manifests);
  await eventually(() => assert.match(agent.stderr, /"Applied"/), 20_000);
  writeFileSync(`${manifests}/web.yaml`, "kind: [");
  await eventually(() => assert.match(agent.stderr, /web\.yaml/), 10_000);
  assert.match(sandbox.beeline("services", "--no-headers").stdout, /^shop\/web:http/);
  writeFileSync(`${manifests}/web.yaml`, SERVICE.replace("port: 80", "port: 81"));
  await eventually(
    () => assert.match(sandbox.beeline("frontends", "--no-headers").stdout, /^10\.96\.0\.1:81 /),
    20_000,
  );
});

test("--watch prints again when something changed, one JSON document a line", async (t) => {
  const [sandbox, manifests] = await sandboxWithManifests(t);
  assert.equal(sandbox.beeline("apply", "-f", manifests).code, 0);
  const watch = sandbox.start("frontends", "--watch", "-o", "json");
  const lines = (): string[] => watch.stdout.split("\n").filter((line) => line !== "");
  await eventually(() => assert.equal(lines().length, 1), 20_000);
  writeFileSync(`${manifests}/web.yaml`, SERVICE.replace("port: 80", "port: 81"));
  assert.equal(sandbox.beeline("apply", "-f", manifests).code, 0);
  await eventually(() => assert.equal(lines().length, 2), 20_000);
  const ports = lines().map((line) => JSON.parse(line).items.map((f: { port: number }) => f.port));
  assert.deepEqual(ports, [[80], [81]]);
  watch.signal("SIGTERM");
  assert.deepEqual([(await watch.ended()).code, watch.stderr], [0, ""]);
});

test("reset takes everything away, and a second time there is nothing", async (t) => {
  const [sandbox, manifests] = await sandboxWithManifests(t);
  assert.equal(sandbox.beeline("apply", "-f", manifests, "--device", "eth0").code, 0);
  const first = sandbox.beeline("reset");
  assert.equal(first.code, 0);
  assert.match(first.stdout, /^removed \S+\/links\/connect4@cgroup$/m);
  const second = sandbox.beeline("reset");
  assert.deepEqual([second.code, second.stdout], [0, ""]);
  assert.equal(sandbox.beeline("services").code, 3);
});

test("a reader that has seen enough ends the command quietly, however much there is", () => {
  const folder = mkdtempSync(join(tmpdir(), "beeline-pipe-"));
  try {
    const many = Array.from({ length: 3_000 }, (_, i) =>
      SERVICE.replace("name: web", `name: web-${i}`).replaceAll(
        "10.96.0.1",
        `10.${96 + (i >> 16)}.${(i >> 8) & 255}.${i & 255}`,
      ),
    );
    writeFileSync(`${folder}/many.yaml`, many.join("---\n"));
    const pipe = `set -o pipefail; ${BEELINE} compile -f ${folder}/many.yaml --node n 2>${folder}/err | head -n 3`;
    const { status, stdout } = spawnSync("bash", ["-c", pipe], { encoding: "utf8" });
    assert.equal(stdout.split("\n").length, 4);
    assert.equal(status, 0);
    const all = spawnSync(BEELINE, ["compile", "-f", `${folder}/many.yaml`, "--node", "n"], {
      encoding: "utf8",
      maxBuffer: 2 ** 28,
    });
    assert.equal(all.stdout.match(/^shop\/web-\d+:http\/TCP$/gm)?.length, 3_000, "a pipe is never cut off");
  } finally {
    rmSync(folder, { recursive: true });
  }
});
