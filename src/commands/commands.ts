// Every command: its usage, options and examples. Nouns read, verbs write. Code is loaded only for the one that runs.
import type { Command, Option } from "./command.ts";

const OUTPUT: Record<string, Option> = {
  output: { type: "string", alias: "o", choices: ["table", "wide", "json", "yaml"], describe: "how to print" },
  "no-headers": { type: "boolean", describe: "leave out the line of column names" },
  "no-color": { type: "boolean", describe: "no colour, also on a terminal (as does NO_COLOR)" },
};

/** Accepted by every command of a node, so that one set of words does for all of them. */
const PLACE: Record<string, Option> = {
  config: { type: "string", describe: "configuration file (BeelineConfiguration or KubeProxyConfiguration)" },
  bpffs: { type: "string", describe: "where maps and links are pinned [default: /sys/fs/bpf/beeline]" },
  node: { type: "string", describe: "name of this node [default: the host name in lower case]" },
  cgroup: { type: "string", describe: "cgroup v2 directory whose sockets are served [default: the root]" },
  device: {
    type: "string",
    array: true,
    describe: "device to serve, a name or a pattern like 'eth*'; repeatable [default: found]",
  },
  dataplane: {
    type: "string",
    describe: "bpf; iptables: kube-proxy's rules; userspace: its first proxy [default: bpf]",
  },
  iptables: {
    type: "string",
    choices: ["auto", "nft", "legacy"],
    describe: "which iptables the rules are written with [default: auto, the one in use]",
  },
  attach: { type: "string", choices: ["auto", "tcx", "clsact"], describe: "how to attach to devices" },
  forwarding: {
    type: "string",
    choices: ["auto", "direct", "kernel"],
    describe: "send packets on without the kernel's routing: direct; auto: unless something may refuse them",
  },
  xdp: { type: "string", choices: ["auto", "off", "required"], describe: "native XDP on the node's devices" },
};

const READER: Record<string, Option> = {
  ...PLACE,
  ...OUTPUT,
  watch: { type: "boolean", alias: "w", describe: "print again whenever it changes (-o json: one line each)" },
};

const LOGGING: Record<string, Option> = {
  "log-format": { type: "string", choices: ["json", "text"], describe: "log lines on stderr [default: json]" },
  "log-level": {
    type: "string",
    choices: ["error", "warn", "info", "debug", "trace"],
    describe: "least level to log [default: info]",
  },
  v: { type: "number", describe: "klog's verbosity instead of --log-level: 3 is debug, 5 is trace" },
};

const FILES: Record<string, Option> = {
  filename: {
    type: "string",
    alias: "f",
    array: true,
    describe: "manifest file or folder; repeatable",
  },
};

