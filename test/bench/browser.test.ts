// The report as a browser shows it: at a desk and on a phone, light and dark, on paper. Every metric has a figure that can
// be seen, no text lies on another or leaves its plot, nothing is wider than the screen, and the page is silent.
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { documentOf } from "../../src/bench/report/document.ts";
import { page } from "../../src/bench/report/page.ts";
import { textWidth } from "../../src/bench/report/text.ts";
import type { Result } from "../../src/bench/result.ts";
import { drawResult } from "../lib/bench-result.ts";
import { Browser, type Viewport } from "../lib/browser.ts";

/** Screenshots are left here for people to look at; git ignores build/. */
const PICTURES = "build/report";

const DESK = { width: 1280, height: 900 };
const PHONE = { width: 400, height: 800 };
const VIEWS: readonly (readonly [name: string, Viewport])[] = [
  ["desk", { ...DESK, scheme: "light" }],
  ["desk-dark", { ...DESK, scheme: "dark" }],
  ["phone", { ...PHONE, scheme: "light" }],
  ["phone-dark", { ...PHONE, scheme: "dark" }],
];

let browser: Browser;
let directory: string;
before(async () => {
  browser = await Browser.start();
  directory = mkdtempSync(join(tmpdir(), "beeline-report-"));
  mkdirSync(PICTURES, { recursive: true });
});
after(async () => {
  await browser?.close();
  if (directory !== undefined) rmSync(directory, { recursive: true });
});

const show = async (result: Result, viewport: Viewport): Promise<void> => {
  const file = join(directory, "report.html");
  writeFileSync(file, page(result));
  await browser.open(file, viewport);
};

interface Seen {
  readonly wide: number;
  /** Metrics whose card shows exactly one figure that has a size. */
  readonly figures: readonly string[];
  readonly wrong: readonly string[];
}

/** Runs in the page: pairs of texts of one figure that share a place, texts outside of it, and what sticks out of the page. */
const LOOK = `(() => {
  const wrong = [];
  const box = (e) => e.getBoundingClientRect();
  const seen = (e) => box(e).width > 0 && box(e).height > 0;
  for (const svg of [...document.querySelectorAll("svg")].filter(seen)) {
    const name = svg.closest("[id]").id, out = box(svg);
    if (out.width < 0.9 * svg.viewBox.baseVal.width) wrong.push(name + ": too small to be read");
    const texts = [...svg.querySelectorAll("text")].filter(seen).map((e) => [e.textContent, box(e)]);
    for (const [i, [text, b]] of texts.entries()) {
      if (b.left < out.left - 1 || b.right > out.right + 1 || b.top < out.top - 1 || b.bottom > out.bottom + 1)
        wrong.push(name + ": " + text + " leaves the plot");
      for (const [other, o] of texts.slice(i + 1))
        if (Math.min(b.right, o.right) - Math.max(b.left, o.left) > 0.5 && Math.min(b.bottom, o.bottom) - Math.max(b.top, o.top) > 2)
          wrong.push(name + ": " + text + " lies on " + other);
    }
  }
  for (const e of document.querySelectorAll("body *"))
    if (seen(e) && !e.closest(".wide-table") && box(e).right > innerWidth + 1) wrong.push(e.tagName + " " + e.className + " sticks out");
  const cards = [...document.querySelectorAll(".card")];
  const figures = cards.filter((c) => [...c.querySelectorAll("svg")].filter((e) => box(e).width > 200 && box(e).height > 100).length === 1);
  return { wide: document.documentElement.scrollWidth, figures: figures.map((c) => c.id.replace("metric-", "")), wrong };
})()`;

const check = async (result: Result, [name, viewport]: (typeof VIEWS)[number]): Promise<void> => {
  await show(result, viewport);
  const { wide, figures, wrong } = await browser.ask<Seen>(LOOK);
  assert.deepEqual(wrong, [], name);
  assert.equal(wide, viewport.width, `${name}: wider than the screen`);
  assert.deepEqual(
    figures,
    result.metrics.map((metric) => metric.name),
    name,
  );
  assert.deepEqual(browser.complaints(), [], name);
};

