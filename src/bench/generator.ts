// What the load generator can do when nothing has to be carried: packets are counted and dropped where the node's device
// receives them. A mode that comes near to this limit is perhaps faster than it seems.
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { CLIENT, POD_PORT, TARGET } from "./cluster.ts";
import { cgroupMount } from "./lab/leftovers.ts";
import { NODE_MAC, netnsName, offloadScript, UPLINK } from "./lab/network.ts";
import { runScript, Tool, type Where } from "./lab/process.ts";
import { frames, GREET_FLOWS, type Setting } from "./stack.ts";

const counts = z.object({ right: z.number() });

/** Its stack's name. */
export const LIMIT = "limit";

/** What the generator does alone. */
export interface Limit {
  /** Packets a second. */
  readonly rate: number;
  /** For each packet. */
  readonly cpu_ns: number;
}

export class Generator {
  readonly #frames: Tool;
  readonly #node: Tool;

  private constructor(frames: Tool, node: Tool) {
    this.#frames = frames;
    this.#node = node;
  }

  static async start({ lab, files, cpus }: Setting): Promise<Generator> {
    const cgroup = join(cgroupMount(), lab, LIMIT);
    mkdirSync(cgroup, { recursive: true });
    runScript(offloadScript(lab, LIMIT, "usual"));
    const object = join(files.tools, "load.bpf.o");
    const where = (place: string): Where => ({
      netns: `/run/netns/${netnsName(lab, LIMIT, place)}`,
      cgroup,
      cpus: [cpus.sender],
    });
    const to = `${TARGET.address}:${TARGET.port}`;
    const node = await Tool.start(where("node"), [join(files.tools, "pod"), LIMIT, String(POD_PORT), UPLINK, object]);
    const sender = await Tool.start(where("client"), [
      join(files.tools, "frames"),
      "eth0",
      object,
      NODE_MAC,
      `${CLIENT.address}:10000`,
    ]);
    await node.ask(`sink xdp ${to}`);
    return new Generator(sender, node);
  }

  /** Over 64 flows, or each packet of another flow. */
  async measure(kind: "established" | "new", seconds: number): Promise<Limit> {
    const before = await this.#counted();
    const to = `${TARGET.address}:${TARGET.port}`;
    const flows = kind === "established" ? GREET_FLOWS : 0;
    const run = frames.parse(await this.#frames.ask(`run ${to} ${to} ${flows} ${seconds} 1e12`));
    const arrived = (await this.#counted()) - before;
    return { rate: (run.rate * arrived) / run.sent, cpu_ns: (run.cpu_s * 1e9) / arrived };
  }

  async #counted(): Promise<number> {
    return counts.parse(await this.#node.ask("count")).right;
  }
}
