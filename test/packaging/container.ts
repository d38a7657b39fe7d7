// A node and its containers without a container engine: namespaces in which the image runs with the capabilities,
// mounts and read-only root that a pod would have. Ends with the process that made it, however that ends.
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { commandsOf, runtimeStage } from "./image.ts";

/** What a pod says of a container, as far as the kernel sees it. */
export interface ContainerOptions {
  readonly capabilities?: readonly string[];
  /** Read-only directories of this machine, by their place in the container. */
  readonly mounts?: Readonly<Record<string, string>>;
  readonly env?: Readonly<Record<string, string>>;
}

export interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

const ENVIRONMENT = { PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", NODE_ENV: "production" };

/** Of eth0, at the end of whose wire nobody is: that of node1 in examples/. */
export const NODE_ADDRESS = "192.168.0.1";

/** A node: a network with `lo` and `eth0`, and a bpffs, which containers share as those of hostNetwork pods do. */
export class Node {
  readonly #process: ChildProcess;
  readonly #layers: readonly string[];
  readonly #containers = new Set<Container>();
  readonly #programs = new Set<ChildProcess>();

  /** `layers` of the image's file system, the lowest first. */
  static async start(layers: readonly string[]): Promise<Node> {
    const script = [
      "set -e",
      "mount -t tmpfs tmpfs /media && mkdir /media/bpf /media/container && mount -t bpf bpf /media/bpf",
      "ip link set lo up && ip link add eth0 type veth peer name wire",
      `ip addr add ${NODE_ADDRESS}/24 dev eth0 && ip link set eth0 up && ip link set wire up`,
      "echo ready && exec cat >/dev/null",
    ].join("\n");
    const process = spawn("unshare", ["--mount", "--propagation=private", "--net", "bash", "-c", script], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    const ready = await Promise.race([once(process.stdout, "data").then(String), once(process, "exit")]);
    if (ready !== "ready\n") throw new Error("Cannot make a node for the image's test: see above");
    return new Node(process, layers);
  }

  private constructor(process: ChildProcess, layers: readonly string[]) {
    this.#process = process;
    this.#layers = layers;
  }

  /** Starts the image's entry point with these arguments. */
  start(args: readonly string[], options: ContainerOptions = {}): Container {
    const entryPoint = JSON.parse(commandsOf(runtimeStage, "ENTRYPOINT")[0] ?? "[]") as string[];
    const target = `--target=${this.#process.pid}`;
    const namespaces = ["--mount", "--propagation=private", "--pid", "--fork", "--kill-child"];
    const bash = ["bash", "-c", containerScript(this.#layers, options), "container", ...entryPoint, ...args];
    const container = new Container(
      spawn(
        "setpriv",
        ["--pdeathsig=KILL", "nsenter", target, "--mount", "--net", "--", "unshare", ...namespaces, ...bash],
        {
          stdio: ["ignore", "pipe", "pipe"],
          env: { ...ENVIRONMENT, ...options.env },
        },
      ),
    );
    this.#containers.add(container);
    return container;
  }

  run(args: readonly string[], options: ContainerOptions = {}): Promise<Ended> {
    return this.start(args, options).ended;
  }

  /** Starts a program of this machine in the node's network. It is killed with the node. */
  spawn(...command: readonly string[]): ChildProcess {
    const args = [`--target=${this.#process.pid}`, "--net", "--", ...command];
    const process = spawn("nsenter", args, { stdio: ["pipe", "pipe", "pipe"] });
    this.#programs.add(process);
    return process;
  }

  /** The same, and waits for its end. */
  exec(...command: readonly string[]): Promise<Ended> {
    return endOf(this.spawn(...command));
  }

  async close(): Promise<void> {
    for (const container of this.#containers) await container.kill("SIGKILL");
    for (const program of this.#programs) program.kill("SIGKILL");
    this.#process.stdin?.end();
    if (this.#process.exitCode === null) await once(this.#process, "exit");
  }
}

export class Container {
  readonly ended: Promise<Ended>;
  /** What it has written to stderr by now. */
  log = "";
  readonly #process: ChildProcess;

  constructor(process: ChildProcess) {
    this.#process = process;
    this.ended = endOf(process);
    process.stderr?.on("data", (data: Buffer) => {
      this.log += data;
    });
  }

  /** Like `kubectl exec`. */
  exec(...command: readonly string[]): Promise<Ended> {
    const args = [`--target=${this.#pid()}`, "--mount", "--net", "--pid", "--root", "--wd", "--", ...command];
    return endOf(spawn("nsenter", args, { stdio: ["ignore", "pipe", "pipe"], env: ENVIRONMENT }));
  }

  async kill(signal: "SIGTERM" | "SIGKILL"): Promise<Ended> {
    const pid = this.#pid();
    if (pid !== null) process.kill(pid, signal);
    return this.ended;
  }

  /** The program's, as this machine sees it; null: it has ended. */
  #pid(): number | null {
    const { pid, exitCode, signalCode } = this.#process;
    if (exitCode !== null || signalCode !== null) return null;
    return (
      Number.parseInt(readFileSync(join("/proc", String(pid), "task", String(pid), "children"), "utf8"), 10) || null
    );
  }
}

const endOf = async (process: ChildProcess): Promise<Ended> => {
  if (process.stdout === null || process.stderr === null) throw new Error("no pipes");
  const [stdout, stderr, [code]] = await Promise.all([
    text(process.stdout),
    text(process.stderr),
    once(process, "close") as Promise<[number | null]>,
  ]);
  return { code, stdout, stderr };
};

const containerScript = (layers: readonly string[], { capabilities = [], mounts = {} }: ContainerOptions): string => {
  const bounding = ["-all", ...capabilities.map((name) => `+${name.toLowerCase()}`)].join(",");
  const bind = ([to, from]: readonly [string, string]): string =>
    `mkdir -p "$m${to}" && mount --bind "${from}" "$m${to}" && mount -o remount,bind,ro "$m${to}"`;
  return [
    "set -e",
    "t=/media/container m=/media/container/root",
    "mount -t tmpfs tmpfs $t && mkdir $t/upper $t/work $m",
    `mount -t overlay overlay -o lowerdir=${layers.toReversed().join(":")},upperdir=$t/upper,workdir=$t/work $m`,
    "mount -t proc proc $m/proc && mount -t sysfs sysfs $m/sys && mount --bind /media/bpf $m/sys/fs/bpf",
    ...Object.entries(mounts).map(bind),
    "mount -o remount,ro $m",
    `exec chroot $m setpriv --no-new-privs --inh-caps=-all --bounding-set=${bounding} "$@"`,
  ].join("\n");
};
