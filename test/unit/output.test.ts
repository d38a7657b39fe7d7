// Text for people: columns, names that cannot harm a terminal, ages; the repeats of a log held back.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createLog } from "../../src/agent/log.ts";
import { parseDuration } from "../../src/lib/duration.ts";
import { hint, suggest } from "../../src/lib/suggest.ts";
import { age, columns, count, safe } from "../../src/lib/text.ts";

test("columns are three spaces apart, without borders or trailing blanks", () => {
  const rows = [
    ["shop/web:http", "TCP", ""],
    ["a/b", "UDP", "x"],
  ];
  assert.equal(
    columns(["SERVICE", "PROTO", "C"], rows),
    `
SERVICE         PROTO   C
shop/web:http   TCP
a/b             UDP     x
`.slice(1),
  );
  assert.equal(columns(null, [["a", "b"]]), "a   b\n");
  assert.equal(columns(["A"], []), "A\n");
  assert.equal(columns(null, []), "");
});

test("a long cell is never cut off", () => {
  const name = "x".repeat(500);
  assert.equal(columns(null, [[name, "y"]]), `${name}   y\n`);
});

test("columns count characters, not UTF-16 units", () => {
  assert.equal(
    columns(null, [
      ["🐝", "1"],
      ["ab", "2"],
    ]),
    "🐝    1\nab   2\n",
  );
});

test("what could move a cursor or turn text around is shown, not done", () => {
  assert.equal(safe("\u001b[2Jweb"), "\\x1b[2Jweb");
  assert.equal(safe("a\nb\tc\u007f\u009b31m"), "a\\x0ab\\x09c\\x7f\\x9b31m");
  assert.equal(safe("\u202egnp.exe\u2066\u200b\ufeff\u2028"), "\\u202egnp.exe\\u2066\\u200b\\ufeff\\u2028");
  assert.equal(safe("grün-蜂-🐝"), "grün-蜂-🐝");
  assert.equal(columns(null, [["\u001b]0;x\u0007", "1"]]), "\\x1b]0;x\\x07   1\n");
});

test("ages and counts", () => {
  assert.deepEqual([0, 119_999, 120_000, 7_199_999, 7_200_000, 172_800_000].map(age), [
    "0s",
    "119s",
    "2m",
    "119m",
    "2h",
    "2d",
  ]);
  assert.deepEqual([count(1, "flow"), count(0, "flow")], ["1 flow", "0 flows"]);
});

test("durations are Go's", () => {
  const cases: readonly (readonly [string, number | null])[] = [
    ["30s", 30_000],
    ["1h15m30.5s", 4_530_500],
    ["100ms", 100],
    [".5m", 30_000],
    ["0", 0],
    ["24h0m0s", 86_400_000],
    ["-1s", null],
    ["1", null],
    ["s", null],
    ["1s ", null],
    ["", null],
  ];
  for (const [text, expected] of cases) assert.equal(parseDuration(text), expected, JSON.stringify(text));
});

test("a word is suggested only when it may have been meant", () => {
  const known = ["services", "status", "frontends"];
  assert.equal(suggest("servces", known), "services");
  assert.equal(suggest("Status", known), "status");
  assert.equal(suggest("qqqqqq", known), null);
  assert.equal(hint("frontend", known), " (did you mean frontends?)");
  assert.equal(hint("zzzzzzzz", known), "");
});

test("a log line is one JSON object with level, time and component", () => {
  const lines: string[] = [];
  const log = createLog({ format: "json", level: "info" }, (line) => lines.push(line));
  log("warn", "Service shop/web: \u001b[2J", { error: new Error("no"), n: 1 });
  log("debug", "not shown");
  assert.equal(lines.length, 1);
  const { ts, ...rest } = JSON.parse(lines[0] ?? "") as Record<string, unknown>;
  assert.match(String(ts), /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
  assert.deepEqual(rest, {
    level: "warn",
    component: "beeline",
    error: "no",
    n: 1,
    msg: "Service shop/web: \u001b[2J",
  });
  assert.equal(lines[0]?.includes("\u001b"), false);
});

test("text logs are one line, with safe names and values", () => {
  const lines: string[] = [];
  const log = createLog(
    { format: "text", level: "debug" },
    (line) => lines.push(line),
    () => 0,
  );
  log("info", "Applied\n", { ms: 1.5, who: "a b\u001b", where: "eth0", changed: { services: 1 } });
  assert.deepEqual(lines, [
    '1970-01-01T00:00:00.000Z INFO  Applied\\x0a ms=1.5 who="a b\\\\x1b" where=eth0 changed={"services":1}\n',
  ]);
});

test("a message that repeats is held back, counted, and heard again after a minute", () => {
  let now_ms = 0;
  const lines: string[] = [];
  const log = createLog(
    { format: "text", level: "info" },
    (line) => lines.push(line.slice(25).trim()),
    () => now_ms,
  );
  for (let i = 0; i < 1000; i++) log("error", "Cannot apply");
  log("error", "Something else");
  assert.equal(lines.length, 11);
  for (let i = 0; i < 1000; i++) log("warn", `Listing again in ${i} ms`);
  assert.equal(lines.length, 21, "a wait that differs is still the same message");
  for (let i = 0; i < 100; i++) log("info", "Applied");
  assert.equal(lines.length, 121, "what is no failure is never held back");
  now_ms = 60_000;
  log("error", "Cannot apply");
  assert.deepEqual(lines.slice(-2), ["ERROR Cannot apply (990 more of these were held back)", "ERROR Cannot apply"]);
});
