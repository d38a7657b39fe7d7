// `beeline explain SRC DST:PORT/PROTO`: what would happen to a packet, decision by decision, by what the kernel holds
// or by manifests. evaluate() decides; this only says it in words.
import { evaluate } from "../compile/evaluate.ts";
import { InputError } from "../lib/errors.ts";
import { columns, count } from "../lib/text.ts";
import { type Address, familyOf, formatHostPort, type Prefix, parseAddress, prefixContains } from "../model/address.ts";
import { type Desired, type Frontend, type ServicePortName, servicePortKey } from "../model/desired.ts";
import { isOfService, type Packet, type Verdict } from "../model/verdict.ts";
import type { Args, Io, Run } from "./command.ts";
import { type Colour, type Report, show } from "./report.ts";

export const explain: Run = async (args, io) => {
  const asked = parsePacket(args);
  const { desired, podCIDRs } = await readDesired(args, io);
  const { place, why } = asked.place ?? placeOf(asked.address, desired, podCIDRs);
  const packet: Packet = { from: { place, address: asked.address }, to: asked.to };
  return show(args, io, () => explanation(desired, packet, why));
};

const readDesired = async (args: Args, io: Io): Promise<{ desired: Desired; podCIDRs: readonly Prefix[] }> => {
  const files = args.filename ?? [];
  if (files.length > 0) {
    const { compileOffline } = await import("./offline.ts");
    const { reportProblems } = await import("./problems.ts");
    const { snapshot, compiled, problems } = await compileOffline(files, args);
    reportProblems(problems, io);
    return { desired: compiled.desired, podCIDRs: snapshot.node?.podCIDRs ?? [] };
  }
  const { withPinnedMaps } = await import("./pinned.ts");
  const { readHeld } = await import("./held.ts");
  return { desired: await withPinnedMaps(args, (store) => readHeld(store).desired), podCIDRs: [] };
};

interface Asked {
  readonly address: Address;
  readonly to: Packet["to"];
  /** null: by the address. */
  readonly place: Place | null;
}

interface Place {
  readonly place: Packet["from"]["place"];
  /** How we know. */
  readonly why: string;
}

const parsePacket = (args: Args): Asked => {
  const address = parseAddress(args.source ?? "");
  if (address === null) throw new InputError(`${args.source}: expected an address of a client, like 10.244.1.7`);
  const to = parseDestination(args.destination ?? "");
  if (familyOf(address) !== familyOf(to.address)) {
    throw new InputError(`${address} cannot talk to ${to.address}: one is IPv4, the other IPv6`);
  }
  return { address, to, place: args.from === undefined ? null : { place: args.from, why: "as --from says" } };
};

const parseDestination = (text: string): Packet["to"] => {
  const match = /^(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})(?:\/(tcp|udp|sctp))?$/i.exec(text);
  const address = parseAddress(match?.[1] ?? match?.[2] ?? "");
  const port = Number(match?.[3]);
  if (match === null || address === null || !(port >= 1 && port <= 65535)) {
    throw new InputError(`${text}: expected address:port/TCP, like 10.96.0.10:53/UDP or [fd00::10]:53/UDP`);
  }
  return { address, port, protocol: (match[4] ?? "tcp").toUpperCase() as Packet["to"]["protocol"] };
};

/** Where a client with this address is, as far as can be known here. */
export const placeOf = (address: Address, desired: Desired, podCIDRs: readonly Prefix[]): Place => {
  const local = /^127\.|^::1$/.test(address) || desired.nodeAddresses.some((a) => a.address === address);
  if (local) return { place: "node", why: "an address of this node" };
  const cidr = podCIDRs.find((prefix) => prefixContains(prefix, address));
  if (cidr !== undefined) return { place: "pod", why: `in this node's pod range ${cidr}` };
  const services = [...desired.services.values()];
  if (services.some((s) => s.backends.some((b) => b.local && b.address === address))) {
    return { place: "pod", why: "a backend on this node" };
  }
  return { place: "outside", why: "no address of this node or its pods; --from says otherwise" };
};

const explanation = (desired: Desired, packet: Packet, why: string): Report => {
  const verdict = evaluate(desired, packet);
  const { steps, outcome, colour } = decisions(desired, packet, verdict);
  const { from, to } = packet;
  const head = ["packet", `${from.address} → ${formatHostPort(to.address, to.port)}/${to.protocol}`];
  const place = ["from", `${from.place} (${why})`];
  return {
    kind: "Explanation",
    fields: {
      packet,
      verdict: verdictToJson(desired, packet, verdict),
      steps: steps.map(([decision, answer]) => ({ decision, answer })),
    },
    text: ({ paint }) => {
      const lines = columns(null, [head, place, ...steps, ["verdict", outcome]]);
      return lines.replace(/^verdict.*$/m, (line) => paint(colour, line));
    },
  };
};

