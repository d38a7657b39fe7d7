// A scenario file: what Kubernetes says, step by step, and what shall come of it. Text sections after the manner of Go's
// txtar, so that input and expectation are one page; UPDATE=1 writes the expectations, and the diff is the review.
//
//     The behaviour, in a sentence or two.
//     -- node --              optional: name, addresses, nodePortAddresses (YAML); else node-a
//     -- manifests.yaml --    the first step
//     -- probes --            pod 10.244.1.2 -> 10.96.0.1:80/TCP => what evaluate() answers
//     -- desired --           formatDesired()
//     -- tables --            formatTables()
//     -- iptables --          optional: the rules that the step's objects add to a node without any, by family
//     -- problems --          what was left out; absent: nothing was
//     -- step2.yaml --        changes: objects replace those of their name, `$patch: delete` removes one
//     -- probes --            …
import { readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { parse, parseAllDocuments } from "yaml";
import type { Compiled, CompileOptions } from "../../src/compile/compile.ts";
import { evaluate } from "../../src/compile/evaluate.ts";
import { formatDesired } from "../../src/compile/format.ts";
import { DEFAULT_RULE_OPTIONS, type RuleOptions, rulesOf } from "../../src/dataplane/iptables/rules.ts";
import { type Kind, type ParseResult, parseObject } from "../../src/k8s/parse.ts";
import { ObjectStore } from "../../src/k8s/store.ts";
import { type Family, formatHostPort } from "../../src/model/address.ts";
import { type Desired, servicePortKey } from "../../src/model/desired.ts";
import { type ObjectKey, objectKey, type Problem, type Protocol, type Snapshot } from "../../src/model/snapshot.ts";
import type { Packet, Verdict } from "../../src/model/verdict.ts";
import { readAddress, readPrefix } from "./addresses.ts";

export interface Scenario {
  /** `cluster-ip.txtar`. */
  readonly file: string;
  /** What the file says before its first section. */
  readonly title: string;
  readonly options: CompileOptions;
  readonly steps: readonly Step[];
}

export interface Step {
  /** `manifests.yaml`, `step2.yaml`. */
  readonly name: string;
  /** The changes one by one; apply() them to an ObjectStore. */
  readonly changes: readonly Change[];
  /** After all changes of this step and of those before. */
  readonly snapshot: Snapshot;
  /** Of the objects themselves. */
  readonly problems: readonly Problem[];
  readonly packets: readonly Packet[];
}

export type Change =
  | { readonly kind: "upsert"; readonly result: ParseResult }
  | { readonly kind: "delete"; readonly of: Kind; readonly key: ObjectKey };

export const applyChange = (store: ObjectStore, change: Change): void => {
  if (change.kind === "delete") store.remove(change.of, change.key);
  else store.upsert(change.result.parsed, change.result.problems);
};

interface Section {
  readonly name: string;
  readonly body: string;
}

/** Expected sections, in the order in which they follow a step's manifests. */
const EXPECTED = ["probes", "desired", "tables", "iptables", "problems"] as const;
export type Expected = (typeof EXPECTED)[number];

export const scenarioFiles = (folder: string): readonly string[] =>
  readdirSync(folder)
    .filter((name) => name.endsWith(".txtar"))
    .sort()
    .map((name) => join(folder, name));

export const readScenario = (path: string): Scenario => {
  const { comment, sections } = readSections(readFileSync(path, "utf8"));
  const options = readOptions(sections.find(({ name }) => name === "node")?.body ?? "");
  const store = new ObjectStore(options.nodeName);
  const steps = sectionsOfSteps(sections).map(([{ name, body }, ...rest]): Step => {
    const changes = readChanges(body);
    for (const change of changes) applyChange(store, change);
    const probes = rest.find((section) => section.name === "probes")?.body ?? "";
    const packets = probes.split("\n").filter(Boolean).map(readPacket);
    return { name, changes, snapshot: store.snapshot(), problems: store.problems(), packets };
  });
  return { file: basename(path), title: comment.trim().replaceAll("\n", " "), options, steps };
};

export type Answers = Readonly<Partial<Record<Expected, string>>>;

/** What a step comes to, as the text of its expected sections. */
export const answersOf = (
  step: Step,
  options: CompileOptions,
  { desired, problems }: Compiled,
  tables: string,
): Answers => ({
  probes: formatProbes(step.packets, desired),
  desired: formatDesired(desired),
  tables,
  iptables: formatRules(desired, options),
  problems: [...step.problems, ...problems].map(formatProblem).join(""),
});

/** For rules: pods are 10.244.0.0/16 and fd00::/16, as most scenarios have them. */
const RULE_OPTIONS: RuleOptions = {
  ...DEFAULT_RULE_OPTIONS,
  localDetector: { kind: "cidr", IPv4: readPrefix("10.244.0.0/16"), IPv6: readPrefix("fd00::/16") },
};

const formatRules = (desired: Desired, { nodePortAddresses }: CompileOptions): string =>
  (["IPv4", "IPv6"] as const).map((family) => rulesOfServices(desired, family, nodePortAddresses)).join("");

/** The tables' rules without those of every node, and without the lines that make chains. */
const rulesOfServices = (desired: Desired, family: Family, nodePortAddresses: CompileOptions["nodePortAddresses"]) => {
  const options = { ...RULE_OPTIONS, nodePortAddresses };
  const rules = rulesOf(desired, family, options);
  const common = rulesOf({ services: new Map(), nodeAddresses: [] }, family, RULE_OPTIONS);
  const table = (name: "filter" | "nat"): string[] => {
    const known = new Set(common[name].rules.map(({ chain, text }) => `${chain.name} ${text}`));
    const lines = rules[name].rules
      .map(({ chain, text }) => `${chain.name} ${text}`)
      .filter((line) => !known.has(line));
    return lines.length === 0 ? [] : [`${family} ${name}`, ...lines.map((line) => `  ${line}`)];
  };
  return [...table("filter"), ...table("nat")].map((line) => `${line}\n`).join("");
};

/** The file's text with these answers; a section that is not there is added where it has something to say. */
export const rewrite = (text: string, answers: readonly Answers[]): string => {
  const { comment, sections } = readSections(text);
  const before = sections.filter(({ name }) => name === "node");
  const steps = sectionsOfSteps(sections).flatMap(([manifests, ...old], i) => {
    const wanted = EXPECTED.flatMap((name): Section[] => {
      const had = old.some((section) => section.name === name);
      const body = answers[i]?.[name] ?? "";
      const always = name === "desired" || name === "tables";
      const keep = name === "problems" ? body !== "" : had || (i === 0 && always && body !== "");
      return keep ? [{ name, body }] : [];
    });
    return [manifests, ...wanted];
  });
  return comment + [...before, ...steps].map(({ name, body }) => `-- ${name} --\n${body}`).join("");
};

/** The expected sections that a file holds, step by step. */
export const expectedOf = (text: string): readonly Answers[] =>
  sectionsOfSteps(readSections(text).sections).map(([, ...rest]) =>
    Object.fromEntries(rest.map(({ name, body }) => [name, body])),
  );

export const formatProbes = (packets: readonly Packet[], desired: Desired): string =>
  packets.map((packet) => `${formatPacket(packet)} => ${formatVerdict(evaluate(desired, packet))}\n`).join("");

/** `pod 10.244.1.2 -> 10.96.0.1:80/TCP`. */
export const formatPacket = ({ from, to }: Packet): string =>
  `${from.place} ${from.address} -> ${formatHostPort(to.address, to.port)}/${to.protocol}`;

/** `forward shop/web:http/TCP NodePort external: 10.244.1.2:8080, 10.244.2.2:8080 from node; affinity 10800s`. */
export const formatVerdict = (verdict: Verdict): string => {
  if (verdict.kind === "pass") return `pass: ${verdict.reason}`;
  if (verdict.kind === "unlisted") return `reject ${verdict.scope}: unlisted port`;
  const head = `${verdict.kind} ${servicePortKey(verdict.service)} ${verdict.frontend.kind} ${verdict.scope}`;
  if (verdict.kind !== "forward") return `${head}: ${verdict.reason}`;
  const backends = verdict.backends.map(
    ({ backend, source }) => `${formatHostPort(backend.address, backend.port)}${source === "node" ? " from node" : ""}`,
  );
  const affinity = verdict.affinity_timeout_s > 0 ? `; affinity ${verdict.affinity_timeout_s}s` : "";
  return `${head}: ${backends.join(", ")}${affinity}`;
};

const formatProblem = ({ object, path, message }: Problem): string =>
  `${object}${path === "" ? "" : ` ${path}`}: ${message}\n`;

const readSections = (text: string): { readonly comment: string; readonly sections: readonly Section[] } => {
  const [comment = "", ...parts] = text.split(/^-- (.+) --\n/m);
  const sections: Section[] = [];
  for (let i = 0; i < parts.length; i += 2) sections.push({ name: parts[i] ?? "", body: parts[i + 1] ?? "" });
  return { comment, sections };
};

/** Each step's manifests, then its expected sections. */
const sectionsOfSteps = (sections: readonly Section[]): readonly (readonly [Section, ...Section[]])[] => {
  const steps: [Section, ...Section[]][] = [];
  for (const section of sections) {
    if (section.name.endsWith(".yaml")) steps.push([section]);
    else if (EXPECTED.some((name) => name === section.name)) steps.at(-1)?.push(section);
    else if (section.name !== "node") throw new Error(`There is no section ${section.name}`);
  }
  return steps;
};

const DEFAULT_ADDRESSES = ["127.0.0.1", "::1", "192.0.2.11", "2001:db8::11"];

const readOptions = (body: string): CompileOptions => {
  const node = (parse(body) ?? {}) as {
    readonly name?: string;
    readonly addresses?: readonly string[];
    readonly nodePortAddresses?: readonly string[] | "primary";
  };
  const ranges = node.nodePortAddresses ?? [];
  return {
    nodeName: node.name ?? "node-a",
    localAddresses: (node.addresses ?? DEFAULT_ADDRESSES).map(readAddress),
    nodePortAddresses: ranges === "primary" ? ranges : ranges.map(readPrefix),
  };
};

const readChanges = (body: string): readonly Change[] =>
  parseAllDocuments(body).flatMap((document): readonly Change[] => {
    if (document.errors[0] !== undefined) throw document.errors[0];
    const raw: unknown = document.toJS();
    return raw === null ? [] : [readChange(raw as Manifest)];
  });

interface Manifest {
  readonly kind: string;
  readonly metadata: { readonly namespace?: string; readonly name: string };
  readonly $patch?: string;
}

const readChange = (raw: Manifest): Change => {
  if (raw.$patch !== "delete") return { kind: "upsert", result: parseObject(raw) };
  const { namespace = "default", name } = raw.metadata;
  return { kind: "delete", of: raw.kind as Kind, key: objectKey(namespace, name) };
};

const PLACES = ["pod", "node", "outside"] as const;
const PROTOCOLS: readonly Protocol[] = ["TCP", "UDP", "SCTP"];

const readPacket = (line: string): Packet => {
  const match = /^(\w+) (\S+) -> (\S+):(\d+)\/(\w+)( =>|$)/.exec(line);
  const [, place, from = "", to = "", port, protocol] = match ?? [];
  const [knownPlace, knownProtocol] = [PLACES.find((p) => p === place), PROTOCOLS.find((p) => p === protocol)];
  if (knownPlace === undefined || knownProtocol === undefined) throw new Error(`Not a probe: ${line}`);
  return {
    from: { place: knownPlace, address: readAddress(from) },
    to: { address: readAddress(to.replace(/^\[(.*)\]$/, "$1")), port: Number(port), protocol: knownProtocol },
  };
};
