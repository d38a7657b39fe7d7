// Generated clusters once more, where the sockets of pods are not translated: their packets are, at their devices, and
// mean the same to evaluate(), bpf and kube-proxy's rules.
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { FORWARDINGS } from "../lib/forwarding.ts";
import { assertForwards, assertNoOtherWay } from "../lib/forwards.ts";
import { newTally } from "./compare.ts";
import { Labs } from "./labs.ts";
import { formatDisagreement, formatTally } from "./report.ts";
import { runClusters } from "./run.ts";

const labs = await Labs.create({ flavour: "nft", socketLB: "host" });
after(() => labs.close());

const FRESH = Math.floor(Math.random() * 1_000_000);

for (const seed of [11, FRESH]) {
  test(`evaluate(), bpf at pods' devices and iptables agree on generated clusters: seed ${seed}`, async (t) => {
    const tally = newTally();
    await runClusters(labs, { seed, first: 0, clusters: 3, cases: 150, say: (text) => t.diagnostic(text) }, tally);
    t.diagnostic(formatTally(tally));
    assert.ok(tally.probes > 300, formatTally(tally));
    const assertWays = seed === FRESH ? assertNoOtherWay : assertForwards;
    for (const [forwarding, forwards] of tally.forwards) assertWays(forwarding, forwards);
    assert.equal(tally.forwards.size, FORWARDINGS.length);
    assert.deepEqual(tally.disagreements.map(formatDisagreement), [], `seed ${seed}`);
  });
}
