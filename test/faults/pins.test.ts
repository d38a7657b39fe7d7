// What outlives the agent, and who may touch it: pins and links over kill -9, foreign hands, vanished devices, a second
// agent, an older version's leftovers, hooks that somebody else holds.
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { ABI_HASH, type Config as FullConfig } from "../../src/dataplane/bpf/abi.gen.ts";
import { SOCKET_HOOKS } from "../../src/dataplane/bpf/attach.ts";
import { decode, encode, sizeOf } from "../../src/dataplane/bpf/codec.ts";
import { kill, lines, logs, Node, noDataplane, results } from "../lib/dataplane-node.ts";
import { type Options, type Step, toText } from "../lib/dataplane-steps.ts";
import { clusterIP, desiredOn, nodeAddress, nodePort, serviceOf } from "../lib/services.ts";

const skip = noDataplane;

const desired = toText(
  desiredOn(
    [nodeAddress("192.0.2.11", { primary: true })],
    serviceOf("web", ["10.244.0.1", "10.244.0.2"], [clusterIP("10.96.0.1"), nodePort(30080)]),
    serviceOf("dns", ["10.244.0.3"], [clusterIP("10.96.0.2", 53)], { protocol: "UDP" }),
  ),
);

const EVERY_HOOK_ONCE = Object.fromEntries(
  [...Object.keys(SOCKET_HOOKS), "ingress", "egress"].map((hook) => [hook, 1]),
);
const NO_HOOK = Object.fromEntries(Object.keys(EVERY_HOOK_ONCE).map((hook) => [hook, 0]));

type Links = Readonly<
  Record<string, { readonly id: number; readonly program_id: number; readonly target: number } | null>
>;

type Config = Pick<FullConfig, "hash_seed" | "backend_ids_end">;

// ---- adopting ----------------------------------------------------------------------------------------------------

for (const attach of ["tcx", "clsact"] as const) {
  test(`${attach}: killed with SIGKILL, everything stays attached; the next agent adopts it and writes nothing`, {
    skip,
  }, async (t) => {
    const node = await Node.create(t, attach);
    const first = await node.start([
      { open: true },
      { apply: desired },
      { print: "links" },
      { print: "config" },
      { hold: true },
    ]);
    await kill(first);
    const [, , linksBefore, config] = results(lines(first.stdout)) as [unknown, unknown, Links, Config];
    const [hooksMeanwhile] = results(node.run([{ print: "hooks" }]));
    assert.deepEqual(hooksMeanwhile, EVERY_HOOK_ONCE);
    const steps: Step[] = [
      { open: true },
      { print: "readBack" },
      { print: "hooks" },
      { print: "links" },
      { apply: desired },
      { print: "config" },
    ];
    const [, held, hooks, linksAfter, applied, configAfter] = results(node.run(steps)) as [
      unknown,
      unknown,
      unknown,
      Links,
      unknown,
      Config,
    ];
    assert.deepEqual(held, { ...desired, services: [...desired.services].reverse() }, "sorted by name: dns, web");
    assert.deepEqual(hooks, EVERY_HOOK_ONCE);
    assert.deepEqual(applied, { written: {}, removed: {} });
    assert.ok(config.hash_seed > 0, "drawn");
    assert.equal(configAfter.hash_seed, config.hash_seed, "a client's hash finds the same backend again");
    for (const [name, link] of Object.entries(linksBefore)) {
      if (link === null) continue;
      assert.equal(linksAfter[name]?.id, link.id, `${name} is still the same link`);
      assert.notEqual(linksAfter[name]?.program_id, link.program_id, `${name} runs the new program`);
    }
  });

  test(`${attach}: over five restarts no hook is ever seen without a program`, { skip }, async (t) => {
    const node = await Node.create(t, attach);
    node.run([{ open: true }, { apply: desired }, { close: true }]);
    const watcher = await node.start([{ watch_ms: 4000 }], "watching");
    for (let i = 0; i < 5; i++) results(node.run([{ open: true }, { apply: desired }]));
    await watcher.ended();
    const watched = results(lines(watcher.stdout)).at(-1) as { looks: number; empty: string[] };
    assert.deepEqual(watched.empty, []);
    assert.ok(watched.looks > 50, `${watched.looks} looks`);
  });
}

