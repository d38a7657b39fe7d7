// What this kernel and this process can do, asked of them directly, never guessed from a version. Nothing is attached or
// left behind.
import { existsSync, readFileSync, statfsSync } from "node:fs";
import { dirname } from "node:path";
import { isSystemError } from "./system/errors.ts";
import { closeFd } from "./system/file.ts";
import { interfaceIndex } from "./system/interface.ts";
import { linkCreate, queryPrograms } from "./system/link.ts";
import { mapCreate } from "./system/map.ts";
import { netnsCookie } from "./system/namespace.ts";

export interface Feature {
  readonly feature: string;
  readonly ok: boolean;
  /** Without it nothing works; else something works less well. */
  readonly needed: boolean;
  /** What was found, or what to do about it. */
  readonly detail: string;
}

export interface Places {
  /** Where pins will be. */
  readonly bpffs?: string;
  /** The cgroup to attach to; null: no socket hooks. */
  readonly cgroup?: string | null;
}

export const probeKernel = (places: Places = {}): readonly Feature[] => [
  probe("libbpf", true, () => {
    interfaceIndex("lo");
    return "libbpf.so.1 is loaded";
  }),
  probe("privileges", true, probePrivileges),
  probe("sockets of other network namespaces", false, probeOtherNamespaces),
  probe("bpf maps", true, () => {
    const BPF_MAP_TYPE_ARRAY = 2;
    closeFd(mapCreate(BPF_MAP_TYPE_ARRAY, "beeline_probe", 4, 8, 1));
    return "maps can be made";
  }),
  probe("bpf_link", true, probeLinks),
  probe("BPF JIT", false, probeJit),
  probe("network namespace cookie", true, () => `this namespace is ${netnsCookie()}`),
  probe("tcx", false, () => {
    if (!hasTcx()) throw new Error("not in this kernel (6.6 or later has it): clsact filters are used");
    return "tc programs attach by links";
  }),
  probe("connection tracking", false, () => {
    if (!hasConntrack()) throw new Error("not loaded, or cannot be asked: kube-proxy's connections are not known");
    return "connections that kube-proxy set up are left to the kernel";
  }),
  ...(places.bpffs === undefined ? [] : [probe("bpffs", true, () => probeBpffs(places.bpffs ?? ""))]),
  ...(places.cgroup === null ? [] : [probe("cgroup v2", true, () => probeCgroup(places.cgroup ?? null))]),
];

/** A probe answers what it found, or throws what is missing. */
const probe = (feature: string, needed: boolean, find: () => string): Feature => {
  try {
    return { feature, needed, ok: true, detail: find() };
  } catch (error) {
    return { feature, needed, ok: false, detail: error instanceof Error ? error.message : String(error) };
  }
};

// ---- privileges --------------------------------------------------------------------------------------------------

const CAPABILITIES = { CAP_NET_ADMIN: 12, CAP_SYS_ADMIN: 21, CAP_PERFMON: 38, CAP_BPF: 39 } as const;

const capabilityTest = (): ((name: keyof typeof CAPABILITIES) => boolean) => {
  const line = /^CapEff:\s*([0-9a-f]+)/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1] ?? "0";
  const effective = BigInt(`0x${line}`);
  return (name) => ((effective >> BigInt(CAPABILITIES[name])) & 1n) === 1n;
};

const probePrivileges = (): string => {
  const has = capabilityTest();
  const missing = (["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"] as const).filter(
    (name) => !has(name) && (name === "CAP_NET_ADMIN" || !has("CAP_SYS_ADMIN")),
  );
  if (missing.length > 0) throw new Error(`missing ${missing.join(", ")}: run as root, or add these capabilities`);
  return "CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON";
};

const probeOtherNamespaces = (): string => {
  if (capabilityTest()("CAP_SYS_ADMIN")) return "CAP_SYS_ADMIN";
  throw new Error(
    "missing CAP_SYS_ADMIN: connected UDP sockets of pods keep sending to backends that are removed, and " +
      "bpf.podDevices takes no pod out of the socket hooks",
  );
};

// ---- the kernel --------------------------------------------------------------------------------------------------

const EBADF = 9;

/** A kernel that knows links looks at the program's file descriptor before anything else. */
const probeLinks = (): string => {
  try {
    closeFd(linkCreate(-1, -1, "cgroup_inet4_connect"));
  } catch (error) {
    if (!isSystemError(error, EBADF)) throw new Error("not in this kernel (5.7 or later has it)", { cause: error });
  }
  return "programs attach by links, and are swapped without a gap";
};

/** Asks which tcx programs the loopback device has: a kernel without tcx refuses the question. */
export const hasTcx = (): boolean => {
  try {
    queryPrograms(interfaceIndex("lo") ?? 1, "tcx_ingress");
    return true;
  } catch {
    return false;
  }
};

/** The kernel's types, and those of its modules, name what programs may call. */
const mayCall = (name: string, module = "vmlinux"): boolean => {
  const path = `/sys/kernel/btf/${module}`;
  return existsSync(path) && readFileSync(path).includes(`\0${name}\0`);
};

export const hasConntrack = (): boolean =>
  ["nf_conntrack", "vmlinux"].some((module) => mayCall("bpf_skb_ct_lookup", module));

/** Whether a program can see the kernel's own struct behind its context (a packet's checksum, a socket's cookie): 6.2 and later. */
export const hasKernelContext = (): boolean => mayCall("bpf_cast_to_kern_ctx");

const JIT = "/proc/sys/net/core/bpf_jit_enable";

const probeJit = (): string => {
  if (!existsSync(JIT)) return "cannot be seen from this network namespace";
  if (readFileSync(JIT, "utf8").trim() === "0") throw new Error("off: `sysctl net.core.bpf_jit_enable=1` turns it on");
  return "on";
};

// ---- places ------------------------------------------------------------------------------------------------------

const BPF_FS_MAGIC = 0xcafe4a11;
const CGROUP2_SUPER_MAGIC = 0x63677270;

/** The directory itself need not be there yet. */
const probeBpffs = (path: string): string => {
  let existing = path;
  while (!existsSync(existing)) existing = dirname(existing);
  if (isOnBpffs(existing)) return path;
  const mountPoint = path === "/sys/fs/bpf" || path.startsWith("/sys/fs/bpf/") ? "/sys/fs/bpf" : path;
  const make = existsSync(mountPoint) ? "" : `mkdir -p ${mountPoint} && `;
  throw new Error(`${path} is not on a BPF file system: run \`${make}mount -t bpf bpf ${mountPoint}\``);
};

/** False also for a path that is not there. */
export const isOnBpffs = (path: string): boolean => existsSync(path) && statfsSync(path).type === BPF_FS_MAGIC;

const probeCgroup = (path: string | null): string => {
  const mounted = cgroupMounts();
  if (mounted.length === 0) throw new Error("not mounted: run `mount -t cgroup2 none /sys/fs/cgroup`");
  if (path === null) return `mounted at ${mounted[0]}`;
  if (!existsSync(path)) throw new Error(`${path} does not exist`);
  if (statfsSync(path).type !== CGROUP2_SUPER_MAGIC) {
    throw new Error(`${path} is not in a cgroup v2 hierarchy; one is mounted at ${mounted[0]}`);
  }
  return path;
};

/** Mount points of cgroup v2, first one first. */
export const cgroupMounts = (): readonly string[] =>
  readFileSync("/proc/self/mounts", "utf8")
    .split("\n")
    .map((line) => line.split(" "))
    .filter(([, , type]) => type === "cgroup2")
    .map(([, path = ""]) => path);
