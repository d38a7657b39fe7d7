// By which way packets go on changes under open connections: a policy comes and goes, the agent is started with another
// setting, killed, or replaced by an apply. On nodes that masquerade in netfilter as network plugins do, and whose policy refuses
// what conntrack calls invalid, every connection goes on, whoever speaks first after the change and however long nobody has.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { type Agent, BEELINE } from "../lib/agent.ts";
import { eventually } from "../lib/eventually.ts";
import type { Host } from "../lib/host/host.ts";
import { Manifests } from "../lib/objects.ts";
import { openLab, serveAt, serviceOf } from "../lib/served-lab.ts";

const lab = await openLab({ nodes: 2, podsPerNode: 1 });
const manifests = new Manifests(lab);
const [NODE, PORT] = ["node1", 8080];

const sh = (script: string): void => {
  const { status, stderr } = lab.run(NODE, ["sh", "-ec", script]);
  assert.equal(status, 0, stderr);
};

/** Arguments after POSTROUTING, with the pods of all nodes and of this one. */
const MASQUERADE: Readonly<Record<string, (pods: string, own: string) => readonly string[]>> = {
  flannel: (pods, own) => [
    `-s ${pods} -d ${pods} -j RETURN`,
    `-s ${pods} -j MASQUERADE --random-fully`,
    `! -s ${pods} -d ${own} -j RETURN`,
    `! -s ${pods} -d ${pods} -j MASQUERADE --random-fully`,
  ],
  Calico: (pods) => [`-s ${pods} ! -d ${pods} -j MASQUERADE --random-fully`],
};

const masquerade = (shape: string): void => {
  for (const [iptables, pods, own] of [
    ["iptables-legacy", "10.244.0.0/16", "10.244.1.0/24"],
    ["ip6tables-legacy", "fd00:244::/32", "fd00:244:1::/64"],
  ] as const) {
    sh(`${iptables} -t nat -F POSTROUTING`);
    for (const rule of MASQUERADE[shape]?.(pods, own) ?? []) sh(`${iptables} -t nat -A POSTROUTING ${rule}`);
  }
};

const POLICY = ["add table inet guard", "add chain inet guard f {type filter hook forward priority 0;}"].concat(
  ["ct state established,related accept", "ct state invalid drop", "ip daddr 192.0.2.99 drop"].map(
    (rule) => `add rule inet guard f ${rule}`,
  ),
);
const setPolicy = (): void => sh(`nft '${POLICY.join("; ")}'`);
const removePolicy = (): void => sh("nft delete table inet guard");

const mode = (): string => {
  const { stdout } = lab.beeline(NODE, ["status", "-o", "json"]);
  return (JSON.parse(stdout) as { readonly forwarding: { readonly mode: string } }).forwarding.mode;
};
const becomes = (wanted: "direct" | "kernel"): Promise<void> => eventually(() => assert.equal(mode(), wanted), 10_000);

// ---- connections ---------------------------------------------------------------------------------------------------

/** A connection of the client's by a NodePort. Of one that is idle, somebody says something now and then. */
interface Talk {
  readonly what: string;
  readonly id: number;
  readonly backend: Host;
  readonly clientPort: number;
  readonly speaker: "client" | "server";
  readonly isBusy: boolean;
  /** Of those that are idle every other one is waked after every other change. */
  readonly turn: number;
  /** Number of the change after which it was opened. */
  readonly opened: number;
}

/** More than the window that a TCP header says, when its scale is not known. */
const SPEECH_BYTES = 60_000;

const BEAT_MS = 50;

let talks: readonly Talk[] = [];

const close = async (those: readonly Talk[]): Promise<void> => {
  const client = await lab.host("client");
  await Promise.all(those.map(({ id }) => client.drop(id)));
  talks = talks.filter((talk) => !those.includes(talk));
};

const openTalks = async (opened: number, way: string): Promise<void> => {
  const client = await lab.host("client");
  for (const family of ["v4", "v6"] as const)
    for (const [pod, port] of [
      ["pod1a", 30010],
      ["pod2a", 30011],
    ] as const)
      for (const speaker of ["client", "server"] as const)
        for (const [isBusy, turn] of [
          [true, 0],
          [false, 0],
          [false, 1],
        ] as const) {
          const backend = await lab.host(pod);
          const answer = await client.hold(
            lab.place(NODE)[family],
            port,
            isBusy && speaker === "client" ? BEAT_MS : null,
          );
          const what = `${way}: ${family}, ${pod}, ${speaker} speaks, ${isBusy ? "busy" : `idle, turn ${turn}`}`;
          assert.ok(answer.ok, `${what}: ${JSON.stringify(answer)}`);
          const { id, clientPort } = answer;
          if (isBusy && speaker === "server")
            await backend.speak({ port: PORT, clientPort, size_bytes: SPEECH_BYTES, every_ms: BEAT_MS });
          talks = [...talks, { what, id, backend, clientPort, speaker, isBusy, turn, opened }];
        }
};

const say = async ({ speaker, id, backend, clientPort }: Talk): Promise<void> => {
  if (speaker === "server") await backend.speak({ port: PORT, clientPort, size_bytes: SPEECH_BYTES, every_ms: null });
  else await (await lab.host("client")).say(id);
};