test("Backends of a map that is new need not be read; those of one that was there are, whatever became of the rest", {
  skip,
}, async (t) => {
  const node = await Node.create(t);
  const [, config] = results(node.run([{ open: true }, { print: "config" }, { apply: desired }, { close: true }]));
  assert.equal((config as Config).backend_ids_end, 1, "below the first id there is none");
  const shell = `rm ${node.options.bpffs}/${ABI_HASH}/maps/config`;
  const again: Step[] = [{ shell }, { open: true }, { print: "config" }, { print: "readBack" }];
  const [, , unknown, held] = results(node.run(again));
  assert.equal((unknown as Config).backend_ids_end, 0);
  assert.deepEqual((held as typeof desired).services, [...desired.services].reverse());
});

test("The one kind of tc attachment takes over from the other, and each hook has one program again", {
  skip,
}, async (t) => {
  const node = await Node.create(t);
  const steps: Step[] = [{ open: true }, { apply: desired }, { print: "hooks" }, { print: "links" }];
  for (const attach of ["clsact", "tcx", "clsact"] as const) {
    const [, , hooks, links] = results(node.run(steps, { attach })) as [unknown, unknown, unknown, Links];
    assert.deepEqual(hooks, EVERY_HOOK_ONCE, attach);
    const kinds = Object.keys(links).filter((name) => name.includes("@eth0"));
    assert.ok(kinds.length === 2 && kinds.every((name) => name.startsWith(attach)), kinds.join());
  }
});

test("Nothing is attached before there is something to serve, and everything after the first pruning apply", {
  skip,
}, async (t) => {
  const node = await Node.create(t);
  const hooks: Step = { print: "hooks" };
  const steps: Step[] = [{ open: true }, hooks, { apply: desired, prune: false }, hooks, { apply: desired }, hooks];
  const [, opened, , unsynced, , synced] = results(node.run(steps));
  assert.deepEqual([opened, unsynced, synced], [NO_HOOK, NO_HOOK, EVERY_HOOK_ONCE]);
});

test("A pinned map keeps its size, which is said, and what it holds", { skip }, async (t) => {
  const node = await Node.create(t);
  node.run([{ open: true }, { apply: desired }]);
  const printed = node.run([{ open: true }, { apply: desired }, { print: "pressure" }], {
    maxEntries: { slots: 8192 },
  });
  assert.match(logs(printed).join("\n"), /warn Map slots keeps its size/);
  const [, applied, pressure] = results(printed) as [
    unknown,
    unknown,
    Record<string, { used: number; capacity: number }>,
  ];
  assert.deepEqual(applied, { written: {}, removed: {} });
  assert.deepEqual(pressure.slots, { used: 3, capacity: 4096 });
});

// ---- foreign hands -----------------------------------------------------------------------------------------------

test("Links, pins and maps that somebody removed while the agent was away are there again after its start", {
  skip,
}, async (t) => {
  const node = await Node.create(t, "tcx");
  node.run([{ open: true }, { apply: desired }]);
  const pins = `${node.options.bpffs}/${ABI_HASH}`;
  const steps: Step[] = [
    {
      shell: `rm ${pins}/links/connect4@cgroup ${pins}/maps/frontends; bpftool link detach pinned ${pins}/links/tcx_ingress@eth0`,
    },
    { open: true },
    { apply: desired },
    { print: "hooks" },
    { print: "readBack" },
  ];
  const [, , , hooks, held] = results(node.run(steps)) as [unknown, unknown, unknown, unknown, typeof desired];
  assert.deepEqual(hooks, EVERY_HOOK_ONCE);
  assert.deepEqual(new Set(held.services.map((service) => service.name.name)), new Set(["web", "dns"]));
  assert.deepEqual(
    held.services.find((service) => service.name.name === "web"),
    desired.services[0],
  );
});

for (const [attach, remove] of [
  [
    "tcx",
    (pins: string) => `bpftool link detach pinned ${pins}/links/tcx_egress@eth0; rm ${pins}/links/tcx_ingress@eth0`,
  ],
  ["clsact", () => "tc qdisc del dev eth0 clsact"],
] as const) {
  test(`${attach}: what somebody detached from a device is attached again by the next setDevices()`, {
    skip,
  }, async (t) => {
    const node = await Node.create(t, attach);
    const shell = remove(`${node.options.bpffs}/${ABI_HASH}`);
    const steps: Step[] = [{ open: true }, { apply: desired }, { shell }, { setDevices: ["eth0"] }, { print: "hooks" }];
    assert.deepEqual(results(node.run(steps)).at(-1), EVERY_HOOK_ONCE);
  });
}

