// What a result is about, in sentences: what was compared, on which machine, and what must be known before any of it is
// believed.
import { list } from "../../lib/text.ts";
import { grouped, quantityText } from "../quantity.ts";
import type { Result, Sample } from "../result.ts";
import { isLimit } from "../standing.ts";

/** 2026-01-31 12:05 UTC */
export const day = (started: string): string => started.replace(/^(\d{4}-\d\d-\d\d)T(\d\d:\d\d).*Z$/, "$1 $2 UTC");

export const whatText = ({ modes, method, samples }: Result): string => {
  const measured = new Set(samples.map(({ mode }) => mode));
  const titles = (wanted: (mode: Result["modes"][number]) => boolean): readonly string[] =>
    modes.filter((mode) => measured.has(mode.name) && wanted(mode)).map(({ title }) => title);
  const own = titles(({ beeline }) => beeline);
  const rivals = titles((mode) => !mode.beeline && !isLimit(mode));
  const limits = titles(isLimit);
  const against = rivals.length === 0 ? "" : ` against ${list(rivals)}`;
  const bounded = limits.length === 0 ? "" : `, with ${list(limits)} as the limit`;
  const counts = list(method.services.map(grouped));
  return `${own.length === 0 ? "No mode of beeline" : list(own)}${against}${bounded}; ${counts === "" ? "no" : counts} services, ${method.rounds} ${method.rounds === 1 ? "round" : "rounds"}.`;
};

export const machineText = ({ machine, versions, duration_s }: Result): string => {
  const memory = quantityText(machine.memory_bytes, "bytes");
  const virtual = machine.virtual === null ? "" : `, a virtual machine (${machine.virtual})`;
  const commit = versions.commit === null ? "" : ` (${versions.commit})`;
  const tools = [
    ["libbpf", versions.libbpf],
    ["iptables", versions.iptables],
    ["nft", versions.nft],
  ].flatMap(([name, version]) => (version === null ? [] : [`${name} ${version}`]));
  const minutes = duration_s < 90 ? `${Math.round(duration_s)} s` : `${Math.round(duration_s / 60)} minutes`;
  return `All on one machine, side by side: ${machine.cpu}, ${machine.cpus} CPUs, ${memory} of memory, Linux ${machine.kernel}${virtual}. beeline ${versions.beeline}${commit}, Node ${versions.node}${tools.map((tool) => `, ${tool}`).join("")}. It took ${minutes}. Absolute figures hold for this machine only; the ratios are what carries over.`;
};

export const PARTIAL = "It was interrupted; what is here was measured, and the rest is missing.";

export const troublesOf = ({ samples, problems }: Result): readonly string[] => {
  const unproven = samples.filter((sample) => !isProven(sample)).length;
  if (unproven === 0) return problems;
  return [
    `In ${unproven} ${unproven === 1 ? "sample" : "samples"} the mode's own counter shows less traffic than was sent.`,
    ...problems,
  ];
};

export const isProven = ({ proof }: Sample): boolean => proof.counted >= proof.expected;

/** What is not in a result though it could be, and why. Modes that lack the same for the same reason share a row. */
export const missingFrom = ({ modes, metrics, gaps }: Result): readonly (readonly [what: string, why: string])[] => {
  const titles = new Map([...modes, ...metrics].map(({ name, title }) => [name, title]));
  const titleOf = (name: string): string => titles.get(name) ?? name;
  const perMode = together(gaps, ({ mode, services, why }) => [mode, services, why]).map((group) => ({
    ...group[0],
    what: list(group.map(({ metric }) => titleOf(metric))),
  }));
  const rows = together(perMode, ({ services, why, what }) => [services, why, what]).map((group) => {
    const { services, why, what } = group[0];
    const at = services === null ? "" : ` at ${grouped(services)} services`;
    return [`${list(group.map(({ mode }) => titleOf(mode)))}${at}: ${what}`, why] as const;
  });
  return [
    ...[...modes, ...metrics].flatMap(({ title, skipped }) => (skipped === null ? [] : [[title, skipped] as const])),
    ...rows,
  ];
};

/** Together what has the same key, in the order in which it first comes. */
const together = <T>(all: readonly T[], keyOf: (one: T) => unknown): readonly (readonly [T, ...T[]])[] => {
  const groups = new Map<string, [T, ...T[]]>();
  for (const one of all) {
    const key = JSON.stringify(keyOf(one));
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [one]);
    else group.push(one);
  }
  return [...groups.values()];
};
