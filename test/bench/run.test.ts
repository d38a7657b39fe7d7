// The benchmark for real, with rounds too short to say anything of speed: modes carry what they claim, a mode that does not
// is found out, and nothing of the lab is left, however the run ends. No time is asserted.
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";
import { PODS, TARGET } from "../../src/bench/cluster.ts";
import { cgroupMount, labDirectory, labName, removeLeftovers } from "../../src/bench/lab/leftovers.ts";
import { netnsName } from "../../src/bench/lab/network.ts";
import { METRICS } from "../../src/bench/measurements.ts";
import { MODES } from "../../src/bench/modes.ts";
import { parseResult } from "../../src/bench/result.ts";
import { type Outcome, type RunOptions, runBenchmark } from "../../src/bench/run.ts";
import { pinDirectory } from "../../src/dataplane/bpf/bpf.ts";
import { openPinnedMaps } from "../../src/dataplane/bpf/pinned.ts";
import { benchDirectory, benchNodeScript } from "../../src/lib/paths.ts";
import { eventually } from "../lib/eventually.ts";

const BEELINE = fileURLToPath(new URL("../../scripts/beeline", import.meta.url));
const directory = mkdtempSync(join(tmpdir(), "beeline-bench-"));
after(() => rmSync(directory, { recursive: true }));

const run = (metrics: readonly string[], options: Partial<RunOptions> = {}): Promise<Outcome> =>
  runBenchmark({
    modes: MODES,
    services: [3],
    metrics: new Set(metrics),
    rounds: 1,
    seconds: 0.03,
    warm_up_s: 0.01,
    baseline: "route",
    command: "a test",
    version: "0",
    files: { tools: benchDirectory(), nodeScript: benchNodeScript() },
    signal: new AbortController().signal,
    note: () => {},
    progress: () => {},
    ...options,
  });

/** What is there of labs of this process, or of another one. */
const traces = (pid: number): readonly string[] => {
  const own = `bl${pid}-`;
  const directories = ["/run/netns", "/run/beeline-lab", cgroupMount()];
  return directories
    .flatMap((path) => (existsSync(path) ? readdirSync(path) : []))
    .filter((one) => one.startsWith(own));
};

/** The rules are being written at this moment. */
const isRestoring = (lab: string): boolean =>
  readFileSync(join(cgroupMount(), lab, "iptables-nft-2000", "node", "cgroup.procs"), "utf8")
    .trim()
    .split("\n")
    .some((pid) => readFileSync(`/proc/${pid}/comm`, "utf8").startsWith("iptables-nft-re"));

/** That the machine is busy is no fault of the run. */
const troubles = ({ result }: Outcome): readonly string[] =>
  result.problems.filter((problem) => !problem.startsWith("The machine was busy"));

/** Differences to the generator alone, which in a few milliseconds may be slower than a mode. */
const MAY_BE_NOISE = ["packet-net", "packet-away-net"];

test("every mode is measured by every metric that it has, and shows that it carried the traffic", async () => {
  const outcome = await run(METRICS.map(({ name }) => name));
  assert.deepEqual(troubles(outcome), []);
  assert.equal(outcome.failed, false);
  const { result } = outcome;
  assert.deepEqual(parseResult(JSON.stringify(result), "the result"), result);
  assert.equal(result.complete, true);
  assert.deepEqual(
    result.generator.map(({ metric, value }) => [metric, value > 0]),
    [
      ["packets", true],
      ["packets-away", true],
      ["new-flows", true],
    ],
  );
  for (const mode of MODES) {
    const gaps = result.gaps.filter((gap) => gap.mode === mode.name).map(({ metric }) => metric);
    for (const { name } of METRICS) {
      const samples = result.samples.filter((sample) => sample.mode === mode.name && sample.metric === name);
      const least = gaps.includes(name) || MAY_BE_NOISE.includes(name) ? 0 : 1;
      assert.ok(samples.length >= least && samples.length <= 1, `${mode.name} ${name}: ${samples.length} samples`);
      if (gaps.includes(name)) assert.deepEqual(samples, []);
      for (const { proof, value, services } of samples) {
        assert.ok(
          proof.expected > 0 && proof.counted >= proof.expected,
          `${mode.name} ${name} ${JSON.stringify(proof)}`,
        );
        assert.ok(value >= 0 && Number.isFinite(value), `${mode.name} ${name}: ${value}`);
        assert.equal(services, mode.counts_services ? 3 : 0);
      }
    }
  }
  assert.deepEqual(traces(process.pid), []);
});

test("an install is measured once a round, each time on an empty node, and nothing of that is left", async () => {
  const modes = MODES.filter(({ name }) => ["nftables", "bpf-tc"].includes(name));
  const outcome = await run(["install", "process-memory"], { modes, rounds: 4 });
  assert.deepEqual(troubles(outcome), []);
  for (const { name } of modes) {
    const samples = outcome.result.samples.filter(({ mode, metric }) => mode === name && metric === "install");
    assert.deepEqual(
      samples.map(({ round, proof }) => [round, proof.counted]),
      [0, 1, 2].map((round) => [round, samples[0]?.proof.expected]),
    );
  }
  assert.deepEqual(traces(process.pid), []);
});

