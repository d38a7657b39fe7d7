// What the reference dataplane says and leaves when iptables is not there, is held by somebody else, or refuses.
import assert from "node:assert/strict";
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, beforeEach, test } from "node:test";
import { BEELINE } from "../lib/agent.ts";

const netns = `beeline-refused-${process.pid}`;
const folder = mkdtempSync(join(tmpdir(), "beeline-refused-"));
const lockfile = join(folder, "xtables.lock"); // ours alone: the real one is the machine's
const [SYSTEM_PATH = ""] = [process.env.PATH];

before(() => execFileSync("ip", ["netns", "add", netns]));
beforeEach(() => run(["reset", "--kube-proxy"]));
const cleanUp = () => {
  spawnSync("ip", ["netns", "del", netns]);
  rmSync(folder, { recursive: true, force: true });
};
after(cleanUp);
process.on("exit", cleanUp);

const run = (args: readonly string[], path = SYSTEM_PATH) => {
  const env = { ...process.env, PATH: path, XTABLES_LOCKFILE: lockfile };
  const argv = [`--net=/run/netns/${netns}`, BEELINE, ...args];
  const { status, stdout, stderr } = spawnSync("/usr/bin/nsenter", argv, { env, encoding: "utf8" });
  return { status, stdout, stderr };
};

