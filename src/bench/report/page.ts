// A result as one HTML page that needs nothing but itself: no script, no font, no address. The answer comes first, then
// the figures, then how they came about; the result itself is embedded, so that the page can be read back.
import { list } from "../../lib/text.ts";
import { grouped, quantityText } from "../quantity.ts";
import type { Result } from "../result.ts";
import { isLimit } from "../standing.ts";
import { behindSection } from "./behind.ts";
import { looksOf } from "./looks.ts";
import { embedJson, type Markup, markup, NOTHING } from "./markup.ts";
import { isProven, methodSection, missingSection } from "./method.ts";
import { metricsSection } from "./metrics.ts";
import { ratiosSection } from "./ratios.ts";
import { PAGE_STYLE } from "./style.ts";

export const page = (result: Result): string => {
  const looks = looksOf(result.modes);
  const { markup: text } = markup`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark"><meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'"><title>${`beeline benchmark, ${day(result.started)}`}</title><style>${{ markup: PAGE_STYLE }}</style></head><body><main>
<header><p class="eyebrow">beeline benchmark · ${day(result.started)}</p>${banners(result)}<p class="lead">${whatText(result)}</p><p class="machine">${machineText(result)}</p></header>
${behindSection(result, looks)}
${ratiosSection(result, looks)}
${metricsSection(result, looks)}
${methodSection(result, looks)}
${missingSection(result)}
<footer><p>The result with every single sample is in this file: <code>beeline bench --from</code> reads it.</p></footer></main>
<script type="application/json" id="result">${embedJson(result)}</script></body></html>
`;
  return text;
};

/** 2026-01-31 12:05 UTC */
const day = (started: string): string => started.replace(/^(\d{4}-\d\d-\d\d)T(\d\d:\d\d).*Z$/, "$1 $2 UTC");

/** What must be known before anything here is believed. */
const banners = (result: Result): Markup => {
  const unproven = result.samples.filter((sample) => !isProven(sample)).length;
  const partial = result.complete
    ? NOTHING
    : markup`<p class="banner"><b>A partial run.</b> It was interrupted; what is here was measured, and the rest is missing.</p>`;
  const told = [
    ...(unproven === 0 ? [] : [`In ${unproven} samples the mode's own counter shows less traffic than was sent.`]),
    ...result.problems,
  ];
  const problems =
    told.length === 0
      ? NOTHING
      : markup`<div class="banner"><b>${told.length === 1 ? "A problem" : `${told.length} problems`} in this run</b>, so do not trust it blindly:<ul>${told.map((one) => markup`<li>${one}</li>`)}</ul></div>`;
  return markup`${partial}${problems}`;
};

const whatText = ({ modes, method, samples }: Result): string => {
  const measured = new Set(samples.map(({ mode }) => mode));
  const titles = (wanted: (mode: Result["modes"][number]) => boolean): readonly string[] =>
    modes.filter((mode) => measured.has(mode.name) && wanted(mode)).map(({ title }) => title);
  const own = titles(({ beeline }) => beeline);
  const rivals = titles((mode) => !mode.beeline && !isLimit(mode));
  const limits = titles(isLimit);
  const against = rivals.length === 0 ? "" : ` against ${list(rivals)}`;
  const bounded = limits.length === 0 ? "" : `, with ${list(limits)} as the limit`;
  const counts = list(method.services.map(grouped));
  return `${own.length === 0 ? "No mode of beeline" : list(own)}${against}${bounded}; ${counts === "" ? "no" : counts} services, ${method.rounds} ${method.rounds === 1 ? "round" : "rounds"}.`;
};

const machineText = ({ machine, versions, duration_s }: Result): string => {
  const memory = quantityText(machine.memory_bytes, "bytes");
  const virtual = machine.virtual === null ? "" : `, a virtual machine (${machine.virtual})`;
  const commit = versions.commit === null ? "" : ` (${versions.commit})`;
  const tools = [
    ["libbpf", versions.libbpf],
    ["iptables", versions.iptables],
    ["nft", versions.nft],
  ].flatMap(([name, version]) => (version === null ? [] : [`${name} ${version}`]));
  const minutes = duration_s < 90 ? `${Math.round(duration_s)} s` : `${Math.round(duration_s / 60)} minutes`;
  return `All on one machine, side by side: ${machine.cpu}, ${machine.cpus} CPUs, ${memory} of memory, Linux ${machine.kernel}${virtual}. beeline ${versions.beeline}${commit}, Node ${versions.node}${tools.map((tool) => `, ${tool}`).join("")}. It took ${minutes}. Absolute figures hold for this machine only; the ratios are what carries over.`;
};

/** The result inside a page; null: it is no page of this kind. */
export const embeddedResult = (html: string): string | null =>
  /<script type="application\/json" id="result">(.*?)<\/script>/s.exec(html)?.[1] ?? null;
