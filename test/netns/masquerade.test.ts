// Every network plugin masquerades what pods send to the outside, in netfilter. Packets of Services that are sent on directly are
// unknown to it, and some of a connection's may be left to the kernel, one by one or, when a policy comes, all of them.
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { after, before, test } from "node:test";
import { inside } from "../../src/bench/lab/inside.ts";
import { eventually } from "../lib/eventually.ts";
import { Manifests } from "../lib/objects.ts";
import { openLab, serviceOf } from "../lib/served-lab.ts";

const lab = await openLab({ nodes: 2, podsPerNode: 1 });
const children: ChildProcess[] = [];
after(() => {
  for (const child of children) child.kill("SIGKILL");
});

/** A program of node's inside a place; what it has printed, line by line. */
const run = (place: string, script: string): { readonly lines: () => readonly string[] } => {
  const [command, args] = inside(lab.inside(place), [process.execPath, "-e", script]);
  const child = spawn(command, args, { stdio: ["ignore", "pipe", "inherit"] });
  children.push(child);
  let text = "";
  child.stdout.setEncoding("utf8").on("data", (more: string) => {
    text += more;
  });
  return { lines: () => text.split("\n").filter(Boolean) };
};

/** TCP: speaks all the time and never listens. UDP: answers with as many bytes as it is asked for, or whom it has heard. */
const SERVER = `
  require("net").createServer((s) => { setInterval(() => s.write("x"), 50); s.on("error", () => process.stdout.write("lost\\n")); })
    .listen(8080, () => process.stdout.write("serving\\n"));
  const u = require("dgram").createSocket("udp4").bind(8080);
  u.on("message", (m, from) => {
    u.send(m[0] === 63 ? from.address + " " + from.port : Buffer.alloc(Number(m)), from.port, from.address);
  });`;
const listener = (address: string, port: number): string => `
  const s = require("net").connect(${port}, "${address}");
  s.on("data", () => process.stdout.write("heard\\n")).on("error", (e) => process.stdout.write(e.code + "\\n"));`;
const asker = (address: string, port: number, sizes: readonly number[]): string => `
  const u = require("dgram").createSocket("udp4"), sizes = ${JSON.stringify(sizes)};
  const next = () => sizes.length ? u.send(String(sizes.shift()), ${port}, "${address}") : u.close();
  u.on("message", (m) => { process.stdout.write(m.length + "\\n"); next(); });
  next();`;
/** Asks with so many bytes whom the server hears. */
const whoAmI = (address: string, port: number, sizes: readonly number[]): string => `
  const u = require("dgram").createSocket("udp4"), sizes = ${JSON.stringify(sizes)};
  const next = () => sizes.length ? u.send("?".repeat(sizes.shift()), ${port}, "${address}") : u.close();
  u.on("message", (m) => { process.stdout.write(m + "\\n"); next(); });
  next();`;

const [NODE1 = ""] = [lab.place("node1").v4];
const POLICY =
  "add table inet guard; add chain inet guard f {type filter hook forward priority 0;}; add rule inet guard f ip daddr 192.0.2.99 drop";
const mode = (): string => {
  const { stdout } = lab.beeline("node1", ["status", "-o", "json"]);
  return (JSON.parse(stdout) as { readonly forwarding: { readonly mode: string } }).forwarding.mode;
};

const nft = (command: string): void => {
  const { status, stderr } = lab.run("node1", ["nft", command]);
  assert.equal(status, 0, stderr);
};

before(async () => {
  const masquerade = [
    "iptables-legacy -t nat -A POSTROUTING -s 10.244.0.0/16 ! -d 10.244.0.0/16 -j MASQUERADE",
    "iptables-legacy -t nat -A POSTROUTING ! -s 10.244.0.0/16 -d 10.244.2.0/24 -j MASQUERADE", // flannel's, for other nodes
  ];
  assert.equal(lab.run("node1", ["sh", "-ec", masquerade.join("\n")]).status, 0);
  const manifests = new Manifests(lab);
  manifests.service(serviceOf("local", 10), ["pod1a"]);
  manifests.service(serviceOf("remote", 11), ["pod2a"]);
  const servers = ["pod1a", "pod2a"].map((pod) => run(pod, SERVER));
  await lab.startAgent("node1", { manifests: manifests.path, bpf: { forwarding: "auto" } });
  await eventually(() => assert.equal(mode(), "direct"));
  for (const server of servers) await eventually(() => assert.deepEqual(server.lines(), ["serving"]));
});

for (const [where, port] of [
  ["on this node", 30110],
  ["on another node", 30111],
] as const) {
  test(`a backend ${where} answers in fragments, which the kernel routes, between datagrams that are sent on directly`, async () => {
    const sizes = [100, 4000, 100, 4000, 100];
    const client = run("client", asker(NODE1, port, sizes));
    await eventually(() => assert.deepEqual(client.lines(), sizes.map(String)));
  });
}

test("a client of another node's backend that first asks in fragments, which the kernel routes, is the same one afterwards", async () => {
  const sizes = [4000, 100, 4000, 100];
  const client = run("client", whoAmI(NODE1, 30111, sizes));
  await eventually(() => assert.equal(client.lines().length, sizes.length));
  assert.equal(new Set(client.lines()).size, 1, client.lines().join(", "));
});

test("connections whose server alone speaks go on when a policy leaves everything to the kernel, and when it goes", async () => {
  const clients = [30010, 30011].map((port) => run("client", listener(NODE1, port)));
  const heardMore = async (): Promise<void> => {
    const before = clients.map((client) => client.lines().length);
    await eventually(() => {
      for (const [i, client] of clients.entries()) {
        assert.ok(client.lines().length > (before[i] ?? 0) + 5, `${i === 0 ? "on this node" : "on another node"}`);
        assert.equal(client.lines().at(-1), "heard");
      }
    });
  };
  await heardMore();
  nft(POLICY);
  await eventually(() => assert.equal(mode(), "kernel"), 10_000);
  await heardMore();
  await heardMore();
  nft("delete table inet guard");
  await eventually(() => assert.equal(mode(), "direct"), 10_000);
  await heardMore();
  assert.equal(new Set(clients.flatMap((client) => client.lines())).size, 1);
});
