// What is refused, and how it is said: no privilege, places that cannot be, input that cannot be used, a second agent.
// Exit 3 when the system refuses, 2 when the input is wrong; and nothing half attached in either case.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { ABI_HASH } from "../../src/dataplane/bpf/abi.gen.ts";
import { eventually } from "../lib/eventually.ts";
import { Sandbox } from "../lib/sandbox.ts";

const BEELINE = fileURLToPath(new URL("../../scripts/beeline", import.meta.url));
const EXAMPLES = fileURLToPath(new URL("../../examples", import.meta.url));

let sandbox: Sandbox;
before(async () => {
  sandbox = await Sandbox.create();
});
after(() => sandbox.close());

/** A new BPF file system holds maps.debug and progs.debug. */
const nothingIsAttached = (): void => {
  const { stdout } = sandbox.exec("ls", `${sandbox.folder}/bpf`);
  assert.equal(stdout, "maps.debug\nprogs.debug\n", "nothing is pinned");
};

const asNobody = (...args: readonly string[]) =>
  spawnSync("setpriv", ["--reuid=65534", "--regid=65534", "--clear-groups", BEELINE, ...args], { encoding: "utf8" });

const unprivileged: readonly (readonly [args: readonly string[], message: RegExp])[] = [
  [["run", "--manifests", "/dev/null"], /^beeline: Cannot run the node agent: this needs root/],
  [["apply", "-f", EXAMPLES], /^beeline: Cannot program the kernel: this needs root/m],
  [["services"], /^beeline: Cannot read the maps under \/sys\/fs\/bpf\/beeline: this needs root\n$/],
  [["reset"], /^beeline: Cannot reset \/sys\/fs\/bpf\/beeline: this needs root/],
];

for (const [args, message] of unprivileged) {
  test(`without root, \`beeline ${args[0]}\` says so`, () => {
    const { status, stdout, stderr } = asNobody(...args);
    assert.match(stderr, message);
    assert.deepEqual([status, stdout], [3, ""]);
  });
}

test("without root, `beeline compile` and `explain -f` work", () => {
  const compiled = asNobody("compile", "-f", EXAMPLES, "--node", "node1");
  assert.deepEqual([compiled.status, compiled.stderr], [0, ""]);
  const explained = asNobody("explain", "203.0.113.9", "172.30.0.80:80", "-f", EXAMPLES, "--node", "node1");
  assert.deepEqual([explained.status, explained.stderr], [0, ""]);
});

test("readers say when nothing is pinned", () => {
  for (const command of ["services", "status", "maps", "flows"]) {
    assert.deepEqual(sandbox.beeline(command), {
      code: 3,
      stdout: "",
      stderr:
        `beeline: No beeline maps under ${sandbox.folder}/bpf/beeline: is the agent running on this node? ` +
        "(beeline run; --bpffs names another place)\n",
    });
  }
});

test("readers say when only another version's maps are there, with both layouts", () => {
  const bpffs = `${sandbox.folder}/other`;
  mkdirSync(`${bpffs}/0123456789ab`, { recursive: true });
  const { status, stderr } = spawnSync(BEELINE, ["services", "--bpffs", bpffs], { encoding: "utf8" });
  assert.equal(status, 3);
  assert.match(
    stderr,
    new RegExp(`are another version's: map layout 0123456789ab, and this command reads ${ABI_HASH}`),
  );
});

test("readers say when maps are missing from the pins", () => {
  const bpffs = `${sandbox.folder}/partial`;
  mkdirSync(`${bpffs}/${ABI_HASH}/maps`, { recursive: true });
  const { status, stderr } = spawnSync(BEELINE, ["services", "--bpffs", bpffs], { encoding: "utf8" });
  assert.equal(status, 3);
  assert.match(
    stderr,
    /^beeline: The beeline maps under \S+ are not complete; starting the agent makes them so: Cannot open /,
  );
});

const inputs: readonly (readonly [name: string, args: () => readonly string[], message: RegExp])[] = [
  ["a manifest path that does not exist", () => ["--manifests", "/nowhere"], /Cannot read \/nowhere: /],
  ["a kubeconfig that does not exist", () => ["--kubeconfig", "/nowhere"], /\/nowhere/],
  ["a kubeconfig that is none", () => ["--kubeconfig", file("bad-kubeconfig", "a: [")], /bad-kubeconfig/],
  [
    "an unknown field",
    () => ["--manifests", EXAMPLES, "--config", file("config", `${HEAD}bpf: {mapSizes: {flow: 1}}\n`)],
    /bpf\.mapSizes\.flow: unknown field \(did you mean flows\?\)/,
  ],
  [
    "a dataplane that does not exist",
    () => ["--manifests", EXAMPLES, "--dataplane", "nftables"],
    /--dataplane: expected bpf, iptables or userspace, got "nftables"/,
  ],
];

const HEAD = "apiVersion: beeline.dev/v1alpha1\nkind: BeelineConfiguration\n";
const file = (name: string, text: string): string => {
  writeFileSync(`${sandbox.folder}/${name}`, text);
  return `${sandbox.folder}/${name}`;
};

for (const [name, args, message] of inputs) {
  test(`${name} ends the agent at once, with nothing attached`, () => {
    const { code, stderr } = sandbox.beeline("run", ...args());
    assert.match(stderr, message);
    assert.equal(code, 2, stderr);
    nothingIsAttached();
  });
}

const places: readonly (readonly [name: string, place: readonly string[], message: RegExp])[] = [
  [
    "a pin directory that is on no BPF file system",
    ["--bpffs", "/tmp/beeline-nowhere"],
    /\/tmp\/beeline-nowhere is not on a BPF file system/,
  ],
  ["a cgroup that does not exist", ["--cgroup", "/sys/fs/cgroup/nowhere"], /\/sys\/fs\/cgroup\/nowhere does not exist/],
  ["a folder that is no cgroup", ["--cgroup", "/tmp"], /\/tmp is not in a cgroup v2 hierarchy/],
];

for (const [name, place, message] of places) {
  test(`${name} is refused by name, with nothing attached`, () => {
    // The sandbox's own place comes first here, and what is given twice means one thing: so replace it.
    const own = sandbox.place.filter((_, i, all) => all[i] !== place[0] && all[i - 1] !== place[0]);
    const { code, stderr } = sandbox.exec(BEELINE, "run", "--manifests", EXAMPLES, ...own, ...place);
    assert.match(stderr, message);
    assert.equal(code, 3, stderr);
    nothingIsAttached();
    assert.equal(existsSync("/tmp/beeline-nowhere"), false);
  });
}

test("a second agent on the same pins is refused and names the first, which goes on", async (t) => {
  const first = sandbox.start("run", "--manifests", EXAMPLES);
  t.after(async () => {
    first.signal("SIGKILL");
    await first.ended();
    assert.equal(sandbox.beeline("reset").code, 0);
  });
  await eventually(() => assert.match(first.stderr, /"Applied"/), 20_000);
  const second = sandbox.beeline("run", "--manifests", EXAMPLES);
  assert.match(second.stderr, /Another beeline agent holds \S+ \(process \d+\)/);
  assert.equal(second.code, 3);
  const reset = sandbox.beeline("reset");
  assert.match(reset.stderr, /Another beeline agent holds/);
  assert.equal(reset.code, 3);
  assert.equal(sandbox.beeline("services", "--no-headers").stdout.split("\n").length > 3, true);
});