const save = (flavour: string): string =>
  execFileSync("nsenter", [`--net=/run/netns/${netns}`, `iptables-${flavour}-save`], { encoding: "utf8" })
    .replace(/^#.*\n/gm, "")
    .replace(/\[\d+:\d+\]/g, "");

/** A Service web with that endpoint. */
const manifest = (endpoint: string): string => {
  const path = join(folder, "web.yaml");
  writeFileSync(
    path,
    `{kind: Service, apiVersion: v1, metadata: {name: web}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}
---
{kind: EndpointSlice, apiVersion: discovery.k8s.io/v1, metadata: {name: web-1, labels: {kubernetes.io/service-name: web}},
  addressType: IPv4, ports: [{port: 8080}], endpoints: [{addresses: [${endpoint}]}]}
`,
  );
  return path;
};

const apply = (endpoint: string, flavour: string, path?: string) =>
  run(["apply", "-f", manifest(endpoint), "--node", "node-a", "--dataplane", "iptables", "--iptables", flavour], path);

/** A PATH of what the command itself needs, and these. */
const pathWith = (name: string, programs: Readonly<Record<string, string>>): string => {
  const bin = join(folder, name);
  mkdirSync(bin);
  for (const needed of ["bash", "env", "readlink", "dirname"]) symlinkSync(`/usr/bin/${needed}`, join(bin, needed));
  for (const [program, text] of Object.entries(programs)) {
    writeFileSync(join(bin, program), `#!/bin/bash\n${text}\n`);
    chmodSync(join(bin, program), 0o755);
  }
  return bin;
};

test("no iptables on the machine: named, with the package that has it", () => {
  const path = pathWith("none", {});
  for (const [flavour, name] of [["auto", "iptables"] as const, ["legacy", "iptables-legacy"] as const]) {
    const { status, stderr } = apply("10.244.1.2", flavour, path);
    assert.equal(status, 3);
    assert.match(stderr, new RegExp(`Cannot write iptables rules: ${name} not found \\(Debian package iptables\\)`));
  }
  const { status, stderr } = run(["reset", "--kube-proxy"], path);
  assert.equal(status, 3);
  assert.match(stderr, /Cannot remove rules: iptables not found/);
});

test("a restore that fails names the line and the rule, and what was there stays whole", () => {
  assert.equal(apply("10.244.1.2", "nft").status, 0);
  const before = save("nft");
  const failing =
    'cat >/dev/null; echo "iptables-restore: no memory" >&2; echo "Error occurred at line: 2" >&2; exit 1';
  const path = `${pathWith("failing", { "iptables-nft-restore": failing })}:${SYSTEM_PATH}`;
  const { status, stderr } = apply("10.244.1.3", "nft", path);
  assert.equal(status, 3);
  assert.match(stderr, /iptables-nft-restore: iptables-restore: no memory; Error occurred at line: 2/);
  assert.match(stderr, /\(line 2 of the input: :KUBE-SERVICES - \[0:0\]\)/);
  assert.equal(save("nft"), before);
  assert.equal(apply("10.244.1.3", "nft").status, 0);
  assert.match(save("nft"), /--to-destination 10\.244\.1\.3:8080/);
});

test("a lock that is held too long is an error that says so; one that is given back in time is waited for", async () => {
  assert.equal(apply("10.244.1.2", "legacy").status, 0);
  const before = save("legacy");
  const holder = spawn("flock", [lockfile, "sh", "-c", "echo held; exec cat"]); // until its input ends
  await once(holder.stdout, "data");
  const { status, stderr } = apply("10.244.1.3", "legacy");
  assert.equal(status, 3);
  assert.match(stderr, /xtables lock/);
  assert.equal(save("legacy"), before);
  holder.stdin.end();
  await once(holder, "exit");
  const short = spawn("flock", [lockfile, "sh", "-c", "echo held; exec sleep 2"]);
  await once(short.stdout, "data");
  assert.equal(apply("10.244.1.3", "legacy").status, 0);
  assert.match(save("legacy"), /--to-destination 10\.244\.1\.3:8080/);
});

test("what is in use is kept to: rules go where kube-proxy's or kubelet's chains are", () => {
  const hint = (flavour: string, verb: string) =>
    execFileSync("nsenter", [
      `--net=/run/netns/${netns}`,
      `iptables-${flavour}`,
      "-t",
      "mangle",
      verb,
      "KUBE-KUBELET-CANARY",
    ]);
  for (const flavour of ["legacy", "nft"]) {
    hint(flavour, "-N");
    assert.equal(apply("10.244.1.2", "auto").status, 0);
    hint(flavour, "-X");
    assert.match(save(flavour), /KUBE-SVC-/);
    assert.equal(/KUBE-SVC-/.test(save(flavour === "nft" ? "legacy" : "nft")), false);
    const { stdout } = run(["reset", "--kube-proxy"]);
    assert.match(stdout, new RegExp(`removed IPv4 nat: \\d+ chains \\(${flavour}\\)`));
    assert.equal(/KUBE-SVC-/.test(save(flavour)), false);
  }
});

test("without conntrack and nfacct the rules are written, and what is not done is said", () => {
  const path = pathWith("no-conntrack", {});
  for (const program of ["iptables-nft", "iptables-nft-save", "iptables-nft-restore"]) {
    symlinkSync(`/usr/sbin/${program}`, join(path, program));
    symlinkSync(
      `/usr/sbin/${program.replace("iptables", "ip6tables")}`,
      join(path, program.replace("iptables", "ip6tables")),
    );
  }
  const file = manifest("10.244.1.2");
  const udp = `{kind: Service, apiVersion: v1, metadata: {name: dns}, spec: {clusterIP: 10.96.0.10, ports: [{port: 53, protocol: UDP}]}}`;
  const dns = join(folder, "dns.yaml");
  writeFileSync(dns, udp);
  const args = ["apply", "-f", file, "-f", dns, "--node", "node-a", "--dataplane", "iptables", "--iptables", "nft"];
  const { status, stderr } = run(args, path);
  assert.equal(status, 0, stderr);
  assert.match(stderr, /Cannot clean up UDP flows .*Cannot run conntrack: not found \(Debian package conntrack\)/);
  assert.match(stderr, /Packets are not counted .*Cannot run nfacct: not found \(Debian package nfacct\)/);
  assert.match(save("nft"), /10\.96\.0\.10/);
  assert.doesNotMatch(save("nft"), /nfacct/);
});

test("counters that somebody took away are made again, and go with the rules", () => {
  const nfacct = (...args: readonly string[]): string =>
    execFileSync("nsenter", [`--net=/run/netns/${netns}`, "nfacct", ...args], { encoding: "utf8" });
  assert.equal(apply("10.244.1.2", "nft").status, 0);
  assert.match(save("nft"), /--nfacct-name +ct_state_invalid_dropped_pkts -j DROP/);
  assert.match(nfacct("list"), /= ct_state_invalid_dropped_pkts;\n.*= localhost_nps_accepted_pkts;/);
  execFileSync("nsenter", [`--net=/run/netns/${netns}`, "iptables-nft", "-F", "KUBE-FORWARD"]);
  nfacct("flush"); // all that no rule uses: localhost_nps_accepted_pkts here, as there is no NodePort
  assert.equal(apply("10.244.1.3", "nft").status, 0);
  assert.match(nfacct("list"), /localhost_nps_accepted_pkts/);
  assert.match(run(["reset", "--kube-proxy"]).stdout, /removed packet counter ct_state_invalid_dropped_pkts/);
  assert.equal(nfacct("list"), "");
});

test("NodeCIDR: refused until the Node has podCIDRs, then written by them", () => {
  const config = join(folder, "config.yaml");
  writeFileSync(
    config,
    "{apiVersion: beeline.dev/v1alpha1, kind: BeelineConfiguration, mode: iptables, detectLocalMode: NodeCIDR}",
  );
  const node = join(folder, "node.yaml");
  const args = ["apply", "-f", manifest("10.244.1.2"), "-f", node, "--node", "node-a", "--config", config];
  writeFileSync(node, "{kind: Node, apiVersion: v1, metadata: {name: node-a}}");
  const refused = run(args);
  assert.equal(refused.status, 3);
  assert.match(refused.stderr, /Cannot tell the traffic of pods \(detectLocalMode NodeCIDR\)/);
  assert.equal(save("nft").includes("KUBE-SVC-"), false);
  writeFileSync(node, '{kind: Node, apiVersion: v1, metadata: {name: node-a}, spec: {podCIDRs: ["10.244.7.0/24"]}}');
  assert.equal(run(args).status, 0);
  assert.match(save("nft"), /KUBE-SVC-\S+ ! -s 10\.244\.7\.0\/24 -d 10\.96\.0\.1\/32 .*KUBE-MARK-MASQ/);
});