test("When one pinned map is lost, the running programs keep theirs until the new ones are filled", {
  skip,
}, async (t) => {
  const node = await Node.create(t);
  const maps = `${node.options.bpffs}/${ABI_HASH}/maps`;
  const links: Step = { print: "links" };
  const steps: Step[] = [{ open: true }, { apply: desired }, links, { close: true }];
  const [, , before] = results(node.run(steps)) as [unknown, unknown, Links];
  const after: Step[] = [
    { shell: `rm ${maps}/slots` },
    { open: true },
    links,
    { apply: desired },
    links,
    { print: "readBack" },
  ];
  const taken = results(node.run(after)) as [unknown, unknown, Links, unknown, Links, typeof desired];
  assert.deepEqual(taken[2], before);
  for (const [name, link] of Object.entries(taken[4]))
    assert.notEqual(link?.program_id, before[name]?.program_id, name);
  assert.deepEqual(
    taken[5].services.find((service) => service.name.name === "web"),
    desired.services[0],
  );
});

test("A socket hook that somebody detached is attached again by the next setDevices()", { skip }, async (t) => {
  const node = await Node.create(t);
  const links = `${node.options.bpffs}/${ABI_HASH}/links`;
  // A link that loses its pin ends some time after.
  const untilGone = `for i in $(seq 250); do bpftool cgroup show ${node.options.cgroup} | grep -q recvmsg6 || break; sleep 0.02; done`;
  const shell = `bpftool link detach pinned ${links}/connect4@cgroup; rm ${links}/recvmsg6@cgroup; ${untilGone}`;
  const hooks: Step = { print: "hooks" };
  const steps: Step[] = [{ open: true }, { apply: desired }, { shell }, hooks, { setDevices: ["eth0"] }, hooks];
  const [, , , without, , repaired] = results(node.run(steps));
  assert.deepEqual(without, { ...EVERY_HOOK_ONCE, connect4: 0, recvmsg6: 0 });
  assert.deepEqual(repaired, EVERY_HOOK_ONCE);
});

test("What TCP sockets asked for is kept over restarts, and forgotten where nobody was told of those that closed", {
  skip,
}, async (t) => {
  const node = await Node.create(t);
  const directory = `${node.options.bpffs}/${ABI_HASH}`;
  const of = `pinned ${directory}/maps/tcp_peers key 7 0 0 0`;
  const record = {
    cookie: 77n,
    peer: { ...decode("socket_peer", new Uint8Array(sizeOf("socket_peer"))), backend_id: 5 },
  };
  const hold: Step = { shell: `bpftool map update ${of} value ${encode("tcp_peer", record).join(" ")}` };
  const look: Step = { shell: `bpftool -j map lookup ${of} | grep -c '"cookie":77' || true` };
  const detach: Step = { shell: `bpftool link detach pinned ${directory}/links/release@cgroup` };
  const start: Step[] = [{ open: true }, { apply: desired }];
  const again: Step = { setDevices: ["eth0"] };
  results(node.run([...start, hold]));
  const looks = [again, look, detach, again, look, hold, look];
  const found = results(node.run([...start, ...looks])).slice(start.length);
  assert.deepEqual([found[1], found[4], found[6]], ["1\n", "0\n", "1\n"], "adopted, detached for a while, held anew");
  const off = results(node.run([...start, look], { socketLB: "off", cgroup: null }));
  assert.equal(off.at(-1), "0\n", "nobody's sockets are translated");
});

test("An object that cannot be loaded is refused, and the programs before it go on", { skip }, async (t) => {
  const node = await Node.create(t);
  results(node.run([{ open: true }, { apply: desired }]));
  const objects = `${node.sandbox.folder}/objects`;
  mkdirSync(objects);
  writeFileSync(`${objects}/tc.bpf.o`, "no object");
  const [refused, hooks] = node.run([{ open: true }, { print: "hooks" }], { objects });
  assert.match(refused?.error ?? "", /^RefusedError: Cannot load the tc programs: Cannot open BPF object /);
  assert.deepEqual(hooks?.result, EVERY_HOOK_ONCE);
});

test("A pinned map of another layout is refused by name, and nothing is attached", { skip }, async (t) => {
  const node = await Node.create(t);
  const maps = `${node.options.bpffs}/${ABI_HASH}/maps`;
  const shell = `mkdir -p ${maps} && bpftool map create ${maps}/services type hash key 8 value 8 entries 8 name services`;
  const [, refused, hooks] = node.run([{ shell }, { open: true }, { print: "hooks" }]);
  assert.match(
    refused?.error ?? "",
    /^RefusedError: Cannot load the tc programs: .*services.* parameter mismatch.*beeline reset/s,
  );
  assert.deepEqual(hooks?.result, NO_HOOK);
});