test("what a report shows at the ends only is measured there only, and that is said", async () => {
  const modes = MODES.filter(({ name }) => name === "bpf-tc");
  const { result } = await run(["udp", "connect-p50"], { modes, services: [3, 4, 5] });
  const sizes = (metric: string): readonly number[] =>
    result.samples.filter((sample) => sample.metric === metric).map(({ services }) => services);
  assert.deepEqual(
    [sizes("udp"), sizes("connect-p50")],
    [
      [3, 5],
      [3, 4, 5],
    ],
  );
  assert.deepEqual(
    result.gaps.map(({ mode, metric, services }) => [mode, metric, services]),
    [["bpf-tc", "udp", 4]],
  );
});

/** Somebody else translates, so that every answer is right; and where there are programs, they are taken off. */
const lie = (stack: { readonly name: string }, lab: string): void => {
  const inNode = (...argv: readonly string[]): void =>
    void execFileSync("nsenter", [`--net=/run/netns/${netnsName(lab, stack.name, "node")}`, ...argv]);
  const links = join(labDirectory(lab), "bpf", stack.name);
  if (existsSync(links)) execFileSync("find", [links, "-path", "*/links/*", "-delete"]);
  const match = ["-d", TARGET.address, "-p", "tcp", "-j", "DNAT", "--to-destination", `${PODS[0].address}:8080`];
  inNode("iptables-legacy", "-t", "nat", "-I", "PREROUTING", ...match);
};

test("a mode that does not carry its traffic itself is found out, though every answer is right", async () => {
  const lying = ["route", "iptables-nft", "bpf-tc"];
  const modes = MODES.filter(({ name }) => lying.includes(name));
  const outcome = await run(["connect-p50"], { modes, afterInstall: lie });
  assert.equal(outcome.failed, true);
  const text = troubles(outcome).join("\n");
  assert.match(text, /^route: connection tracking follows \d+ flows/m);
  assert.match(text, /^iptables-nft with 3 services, connect-p50, round 1: the mode did not carry it: packets that/m);
  assert.match(
    text,
    /^bpf-tc with 3 services, connect-p50, round 1: the mode did not carry it: packets that beeline's/m,
  );
  assert.deepEqual(
    outcome.result.samples.filter(({ mode }) => mode !== "route"),
    [],
  );
});

/** No device may be used but by the kernel. */
const forgetDevices = ({ name }: { readonly name: string }, lab: string): void => {
  const maps = openPinnedMaps(pinDirectory(join(labDirectory(lab), "bpf", name)));
  maps.delete(
    "devices",
    Array.from(maps.entries("devices"), ([key]) => key),
  );
  maps.close();
};

test("packets that the kernel forwards for a mode which sends them on itself do not count for it", async () => {
  const modes = MODES.filter(({ name }) => ["bpf-tc-direct", "bpf-xdp"].includes(name));
  const outcome = await run(["packets-away"], { modes, afterInstall: forgetDevices });
  assert.equal(outcome.failed, true);
  assert.deepEqual(outcome.result.samples, []);
  const text = troubles(outcome).join("\n");
  assert.match(text, /^bpf-tc-direct with 3 services, .*: the mode did not carry it: .* sent on directly: /m);
  assert.match(text, /^bpf-xdp with 3 services, .*: the mode did not carry it: packets that beeline's xdp counted/m);
});

test("a mode whose programs are gone reaches nobody, and has no figure", async () => {
  const modes = MODES.filter(({ name }) => name === "bpf-tc");
  const outcome = await run(["packets"], {
    modes,
    afterInstall: (stack, lab) =>
      execFileSync("find", [join(labDirectory(lab), "bpf", stack.name), "-path", "*/links/*", "-delete"]),
  });
  assert.equal(outcome.failed, true);
  assert.deepEqual(outcome.result.samples, []);
});

test("interrupted, the command keeps what it has and removes the lab; killed, the next run removes it", async () => {
  const moments = [
    ["SIGINT", /^installing iptables-nft/m, "route,iptables-nft", "2000", 0],
    ["SIGINT", /^round 2 /m, "route,bpf-tc", "3", 3],
    ["SIGKILL", /^round 2 /m, "route,bpf-tc", "3", 0],
  ] as const;
  for (const [signal, moment, modes, services, samples] of moments) {
    const file = join(directory, "result.json");
    const argv = ["bench", "--modes", modes, "--services", services, "--metrics", "connect-p50,requests,update"];
    const child = spawn(BEELINE, [...argv, "--rounds", "100", "--seconds", "0.05", "--save", file], {
      stdio: ["ignore", "pipe", "pipe"],
    });
    const ended = once(child, "exit");
    let stderr = "";
    for await (const text of child.stderr.setEncoding("utf8")) {
      stderr += text;
      if (moment.test(stderr)) break;
    }
    assert.ok(traces(child.pid ?? 0).length > 4, stderr);
    if (services === "2000") await eventually(() => assert.ok(isRestoring(labName(child.pid ?? 0, 1))), 60_000);
    child.kill(signal);
    const [code] = await ended;
    if (signal === "SIGKILL") {
      assert.ok(traces(child.pid ?? 0).length > 4);
      removeLeftovers();
    } else {
      assert.equal(code, 1, stderr);
      const result = parseResult(readFileSync(file, "utf8"), file);
      assert.equal(result.complete, false);
      assert.ok(result.samples.length >= samples, `${result.samples.length} samples`);
    }
    assert.deepEqual(traces(child.pid ?? 0), [], signal);
  }
  assert.equal(existsSync(labDirectory(labName(process.pid, 1))), false);
});
