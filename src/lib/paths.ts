// Where the program's own files are, in a checkout and in a release. What is in them is for others.
import { existsSync, globSync } from "node:fs";
import { basename, dirname, join } from "node:path";

/** Directory of the running code. */
const PROGRAM = import.meta.dirname;

/**
 * Directory of the compiled BPF objects (`*.bpf.o`): `bpf/` beside the program in a release, `build/bpf/` in a checkout.
 * Throws when no object is there.
 */
export const bpfObjectDirectory = (): string => {
  const checkout = checkoutOf(PROGRAM);
  const directory = checkout === null ? join(PROGRAM, "bpf") : join(checkout, "build", "bpf");
  if (globSync("*.bpf.o", { cwd: directory }).length > 0) return directory;
  const remedy =
    checkout === null ? "the release is not complete, install it again" : `run \`npm run build\` in ${checkout}`;
  throw new Error(`Cannot find BPF objects in ${directory}: ${remedy}`);
};

/** Directory of the benchmark's own programs: `bench/` beside the program in a release, `build/bench/` in a checkout. */
export const benchDirectory = (): string => {
  const checkout = checkoutOf(PROGRAM);
  const directory = checkout === null ? join(PROGRAM, "bench") : join(checkout, "build", "bench");
  if (existsSync(join(directory, "load.bpf.o"))) return directory;
  const remedy =
    checkout === null ? "the release is not complete, install it again" : `run \`npm run build\` in ${checkout}`;
  throw new Error(`Cannot find the benchmark's programs in ${directory}: ${remedy}`);
};

/** The program that runs on each node of the benchmark's lab. */
export const benchNodeScript = (): string => {
  const checkout = checkoutOf(PROGRAM);
  return checkout === null ? join(PROGRAM, "bench-node.mjs") : join(checkout, "src", "bench", "node", "process.ts");
};

/** Root of the checkout that this code runs from, or null: it was bundled. */
const checkoutOf = (program: string): string | null => {
  if (basename(program) !== "lib" || basename(dirname(program)) !== "src") return null;
  const root = dirname(dirname(program));
  return existsSync(join(root, "scripts", "build-bpf")) ? root : null;
};