type Step = readonly [decision: string, answer: string];

const decisions = (
  desired: Desired,
  packet: Packet,
  verdict: Verdict,
): { readonly steps: readonly Step[]; readonly outcome: string; readonly colour: Colour } => {
  if (verdict.kind === "pass") {
    const steps: Step[] = [["frontend", "none"], ...neighbours(desired, packet)];
    return { steps, outcome: `pass: ${verdict.reason}, left to the kernel`, colour: "yellow" };
  }
  if (verdict.kind === "unlisted") {
    const steps: Step[] = [["frontend", "none"], ...neighbours(desired, packet)];
    const owned = `${packet.to.address} is a Service's alone, and none has port ${packet.to.port}/${packet.to.protocol}`;
    return { steps, outcome: `reject: ${owned} (ECONNREFUSED, ICMP port unreachable)`, colour: "red" };
  }
  const service = desired.services.get(servicePortKey(verdict.service));
  const { frontend, scope } = verdict;
  const choice = frontend[scope];
  const steps: Step[] = [
    ["frontend", `${frontend.kind} ${frontendText(frontend)} of ${nameText(verdict.service)}`],
    [
      "scope",
      scope === "internal" ? `internal: the client is a ${packet.from.place}` : "external: the client is outside",
    ],
    ["sources", frontend.restricted ? `only ${service?.sourceRanges.join(", ")}` : "everybody may enter"],
  ];
  if (verdict.kind === "drop" && verdict.reason === "not in source ranges") {
    return { steps, outcome: `drop: ${packet.from.address} is not in the source ranges`, colour: "red" };
  }
  steps.push([
    "policy",
    choice.policy === "Local" ? "Local: only backends of this node" : "Cluster: backends of every node",
  ]);
  if (verdict.kind === "reject") {
    return {
      steps,
      outcome: "reject: the service has no endpoints (ECONNREFUSED, ICMP port unreachable)",
      colour: "red",
    };
  }
  if (verdict.kind === "drop") {
    return { steps, outcome: "drop: policy Local, and every endpoint is on another node", colour: "red" };
  }
  const seconds = verdict.affinity_timeout_s;
  steps.push(["affinity", seconds === 0 ? "none" : `the same backend again within ${seconds} s`]);
  const sources = verdict.backends.map(({ source }) => sourceSeen(desired, packet, source));
  for (const [i, { backend, source }] of verdict.backends.entries()) {
    const where = backend.local ? "on this node" : "on another node";
    const seen = source === "node" ? `sees this node, ${sources[i]}` : `sees the client, ${sources[i]}`;
    steps.push([i === 0 ? "backends" : "", `${formatHostPort(backend.address, backend.port)} ${where}, ${seen}`]);
  }
  const one =
    verdict.backends.length === 1 ? "to the backend" : `to one of ${count(verdict.backends.length, "backend")}`;
  return { steps, outcome: `forward ${one}`, colour: "green" };
};

/** Somebody who asked the right address at the wrong port wants to know the right one. */
const neighbours = (desired: Desired, { to }: Packet): Step[] => {
  const there = [...desired.services.values()].flatMap((service) =>
    service.frontends
      .filter((frontend) => frontend.address === to.address)
      .map((frontend) => `${frontend.port}/${service.name.protocol} of ${servicePortKey(service.name)}`),
  );
  return there.length === 0 ? [] : [["but", `${to.address} serves ${there.join(", ")}`]];
};

/** `node`: the primary address of the family. */
const sourceSeen = (desired: Desired, packet: Packet, source: "client" | "node"): Address => {
  if (source === "client") return packet.from.address;
  const family = familyOf(packet.from.address);
  const primary = desired.nodeAddresses.find((a) => a.primary && familyOf(a.address) === family);
  return primary?.address ?? packet.from.address;
};

const frontendText = ({ address, port, family }: Frontend): string =>
  address === null ? `${family} ${port}` : formatHostPort(address, port);

const nameText = (name: ServicePortName): string => servicePortKey(name);

const verdictToJson = (desired: Desired, packet: Packet, verdict: Verdict) => {
  if (!isOfService(verdict)) return verdict;
  const { frontend, service, ...rest } = verdict;
  const { kind, family, address, port } = frontend;
  const common = { ...rest, service, frontend: { kind, family, address, port } };
  if (verdict.kind !== "forward") return common;
  const backends = verdict.backends.map(({ backend, source }) => ({
    ...backend,
    source,
    sourceAddress: sourceSeen(desired, packet, source),
  }));
  return { ...common, backends };
};
