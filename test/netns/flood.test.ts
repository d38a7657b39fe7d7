// A SYN flood, as fast as a node takes it in, from addresses that nobody has, to a NodePort with a backend on this node
// and one on another: not one established connection breaks, new clients get through, the table stays within its bounds.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { before, test } from "node:test";
import { inside } from "../../src/bench/lab/inside.ts";
import { BEELINE } from "../lib/agent.ts";
import { eventually } from "../lib/eventually.ts";
import { FLOOD } from "../lib/flood.ts";
import { FORWARDINGS, type Forwarding, forwardingArguments } from "../lib/forwarding.ts";
import { assertForwards, readForwards } from "../lib/forwards.ts";
import type { Answer } from "../lib/host/protocol.ts";
import { Manifests } from "../lib/objects.ts";
import { nodePortServiceOf, openLab, serveAt } from "../lib/served-lab.ts";

const NODE_PORT = 30010;
const PODS = ["pod1a", "pod2a"];
const [FLOWS, EXPENDABLES] = [262_144, 32_768];
const HELD = 16;
const SYNS = 100_000; // about 2 s of them, or as long as the node takes
const PATIENCE_MS = 8000; // of a new client, whose SYN may be lost in the crowd: it is sent again after 1, 3 and 7 s

const lab = await openLab({ nodes: 2, podsPerNode: 1 });

const manifests = new Manifests(lab);

before(async () => {
  manifests.service(nodePortServiceOf("web", 10), PODS);
  await serveAt(lab, PODS);
});

const apply = (forwarding: Forwarding): void => {
  lab.fitWire("node1", forwarding === "xdp");
  const config = join(lab.directory, "flood.yaml");
  const sizes = `{flows: ${FLOWS}, expendables: ${EXPENDABLES}}`;
  writeFileSync(config, `apiVersion: beeline.dev/v1alpha1\nkind: BeelineConfiguration\nbpf: {mapSizes: ${sizes}}\n`);
  const args = [
    "apply",
    "-f",
    manifests.path,
    "--node",
    "node1",
    "--config",
    config,
    ...forwardingArguments(forwarding),
  ];
  const { status, stderr } = lab.run("node1", [BEELINE, ...args, ...lab.placeArguments("node1")]);
  assert.equal(status, 0, stderr);
};

interface Status {
  readonly maps: readonly { readonly map: string; readonly used: number | null }[];
  readonly packets: readonly { readonly hook: string; readonly reason: string; readonly count: number }[];
}

const readStatus = (): Status => JSON.parse(lab.beeline("node1", ["status", "-o", "json"]).stdout) as Status;

const counted = (status: Status, reason: string): number =>
  status.packets.find((one) => one.hook === "tc_ingress" && one.reason === reason)?.count ?? 0;

/** Packets that were sent. */
const flood = async (to: string): Promise<number> => {
  const client = lab.place("client").v4;
  const source = client.replace(/\d+$/, "100");
  const args = [process.execPath, FLOOD, to, String(NODE_PORT), source, String(SYNS)];
  const child = spawn(...(inside(lab.inside("client"), args) as [string, string[]]), {
    stdio: ["ignore", "pipe", "inherit"],
  });
  let text = "";
  child.stdout.on("data", (data: Buffer) => {
    text += String(data);
  });
  const [status] = await once(child, "exit");
  assert.equal(status, 0);
  return Number.parseInt(text, 10);
};

for (const forwarding of FORWARDINGS) {
  test(`forwarding: ${forwarding}: a SYN flood breaks no established connection, and new clients get through`, async (t) => {
    apply(forwarding);
    const client = await lab.host("client");
    const node = lab.place("node1").v4;
    const held = await Promise.all(Array.from({ length: HELD }, () => client.hold(node, NODE_PORT, 50)));
    assert.deepEqual([...new Set(held.map((one) => one.ok && one.name))].sort(), PODS);
    const beats = async (): Promise<readonly number[]> =>
      Promise.all(
        held.map(async ({ id }) => {
          const { echoed, ended } = await client.beats(id);
          assert.equal(ended, null, "a held connection");
          return echoed;
        }),
      );

    const flooding = flood(node);
    let isOver = false;
    void flooding.then(() => {
      isOver = true;
    });
    let during = 0;
    const failures: string[] = [];
    const connect = (): Promise<Answer> => client.connect(node, NODE_PORT, { timeout_ms: PATIENCE_MS });
    while (!isOver) {
      const first = await connect();
      // A pod in a flood answers with SYN cookies: where the client's ACK is lost neither side sends anything again.
      const answer = first.ok ? first : await connect();
      if (!answer.ok) failures.push(answer.code);
      during++;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    const sent = await flooding;
    const afterFlood = await beats();
    const status = readStatus();
    const used = status.maps.find((one) => one.map === "flows")?.used ?? Number.NaN;
    const opened = counted(status, "new_flow");
    t.diagnostic(`${sent} SYNs, ${opened} new flows, ${during} clients meanwhile, ${used} flows in the end`);

    assert.deepEqual(failures, [], "new clients");
    assert.ok(during >= 3, `${during} clients`);
    assert.ok(opened > EXPENDABLES, `${opened} new flows: the ring went round`);
    assert.ok(used <= 4 * (EXPENDABLES + HELD + during), `${used} flows`);
    assert.equal(counted(status, "flows_full") + counted(status, "snat_exhausted"), 0);
    // What the flood has pushed out of a queue is sent again, after up to as long as it had lasted.
    await eventually(async () => {
      const now = await beats();
      assert.deepEqual(
        now.filter((n, i) => n <= (afterFlood[i] ?? 0)),
        [],
        "every connection goes on",
      );
    }, PATIENCE_MS);
    assertForwards(forwarding, readForwards([lab.bpffs("node1")]));
    for (const { id } of held) await client.drop(id);
    assert.equal(lab.beeline("node1", ["reset"]).status, 0);
  });
}
