// Native XDP on the node's devices over its life: where the driver has it and where not, somebody else's program, a device
// that vanishes and comes back, kill -9, another version, on and off. A tap stands for a NIC: its driver has native XDP.
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { ABI_HASH } from "../../src/dataplane/bpf/abi.gen.ts";
import type { XdpRecord } from "../../src/dataplane/bpf/xdp.ts";
import { kill, type Line, lines, logs, Node, noDataplane, results } from "../lib/dataplane-node.ts";
import { type Options, type Step, toText } from "../lib/dataplane-steps.ts";
import { clusterIP, desiredOn, nodeAddress, serviceOf } from "../lib/services.ts";
import { compilePassing } from "../lib/xdp-lab.ts";

const skip = noDataplane;

const desired = toText(
  desiredOn([nodeAddress("192.0.2.11", { primary: true })], serviceOf("web", ["10.244.0.1"], [clusterIP("10.96.0.1")])),
);

const NIC = "ip tuntap add nic0 mode tap && ip link set nic0 up";
const START: readonly Step[] = [{ open: true }, { apply: desired }];
const LOOK: readonly Step[] = [{ print: "xdp" }, { xdpOf: ["nic0"] }, { print: "links" }];
const auto: Partial<Options> = { xdp: "auto", forwarding: "direct", devices: ["nic0"], cgroup: null };
const off: Partial<Options> = { ...auto, xdp: "off" };
const required: Partial<Options> = { ...auto, xdp: "required" };

interface Programs {
  readonly native: number;
  readonly generic: number;
}
type Link = { readonly id: number; readonly program_id: number; readonly target: number };
type Looked = readonly [
  says: readonly { readonly device: string; readonly why_not: string | null }[],
  kernel: Readonly<Record<string, Programs>>,
  links: Readonly<Record<string, Link>>,
];
const looked = (printed: readonly Line[]): Looked => results(printed).slice(-3) as unknown as Looked;

const nodeWith = async (t: TestContext, shell = NIC): Promise<Node> => {
  const node = await Node.create(t);
  results(node.run([{ shell }]));
  return node;
};

/** Our link is on nic0, and the kernel runs its program there. */
const assertOn = ([says, kernel, links]: Looked): Link => {
  assert.deepEqual(says, [{ device: "nic0", why_not: null }]);
  const link = links["xdp@nic0"];
  assert.ok(link !== undefined && link.program_id !== 0);
  assert.equal(kernel.nic0?.native, link.program_id);
  return link;
};

const assertOff = ([, kernel, links]: Looked): void => {
  assert.equal(kernel.nic0?.native, 0);
  assert.equal(links["xdp@nic0"], undefined);
};

test("auto: on a device whose driver has native XDP, from the first apply on; said once in the log", {
  skip,
}, async (t) => {
  const node = await nodeWith(t);
  const again: Step = { setDevices: ["nic0"] };
  const printed = node.run([{ open: true }, { xdpOf: ["nic0"] }, { apply: desired }, again, again, ...LOOK], auto);
  assert.deepEqual((results(printed)[1] as Looked[1]).nic0?.native, 0, "nothing before there is something to serve");
  assertOn(looked(printed));
  assert.equal(logs(printed).filter((line) => line === "info XDP is on nic0").length, 1);
});

test("killed with SIGKILL the program stays; the next agent swaps it in the same link, and never is there none", {
  skip,
}, async (t) => {
  const node = await nodeWith(t);
  const first = await node.start([...START, ...LOOK, { hold: true }], "holding", auto);
  await kill(first);
  const before = assertOn(looked(lines(first.stdout).filter((line) => line.result !== "holding")));
  const after = assertOn(looked(node.run([...START, ...LOOK], auto)));
  assert.equal(after.id, before.id);
  assert.notEqual(after.program_id, before.program_id);
});

