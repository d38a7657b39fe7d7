// What a comparison came to, in words; and a disagreement as a draft of a scenario file.
import { stringify } from "yaml";
import type { Place } from "../lib/network.ts";
import { formatPacket, formatVerdict } from "../lib/scenario.ts";
import { type Disagreement, differencesOf, type Tally } from "./compare.ts";
import { formatExpected } from "./expected.ts";
import { clusterObjects } from "./objects.ts";
import { formatProbe } from "./probes.ts";

export const formatTally = (tally: Tally): string => {
  const { voices, forwards, clusters, probes, same, differences, late, disagreements } = tally;
  return [
    `${clusters} clusters, ${probes} probes, each asked of evaluate(), ${[...voices].join(", ")}`,
    ...[...forwards].map(
      ([forwarding, { direct, xdp, doubted }]) =>
        `  forwarding: ${forwarding}: ${direct} packets sent on by tc, ${xdp} by XDP, ${doubted} left to the kernel`,
    ),
    `  ${same} with one answer`,
    ...[...differences].sort().map(([name, count]) => `  ${count} by intended difference ${name}`),
    ...(late.length === 0 ? [] : [`  ${late.length} came late, and in time when asked again: ${named(late)}`]),
    `  ${disagreements.length} disagreements`,
  ].join("\n");
};

const named = (late: Tally["late"]): string =>
  [...new Set(late.slice(-3).map(({ dataplane, one }) => `${dataplane} ${formatProbe(one.probe)}`))].join(", ");

export const formatDisagreement = ({ dataplane, forwarding, one, complaint, cluster }: Disagreement): string => {
  const { probe, meaning, answers } = one;
  const differences = differencesOf(one, [dataplane]).join("; ");
  const how = dataplane === "bpf" && forwarding !== null ? `, forwarding: ${forwarding}` : "";
  return [
    `${formatProbe(probe)}, cluster ${cluster.number}${how}`,
    `  evaluate  ${formatVerdict(meaning.verdict)}, at ${meaning.handler ?? "no node"}`,
    `  expected  ${formatExpected(answers[dataplane])}${differences === "" ? "" : ` (${differences})`}`,
    `  ${dataplane.padEnd(9)} ${complaint}`,
  ].join("\n");
};

/** For test/scenarios/: `UPDATE=1 node --test test/scenarios/scenarios.test.ts` writes the rest. */
export const scenarioDraft = ({ cluster, one, dataplane }: Disagreement, places: readonly Place[]): string => {
  const { handler, packet, verdict } = one.meaning;
  const node = places.find(({ name }) => name === (handler ?? "node1"));
  const addresses = ["127.0.0.1", "::1", node?.v4, node?.v6];
  return [
    `${formatProbe(one.probe)}: ${dataplane} does not answer as expected.`,
    "-- node --",
    stringify({ name: node?.name, addresses }).trimEnd(),
    "-- manifests.yaml --",
    clusterObjects(cluster, places)
      .map((object) => stringify(object))
      .join("---\n")
      .trimEnd(),
    "-- probes --",
    `${formatPacket(packet)} => ${formatVerdict(verdict)}`,
  ].join("\n");
};
