// Writes dist/: the command as a release, without TypeScript, a compiler or npm packages beyond koffi (native code).
// beeline.mjs is the program, *.mjs its lazily loaded parts, bpf/ the BPF objects, bench/ what the benchmark runs. Prints sizes and start times.
import { spawnSync } from "node:child_process";
import {
  chmodSync,
  cpSync,
  existsSync,
  globSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { performance } from "node:perf_hooks";
import { build, type Metafile } from "esbuild";

const DIST = process.argv[2] ?? "dist";

/** Packages bundled CommonJS code may still `require` Node's own modules; an ES module has no `require` of itself. */
const REQUIRE =
  'import { createRequire as createRequire_ } from "node:module"; const require = createRequire_(import.meta.url);';

const main = async (): Promise<void> => {
  if (existsSync(DIST) && readdirSync(DIST).length > 0 && !existsSync(join(DIST, "beeline.mjs")))
    throw new Error(`Cannot bundle into ${DIST}: something else is in it`);
  rmSync(DIST, { recursive: true, force: true });
  const { metafile } = await build({
    // The benchmark runs a program of its own on each node of its lab.
    entryPoints: { beeline: "src/main.ts", "bench-node": "src/bench/node/process.ts" },
    outdir: DIST,
    outExtension: { ".js": ".mjs" },
    // Chunks lie beside the program: import.meta.dirname is the release's root in all of them.
    chunkNames: "[name]-[hash]",
    bundle: true,
    splitting: true,
    format: "esm",
    platform: "node",
    target: "node22.19",
    external: ["koffi"],
    banner: { js: REQUIRE },
    // Names stay: a stack trace is read by people, and there are no source maps.
    minifyWhitespace: true,
    minifySyntax: true,
    legalComments: "none",
    metafile: true,
    logLevel: "warning",
  });
  chmodSync(join(DIST, "beeline.mjs"), 0o755);
  copyKoffi();
  copyObjects();
  writeLicenses(metafile);
  report(metafile);
};

/** koffi without its sources, documentation and musl build: its loader and the native code for this machine. */
const copyKoffi = (): void => {
  const native = `@koromix/koffi-linux-${process.arch}`;
  const files = [
    ...["koffi/{package.json,LICENSE.txt,index.js}", "koffi/src/**/*.js"],
    ...["package.json", "index.js", `linux_${process.arch}/koffi.node`].map((file) => `${native}/${file}`),
  ].flatMap((pattern) => globSync(pattern, { cwd: "node_modules" }));
  for (const file of files) {
    const target = join(DIST, "node_modules", file);
    mkdirSync(dirname(target), { recursive: true });
    cpSync(join("node_modules", file), target);
  }
};

const copyObjects = (): void => {
  mkdirSync(join(DIST, "bpf"));
  const objects = globSync("build/bpf/*.bpf.o").filter((object) => !object.endsWith("/abi.bpf.o"));
  if (objects.length === 0) throw new Error("Cannot bundle: build/bpf holds no BPF objects: run `npm run build`");
  for (const object of objects) cpSync(object, join(DIST, object.slice("build/".length)));
  cpSync("build/bench", join(DIST, "bench"), { recursive: true });
};

/** The licences of what is bundled ask to go with it. */
const writeLicenses = (metafile: Metafile): void => {
  const packages = new Set(
    Object.keys(metafile.inputs).flatMap((input) => /^node_modules\/(?:@[^/]+\/)?[^/]+/.exec(input)?.[0] ?? []),
  );
  const texts = [...packages].sort().map((directory) => {
    const { name, version, license } = JSON.parse(readFileSync(join(directory, "package.json"), "utf8"));
    const file = globSync("{LICENSE,LICENCE,license,licence,COPYING}*", { cwd: directory })[0];
    const text = file === undefined ? "" : readFileSync(join(directory, file), "utf8");
    return `${name} ${version} (${license})\n\n${text}`;
  });
  writeFileSync(join(DIST, "LICENSES.txt"), texts.join(`\n${"-".repeat(80)}\n`));
};

const report = (metafile: Metafile): void => {
  const bytes = (pattern: string): number =>
    globSync(pattern, { cwd: DIST }).reduce((sum, file) => sum + statSync(join(DIST, file)).size, 0);
  const size = (name: string, count: number): void => console.log(`${name.padEnd(34)} ${kilobytes(count)}`);
  for (const [file, output] of Object.entries(metafile.outputs).sort(([, a], [, b]) => b.bytes - a.bytes)) {
    if (output.bytes > 50_000) size(`  ${basename(file)}`, output.bytes);
  }
  size("JavaScript", bytes("*.mjs"));
  size("BPF objects", bytes("bpf/*"));
  size("koffi", bytes("node_modules/**/*.*"));
  // Where nothing is pinned `services` ends with an error, once all its code is loaded.
  for (const command of ["version", "services"])
    console.log(`${`beeline ${command}`.padEnd(34)} ${startTime([command]).toFixed(0).padStart(7)} ms`);
};

const kilobytes = (count: number): string => `${(count / 1000).toFixed(0).padStart(7)} kB`;

/** Median of five, in milliseconds, process start to end. */
const startTime = (args: readonly string[]): number => {
  const times = Array.from({ length: 5 }, () => {
    const start = performance.now();
    spawnSync(process.execPath, [join(DIST, "beeline.mjs"), ...args], { stdio: "ignore" });
    return performance.now() - start;
  });
  return times.sort((a, b) => a - b)[2] ?? 0;
};

if (!existsSync("src/main.ts")) throw new Error("Cannot bundle: run this in the root of a checkout");
await main();