test("off: a program of ours that is pinned is taken away; auto: it is there again; reset leaves none", {
  skip,
}, async (t) => {
  const node = await nodeWith(t);
  assertOn(looked(node.run([...START, ...LOOK], auto)));
  const printed = node.run([{ open: true }, ...LOOK], off);
  assertOff(looked(printed));
  assert.deepEqual(looked(printed)[0], [{ device: "nic0", why_not: "bpf.xdp is off" }]);
  assert.ok(!logs(printed).some((line) => line.includes("XDP")), "nothing to say of what was asked for");
  assertOn(looked(node.run([{ open: true }, ...LOOK], auto)));
  assertOff(looked(node.run([{ reset: true }, ...LOOK.slice(1), ...LOOK.slice(1)], auto)));
});

test("forwarding by the kernel: XDP has nothing to send on, and is taken away", { skip }, async (t) => {
  const node = await nodeWith(t);
  assertOn(looked(node.run([...START, ...LOOK], auto)));
  const printed = node.run([...START, ...LOOK], { ...auto, forwarding: "kernel" });
  assertOff(looked(printed));
  assert.deepEqual(looked(printed)[0], [{ device: "nic0", why_not: "packets go on by the kernel (bpf.forwarding)" }]);
});

test("forwarding that is chosen at run time: attached when it is direct first, and then it stays, over a restart too", {
  skip,
}, async (t) => {
  const node = await nodeWith(t);
  const chosen: Partial<Options> = { ...auto, forwarding: "auto" };
  const steps: Step[] = [...START, ...LOOK, { setForwarding: "direct" }, ...LOOK, { setForwarding: "kernel" }, ...LOOK];
  const printed = results(node.run(steps, chosen));
  const at = (first: number): Looked => printed.slice(first, first + 3) as unknown as Looked;
  assertOff(at(2));
  const { id } = assertOn(at(6));
  assert.equal(assertOn(at(10)).id, id);
  assert.equal(assertOn(looked(node.run([...START, ...LOOK], chosen))).id, id);
  assertOff(looked(node.run([...START, ...LOOK], { ...auto, forwarding: "kernel" })));
});

for (const [kind, make, why] of [
  ["a bridge", "ip link add nic0 type bridge", /^its driver, bridge, refuses: Underlying driver does not support XDP/],
  ["a veth", "ip link add nic0 type veth peer name far", /^it is a veth/],
  ["a tun", "ip tuntap add nic0 mode tun", /^its packets do not start with Ethernet$/],
  [
    "a macvlan",
    "ip link add nic0 link eth0 type macvlan",
    /^its driver, macvlan, refuses: Underlying driver does not support XDP/,
  ],
] as const) {
  test(`auto: ${kind} goes without, tc serves it, and the log says why, once`, { skip }, async (t) => {
    const node = await nodeWith(t, `${make} && ip link set nic0 up`);
    const again: Step = { setDevices: ["nic0"] };
    const printed = node.run([...START, again, { print: "attachments" }, ...LOOK], auto);
    assertOff(looked(printed));
    assert.match(looked(printed)[0][0]?.why_not ?? "", why);
    const said = logs(printed).filter((line) => line.startsWith("info No XDP on nic0: "));
    assert.equal(said.length, 1, said.join());
    const attachments = results(printed).at(-4) as readonly { readonly hook: string; readonly target: string }[];
    assert.equal(attachments.filter(({ target, hook }) => target === "nic0" && hook !== "xdp").length, 2);
  });
}

test("required: a driver without native XDP refuses the start, names device and reason, and attaches nothing", {
  skip,
}, async (t) => {
  const node = await nodeWith(t, `${NIC} && ip link add br0 type bridge`);
  const over = { ...required, devices: ["nic0", "br0"] };
  const printed = node.run([{ open: true }, { print: "hooks" }, { xdpOf: ["nic0"] }], over);
  assert.match(
    printed[0]?.error ?? "",
    /^RefusedError: bpf.xdp is required, .* br0: its driver, bridge, refuses: Underlying driver does not support XDP/,
  );
  const [hooks, kernel] = printed.flatMap((line) => ("result" in line ? [line.result] : []));
  assert.equal((kernel as Looked[1]).nic0?.native, 0, "nor does it stay on the device that could");
  assert.ok(Object.values(hooks as object).every((count) => count === 0));
});

