// The release in the image, without a container engine: in a Debian root made by the Dockerfile's own commands (cached
// in build/image), read-only, with what deploy/ gives the pods and nothing more.
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { once } from "node:events";
import { copyFileSync, linkSync, mkdirSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { parse } from "yaml";
import { cgroupMount, labName, removeLab, removeLeftovers } from "../../src/bench/lab/leftovers.ts";
import { eventually } from "../lib/eventually.ts";
import { type Container, type ContainerOptions, NODE_ADDRESS, Node } from "./container.ts";
import { commandsOf, copyContext, makeRoot, ROOT, runtimeStage, whyNot, workDirectory } from "./image.ts";

const reason = await whyNot();
if (reason !== null) console.log(`skipped: no Debian root can be made here: ${reason}`);

describe("image", { skip: reason ?? false, timeout: 300_000 }, () => {
  const lab = labName(process.pid, 900);
  const work = workDirectory(lab);
  const layer = join(work, "layer");
  let root = "";
  let node: Node;

  before(async () => {
    removeLeftovers();
    root = makeRoot();
    buildRelease(work, join(layer, "opt/beeline"));
    copyFileSync(join(ROOT, "LICENSE"), join(layer, "opt/beeline/LICENSE"));
    // What the base image brings.
    mkdirSync(join(layer, "usr/local/bin"), { recursive: true });
    linkSync(process.execPath, join(layer, "usr/local/bin/node"));
    node = await Node.start([root, layer]);
  });
  after(async () => {
    await node?.close();
    rmSync(work, { recursive: true, force: true });
  });

  /** Answers the directory of the service account. */
  const startControlPlane = async (): Promise<string> => {
    const directory = join(work, "serviceaccount");
    mkdirSync(directory);
    const program = join(import.meta.dirname, "control-plane.ts");
    const server = node.spawn(process.execPath, program, NODE_ADDRESS, "6443", directory);
    server.stderr?.pipe(process.stderr);
    assert.ok(server.stdout !== null);
    const said = await Promise.race([once(server.stdout, "data"), once(server, "exit")]);
    assert.equal(String(said[0]), "ready\n");
    return directory;
  };

  it("what the last stage copies is what is put together here", () => {
    assert.deepEqual(commandsOf(runtimeStage, "COPY"), [
      "--from=build /opt/beeline /opt/beeline",
      "LICENSE /opt/beeline/",
    ]);
  });

  it("the root has libbpf and ip, and neither compiler nor npm", () => {
    const has = (name: string): boolean => spawnSync("chroot", [root, "sh", "-c", `command -v ${name}`]).status === 0;
    assert.ok(has("ip"));
    assert.deepEqual(["cc", "gcc", "clang", "make", "python3", "npm", "npx"].filter(has), []);
    assert.match(execFileSync("chroot", [root, "ldconfig", "-p"], { encoding: "utf8" }), /libbpf\.so\.1/);
  });

  it("beeline says its version without any capability", async () => {
    const { version } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8"));
    const { code, stdout, stderr } = await node.run(["version"]);
    assert.equal(stderr, "");
    assert.ok(stdout.includes(version), stdout);
    assert.equal(code, 0);
  });

  it("beeline compiles the examples to what the checkout compiles them to", async () => {
    const args = ["compile", "--node", "node1", "-o", "json", "-f"];
    const mounts = { "/examples": join(ROOT, "examples") };
    const { stdout, stderr, code } = await node.run([...args, "/examples"], { mounts });
    assert.equal(code, 0, stderr);
    const checkout = execFileSync(join(ROOT, "scripts/beeline"), [...args, join(ROOT, "examples")], {
      encoding: "utf8",
    });
    assert.ok(checkout.includes("172.30.0.80"));
    assert.equal(stdout, checkout);
  });

  it("libbpf and koffi resolve: with nothing pinned, status says so", async () => {
    const { code, stderr } = await node.run(["status"], { capabilities: ["BPF", "NET_ADMIN"] });
    assert.match(stderr, /No beeline maps/);
    assert.equal(code, 3);
  });

  it("the pods of deploy/ can do their work with what they are given: program, restart, be reset; by tcx and clsact", async () => {
    const cgroup = join(cgroupMount(), lab);
    mkdirSync(cgroup);
    try {
      const serviceAccount = await startControlPlane();
      const agent = podOf("base/daemonset.yaml", "containers");
      const reset = podOf("reset/daemonset.yaml", "initContainers");
      const args = agent.args.map((arg) => arg.replace("$(NODE_NAME)", "node1"));
      const mounts = {
        "/run/beeline/cgroup": cgroup,
        "/etc/beeline": join(ROOT, "deploy/base"),
        "/run/secrets/kubernetes.io/serviceaccount": serviceAccount,
      };
      const env = { KUBERNETES_SERVICE_HOST: NODE_ADDRESS, KUBERNETES_SERVICE_PORT: "6443" };
      for (const attach of ["tcx", "clsact"]) {
        const start = () => node.start([...args, `--attach=${attach}`], { ...agent.options, mounts, env });

        const first = start();
        await eventually(() => assertReady(first), 20_000);
        const services = await first.exec("beeline", "services");
        assert.match(services.stdout, /172\.30\.0\.80/, services.stderr);
        const status = JSON.parse((await first.exec("beeline", "status", "-o", "json")).stdout);
        assert.deepEqual(
          status.hooks.map(({ hook, target }: { hook: string; target: string }) => `${hook} ${target}`).sort(),
          [...SOCKET_HOOKS, `${attach} egress eth0`, `${attach} ingress eth0`].sort(),
          first.log,
        );
        await first.kill("SIGKILL");

        const second = start();
        await eventually(() => assertReady(second), 20_000);
        const { code } = await second.kill("SIGTERM");
        assert.equal(code, 0, second.log);

        const removed = await node.run(reset.args, reset.options);
        assert.equal(removed.code, 0, removed.stderr);
        assert.match((await node.run(["status"], reset.options)).stderr, /No beeline maps/);
        for (const direction of ["ingress", "egress"])
          assert.equal((await node.exec("tc", "filter", "show", "dev", "eth0", direction)).stdout, "");
      }
    } finally {
      await node.close();
      removeLab(lab);
    }
  });
});

const SOCKET_HOOKS = [
  ...["connect4", "connect6", "getpeername4", "getpeername6"],
  ...["recvmsg4", "recvmsg6", "release", "sendmsg4", "sendmsg6"],
].map((hook) => `${hook} cgroup`);

/** What the kubelet's readiness probe asks. */
const assertReady = async (container: Container): Promise<void> => {
  const probe = 'fetch("http://127.0.0.1:10256/readyz").then((r) => process.exit(r.ok ? 0 : 1))';
  assert.equal((await container.exec("node", "-e", probe)).code, 0, container.log);
};

/** The first container of a pod: its arguments and capabilities. */
const podOf = (file: string, which: "containers" | "initContainers") => {
  const manifest = parse(readFileSync(join(ROOT, "deploy", file), "utf8"));
  const { args, securityContext } = manifest.spec.template.spec[which][0] as {
    readonly args: readonly string[];
    readonly securityContext: { readonly capabilities: { readonly add: readonly string[] } };
  };
  const options: ContainerOptions = { capabilities: securityContext.capabilities.add };
  return { args, options };
};

/** The build stage's last command, in what .dockerignore lets into it, with this machine's compiler and npm packages. */
const buildRelease = (work: string, release: string): void => {
  const context = join(work, "context");
  mkdirSync(context);
  copyContext(context);
  symlinkSync(join(ROOT, "node_modules"), join(context, "node_modules"));
  const command = commandsOf("build", "RUN").at(-1) ?? "";
  const path = `${join(ROOT, "node_modules/.bin")}:${process.env.PATH}`;
  execFileSync("/bin/sh", ["-c", command.replace("/opt/beeline", release)], {
    cwd: context,
    stdio: ["ignore", "ignore", "inherit"],
    env: { ...process.env, PATH: path },
  });
};