test("clsact: a filter that somebody else has at our handle is left alone, and never taken for ours", {
  skip,
}, async (t) => {
  const node = await Node.create(t, "clsact");
  const other: Partial<Options> = { bpffs: `${node.options.bpffs}-other`, cgroup: null };
  const filters: Step = { shell: "tc filter show dev eth0 ingress" };
  const prefs = (text: unknown): string[] =>
    [...String(text).matchAll(/pref (\d+) bpf .*tc_ingress/g)].map((m) => m[1] ?? "");
  results(node.run([{ open: true }, { apply: desired }], other));
  const steps: Step[] = [{ open: true }, { apply: desired }, filters];
  assert.deepEqual(prefs(results(node.run(steps)).at(-1)), ["3040", "3041"]);
  assert.deepEqual(prefs(results(node.run(steps)).at(-1)), ["3040", "3041"], "after a restart the same");
  results(node.run([{ reset: true }]));
  assert.deepEqual(prefs(results(node.run([filters]))[0]), ["3040"], "the other's");
});

test("clsact: where a filter of another kind has our priority, the next priority is taken", { skip }, async (t) => {
  const node = await Node.create(t, "clsact");
  const u32 = "tc filter add dev eth0 ingress protocol all prio 3040 u32 match u32 0 0 flowid 1:1";
  const [added] = results(node.run([{ shell: `tc qdisc add dev eth0 clsact; ${u32} || echo none` }]));
  if (added !== "") return t.skip("this kernel has no other kind of filter (u32)");
  const [, , links] = results(node.run([{ open: true }, { apply: desired }, { print: "links" }])) as [
    unknown,
    unknown,
    Links,
  ];
  const taken = Object.keys(links).filter((name) => name.startsWith("clsact_ingress"));
  assert.deepEqual(
    taken.map((name) => name.split("@")[2]),
    ["3041"],
  );
  assert.equal(taken.length, 1, "the attempt at 3040 left no pin");
});

// ---- devices that come and go ------------------------------------------------------------------------------------

for (const attach of ["tcx", "clsact"] as const) {
  test(`${attach}: a device that vanishes is named and let go, a new one of its name is served`, {
    skip,
  }, async (t) => {
    const node = await Node.create(t, attach);
    const printed = node.run([
      { open: true },
      { apply: desired },
      { setDevices: ["eth0", "eth1"] },
      { shell: "ip link del eth0" },
      { setDevices: ["eth0"] },
      { print: "links" },
      { shell: "ip link add eth0 type veth peer name wire0" },
      { setDevices: ["eth0"] },
      { print: "hooks" },
      { print: "attachments" },
    ]);
    assert.deepEqual(
      logs(printed).filter((line) => !line.includes("XDP")),
      [
        "warn Device eth1 is not there: nothing is attached to it",
        "warn Device eth0 is not there: nothing is attached to it",
      ],
    );
    const taken = results(printed) as [
      unknown,
      unknown,
      unknown,
      unknown,
      unknown,
      Links,
      unknown,
      unknown,
      object,
      object[],
    ];
    assert.deepEqual(
      Object.keys(taken[5]).filter((name) => name.includes("eth0")),
      [],
    );
    assert.deepEqual(taken[8], EVERY_HOOK_ONCE);
    assert.equal(taken[9].length, 11);
  });
}

test("A device whose name bpffs would refuse is served: VLAN devices have dots in their names", { skip }, async (t) => {
  const node = await Node.create(t);
  const steps: Step[] = [
    { shell: "ip link add eth0.100 type veth peer name wire0" },
    { open: true },
    { apply: desired },
    { setDevices: ["eth0.100"] },
    { print: "links" },
    { setDevices: [] },
    { print: "links" },
  ];
  const taken = results(node.run(steps)) as Links[];
  const onDevices = (links: Links | undefined): string[] =>
    Object.keys(links ?? {}).filter((name) => !name.endsWith("@cgroup"));
  assert.deepEqual(onDevices(taken[4]), ["tcx_egress@eth0%2E100", "tcx_ingress@eth0%2E100"]);
  assert.deepEqual(onDevices(taken[6]), []);
});

// ---- others on this node -----------------------------------------------------------------------------------------

test("A second agent on the same pin directory is refused by name, and so is a reset; both go once the first is dead", {
  skip,
}, async (t) => {
  const node = await Node.create(t);
  const first = await node.start([{ open: true }, { apply: desired }, { hold: true }]);
  for (const step of [{ open: true }, { reset: true }] as const) {
    const [refused] = node.run([step]);
    assert.match(refused?.error ?? "", /^RefusedError: Another beeline agent holds .*\/beeline \(process \d+\)$/);
  }
  await kill(first);
  results(node.run([{ open: true }, { close: true }, { reset: true }]));
});