test("required: refused while another's program is there, it leaves the one that is ours where it was", {
  skip,
}, async (t) => {
  const node = await nodeWith(t, `${NIC} && ip link add br0 type bridge`);
  const before = assertOn(looked(node.run([...START, ...LOOK], auto)));
  const printed = node.run([{ open: true }, ...LOOK.slice(1)], { ...required, devices: ["nic0", "br0"] });
  assert.match(printed[0]?.error ?? "", /^RefusedError/);
  const [kernel, links] = results(printed.slice(1)) as [Looked[1], Looked[2]];
  assert.equal(links["xdp@nic0"]?.id, before.id);
  assert.equal(kernel.nic0?.native, links["xdp@nic0"]?.program_id);
});

test("required: a veth, and one with jumbo frames too, is used when it is asked for; a tunnel is no reason not to start", {
  skip,
}, async (t) => {
  const make = "ip link add nic0 mtu 9000 type veth peer name far mtu 9000 && ip tuntap add wg0 mode tun";
  const node = await nodeWith(t, make);
  const printed = node.run([...START, ...LOOK], { ...required, devices: ["nic0", "wg0"] });
  const [says, kernel] = looked(printed);
  assert.deepEqual(
    says.map(({ device, why_not }) => [device, why_not]),
    [
      ["nic0", null],
      ["wg0", "its packets do not start with Ethernet"],
    ],
  );
  assert.notEqual(kernel.nic0?.native, 0);
});

