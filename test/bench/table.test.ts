// What a terminal shows of a result.
import assert from "node:assert/strict";
import { test } from "node:test";
import { MODES } from "../../src/bench/modes.ts";
import type { Sample } from "../../src/bench/result.ts";
import { brief, liveTable, timeText } from "../../src/bench/table.ts";
import { COMMANDS } from "../../src/commands/commands.ts";

const sample = (mode: string, metric: string, services: number, value: number): Sample => ({
  mode,
  metric,
  services,
  round: 0,
  value,
  sent: 1,
  lost: 0,
  proof: { counter: "c", expected: 1, counted: 1 },
});

test("numbers have three digits that count", () => {
  const texts = [0, 0.0123, 1, 12.34, 999, 1234, 45_200, 1_280_000, 3e9, Infinity].map(brief);
  assert.deepEqual(texts, ["0", "0.01", "1.00", "12.3", "999", "1.23k", "45.2k", "1.28M", "3.00G", "∞"]);
});

test("while it runs a table fills, and has the columns and lines that fit", () => {
  const live = {
    samples: [sample("route", "packets", 0, 1_280_000), sample("bpf-tc", "packets", 10, 1_500_000)],
    places: [
      { mode: "route", services: 0 },
      { mode: "bpf-tc", services: 10 },
    ],
    metrics: ["packets", "connect-p50"],
  };
  assert.equal(
    liveTable(live, 80, 20),
    "            packets   connect-p50\nroute       1.28M     ·\nbpf-tc 10   1.50M     ·\n",
  );
  assert.equal(liveTable(live, 20, 20), "            packets\nroute       1.28M\nbpf-tc 10   1.50M\n");
  assert.equal(liveTable(live, 80, 2), "            packets   connect-p50\nroute       1.28M     ·\n");
});

test("time left", () => {
  assert.deepEqual([-1, 5.4, 59.6, 245].map(timeText), ["0s", "5s", "1m 00s", "4m 05s"]);
});

test("the help of the command names every mode", () => {
  const { describe } = COMMANDS.find(({ usage }) => usage.startsWith("bench"))?.options.modes ?? { describe: "" };
  assert.deepEqual(
    MODES.filter(({ name }) => !describe.includes(name)).map(({ name }) => name),
    [],
  );
});