test("at a desk and on a phone, light and dark: every metric has its figure, and no text is in the way of another", async () => {
  const result = drawResult({ seed: 1 });
  for (const view of VIEWS) {
    await check(result, view);
    const picture = await browser.screenshot();
    writeFileSync(join(PICTURES, `${view[0]}.png`), picture);
    assert.ok(picture.length > 50_000, `${view[0]}: a picture of ${picture.length} bytes shows nothing`);
  }
});

test("so it is with much noise, one number of services, two of them close together, and names that are too long", async () => {
  const noisy = drawResult({ seed: 2, noise: 0.6, rounds: 3 });
  const one = drawResult({ seed: 3, services: [1000] });
  const close = drawResult({ seed: 4, services: [1000, 1010, 1020], rounds: 2 });
  const long = {
    ...noisy,
    modes: noisy.modes.map((mode) => ({ ...mode, title: `${mode.title} in a mode whose title does not end` })),
  };
  for (const result of [noisy, one, close, long])
    for (const [name, viewport] of VIEWS.filter(([, { scheme }]) => scheme === "light"))
      await check(result, [name, viewport]);
});

test("dark is dark, and light is light", async () => {
  const background = `getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]`;
  await show(drawResult({ seed: 1 }), { ...DESK, scheme: "dark" });
  assert.ok((await browser.ask<number>(background)) < 60);
  await browser.resize({ ...DESK, scheme: "light" });
  assert.ok((await browser.ask<number>(background)) > 200);
});

test("hostile strings are shown as text, and do nothing", async () => {
  const evil = `<script>document.title="owned"</script><img src="http://192.0.2.1/" onerror="document.title='owned'">`;
  const result = drawResult({ seed: 1 });
  await show({ ...result, machine: { ...result.machine, cpu: evil }, problems: [evil] }, { ...DESK, scheme: "light" });
  assert.match(await browser.ask("document.title"), /^beeline benchmark/);
  assert.ok((await browser.ask<string>("document.querySelector('.machine').textContent")).includes(evil));
  assert.deepEqual(browser.complaints(), []);
});

test("a plot alone in a file is an SVG document in the colours of the page, light and dark", async () => {
  const { figures } = documentOf(drawResult({ seed: 1 }), "plots");
  assert.equal(figures.size, 9);
  for (const [metric, svg] of figures) {
    const file = join(directory, `${metric}.svg`);
    writeFileSync(file, svg);
    for (const [scheme, background] of [
      ["light", "rgb(255, 255, 255)"],
      ["dark", "rgb(20, 23, 28)"],
    ] as const) {
      await browser.open(file, { ...DESK, scheme });
      const [root, colour, bars] = await browser.ask<[string, string, number]>(
        `[document.documentElement.localName, getComputedStyle(document.documentElement).backgroundColor, document.querySelectorAll(".bar, .curve").length]`,
      );
      assert.deepEqual([root, colour], ["svg", background], metric);
      assert.ok(bars >= 7, `${metric}: ${bars} bars or lines`);
      assert.deepEqual(browser.complaints(), []);
    }
  }
});

test("on paper the figures are there and nothing is cut off at the right", async () => {
  await show(drawResult({ seed: 1 }), { width: 688, height: 900, scheme: "light" });
  await browser.media("print");
  const { figures, wrong, wide } = await browser.ask<Seen>(LOOK);
  await browser.media("screen");
  assert.deepEqual(wrong, []);
  assert.equal(wide, 688);
  assert.equal(figures.length, 9);
  const pages = (await browser.print()).toString("latin1").match(/\/Type\s*\/Page\b/g)?.length ?? 0;
  assert.ok(pages >= 2 && pages <= 10, `${pages} pages`);
});

test("texts are never wider than they were reckoned to be, in the widest of the usual fonts", async () => {
  await show(drawResult({ seed: 1 }), { ...DESK, scheme: "light" });
  const measured = await browser.ask<[string, number, number][]>(
    `[...document.querySelectorAll("svg text")].filter((e) => e.getBBox().width > 0).map((e) => [e.textContent, e.getBBox().width, parseFloat(getComputedStyle(e).fontSize) * (Number(getComputedStyle(e).fontWeight) > 500 ? 1.12 : 1)])`,
  );
  assert.ok(measured.length > 100);
  for (const [text, width, size] of measured)
    assert.ok(width <= textWidth(text, size) + 1, `${text}: ${width} px, reckoned ${textWidth(text, size)}`);
});
