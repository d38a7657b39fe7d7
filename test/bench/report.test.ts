// The report as text: what it says first, that hostile strings stay strings, that the result can be read back out of it.
import assert from "node:assert/strict";
import { test } from "node:test";
import { missingFrom } from "../../src/bench/report/about.ts";
import { embeddedResult, page } from "../../src/bench/report/page.ts";
import { parseResult, type Result } from "../../src/bench/result.ts";
import { drawResult } from "../lib/bench-result.ts";

/** Every text of a value, replaced. */
const withTexts = (value: unknown, change: (text: string, key: string) => string, key = ""): unknown => {
  if (typeof value === "string") return change(value, key);
  if (Array.isArray(value)) return value.map((one) => withTexts(one, change, key));
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, withTexts(one, change, name)]));
};

test("where beeline is slower comes first, before every figure", () => {
  const html = page(drawResult({ seed: 1 }));
  const places = ['id="slower"', 'id="ratios"', 'id="metrics"', "<svg", 'id="method"', 'id="missing"'].map((part) =>
    html.indexOf(part),
  );
  assert.ok(!places.includes(-1), `${places}`);
  assert.ok((places[0] ?? 0) < (places[1] ?? 0) && (places[0] ?? 0) < (places[3] ?? 0), `${places}`);
  assert.match(html, /<table class="behind">.*<th scope="row"><a href="#metric-bulk">.*<details class="unsure">/);
});

test("a result in which beeline is nowhere slower says so, with the bounds of that", () => {
  const faster = drawResult({
    seed: 1,
    factor: (mode, metric) =>
      mode.startsWith("bpf") ? (["packets", "new-flows", "bulk"].includes(metric) ? 50 : 0.02) : 1,
  });
  const html = page(faster);
  assert.match(html, /Nowhere, beyond the noise: of 297 comparisons with a rival, beeline is better in 297\./);
  assert.match(html, /luck alone would make all of them agree in one comparison of 16/);
  assert.doesNotMatch(html, /class="behind"/);
});

test("with nothing uncertain the table stands alone", () => {
  const factor = (mode: string, metric: string): number => (mode === "bpf-tc" && metric === "packets" ? 0.5 : 1);
  const html = page(drawResult({ seed: 1, noise: 0.001, factor }));
  assert.match(html, /<table class="behind">.*metric-packets.*behind in 5 of 5 rounds/);
  assert.doesNotMatch(html, /class="unsure"/);
});

test("strings of a result are never markup, wherever they stand", () => {
  const evil = `"'><script>alert(1)</script><img src=x onerror=alert(1)>\u2028<!--]]>&amp;`;
  const names = new Set(["kind", "better", "axis", "started"]);
  const hostile = withTexts(drawResult({ seed: 1, rounds: 2 }), (text, key) =>
    names.has(key) ? text : `${text}${evil}`,
  );
  const result = parseResult(JSON.stringify(hostile), "hostile");
  const html = page({ ...result, problems: [evil] });
  assert.equal(html.match(/<script/g)?.length, 1, "only the data's own element");
  assert.doesNotMatch(html, /<img|<!--/);
  assert.ok(html.includes("&lt;script&gt;alert(1)"));
  const attributes = [...html.matchAll(/<[a-z][^<>]*>/g)]
    .map(([tag]) => tag)
    .filter((tag) => /\son[a-z]+=/.test(tag.replaceAll(/"[^"]*"/g, '""')));
  assert.deepEqual(attributes, []);
});

test("the result is read back out of the page as it went in", () => {
  const result = drawResult({ seed: 2, rounds: 3 });
  const hostile = { ...result, machine: { ...result.machine, cpu: "</script><b>\u2028\\u003c" } };
  const text = embeddedResult(page(hostile));
  assert.deepEqual(parseResult(text ?? "", "page"), hostile);
  assert.equal(embeddedResult("<html></html>"), null);
});

test("the page asks for nothing: no address, no script, no import", () => {
  const html = page(drawResult({ seed: 1 })).replaceAll('xmlns="http://www.w3.org/2000/svg"', "");
  assert.doesNotMatch(html, /(?:src|href)="(?!#)|url\(|@import|https?:/);
});

test("a partial run, problems, and a mode whose counter saw too little are said before anything else", () => {
  const result = drawResult({ seed: 1 });
  const [first, ...rest] = result.samples;
  if (first === undefined) throw new Error("no samples");
  const html = page({
    ...result,
    complete: false,
    problems: ["nftables lost 3 % of the packets"],
    samples: [{ ...first, proof: { ...first.proof, counted: 0 } }, ...rest],
  });
  const top = html.slice(html.indexOf("<header>"), html.indexOf('id="slower"'));
  assert.match(top, /A partial run/);
  assert.match(top, /nftables lost 3 % of the packets/);
  assert.match(top, /In 1 samples? the mode&#39;s own counter shows less traffic/);
  assert.match(html, /too little in 1 of \d+ samples/);
});

test("many problems are counted, and do not push the answer off the screen", () => {
  const problems = Array.from({ length: 200 }, (_, i) => `problem ${i}`);
  const html = page({ ...drawResult({ seed: 1 }), problems });
  const shown = html.slice(html.indexOf('class="banner"'), html.indexOf("<details>"));
  assert.match(shown, /200 problems in this run/);
  assert.equal(shown.match(/<li>/g)?.length, 4);
  assert.match(html, /<summary>196 more<\/summary>/);
  assert.ok(html.includes("<li>problem 199</li>"));
});

test("what was not measured is named with its reason", () => {
  const html = page(drawResult({ seed: 1 }));
  assert.match(html, /<dt>IPVS<\/dt><dd>the kernel has no ip_vs module<\/dd>/);
  assert.match(html, /<dt>beeline sockets: Established packets<\/dt><dd>socket hooks see no packets from a wire<\/dd>/);
});

test("modes that lack the same for the same reason share a row", () => {
  const result = drawResult({ seed: 1 });
  const gap = (mode: string, metric: string) => ({ mode, metric, services: 1000, why: "measured at the ends" });
  const gaps = [gap("bpf-tc", "packets"), gap("bpf-tc", "bulk"), gap("nftables", "packets"), gap("nftables", "bulk")];
  assert.deepEqual(
    missingFrom({ ...result, gaps }).filter(([, why]) => why === "measured at the ends"),
    [
      [
        "beeline tc and nftables at 1\u202f000 services: Established packets and Bulk TCP, default offloads",
        "measured at the ends",
      ],
    ],
  );
});

test("a result without samples, without services or with one mode only is a page, too", () => {
  const result = drawResult({ seed: 1 });
  const odd: readonly Result[] = [
    { ...result, samples: [], generator: [], gaps: [] },
    { ...result, samples: result.samples.filter(({ mode }) => mode === "route") },
    { ...result, samples: result.samples.filter(({ mode, services }) => mode === "bpf-tc" && services === 10) },
    { ...result, samples: result.samples.slice(0, 1), method: { ...result.method, baseline: null } },
    { ...result, samples: result.samples.map((sample) => ({ ...sample, value: 0 })) },
  ];
  for (const one of odd) {
    const html = page(one);
    assert.doesNotMatch(html.replace(/<script.*<\/script>/s, ""), /NaN|Infinity|undefined|\bnull\b/);
  }
});