export const COMMANDS: readonly Command[] = [
  {
    usage: "run",
    summary: "Run the node agent",
    examples: [
      ["beeline run", "in a cluster, or with the default kubeconfig"],
      ["beeline run --manifests ./manifests --node node-a", "from files, watched"],
      ["beeline run --config /etc/beeline/config.yaml --device 'eth*'", "flags override the file"],
      ["beeline run --dataplane iptables", "the reference: what kube-proxy's iptables mode would write"],
      ["beeline run --observe --metrics-bind-address 127.0.0.1:10349", "beside kube-proxy: only compare"],
    ],
    options: {
      ...PLACE,
      observe: {
        type: "boolean",
        describe: "write nothing: compare what should be with kube-proxy's rules, log and count what differs",
      },
      manifests: { type: "string", array: true, describe: "manifest file or folder to watch; repeatable" },
      kubeconfig: {
        type: "string",
        describe: "kubeconfig [default: in-cluster, then $KUBECONFIG, then ~/.kube/config]",
      },
      "healthz-bind-address": {
        type: "string",
        describe: 'address:port of /healthz, "" for none [default: 0.0.0.0:10256]',
      },
      "metrics-bind-address": {
        type: "string",
        describe: 'address:port of /metrics, "" for none [default: 127.0.0.1:10249]',
      },
      ...LOGGING,
    },
    load: async () => (await import("./run.ts")).run,
  },
  {
    usage: "apply",
    summary: "Program this node once from manifests, and leave",
    examples: [["beeline apply -f service.yaml -f slices/ --node node-a", "what is not in the files is removed"]],
    options: { ...PLACE, ...FILES, ...LOGGING },
    load: async () => (await import("./apply.ts")).apply,
  },
  {
    usage: "reset",
    summary: "Take everything of beeline's off this node",
    examples: [
      ["beeline reset", "refused while an agent runs"],
      ["beeline reset --kube-proxy", "kube-proxy's iptables rules, and nothing else"],
      ["beeline reset --dataplane iptables", "the same: --dataplane iptables writes kube-proxy's chains"],
    ],
    options: {
      ...PLACE,
      "kube-proxy": { type: "boolean", describe: "remove the rules of kube-proxy's iptables mode instead" },
      ...LOGGING,
    },
    load: async () => (await import("./reset.ts")).reset,
  },
  {
    usage: "status",
    summary: "What is attached, how full the maps are, what happens to packets",
    examples: [["beeline status -o json", "for scripts"]],
    options: READER,
    load: async () => (await import("./status.ts")).status,
  },
  {
    usage: "services [name]",
    summary: "Service ports that the kernel serves now, or one service in full",
    examples: [
      ["beeline services", "all of them"],
      ["beeline services shop/web", "one, with its backends"],
      ["beeline services shop/ -o wide", "a namespace"],
    ],
    positionals: { name: { type: "string", describe: "namespace/name, a name, or namespace/" } },
    options: READER,
    load: async () => (await import("./services.ts")).services,
  },
  {
    usage: "frontends",
    summary: "Addresses that clients can connect to",
    examples: [["beeline frontends --no-headers | grep 10.96.0.10", "who answers there"]],
    options: READER,
    load: async () => (await import("./frontends.ts")).frontends,
  },
  {
    usage: "backends",
    summary: "Where traffic is sent, with the connections sent there",
    examples: [["beeline backends -w", "follow changes"]],
    options: READER,
    load: async () => (await import("./backends.ts")).backends,
  },
  {
    usage: "maps [name]",
    summary: "How full each BPF map is, or the entries of one",
    examples: [
      ["beeline maps", "use and capacity"],
      ["beeline maps slots", "the entries of slots"],
    ],
    positionals: { name: { type: "string", describe: "a map" } },
    options: READER,
    load: async () => (await import("./maps.ts")).mapsCommand,
  },
  {
    usage: "flows",
    summary: "Flows that the tc hook remembers",
    examples: [["beeline flows -o wide", "with ids and ages"]],
    options: READER,
    load: async () => (await import("./flows.ts")).flows,
  },
  {
    usage: "affinity",
    summary: "Which client stays with which backend",
    examples: [["beeline affinity", "clients of services with sessionAffinity: ClientIP"]],
    options: READER,
    load: async () => (await import("./affinity.ts")).affinity,
  },
  {
    usage: "compile",
    summary: "What a node would do with manifests, without touching it",
    examples: [
      ["beeline compile -f manifests/ --node node-a", "frontends and backends"],
      ["beeline compile -f manifests/ --node node-a --to bpf", "the entries of the BPF maps"],
      ["beeline compile -f manifests/ --node node-a --to iptables", "the input of iptables-restore, then ip6tables'"],
      ["beeline compile -f manifests/ --strict", "exit 1 when anything in them was not used"],
    ],
    options: {
      ...PLACE,
      ...FILES,
      ...OUTPUT,
      to: { type: "string", choices: ["bpf", "iptables"], describe: "print the tables of this dataplane instead" },
      strict: { type: "boolean", describe: "exit 1 when a part of the manifests cannot be used" },
    },
    load: async () => (await import("./compile.ts")).compileCommand,
  },
  {
    usage: "explain <source> <destination>",
    summary: "What would happen to a packet, decision by decision",
    examples: [
      ["beeline explain 10.244.1.7 10.96.0.10:53/UDP", "from a pod, by what the kernel holds"],
      ["beeline explain 203.0.113.9 192.0.2.11:30080/TCP --from outside -f manifests/", "by manifests"],
    ],
    positionals: {
      source: { type: "string", describe: "address of the client" },
      destination: { type: "string", describe: "address:port/TCP, IPv6 as [address]:port/TCP" },
    },
    options: {
      ...PLACE,
      ...FILES,
      ...OUTPUT,
      from: {
        type: "string",
        choices: ["pod", "node", "outside"],
        describe: "where the client is [default: by its address]",
      },
    },
    load: async () => (await import("./explain.ts")).explain,
  },
  {
    usage: "trace",
    summary: "Watch what is refused and dropped, as it happens",
    examples: [
      ["beeline trace --drops", "until Ctrl-C"],
      ["beeline trace --drops --service shop/web --count 1", "the first one of a service"],
      ["beeline trace --drops --source 198.51.100.0/24 --reason source_range", "who is kept out"],
      ["beeline trace --drops -o json | jq -r .service", "one object a line"],
    ],
    options: {
      ...PLACE,
      drops: { type: "boolean", describe: "packets and calls that are refused or dropped" },
      service: { type: "string", describe: "only of namespace/name, a name, or namespace/" },
      reason: { type: "string", array: true, describe: "only for this reason, like source_range; repeatable" },
      address: { type: "string", describe: "only from or to this address or prefix" },
      source: { type: "string", describe: "only from this address or prefix" },
      destination: { type: "string", describe: "only to this address or prefix, as the client asked for it" },
      count: { type: "number", describe: "end after so many" },
      rate: {
        type: "number",
        describe: "at most so many a second of one hook and reason on one CPU; others are counted [default: 100]",
      },
      ...OUTPUT,
      output: { type: "string", alias: "o", choices: ["table", "json"], describe: "how to print" },
    },
    load: async () => (await import("./trace.ts")).trace,
  },
  {
    usage: "doctor",
    summary: "What this node lacks, and what keeps packets from the fast way",
    examples: [
      ["beeline doctor", "before beeline runs here, or while it does; exit 1 when something is bad"],
      ["beeline doctor -o json | jq '.items[] | select(.result != \"ok\")'", "only what is not as it could be"],
    ],
    options: READER,
    load: async () => (await import("./doctor.ts")).doctor,
  },
  {
    usage: "diff [left..]",
    summary: "Compare two of: what should be, the BPF maps, the rules of kube-proxy, files of them",
    examples: [
      ["beeline diff", "the maps of this node, against what the cluster says it should do"],
      ["beeline diff --against kube-proxy", "before removing kube-proxy: does it mean the same here?"],
      ["beeline diff desired --against kube-proxy", "the same before beeline has run here"],
      ["iptables-save | beeline diff - -f manifests/ --node node-a", "a listing against manifests"],
      ["beeline diff v4.txt v6.txt --against nft.json", "files: iptables-save, nft -j list ruleset, ipvsadm -Sn"],
    ],
    positionals: {
      left: {
        type: "string",
        array: true,
        describe: "desired, bpf, iptables, nftables, ipvs, kube-proxy, or files of one source [default: bpf]",
      },
    },
    options: {
      ...READER,
      ...FILES,
      against: {
        type: "string",
        array: true,
        describe: "the other side: the same words, or a file (repeatable) [default: desired]",
      },
      manifests: { type: "string", array: true, describe: "the same as -f" },
      kubeconfig: {
        type: "string",
        describe: "kubeconfig, without manifests [default: in-cluster, then $KUBECONFIG, then ~/.kube/config]",
      },
    },
    load: async () => (await import("./diff.ts")).diff,
  },
  {
    usage: "bench [results..]",
    summary: "Measure beeline, kube-proxy's modes and plain routing side by side, in a lab of this machine",
    examples: [
      ["beeline bench --quick", "all modes with ten services, in about 90 seconds"],
      ["beeline bench --save result.json --report report.html", "the whole of it, some ten minutes, with plots"],
      ["beeline bench result.json --report report.html", "the plots of a run that was saved"],
      ["beeline bench --compare before.json after.json", "did anything get worse, beyond the noise?"],
      ["beeline bench --modes bpf-tc,nftables --metrics new-flows,connect-p50", "two modes, two questions"],
      ["beeline bench --services 10,5000 --rounds 9 --baseline nftables", "other sizes, against another mode"],
      ["beeline bench --quick -o json >result.json", "every sample, with what shows that its mode carried it"],
    ],
    positionals: {
      results: {
        type: "string",
        array: true,
        describe: "measure nothing: read a saved result or report, or two with --compare",
      },
    },
    options: {
      modes: {
        type: "string",
        describe:
          "with commas: route, iptables-legacy, iptables-nft, nftables, bpf-socket, bpf-tc, bpf-tc-direct, bpf-xdp [default: all]",
      },
      services: {
        type: "string",
        describe: "numbers of services, with commas [default: 10,1000,10000; --quick: 10]",
      },
      metrics: {
        type: "string",
        describe:
          "with commas: packets, new-flows, connect-p50, requests, udp, bulk, update, install, … [default: all]",
      },
      rounds: { type: "number", describe: "how often each mode has its turn [default: 5; --quick: 3]" },
      seconds: { type: "number", describe: "of each measurement, without its warm-up [default: 0.3; --quick: 0.2]" },
      quick: { type: "boolean", describe: "fewer and shorter: about 90 seconds" },
      baseline: { type: "string", describe: "the mode that ratios refer to [default: iptables-legacy]" },
      save: { type: "string", describe: "write the result, with every sample, to this file as JSON" },
      report: { type: "string", describe: "write an HTML page with plots to this file" },
      compare: { type: "boolean", describe: "compare two results, before and after; exit 1 when something got worse" },
      tolerance: { type: "number", describe: "with --compare, per cent that are no change in any case [default: 10]" },
      ...OUTPUT,
      output: {
        type: "string",
        alias: "o",
        choices: ["table", "wide", "json"],
        describe: "how to print; wide: with --compare also what did not change [default: table]",
      },
    },
    load: async () => (await import("./bench.ts")).bench,
  },
  {
    usage: "version",
    summary: "Versions of beeline, its map layout, Node and the kernel",
    examples: [["beeline version -o json", "for scripts"]],
    options: OUTPUT,
    load: async () => (await import("./version.ts")).version,
  },
];
