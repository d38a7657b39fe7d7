// A result as one HTML page that needs nothing but itself: no script, no font, no address. The answer comes first, then
// the figures, then how they came about; the result itself is embedded, so that the page can be read back.
import type { Result } from "../result.ts";
import { day, machineText, PARTIAL, troublesOf, whatText } from "./about.ts";
import { behindSection } from "./behind.ts";
import { goalsSection } from "./goals.ts";
import { looksOf } from "./looks.ts";
import { embedJson, type Markup, markup, NOTHING } from "./markup.ts";
import { methodSection, missingSection } from "./method.ts";
import { metricsSection } from "./metrics.ts";
import { ratiosSection } from "./ratios.ts";
import { PAGE_STYLE } from "./style.ts";

export const page = (result: Result): string => {
  const looks = looksOf(result.modes);
  const { markup: text } = markup`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark"><meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'"><title>${`beeline benchmark, ${day(result.started)}`}</title><style>${{ markup: PAGE_STYLE }}</style></head><body><main>
<header><p class="eyebrow">beeline benchmark · ${day(result.started)}</p>${banners(result)}<p class="lead">${whatText(result)}</p><p class="machine">${machineText(result)}</p></header>
${behindSection(result, looks)}
${goalsSection(result)}
${ratiosSection(result, looks)}
${metricsSection(result, looks)}
${methodSection(result, looks)}
${missingSection(result)}
<footer><p>The result with every single sample is inside this page: <code>beeline bench FILE</code> reads it, and <code>beeline bench --compare</code> compares two.</p></footer></main>
<script type="application/json" id="result">${embedJson(result)}</script></body></html>
`;
  return text;
};

/** What must be known before anything here is believed. */
const banners = (result: Result): Markup => {
  const partial = result.complete ? NOTHING : markup`<p class="banner"><b>A partial run.</b> ${PARTIAL}</p>`;
  const told = troublesOf(result);
  if (told.length === 0) return partial;
  const items = (some: readonly string[]): Markup => markup`<ul>${some.map((one) => markup`<li>${one}</li>`)}</ul>`;
  const [first, rest] = [told.slice(0, PROBLEMS_SHOWN), told.slice(PROBLEMS_SHOWN)];
  const more =
    rest.length === 0 ? NOTHING : markup`<details><summary>${rest.length} more</summary>${items(rest)}</details>`;
  const many = told.length === 1 ? "A problem" : `${told.length} problems`;
  return markup`${partial}<div class="banner"><b>${many} in this run</b>, so do not trust it blindly:${items(first)}${more}</div>`;
};

/** The answer must not be pushed off the screen. */
const PROBLEMS_SHOWN = 4;

/** The result inside a page; null: it is no page of this kind. */
export const embeddedResult = (html: string): string | null =>
  /<script type="application\/json" id="result">(.*?)<\/script>/s.exec(html)?.[1] ?? null;