for (const [how, attach, detach] of [
  ["by netlink", "ip link set nic0 xdpdrv obj OBJECT sec xdp", "ip link set nic0 xdpdrv off"],
  ["in the generic hook", "ip link set nic0 xdpgeneric obj OBJECT sec xdp", "ip link set nic0 xdpgeneric off"],
] as const) {
  test(`another's program, ${how}: stays, is named by its id, refuses an agent that requires XDP; ours comes when it goes`, {
    skip,
  }, async (t) => {
    const node = await nodeWith(t);
    results(node.run([{ shell: attach.replace("OBJECT", compilePassing(node.sandbox.folder)) }]));
    const steps: Step[] = [...START, ...LOOK, { shell: detach }, { setDevices: ["nic0"] }, ...LOOK];
    const printed = node.run(steps, auto);
    const [says, kernel] = results(printed).slice(2, 4) as unknown as [Looked[0], Looked[1]];
    const { native = 0, generic = 0 } = kernel.nic0 ?? {};
    assert.notEqual(native + generic, 0);
    assert.match(says[0]?.why_not ?? "", new RegExp(`^another's program ${native + generic} is on it`));
    assertOn(looked(printed));
    results(node.run([{ reset: true }, { shell: attach.replace("OBJECT", compilePassing(node.sandbox.folder)) }]));
    const [refused] = node.run([{ open: true }], required);
    assert.match(refused?.error ?? "", /^RefusedError: bpf.xdp is required, .* nic0: another's program \d+ is on it/);
  });
}

test("another's program, by a link: stays, and is named by its id", { skip }, async (t) => {
  const node = await nodeWith(t);
  const ours = assertOn(looked(node.run([...START, ...LOOK], auto)));
  const pin = `${node.options.bpffs}/${ABI_HASH}/links/xdp@nic0`;
  const elsewhere = `${node.options.bpffs}/../others`;
  results(node.run([{ shell: `bpftool link pin id ${ours.id} ${elsewhere} && rm ${pin}` }]));
  const printed = node.run([...START, ...LOOK], auto);
  const [says, kernel] = looked(printed);
  assert.equal(kernel.nic0?.native, ours.program_id);
  assert.match(says[0]?.why_not ?? "", new RegExp(`^another's program ${ours.program_id} is on it`));
});

test("without the agent a command says the same, but for the driver's words", { skip }, async (t) => {
  const make = [
    NIC,
    "ip link add br0 type bridge",
    "ip link add veth0 type veth peer name far",
    "ip tuntap add tun0 mode tun",
  ];
  const node = await nodeWith(t, make.join(" && "));
  const devices = ["nic0", "br0", "veth0", "tun0"];
  const record = (over: Partial<Options>): XdpRecord =>
    results(node.run([...START, { print: "xdp record" }], { ...over, devices })).at(-1) as XdpRecord;
  const { wanted, devices: now } = record(auto);
  assert.equal(wanted, "auto");
  assert.deepEqual(
    now.map(({ device, why_not }) => [device, why_not?.split(/,? refuses| where/)[0] ?? null]),
    [
      ["br0", "its driver, bridge"],
      ["nic0", null],
      ["tun0", "its packets do not start with Ethernet"],
      ["veth0", "it is a veth,"],
    ],
  );
  assert.ok(
    record({ ...auto, forwarding: "kernel" }).devices.every((one) => one.why_not?.startsWith("packets go on by")),
  );
  assert.deepEqual(record(off).wanted, "off");
  assert.ok(record(off).devices.every((one) => one.why_not === "bpf.xdp is off"));
  results(node.run([{ shell: `ip link set nic0 xdpdrv obj ${compilePassing(node.sandbox.folder)} sec xdp` }]));
  assert.match(
    record(auto).devices.find((one) => one.device === "nic0")?.why_not ?? "",
    /^another's program \d+ is on it/,
  );
});

test("a device that is made again has the program again; one that is served no longer has it no longer", {
  skip,
}, async (t) => {
  const node = await nodeWith(t);
  const again: Step = { setDevices: ["nic0"] };
  const gone: Step[] = [{ shell: "ip link del nic0" }, again, { print: "xdp" }];
  const printed = node.run([...START, ...LOOK, ...gone, { shell: NIC }, again, ...LOOK], auto);
  const before = assertOn(results(printed).slice(2, 5) as unknown as Looked);
  const after = assertOn(looked(printed));
  assert.notEqual(after.id, before.id);
  assertOff(looked(node.run([...START, { setDevices: ["eth0"] }, ...LOOK], auto)));
});

test("somebody took the program off: the next look puts it back", { skip }, async (t) => {
  const node = await nodeWith(t);
  const pin = `${node.options.bpffs}/${ABI_HASH}/links/xdp@nic0`;
  const take: Step[] = [{ shell: `bpftool link detach pinned ${pin}` }, { xdpOf: ["nic0"] }];
  const printed = node.run([...START, ...take, { setDevices: ["nic0"] }, ...LOOK], auto);
  assert.equal((results(printed)[3] as Looked[1]).nic0?.native, 0);
  assertOn(looked(printed));
});

test("a device with another address has another program in the same link: it looks at what is for that address", {
  skip,
}, async (t) => {
  const node = await nodeWith(t);
  const change: Step[] = [{ shell: "ip link set nic0 address 02:00:00:00:00:77" }, { setDevices: ["nic0"] }];
  const printed = node.run([...START, ...LOOK, ...change, ...LOOK], auto);
  const before = assertOn(results(printed).slice(2, 5) as unknown as Looked);
  const after = assertOn(looked(printed));
  assert.equal(after.id, before.id);
  assert.notEqual(after.program_id, before.program_id);
});

test("a version with another map layout hands over its link: the device is never without a program", {
  skip,
}, async (t) => {
  const node = await nodeWith(t);
  const before = assertOn(looked(node.run([...START, ...LOOK], auto)));
  const other = `${node.options.bpffs}/0123456789ab`;
  const pins = `${node.options.bpffs}/${ABI_HASH}`;
  const move = `mkdir -p ${other}/links ${other}/maps && mv ${pins}/links/* ${other}/links/ && rm -r ${pins}/maps/*`;
  results(node.run([{ shell: move }]));
  const printed = node.run([...START, ...LOOK, { shell: `ls ${node.options.bpffs}` }], required);
  const after = assertOn(results(printed).slice(-4, -1) as unknown as Looked);
  assert.equal(after.id, before.id);
  assert.equal((results(printed).at(-1) as string).trim(), ABI_HASH);
});
