// A result for docs/benchmarks.md: Markdown between two marks, with the answer first, and names that cannot break out of it.
import assert from "node:assert/strict";
import { test } from "node:test";
import { documentOf, withResults } from "../../src/bench/report/document.ts";
import { drawResult } from "../lib/bench-result.ts";

test("the answer comes before ratios and plots, and every metric has a plot that is named", () => {
  const { markdown, figures } = documentOf(drawResult({ seed: 1 }), "benchmarks");
  const order = [
    "In 21 of 297 comparisons",
    "| Bulk TCP, default offloads | beeline XDP |",
    "### Against iptables (legacy)",
    "![Established packets](benchmarks/packets.svg)",
    "IPVS: the kernel has no ip\\_vs module",
  ];
  const places = order.map((text) => markdown.indexOf(text));
  assert.ok(
    places.every((place, i) => place > (places[i - 1] ?? 0)),
    `${places}`,
  );
  assert.deepEqual(
    [...figures.keys()].filter((metric) => !markdown.includes(`(benchmarks/${metric}.svg)`)),
    [],
  );
});

test("a partial run and its problems are said first", () => {
  const { markdown } = documentOf(
    { ...drawResult({ seed: 1 }), complete: false, problems: ["a <b>problem</b> | here"] },
    "x",
  );
  const first = markdown.slice(0, markdown.indexOf("###"));
  assert.match(first, /> \*\*To be known first:\*\* A partial run/);
  assert.ok(first.includes("a \\<b\\>problem\\</b\\> \\| here"), first);
});

test("only what stands between the marks is replaced, and a page without them is refused", () => {
  const page = "before\n<!-- results: written by npm run bench:docs -->\nold\n<!-- end of results -->\nafter\n";
  const once = withResults(page, "new");
  assert.equal(
    once,
    "before\n<!-- results: written by npm run bench:docs -->\n\nnew\n\n<!-- end of results -->\nafter\n",
  );
  assert.equal(withResults(once, "new"), once);
  assert.throws(() => withResults("a page", "new"), /Cannot find the lines/);
});
