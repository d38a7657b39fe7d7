// `beeline bench` with results of earlier runs: a table, a report, a comparison, and what it refuses. Nothing is measured.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { Result } from "../../src/bench/result.ts";
import { drawResult } from "../lib/bench-result.ts";
import { runCommand } from "../lib/command.ts";

let directory = "";
before(() => {
  directory = mkdtempSync(join(tmpdir(), "beeline-bench-"));
});
after(() => rmSync(directory, { recursive: true }));

const save = (name: string, result: Result | string): string => {
  const file = join(directory, name);
  writeFileSync(file, typeof result === "string" ? result : JSON.stringify(result));
  return file;
};

const slower = (mode: string): number => (mode === "bpf-tc" ? 1.5 : 1);

test("two results: 1 when something got worse, with what and by how much; 0 when nothing did", async () => {
  const [first, second] = [
    save("a.json", drawResult({ seed: 1 })),
    save("b.json", drawResult({ seed: 2, factor: slower })),
  ];
  const worse = await runCommand("bench", "--compare", first, second);
  assert.equal(worse.code, 1);
  assert.match(worse.out, /^WORSE +MODE +SERVICES +BEFORE +AFTER +CHANGE +NOISE$/m);
  assert.match(worse.out, /^TCP connect, median +bpf-tc +10 +32\.\d µs +4\d\.\d µs +\+\d\d % +±10 %$/m);
  assert.match(
    worse.out,
    /^\d+ figures got worse; \d+ better, \d+ within the noise, 42 with fewer than 3 rounds are not judged$/m,
  );
  assert.doesNotMatch(worse.out, /^SAME/m);
  const same = await runCommand("bench", "--compare", first, save("c.json", drawResult({ seed: 3 })));
  assert.equal(same.code, 0, same.out);
  assert.match(same.out, /^Nothing got worse; 0 better/m);
  const wide = await runCommand("bench", "--compare", first, first, "-o", "wide");
  assert.match(wide.out, /^SAME/m);
  assert.match(wide.out, /^TOO FEW ROUNDS/m);
});

test("a comparison as JSON has every row, with what it rests on", async () => {
  const [first, second] = [
    save("a.json", drawResult({ seed: 1 })),
    save("b.json", drawResult({ seed: 2, factor: slower })),
  ];
  const { code, out } = await runCommand("bench", "--compare", first, second, "-o", "json");
  const document = JSON.parse(out);
  assert.equal(code, 1);
  assert.deepEqual([document.kind, document.apiVersion], ["BenchComparison", "beeline.dev/v1alpha1"]);
  assert.equal(document.items.length, document.worse + document.better + document.same + document.unknown);
  const row = document.items.find((item: { verdict: string }) => item.verdict === "worse");
  assert.deepEqual(Object.keys(row).sort(), [
    "after",
    "before",
    "change",
    "metric",
    "mode",
    "noise",
    "services",
    "unit",
    "verdict",
  ]);
  assert.ok(Math.abs(row.change) > row.noise);
});

test("--tolerance says from where on a change counts", async () => {
  const [first, second] = [
    save("a.json", drawResult({ seed: 1 })),
    save("b.json", drawResult({ seed: 2, factor: slower })),
  ];
  assert.equal((await runCommand("bench", "--compare", first, second, "--tolerance", "60")).code, 0);
  const wrong = await runCommand("bench", "--compare", first, second, "--tolerance", "-1");
  assert.equal(wrong.code, 2);
});

test("another machine is a warning at the top", async () => {
  const result = drawResult({ seed: 1 });
  const other = { ...result, machine: { ...result.machine, cpu: "another\u001b[2J" } };
  const { out } = await runCommand("bench", "--compare", save("a.json", result), save("b.json", other));
  assert.match(
    out.split("\n").slice(0, 4).join("\n"),
    /^warning: Another CPU: Example EPYC .* before, another\\x1b\[2J after$/m,
  );
});

test("a saved result is a table and a report, and the report is as good as the result", async () => {
  const result = drawResult({ seed: 1 });
  const [file, report] = [save("a.json", result), join(directory, "report.html")];
  const first = await runCommand("bench", file, "--report", report);
  assert.equal(first.code, 0, first.err);
  assert.match(
    first.out,
    /^In 21 of 297 comparisons with a rival; it is better in 273, and 3 are too close to call\.$/m,
  );
  assert.match(first.out, /^ {2}Bulk TCP, default offloads +bpf-xdp +10,1000,10000 +nftables 0\.30×/m);
  assert.match(readFileSync(report, "utf8"), /^<!doctype html>/);
  const again = await runCommand("bench", report, "-o", "json");
  assert.deepEqual(JSON.parse(again.out), result);
});

test("what cannot be read, compared or written leaves with 2 and says which file and why", async () => {
  const good = save("a.json", drawResult({ seed: 1 }));
  const once = save("once.json", drawResult({ seed: 1, rounds: 1 }));
  const other = save("other.json", { ...drawResult({ seed: 1 }), samples: [] });
  const cases: readonly (readonly [words: readonly string[], error: RegExp])[] = [
    [["--compare", good], /--compare takes two results, before and after; here are 1/],
    [["--compare"], /here are 0/],
    [["--compare", good, good, good], /here are 3/],
    [[good, good], /one result can be read again, and two with --compare/],
    [[join(directory, "absent.json")], /absent\.json: ENOENT/],
    [[save("text.json", "hello")], /text\.json: not JSON/],
    [[save("page.html", "<!doctype html><p>")], /page\.html: a page without a result/],
    [["--compare", good, save("kind.json", "{}")], /kind\.json: not a result of `beeline bench -o json`/],
    [["--compare", good, other], /no mode, metric and number of services in common/],
    [["--compare", once, once], /it takes 3 rounds of the same on both sides/],
    [[good, "--quick"], /--quick is for measuring, and results measure nothing/],
    [[good, "--save", join(directory, "copy.json")], /--save is for measuring/],
    [[good, "--tolerance", "5"], /--tolerance is for --compare/],
    [
      ["--compare", good, good, "--report", join(directory, "r.html")],
      /--report is of one result, and --compare of two/,
    ],
    [[good, "--report", join(directory, "no", "report.html")], /Cannot write .*no\/report\.html: ENOENT/],
  ];
  for (const [words, error] of cases) {
    const { code, err } = await runCommand("bench", ...words);
    assert.equal(code, 2, `${words.join(" ")}: ${err}`);
    assert.match(err, error);
  }
});
