// A node inside a Sandbox, where processes of dataplane-steps.ts run one after the other, or are killed half-way.
import assert from "node:assert/strict";
import { existsSync, rmdirSync } from "node:fs";
import type { TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import { DEFAULT_TIMEOUTS_S } from "../../src/dataplane/bpf/states.ts";
import type { Options, Step } from "./dataplane-steps.ts";
import { eventually, SLOWEST_PROCESS_MS } from "./eventually.ts";
import { type Running, Sandbox } from "./sandbox.ts";
import { noRealMaps } from "./stores.ts";

const OBJECTS = fileURLToPath(new URL("../../build/bpf", import.meta.url));
const STEPS = fileURLToPath(new URL("./dataplane-steps.ts", import.meta.url));

/** Why there is no real dataplane to test with, or false. */
export const noDataplane =
  noRealMaps || (existsSync(`${OBJECTS}/tc.bpf.o`) ? false : `needs ${OBJECTS}/tc.bpf.o (npm run build)`);

export interface Line {
  readonly result?: unknown;
  readonly error?: string;
  readonly log?: string;
  readonly fields?: object;
}

export class Node {
  readonly sandbox: Sandbox;
  readonly options: Options;
  /** Cgroups below the sandbox's, to be removed with it. */
  readonly children: string[] = [];

  constructor(sandbox: Sandbox, attach: Options["attach"]) {
    this.sandbox = sandbox;
    const [, bpffs = "", , cgroup = ""] = sandbox.place;
    const snatPorts = { min: 61_000, max: 65_535 };
    const maxEntries = { slots: 4096, backends: 1024, backend_stats: 1024, flows: 1024, affinity: 1024 };
    this.options = {
      bpffs,
      cgroup,
      objects: OBJECTS,
      devices: ["eth0"],
      podDevices: [],
      socketLB: "all",
      forwarding: "kernel",
      attach,
      xdp: "auto",
      snatPorts,
      timeouts_s: DEFAULT_TIMEOUTS_S,
      ipv4: true,
      ipv6: true,
      maxEntries,
    };
  }

  static async create(t: TestContext, attach: Options["attach"] = "auto"): Promise<Node> {
    const sandbox = await Sandbox.create();
    const node = new Node(sandbox, attach);
    t.after(async () => {
      for (const child of node.children) rmdirSync(child);
      await sandbox.close();
    });
    return node;
  }

  /** An agent that takes these steps, from start to end: what it printed. */
  run(steps: readonly Step[], over: Partial<Options> = {}): Line[] {
    const { code, stdout, stderr } = this.sandbox.exec(process.execPath, STEPS, this.#given(steps, over));
    assert.equal(code, 0, stderr);
    return lines(stdout);
  }

  /** One that goes on until it is killed. Answers once it holds, or watches. */
  async start(steps: readonly Step[], until = "holding", over: Partial<Options> = {}): Promise<Running> {
    const running = this.sandbox.spawn(process.execPath, STEPS, this.#given(steps, over));
    await eventually(() => {
      const { stdout, stderr } = running;
      assert.ok(stdout.includes(`{"result":"${until}"}\n`), `it never came to be ${until}: ${stdout}${stderr}`);
    }, SLOWEST_PROCESS_MS);
    return running;
  }

  #given(steps: readonly Step[], over: Partial<Options>): string {
    return JSON.stringify({ options: { ...this.options, ...over }, steps });
  }
}

export const lines = (text: string): Line[] =>
  text
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as Line);

/** Results of steps; a step that failed fails the test. */
export const results = (printed: readonly Line[]): unknown[] => {
  const failed = printed.find((line) => line.error !== undefined);
  assert.equal(failed, undefined, failed?.error);
  return printed.filter((line) => "result" in line).map((line) => line.result);
};

export const logs = (printed: readonly Line[]): string[] => printed.flatMap((line) => line.log ?? []);

export const kill = async (running: Running): Promise<void> => {
  running.signal("SIGKILL");
  await running.ended();
};
