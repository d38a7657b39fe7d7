// A Desired as text that people read and diff, and as JSON. Both are sorted, so equal values give equal text.
import { type Address, formatHostPort, type Prefix } from "../model/address.ts";
import type { Backend, Choice, Desired, DesiredService, Frontend, NodeAddress } from "../model/desired.ts";

/**
 * One block for each Service port: its backends, then what each frontend does for clients inside and outside.
 *
 *     node 192.0.2.11 (primary) 127.0.0.1 (loopback)
 *
 *     shop/web:http/TCP  affinity 10800s
 *       10.244.1.2:8080 local active
 *       10.244.2.2:8080 active
 *       ClusterIP 10.96.0.1:80 → 10.244.1.2:8080 10.244.2.2:8080
 *       NodePort IPv4 30080
 *         internal → 10.244.1.2:8080 10.244.2.2:8080
 *         external (Local) → 10.244.1.2:8080
 */
export const formatDesired = (desired: Desired): string => {
  const blocks = sortedServices(desired).map(([key, service]) =>
    [
      [key, ...serviceNotes(service)].join("  "),
      ...service.backends.map((b) => `  ${hostPort(b)}${b.local ? " local" : ""} ${b.state}`),
      ...service.frontends.flatMap(formatFrontend),
    ].join("\n"),
  );
  return `${[formatNodeAddresses(desired.nodeAddresses), ...blocks].join("\n\n")}\n`;
};

/** What desiredToJson() answers. Backends and choices name backends by `address:port`. */
export interface DesiredJson {
  readonly nodeAddresses: readonly NodeAddress[];
  readonly services: readonly ServiceJson[];
}

export interface ServiceJson {
  readonly namespace: string;
  readonly name: string;
  readonly port: string;
  readonly protocol: string;
  readonly affinity_timeout_s: number;
  readonly internalTrafficPolicy: string;
  readonly externalTrafficPolicy: string;
  /** null: none. */
  readonly healthCheckNodePort: number | null;
  readonly sourceRanges: readonly Prefix[];
  readonly backends: readonly Backend[];
  readonly frontends: readonly FrontendJson[];
}

export interface FrontendJson {
  readonly kind: string;
  readonly family: string;
  /** null: a NodePort. */
  readonly address: Address | null;
  readonly port: number;
  readonly restricted: boolean;
  readonly internal: ChoiceJson;
  readonly external: ChoiceJson;
}

export interface ChoiceJson {
  readonly kind: string;
  readonly policy: string;
  readonly backends: readonly string[];
}

/** Sorted by Service port. */
export const desiredToJson = (desired: Desired): DesiredJson => ({
  nodeAddresses: desired.nodeAddresses,
  services: sortedServices(desired).map(([, { name, frontends, ...rest }]) => ({
    ...name,
    ...rest,
    frontends: frontends.map((frontend) => ({
      ...frontend,
      internal: choiceToJson(frontend.internal),
      external: choiceToJson(frontend.external),
    })),
  })),
});

const choiceToJson = (choice: Choice): ChoiceJson => ({
  kind: choice.kind,
  policy: choice.policy,
  backends: choice.kind === "backends" ? choice.backends.map(hostPort) : [],
});

const sortedServices = (desired: Desired): readonly (readonly [string, DesiredService])[] =>
  [...desired.services].sort(([a], [b]) => (a < b ? -1 : 1));

const serviceNotes = (service: DesiredService): readonly string[] => {
  const { affinity_timeout_s, healthCheckNodePort, sourceRanges } = service;
  return [
    ...(affinity_timeout_s > 0 ? [`affinity ${affinity_timeout_s}s`] : []),
    ...(healthCheckNodePort === null ? [] : [`health check at ${healthCheckNodePort}`]),
    ...(sourceRanges.length > 0 ? [`only from ${sourceRanges.join(" ")}`] : []),
  ];
};

const formatFrontend = (frontend: Frontend): readonly string[] => {
  const { kind, family, address, port, restricted } = frontend;
  const place = address === null ? `${family} ${port}` : formatHostPort(address, port);
  const head = `  ${kind} ${place}${restricted ? " restricted" : ""}`;
  const [internal, external] = [formatChoice(frontend.internal), formatChoice(frontend.external)];
  return internal === external
    ? [`${head} ${internal}`]
    : [head, `    internal ${internal}`, `    external ${external}`];
};

const formatChoice = (choice: Choice): string => {
  const policy = choice.policy === "Local" ? "(Local) " : "";
  switch (choice.kind) {
    case "backends":
      return `${policy}→ ${choice.backends.map(hostPort).join(" ")}`;
    case "reject":
      return `${policy}→ reject: no endpoints`;
    case "drop":
      return `${policy}→ drop: no local endpoints`;
  }
};

const hostPort = ({ address, port }: Backend): string => formatHostPort(address, port);

const formatNodeAddresses = (addresses: readonly NodeAddress[]): string =>
  ["node", ...addresses.map(formatNodeAddress)].join(" ");

const formatNodeAddress = ({ address, loopback, primary, nodePorts }: NodeAddress): string => {
  const notes = [
    ...(primary ? ["primary"] : []),
    ...(loopback ? ["loopback"] : []),
    ...(nodePorts ? [] : ["no NodePorts"]),
  ];
  return notes.length > 0 ? `${address} (${notes.join(", ")})` : address;
};
