// Writes the results of docs/benchmarks.md: `npm run bench:docs -- RESULT.json` takes over a result, with its plots and its
// samples (docs/benchmarks/result.json.gz). Without a file: once more from those samples. --check: says what is stale.
import { existsSync, globSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { gunzipSync, gzipSync } from "node:zlib";
import { type Document, documentOf, withResults } from "../src/bench/report/document.ts";
import { parseResult } from "../src/bench/result.ts";

const PAGE = "docs/benchmarks.md";
const FOLDER = "docs/benchmarks";
const SAMPLES = join(FOLDER, "result.json.gz");

const main = (words: readonly string[]): number => {
  const check = words.includes("--check");
  const [file, ...rest] = words.filter((word) => word !== "--check");
  if (rest.length > 0 || (check && file !== undefined)) {
    console.error("usage: bench-docs [RESULT.json | --check]");
    return 2;
  }
  const { markdown, figures } = documentFor(file);
  const wanted = new Map([
    [PAGE, withResults(readFileSync(PAGE, "utf8"), markdown)],
    ...[...figures].map(([metric, svg]) => [join(FOLDER, `${metric}.svg`), svg] as const),
  ]);
  const surplus = globSync(`${FOLDER}/*.svg`).filter((svg) => !wanted.has(svg));
  if (check) {
    const stale = [
      ...[...wanted]
        .filter(([path, now]) => !existsSync(path) || readFileSync(path, "utf8") !== now)
        .map(([path]) => path),
      ...surplus,
    ];
    for (const path of stale) console.error(`${path} is not what ${SAMPLES} gives: run npm run bench:docs`);
    return stale.length === 0 ? 0 : 1;
  }
  for (const path of surplus) rmSync(path);
  if (file !== undefined) takeOver(file);
  for (const [path, now] of wanted) writeFileSync(path, now);
  console.log(`${PAGE} and ${figures.size} plots written`);
  return 0;
};

/** Of a result, else of the samples that were taken over, else of nothing. */
const documentFor = (file: string | undefined): Document => {
  if (file !== undefined) return documentOf(parseResult(readFileSync(file, "utf8"), file), basename(FOLDER));
  if (!existsSync(SAMPLES)) return { markdown: "No full run has been taken over yet.", figures: new Map() };
  return documentOf(parseResult(gunzipSync(readFileSync(SAMPLES)).toString(), SAMPLES), basename(FOLDER));
};

const takeOver = (file: string): void => {
  mkdirSync(FOLDER, { recursive: true });
  writeFileSync(SAMPLES, gzipSync(JSON.stringify(JSON.parse(readFileSync(file, "utf8"))), { level: 9 }));
};

process.exitCode = main(process.argv.slice(2));
