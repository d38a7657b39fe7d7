// A Desired from its JSON: the inverse of desiredToJson(). What a file says is checked field by field.
import { InputError } from "../lib/errors.ts";
import {
  type Address,
  type Family,
  familyOf,
  formatHostPort,
  type Prefix,
  parseAddress,
  parsePrefix,
} from "../model/address.ts";
import {
  type Backend,
  type Choice,
  type Desired,
  type DesiredService,
  type Frontend,
  type NodeAddress,
  servicePortKey,
} from "../model/desired.ts";

/** `name`: the file, for errors. Throws InputError with the path of the field. */
export const desiredFromJson = (value: unknown, name: string): Desired => {
  const document = new Field(value, name);
  const services = document.get("services").list().map(serviceOf);
  return {
    services: new Map(services.map((service) => [servicePortKey(service.name), service])),
    nodeAddresses: document.get("nodeAddresses").list().map(nodeAddressOf),
  };
};

/** A value with the way to it. */
class Field {
  readonly #value: unknown;
  readonly #path: string;

  constructor(value: unknown, path: string) {
    this.#value = value;
    this.#path = path;
  }

  get isNull(): boolean {
    return this.#value === null || this.#value === undefined;
  }

  get(key: string): Field {
    const fields = typeof this.#value === "object" && this.#value !== null ? this.#value : {};
    return new Field((fields as Readonly<Record<string, unknown>>)[key], `${this.#path}.${key}`);
  }

  list(): readonly Field[] {
    if (!Array.isArray(this.#value)) throw this.#error("a list");
    return this.#value.map((one, i) => new Field(one, `${this.#path}[${i}]`));
  }

  text(): string {
    return this.as("a text", (v) => (typeof v === "string" ? v : null));
  }

  flag(): boolean {
    return this.as("true or false", (v) => (typeof v === "boolean" ? v : null));
  }

  number(low: number, high: number): number {
    return this.as(`a number from ${low} to ${high}`, (v) =>
      Number.isInteger(v) && (v as number) >= low && (v as number) <= high ? (v as number) : null,
    );
  }

  oneOf<const W extends string>(...words: readonly W[]): W {
    return this.as(`one of ${words.join(", ")}`, (v) => words.find((word) => word === v) ?? null);
  }

  as<T>(expected: string, parse: (value: unknown) => T | null): T {
    const parsed = parse(this.#value);
    if (parsed === null) throw this.#error(expected);
    return parsed;
  }

  #error(expected: string): InputError {
    const got = JSON.stringify(this.#value) ?? "nothing";
    return new InputError(
      `Cannot use ${this.#path}: expected ${expected}, got ${got.length > 60 ? `${got.slice(0, 60)}…` : got}`,
    );
  }
}

const addressIn = (field: Field): Address =>
  field.as("an address", (v) => (typeof v === "string" ? parseAddress(v) : null));

const prefixIn = (field: Field): Prefix => field.as("a prefix", (v) => (typeof v === "string" ? parsePrefix(v) : null));

const nodeAddressOf = (field: Field): NodeAddress => ({
  address: addressIn(field.get("address")),
  loopback: field.get("loopback").flag(),
  primary: field.get("primary").flag(),
  nodePorts: field.get("nodePorts").flag(),
});

const serviceOf = (field: Field): DesiredService => {
  const backends = field.get("backends").list().map(backendOf);
  const byText = new Map(backends.map((b) => [formatHostPort(b.address, b.port), b]));
  const health = field.get("healthCheckNodePort");
  return {
    name: {
      namespace: field.get("namespace").text(),
      name: field.get("name").text(),
      port: field.get("port").text(),
      protocol: field.get("protocol").oneOf("TCP", "UDP", "SCTP"),
    },
    affinity_timeout_s: field.get("affinity_timeout_s").number(0, 2 ** 31),
    internalTrafficPolicy: field.get("internalTrafficPolicy").oneOf("Cluster", "Local"),
    externalTrafficPolicy: field.get("externalTrafficPolicy").oneOf("Cluster", "Local"),
    healthCheckNodePort: health.isNull ? null : health.number(1, 65535),
    sourceRanges: field.get("sourceRanges").list().map(prefixIn),
    backends,
    frontends: field
      .get("frontends")
      .list()
      .map((one) => frontendOf(one, byText)),
  };
};

const backendOf = (field: Field): Backend => ({
  address: addressIn(field.get("address")),
  port: field.get("port").number(1, 65535),
  local: field.get("local").flag(),
  state: field.get("state").oneOf("active", "draining"),
});

const frontendOf = (field: Field, backends: ReadonlyMap<string, Backend>): Frontend => {
  const address = field.get("address").isNull ? null : addressIn(field.get("address"));
  const family: Family = address === null ? field.get("family").oneOf("IPv4", "IPv6") : familyOf(address);
  return {
    kind: field.get("kind").oneOf("ClusterIP", "ExternalIP", "LoadBalancer", "NodePort"),
    family,
    address,
    port: field.get("port").number(1, 65535),
    restricted: field.get("restricted").flag(),
    internal: choiceOf(field.get("internal"), backends),
    external: choiceOf(field.get("external"), backends),
  };
};

const choiceOf = (field: Field, backends: ReadonlyMap<string, Backend>): Choice => {
  const policy = field.get("policy").oneOf("Cluster", "Local");
  const kind = field.get("kind").oneOf("backends", "reject", "drop");
  if (kind === "drop") return { kind, policy: "Local" };
  if (kind === "reject") return { kind, policy };
  const list = field.get("backends").list();
  return {
    kind,
    policy,
    backends: list.map((one) => one.as("one of the backends", (v) => backends.get(String(v)) ?? null)),
  };
};