test("A cgroup hook that somebody holds for himself is named, with the cgroup and the program, and nothing is attached", {
  skip,
}, async (t) => {
  const node = await Node.create(t);
  const { cgroup, bpffs } = node.options;
  assert.ok(cgroup !== null);
  const child = `${cgroup}/child`;
  mkdirSync(child);
  node.children.push(child);
  results(node.run([{ open: true }, { apply: desired }], { cgroup: child }));
  const [links] = results(node.run([{ print: "links" }])) as [Links];
  const program = links["connect4@cgroup"]?.program_id;
  results(node.run([{ shell: `bpftool cgroup attach ${cgroup} connect4 id ${program}` }, { reset: true }]));
  for (const place of [cgroup, child]) {
    const [refused, hooks] = node.run([{ open: true }, { print: "hooks" }], { cgroup: place });
    assert.equal(
      refused?.error?.replace(/ \(.*/, ""),
      `RefusedError: Cannot attach sock_connect4 to cgroup ${place}: program ${program} holds cgroup/connect4 of ${cgroup} for itself`,
    );
    assert.deepEqual(hooks?.result, { ...NO_HOOK, connect4: place === cgroup ? 1 : 0 });
  }
  results(node.run([{ shell: `bpftool cgroup detach ${cgroup} connect4 id ${program}` }, { open: true }], { bpffs }));
});

test("An older version's programs go on until the first pruning apply, then each hook has one, and its directory is gone", {
  skip,
}, async (t) => {
  const node = await Node.create(t);
  const { bpffs } = node.options;
  const old = `${bpffs}/0123456789ab`;
  results(node.run([{ open: true }, { apply: desired }, { close: true }, { shell: `mv ${bpffs}/${ABI_HASH} ${old}` }]));
  const steps: Step[] = [
    { open: true },
    { print: "hooks" },
    { apply: desired },
    { print: "hooks" },
    { shell: `ls ${bpffs}` },
  ];
  const printed = node.run(steps);
  const [, before, , after, directories] = results(printed);
  assert.deepEqual([before, after], [EVERY_HOOK_ONCE, EVERY_HOOK_ONCE]);
  assert.equal(directories, `${ABI_HASH}\n`);
  assert.match(logs(printed).join("\n"), /warn Took over from a version with another map layout/);
});

// ---- taking it all away ------------------------------------------------------------------------------------------

for (const attach of ["tcx", "clsact"] as const) {
  test(`${attach}: reset leaves no program, no pin and no directory, and a second reset finds nothing`, {
    skip,
  }, async (t) => {
    const node = await Node.create(t, attach);
    const steps: Step[] = [
      { open: true },
      { apply: desired },
      { close: true },
      { reset: true },
      { print: "hooks" },
      { reset: true },
    ];
    const [, , , removed, hooks, again] = results(node.run(steps)) as [
      unknown,
      unknown,
      unknown,
      string[],
      unknown,
      string[],
    ];
    assert.ok(removed.length > 20, `${removed.length} removed`);
    assert.deepEqual([hooks, again], [NO_HOOK, []]);
    assert.equal(node.sandbox.exec("ls", node.options.bpffs).code, 2);
  });
}

// ---- what is missing ---------------------------------------------------------------------------------------------

test("What is missing is said, all at once, with what to do about it", { skip }, async (t) => {
  const node = await Node.create(t);
  const [refused] = node.run([{ open: true }], {
    bpffs: `${node.sandbox.folder}/nowhere/beeline`,
    cgroup: node.sandbox.folder,
  });
  const folder = node.sandbox.folder;
  assert.match(refused?.error ?? "", /^RefusedError: This system lacks what the bpf dataplane needs: /);
  assert.ok(
    refused?.error?.includes(`bpffs: ${folder}/nowhere/beeline is not on a BPF file system: run \``),
    refused?.error,
  );
  assert.ok(refused?.error?.includes(`cgroup v2: ${folder} is not in a cgroup v2 hierarchy`), refused?.error);
});

test("SNAT ports that are no range are refused, and ones that this node's own connections take are warned about", {
  skip,
}, async (t) => {
  const node = await Node.create(t);
  const [refused] = node.run([{ open: true }], { snatPorts: { min: 5000, max: 4000 } });
  assert.equal(refused?.error, "InputError: SNAT ports 5000-4000 are no range of ports");
  const [first = "0"] = readFileSync("/proc/sys/net/ipv4/ip_local_port_range", "utf8").split(/\s/);
  const printed = node.run([{ open: true }], { snatPorts: { min: Number(first), max: Number(first) + 10 } });
  assert.match(logs(printed).join("\n"), /warn SNAT ports overlap/);
});