/** Those that do not go on after a change, and why. */
const broken = async (change: number): Promise<readonly string[]> => {
  const client = await lab.host("client");
  const those = talks.filter(({ isBusy, turn }) => isBusy || turn === change % 2);
  const before = await Promise.all(those.map(({ id }) => client.beats(id)));
  const lost: string[] = [];
  for (const talk of those)
    if (!talk.isBusy) await say(talk).catch((error: unknown) => lost.push(`${talk.what}: ${error}`));
  const silent = async (): Promise<readonly string[]> => {
    const now = await Promise.all(those.map(({ id }) => client.beats(id)));
    return those.flatMap(({ what, isBusy }, i) => {
      const more = (now[i]?.echoed ?? 0) - (before[i]?.echoed ?? 0);
      const ended = now[i]?.ended ?? null;
      return ended === null && more >= (isBusy ? 10 : 1) ? [] : [`${what}: ${ended ?? "open"}, ${more} messages`];
    });
  };
  const found = await eventually(async () => assert.deepEqual(await silent(), []), 5_000).then(
    () => [],
    () => silent(),
  );
  return [...lost, ...found];
};

/** Those that have seen several changes: a busy one two, one that is idle four. */
const closeTalks = (change: number): Promise<void> =>
  close(talks.filter(({ opened, isBusy }) => change - opened >= (isBusy ? 2 : 4)));

/** Sockets that ask a UDP NodePort, and at which port of whose the server hears them. */
const askers: { readonly id: number; readonly what: string; readonly heard: string }[] = [];

const ask = async (id: number): Promise<string> => {
  const answer = await (await lab.host("client")).askUdp(id, undefined, 3000);
  return answer.ok ? `${answer.client} ${answer.clientPort}` : answer.code;
};

const openAskers = async (way: string): Promise<void> => {
  const client = await lab.host("client");
  for (const family of ["v4", "v6"] as const)
    for (const [pod, port] of [
      ["pod1a", 30110],
      ["pod2a", 30111],
    ] as const) {
      const to = { address: lab.place(NODE)[family], port };
      const { id } = await client.openUdp(family === "v4" ? 4 : 6, { to });
      askers.push({ id, what: `${way}: ${family}, ${pod}, UDP`, heard: await ask(id) });
      assert.equal(await ask(id), askers.at(-1)?.heard);
    }
};

/** Those who are not heard, or as somebody else. */
const brokenAskers = async (): Promise<readonly string[]> => {
  const now = await Promise.all(askers.map(({ id }) => ask(id)));
  return askers.flatMap(({ what, heard }, i) => (now[i] === heard ? [] : [`${what}: ${heard}, now ${now[i]}`]));
};

// ---- changes -------------------------------------------------------------------------------------------------------

let agent: Agent | null = null;

const start = async (bpf: object): Promise<void> => {
  agent = await lab.startAgent(NODE, { manifests: manifests.path, bpf: { minSyncPeriod: "0.1s", ...bpf } });
};
const restart = async (bpf: object): Promise<void> => {
  await agent?.stop();
  await start(bpf);
};
const apply = async (...args: readonly string[]): Promise<void> => {
  await agent?.stop();
  const place = ["--node", NODE, ...lab.placeArguments(NODE)];
  const { status, stderr } = lab.run(NODE, [BEELINE, "apply", "-f", manifests.path, ...place, ...args]);
  assert.equal(status, 0, stderr);
};

type Change = readonly [what: string, to: "direct" | "kernel", make: () => unknown];

const CHANGES: Readonly<Record<string, readonly Change[]>> = {
  flannel: [
    ["forwarding: auto", "direct", () => start({ forwarding: "auto" })],
    ["a policy comes", "kernel", setPolicy],
    ["the agent is restarted", "kernel", () => restart({ forwarding: "auto" })],
    ["the policy goes", "direct", removePolicy],
    ["restarted with kernel", "kernel", () => restart({ forwarding: "kernel" })],
    ["restarted with XDP", "direct", () => restart({ forwarding: "direct", xdp: "required" })],
    ["killed, started with kernel", "kernel", () => agent?.kill9().then(() => start({ forwarding: "kernel" }))],
    ["applied", "kernel", () => apply()],
    ["an agent takes over", "direct", () => start({ forwarding: "auto" })],
  ],
  Calico: [
    ["forwarding: kernel", "kernel", () => start({ forwarding: "kernel" })],
    ["restarted with XDP", "direct", () => restart({ forwarding: "direct", xdp: "required" })],
    ["applied with kernel", "kernel", () => apply("--forwarding", "kernel")],
    ["forwarding: direct", "direct", () => start({ forwarding: "direct" })],
  ],
};

await serveAt(lab, ["pod1a", "pod2a"]);
// Packets as they are on a wire: conntrack sees the window that each is in.
for (const place of ["client", "pod1a", "pod2a"])
  assert.equal(lab.run(place, ["ethtool", "-K", "eth0", "tso", "off", "gso", "off"]).status, 0);
manifests.service(serviceOf("local", 10), ["pod1a"]);
manifests.service(serviceOf("remote", 11), ["pod2a"]);

for (const [shape, changes] of Object.entries(CHANGES)) {
  describe(`a node that masquerades as ${shape}`, () => {
    for (const [i, [what, to, make]] of changes.entries()) {
      test(`${what}: ${to}`, async () => {
        if (i === 0) masquerade(shape);
        await make();
        await becomes(to);
        assert.deepEqual([...(await broken(i)), ...(await brokenAskers())], []);
        await closeTalks(i);
        await openTalks(i, what);
        await openAskers(what);
      });
    }
    test("taken off", async () => {
      await agent?.stop();
      assert.equal(lab.beeline(NODE, ["reset"]).status, 0);
      await close(talks);
      const client = await lab.host("client");
      for (const { id } of askers.splice(0)) await client.drop(id);
    });
  });
}
