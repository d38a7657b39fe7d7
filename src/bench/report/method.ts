// How the figures came about, for who doubts them: the lab, the order, the CPUs, the generator, and for every mode the
// proof that it carried the traffic that is said of it.

import { list } from "../../lib/text.ts";
import { digits, grouped, quantityText } from "../quantity.ts";
import type { ModeOfResult, Result } from "../result.ts";
import { isProven, missingFrom } from "./about.ts";
import { generatorOf } from "./figures.ts";
import type { Look } from "./looks.ts";
import { type Markup, markup, NOTHING } from "./markup.ts";

export const methodSection = (result: Result, looks: ReadonlyMap<string, Look>): Markup => {
  const { method } = result;
  const counts = list(method.services.map(grouped));
  return markup`<section id="method"><h2>How this was measured</h2><div class="columns"><div>
<p>For each mode and number of services (${counts === "" ? "none" : counts}) a lab of network namespaces of its own: a client, the node that carries the traffic, two pods on it, another node. All labs are alive at the same time and equal but for the mode. The services that nobody asks for are there, too; the one that is asked for comes last.</p>${topology()}</div><dl>
<dt>Order</dt><dd>${sentence(method.order)}</dd>
<dt>Rounds</dt><dd>${method.rounds}, each measurement ${method.seconds} s after ${method.warm_up_s === 0 ? "no warm-up" : `${method.warm_up_s} s of warm-up`}</dd>
<dt>CPUs</dt><dd>${method.pinning.length === 0 ? "not pinned" : method.pinning.map(({ cpu, what }) => markup`<div>CPU ${cpu}: ${what}</div>`)}</dd>
<dt>Generator alone</dt><dd>${generators(result)}</dd>
<dt>To do it again</dt><dd><code>${method.command}</code></dd></dl></div>
<h3>The modes, and the proof that they carried the traffic</h3><p class="note">Before and after each sample a counter of the mode itself is read. It has to have counted what was sent through it; every answer names the pod and the client that it saw, and is checked.</p><div class="wide-table"><table class="proofs"><thead><tr><th scope="col">mode</th><th scope="col">its own counter</th><th scope="col">samples</th><th scope="col">counted, of what had to be</th><th scope="col">sent</th><th scope="col">lost</th></tr></thead><tbody>${result.modes.flatMap((mode) => proofRow(result, mode, looks))}</tbody></table></div></section>`;
};

const sentence = (text: string): string => `${text.charAt(0).toUpperCase()}${text.slice(1)}`;

const generators = (result: Result): Markup => {
  const known = result.metrics.flatMap((metric) => {
    const limit = generatorOf(result, metric);
    return limit === null ? [] : [markup`<div>${metric.title}: ${quantityText(limit, metric.unit)}</div>`];
  });
  return known.length === 0 ? markup`not measured` : markup`${known}`;
};

const proofRow = (
  { samples }: Result,
  { name, title, summary }: ModeOfResult,
  looks: ReadonlyMap<string, Look>,
): readonly Markup[] => {
  const own = samples.filter(({ mode }) => mode === name);
  if (own.length === 0) return [];
  const counters = [...new Set(own.map(({ proof }) => proof.counter))];
  const failed = own.filter((sample) => !isProven(sample)).length;
  const least = Math.min(
    ...own.filter(({ proof }) => proof.expected > 0).map(({ proof }) => proof.counted / proof.expected),
  );
  // Several metrics of one run are several samples of the same traffic.
  const runs = [
    ...new Map(
      own.map((one) => [JSON.stringify([one.services, one.round, one.sent, one.lost, one.proof]), one]),
    ).values(),
  ];
  const sum = (field: "sent" | "lost"): number => runs.reduce((total, sample) => total + sample[field], 0);
  const verdict =
    failed > 0
      ? markup`<b class="bad">too little in ${failed} of ${own.length} samples</b>`
      : Number.isFinite(least)
        ? markup`all of it, in every sample`
        : markup`nothing had to be`;
  const [sent, lost] = [sum("sent"), sum("lost")];
  const share = lost === 0 ? "none" : `${quantityText(lost, "")} (${digits((100 * lost) / sent)} %)`;
  return [
    markup`<tr><th scope="row"><span class="mode ${looks.get(name)?.name ?? ""}">${title}</span><small>${summary}</small></th><td>${counters.map((counter) => markup`<div>${counter}</div>`)}</td><td>${own.length}</td><td>${verdict}</td><td class="figures">${quantityText(sent, "")}</td><td class="figures">${share}</td></tr>`,
  ];
};

const topology = (): Markup => {
  const box = (x: number, y: number, name: string, what: string): Markup =>
    markup`<rect class="box" x="${x}" y="${y}" width="92" height="44" rx="6"/><text class="label" x="${x + 46}" y="${y + 19}" text-anchor="middle">${name}</text><text class="tick" x="${x + 46}" y="${y + 34}" text-anchor="middle">${what}</text>`;
  const wire = "M94 80H122M214 80C230 80 226 24 242 24M214 80H242M214 80C230 80 226 136 242 136";
  const places = [box(2, 58, "client", "load"), box(122, 58, "node", "the mode")];
  const ends = [
    box(242, 2, "pod 1", "answers"),
    box(242, 58, "pod 2", "answers"),
    box(242, 114, "other node", "answers"),
  ];
  return markup`<svg xmlns="http://www.w3.org/2000/svg" class="figure topology" viewBox="0 0 336 160" width="336" height="160" role="img" aria-label="A client is wired to the node, the node to two pods and to another node"><path class="wire" d="${wire}"/>${places}${ends}</svg>`;
};

export const missingSection = (result: Result): Markup => {
  const rows = missingFrom(result);
  if (rows.length === 0) return NOTHING;
  return markup`<section id="missing"><h2>Not measured</h2><dl class="missing">${rows.map(([what, why]) => markup`<dt>${what}</dt><dd>${why}</dd>`)}</dl></section>`;
};
